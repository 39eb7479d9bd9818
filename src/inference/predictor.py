"""Detection from Python: Predictor("centernet-32_2336.ckpt")("image.jpg")."""
import math
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import cv2
import numpy as np
from PIL import Image

from ..core import errors
from ..core.errors import UserError
from ..imaging import reading
from ..imaging.camera import check_calib
from ..imaging.reading import read_image
from ..imaging.view import View
from ..model_utils.config import make_config
from ..native.extensions import require_extensions
from ..tasks import rows as row
from ..tasks import task_of
from ..weights.side_file import adopt_evaluation
from .calibrations import require_camera
from .models import Model, find_model, open_model
from .pipeline import join_scales, make_inputs

NO_HEATMAP = "exported files output only detections, no heatmap"
Calibration = Sequence[float] | Sequence[Sequence[float]] | np.ndarray  # see camera.check_calib
Source = str | os.PathLike | bytes | np.ndarray | Image.Image  # accepted by as_image


@dataclass(frozen=True)
class Prediction:
    """The detections in one image, best first.

    boxes, float32 [M, 4], x1, y1, x2, y2 in image pixels, inside the image unless the Predictor's clip is false;
    scores, float32 [M]; labels, int [M], indices into the detector's classes; class_names, M names; added, further
    values of the model's task, {name: [M, ...]}, computed, values computed from all of these, and facts, {name: value},
    all also attributes: a pose model's keypoints, float32 [M, J, 3], x, y in image pixels and a score, 0 if the class
    lacks them, and keypoint_names [J]; a 3D model's boxes_3d, float32 [M, 7], location x, y, z and dimensions h, w, l
    in meters and rotation_y in radians, alpha [M], cameras [M, 3, 4], and corners [M, 8, 3].

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
    facts: dict[str, Any] = field(default_factory=dict)
    computed: dict[str, np.ndarray] = field(default_factory=dict)

    if TYPE_CHECKING:
        keypoints: ClassVar[np.ndarray]
        keypoint_names: ClassVar[list[str]]
        skeleton: ClassVar[list[list[int]]]
        boxes_3d: ClassVar[np.ndarray]
        alpha: ClassVar[np.ndarray]
        cameras: ClassVar[np.ndarray]
        corners: ClassVar[np.ndarray]
    else:  # a type checker would accept any name
        def __getattr__(self, name: str) -> Any:
            for values in (vars(self).get(kind, {}) for kind in ("added", "computed", "facts")):
                if name in values:
                    return values[name]
            raise AttributeError(f"a prediction of this model has no {name}")

    def __len__(self) -> int:
        return len(self.scores)

    def keep(self, chosen: np.ndarray) -> "Prediction":
        """The detections selected by a boolean mask [M] or indices."""
        indices = np.arange(len(self))[chosen]
        names = [self.class_names[index] for index in indices]
        added, computed = ({name: values[indices] for name, values in group.items()}
                           for group in (self.added, self.computed))
        return Prediction(self.boxes[indices], self.scores[indices], self.labels[indices], names, added, self.facts,
                          computed)

    def above(self, score: float) -> "Prediction":
        """The detections with at least this score."""
        return self.keep(self.scores >= score)

    def detections(self) -> np.ndarray:
        """All as float32 [M, D]: x1, y1, x2, y2, score, label, and the further values of the task."""
        added = [values.reshape(len(self), math.prod(values.shape[1:])) for values in self.added.values()]
        return np.hstack([self.boxes, self.scores[:, None], self.labels[:, None], *added]).astype(np.float32)


def as_prediction(rows: np.ndarray, description: dict) -> Prediction:
    """Convert rows [M, D] of a model with this description into a Prediction."""
    rows = row.best_first(rows)
    labels, classes = row.labels(rows).astype(int), description["classes"]
    results = task_of(description).results
    return Prediction(row.boxes(rows), row.scores(rows), labels, [classes[label] for label in labels],
                      row.added(rows, results.columns(description)), results.attributes(description),
                      results.computed(rows))


def as_image(source: Source) -> np.ndarray:
    """Convert a path, encoded bytes, a Pillow image or an array in OpenCV's layout into BGR uint8 [H, W, 3].

    Arrays: uint8 or uint16 (the upper byte is used), [H, W] gray, [H, W, 3] BGR or [H, W, 4] BGRA. The EXIF orientation
    of files is applied. Raises OSError or ValueError.
    """
    if isinstance(source, (str, os.PathLike)):
        return read_image(os.fspath(source))
    if isinstance(source, bytes):
        return reading.decode_whole_image(source)
    if isinstance(source, Image.Image):
        return reading.from_pillow(source)
    if not isinstance(source, np.ndarray):
        raise ValueError(f"a {type(source).__name__} is not an image; expected a path, bytes, a Pillow image or an "
                         "array")
    known_shape = source.ndim in (2, 3) and 0 not in source.shape and source.shape[2:] in ((), (3,), (4,))
    if source.dtype not in (np.uint8, np.uint16) or not known_shape:
        raise ValueError(f"an array of {source.dtype} {source.shape} is not an image; expected uint8 [H, W, 3]")
    image = source if source.dtype == np.uint8 else (source >> 8).astype(np.uint8)
    if image.ndim == 2:
        return cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    return np.ascontiguousarray(image[:, :, :3])


class Predictor:
    """Detects objects in images with a checkpoint or an exported file.

    Args:
        model: path of a checkpoint (.ckpt, with its side file next to it) or of an exported file (.mindir, .onnx), or a
            Model from models.open_model.
        input_res: [width, height] that images are fitted into, so that one graph serves all sizes. The default is the
            recipe's evaluation size, or its training size if the recipe keeps image sizes. keep_res=True keeps them.
        onnx_provider: execution provider of ONNX Runtime.
        runtime: "onnxruntime", "openvino" or "openvino_bf16", which run ONNX files without MindSpore, and
            checkpoints after exporting them into a file beside them; "auto" is MindSpore for a checkpoint, for an ONNX
            file openvino if it is installed and takes the file, else onnxruntime.
        use_ema: use a checkpoint's averaged weights if it has them; the default is in default_config.yaml.
        options: clip=False leaves boxes that extend beyond the image as they are, instead of clipping them; the others
            are values of eval_config (flip_test, multi_scales, K, SOFT_NMS, keep_res, batch_size, ...), by default the
            recipe's. Exported files have a fixed flip_test, K and, unless dynamic, size.

    Attributes: classes, the class names; settings, a sentence with the settings and their sources.

    >>> predictor = Predictor("centernet.onnx")
    >>> found = predictor("image.jpg").above(0.1)
    >>> found.boxes.shape == (len(found), 4) and set(found.class_names) <= set(predictor.classes)
    True

    Thread-safe: images are prepared and finished in the calling threads; the network runs for one thread at a time.
    Raises UserError if the model cannot be loaded or an option does not exist.
    """

    def __init__(self, model: str | os.PathLike | Model, device_target: str = "auto", device_id: int = 0,
                 input_res: list[int] | None = None, onnx_provider: str = "CPU", use_ema: bool | None = None,
                 runtime: str = "auto", **options: Any):
        self.clip: bool = options.pop("clip", True)
        if isinstance(model, (str, os.PathLike)):
            model = open_model(find_model(os.fspath(model)))
        if not isinstance(model, Model):
            raise UserError(f"a {type(model).__name__} is not a model; expected the path of a checkpoint or export")
        given: dict[str, Any] = {"device_target": device_target, "device_id": device_id, "onnx_provider": onnx_provider,
                                 "runtime": runtime}
        if use_ema is not None:
            given["use_ema"] = use_ema
        if options:
            given["eval_config"] = options
        if input_res:
            given["dataset_config"] = {"input_res_test": list(input_res)}
        fixed = {name.rpartition(".")[2] for name in model.fixed}
        wrong = fixed & ({*options} | ({"input_res_test"} if input_res else set()))
        if wrong:
            names = ", ".join(sorted(wrong)).replace("input_res_test", "input_res")
            raise UserError(f"{model.path}: fixed at export: {names}")
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
        self.classes: list[str] = model.description["classes"]
        self._lock = threading.Lock()

    def __call__(self, source: Source, calib: Calibration | None = None) -> Prediction:
        """Detect in one image, of any kind as_image accepts. Raises OSError or ValueError if it is not an image.

        calib, for 3D boxes, is the image's camera: its projection matrix 3x4, or fx, fy, cx, cy in pixels; without it,
        the training's. Raises UserError if it is invalid.
        """
        return self.predict_image(as_image(source), calib)

    def predict_image(self, image: np.ndarray, calib: Calibration | None = None) -> Prediction:
        """Detect in a BGR uint8 image [H, W, 3]; calib, see __call__."""
        inputs = self.prepare(image, calib)
        return self.finish(self.compute([inputs])[0], inputs)

    def prepare(self, image: np.ndarray, calib: Calibration | None = None) -> list:
        """Make the network inputs of a BGR uint8 image (pipeline.make_inputs), for compute and then finish."""
        if calib is not None:
            require_camera(self.detector.description, "calib")
            with errors.prefix_errors("calib"):
                calib = check_calib(calib)
        return make_inputs(image, self.detector, self.config, calib)

    def compute(self, batch: list) -> list:
        """Compute images with inputs of the same shape; returns, for each image, an array [K, D] per scale."""
        with self._lock:
            outputs = [self.detector(np.stack([pixels for pixels, _ in scale])) for scale in zip(*batch)]
        return [list(scales) for scales in zip(*outputs)]

    def finish(self, outputs: list, inputs: list) -> Prediction:
        """Return the Prediction for one image, from the results of compute and prepare."""
        rows = join_scales(self.detector, outputs, inputs, self.config.eval_config.SOFT_NMS)
        return as_prediction(self.in_image(rows, inputs[0][1].size), self.detector.description)

    def in_image(self, rows: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Rows [M, D] with their boxes clipped to an image of size (width, height), unless clip is false."""
        return row.clipped(rows, size) if self.clip else rows

    def heatmap(self, image: np.ndarray) -> tuple[np.ndarray, View]:
        """Return the heatmap of a BGR uint8 image, float32 [C, H/4, W/4] in [0, 1], and its position, a view.View.

        Its channels are those of the classes, followed by those of a pose model's keypoints.
        Raises UserError if the model is not a checkpoint that MindSpore computes: others output detections only.
        """
        if not hasattr(self.detector, "heatmap"):
            raise UserError(f"{NO_HEATMAP}; use the checkpoint, with runtime auto")
        pixels, view = make_inputs(image, self.detector, self.config)[0]
        with self._lock:
            heat = self.detector.heatmap(pixels[None])[0]
        return heat, view
