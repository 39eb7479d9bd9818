"""A detector to call from Python: Predictor("centernet-32_2336.ckpt")("image.jpg")."""
import os
import threading
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from PIL import Image

from ..core.errors import UserError
from ..imaging import reading
from ..imaging.reading import read_image
from ..imaging.view import View
from ..model_utils.config import make_config
from ..native.extensions import require_extensions
from ..tasks import rows as row
from ..tasks import task_of
from ..weights.side_file import adopt_evaluation
from .models import Model, find_model, is_exported, open_model
from .pipeline import join_scales, make_inputs

Source = str | os.PathLike | bytes | np.ndarray | Image.Image  # what as_image takes


@dataclass(frozen=True)
class Prediction:
    """The detections in one image, best first.

    boxes float32 [M, 4], x1, y1, x2, y2 in pixels of the image (a box may reach beyond its edges); scores float32 [M]; labels
    int [M], indices into the detector's list of classes; class_names, the M names; added, what the model's task adds to a box,
    {name: [M, ...]}.

    >>> boxes = np.array([[10, 20, 60, 90], [5, 5, 9, 9]], np.float32)
    >>> found = Prediction(boxes, np.array([0.9, 0.2]), np.array([0, 1]), ["cat", "dog"])
    >>> len(found), found.above(0.5).class_names, found.keep(found.labels == 1).scores.tolist()
    (2, ['cat'], [0.2])
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    class_names: list[str]
    added: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.scores)

    def keep(self, chosen: np.ndarray) -> "Prediction":
        """The part that a boolean mask [M] or indices choose."""
        indices = np.arange(len(self))[chosen]
        names, added = [self.class_names[index] for index in indices], {name: values[indices] for name, values in self.added.items()}
        return Prediction(self.boxes[indices], self.scores[indices], self.labels[indices], names, added)

    def above(self, score: float) -> "Prediction":
        """The part with at least that score."""
        return self.keep(self.scores >= score)

    def detections(self) -> np.ndarray:
        """The same as float32 [M, D]: x1, y1, x2, y2, score, label, and what the task adds."""
        added = [values.reshape(len(self), -1) for values in self.added.values()]
        return np.hstack([self.boxes, self.scores[:, None], self.labels[:, None], *added]).astype(np.float32)


def as_prediction(rows: np.ndarray, description: dict) -> Prediction:
    """Rows [M, D] of a model with this description as a Prediction."""
    rows = row.best_first(rows)
    labels, classes = row.labels(rows).astype(int), description["classes"]
    added = row.added(rows, task_of(description).results.columns(description))
    return Prediction(row.boxes(rows), row.scores(rows), labels, [classes[label] for label in labels], added)


def as_image(source: Source) -> np.ndarray:
    """An image as BGR uint8 [H, W, 3]: of a path, a file's bytes, a Pillow image, or an array as OpenCV has them.

    Arrays: uint8 or uint16 (of which the upper byte counts), [H, W] gray, [H, W, 3] BGR or [H, W, 4] BGRA. EXIF's orientation is
    followed in files. Raises OSError or ValueError.
    """
    if isinstance(source, (str, os.PathLike)):
        return read_image(os.fspath(source))
    if isinstance(source, bytes):
        return reading.decode_whole_image(source)
    if isinstance(source, Image.Image):
        return reading.from_pillow(source)
    if not isinstance(source, np.ndarray):
        raise ValueError(f"a {type(source).__name__} is no image; give a path, bytes, a Pillow image or an array")
    known_shape = source.ndim in (2, 3) and 0 not in source.shape and source.shape[2:] in ((), (3,), (4,))
    if source.dtype not in (np.uint8, np.uint16) or not known_shape:
        raise ValueError(f"an array of {source.dtype} {source.shape} is no image; expected uint8 [H, W, 3]")
    image = source if source.dtype == np.uint8 else (source >> 8).astype(np.uint8)
    if image.ndim == 2:
        return cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    return np.ascontiguousarray(image[:, :, :3])


class Predictor:
    """Detects the objects of an image with a checkpoint (.ckpt, its side file beside it) or an exported file (.mindir, .onnx), of which
    model is the path; or what models.open_model gave for one.

    Each image is fitted into the size the checkpoint's recipe evaluates at, or if that keeps sizes, was trained at (or into input_res,
    [width, height]), so that one graph serves images of all sizes; keep_res=True keeps their own sizes. eval_options are those of
    eval_config: flip_test, multi_scales, K, SOFT_NMS, keep_res, batch_size, ..., by default those of the recipe; an
    exported file has flip_test, K and, unless it leaves it free, the size in it. An ONNX file is computed by ONNX Runtime without
    MindSpore, by its execution provider onnx_provider. use_ema says whether a checkpoint's average of its weights is taken where it
    has one, by default what default_config.yaml says.

    Its attribute `classes` are the classes' names; `settings` is a sentence that says what it detects with, and where that comes from.

    >>> predictor = Predictor("centernet.onnx")
    >>> found = predictor("image.jpg").above(0.1)
    >>> found.boxes.shape == (len(found), 4) and set(found.class_names) <= set(predictor.classes)
    True

    Thread-safe: images are prepared and finished in the calling threads, the network computes for one of them at a time.
    Raises UserError for a model that cannot be loaded or an option that does not exist.
    """

    def __init__(self, model: str | os.PathLike | Model, device_target: str = "auto", device_id: int = 0,
                 input_res: list[int] | None = None, onnx_provider: str = "CPU", use_ema: bool | None = None, **eval_options: Any):
        if isinstance(model, (str, os.PathLike)):
            model = open_model(find_model(os.fspath(model)))
        if not isinstance(model, Model):
            raise UserError(f"a {type(model).__name__} names no model; give the path of a checkpoint or an exported file")
        given = {"device_target": device_target, "device_id": device_id, "onnx_provider": onnx_provider}
        if use_ema is not None:
            given["use_ema"] = use_ema
        if eval_options:
            given["eval_config"] = eval_options
        if input_res:
            given["dataset_config"] = {"input_res_test": list(input_res)}
        fixed = {name.rpartition(".")[2] for name in model.fixed}
        wrong = fixed & ({*eval_options} | ({"input_res_test"} if input_res else set()))
        if wrong:
            names = ", ".join(sorted(wrong)).replace("input_res_test", "input_res")
            raise UserError(f"{model.path}: {names}: fixed when the file was exported")
        self.config = make_config(**given)
        recorded = dict(model.description["evaluation"])
        if "input_res_test" not in fixed and recorded.pop("eval_config.keep_res", True):
            recorded["dataset_config.input_res_test"] = model.description["input_res_train"]
        if "keep_res" not in fixed:
            self.config.take({"eval_config.keep_res": False}, "prediction")
        settings = adopt_evaluation(self.config, {**model.description, "evaluation": recorded}, model.source)
        require_extensions()
        self.detector = model.load(self.config)
        self.settings: str = settings + self.detector.weights
        self.exported = is_exported(model.path)
        self.classes: list[str] = model.description["classes"]
        self._lock = threading.Lock()

    def __call__(self, source: Source) -> Prediction:
        """Detect in one image, anything as_image takes. Raises OSError or ValueError if it is none."""
        return self.predict_image(as_image(source))

    def predict_image(self, image: np.ndarray) -> Prediction:
        """Detect in a BGR uint8 image [H, W, 3]."""
        inputs = self.prepare(image)
        return self.finish(self.compute([inputs])[0], inputs)

    def prepare(self, image: np.ndarray) -> list:
        """The network's inputs for a BGR uint8 image, as pipeline.make_inputs gives them, for compute and then finish."""
        return make_inputs(image, self.detector, self.config)

    def compute(self, batch: list) -> list:
        """The network's outputs for several images whose inputs have one shape: of each image a list, an array [K, D] for each scale."""
        with self._lock:
            outputs = [self.detector(np.stack([pixels for pixels, _ in scale])) for scale in zip(*batch)]
        return [list(scales) for scales in zip(*outputs)]

    def finish(self, outputs: list, inputs: list) -> Prediction:
        """The Prediction of one image, of what compute and prepare gave for it."""
        return as_prediction(join_scales(self.detector, outputs, inputs, self.config.eval_config.SOFT_NMS), self.detector.description)

    def heatmap(self, image: np.ndarray) -> tuple[np.ndarray, View]:
        """The network's heatmap of a BGR uint8 image: (float32 [C, H/4, W/4] in [0, 1], view.View that says where it lies).

        Raises UserError with an exported file, which ends in detections.
        """
        if self.exported:
            raise UserError("an exported file ends in detections and has no heatmap; give the checkpoint")
        pixels, view = make_inputs(image, self.detector, self.config)[0]
        with self._lock:
            heat = self.detector.heatmap(pixels[None])[0]
        return heat, view
