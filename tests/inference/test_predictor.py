"""src/inference/predictor.py: predictions from Python."""
import doctest
import json
import shutil
import threading

import cv2
import mindspore as ms
import numpy as np
import pytest
from PIL import Image

from src.core.errors import UserError
from src.imaging.view import Fit, make_input, normalize
from src.inference import predictor as predictor_module
from src.inference.predictor import Prediction, Predictor, as_image, as_prediction
from src.tasks.detection.results import merge, to_image
from src.weights.checkpoints import read_checkpoint, save_weights
from src.weights.side_file import side_file
from tests.conftest import (
    NARROW,
    assert_user_error,
    call_script,
    operation_by_operation,
    own_detector,
    replace_resdcn_18,
)


@pytest.fixture(scope="module")
def predictor(small_file):
    with replace_resdcn_18("PLAIN"):
        return Predictor(str(small_file), "CPU", K=15)


@pytest.mark.slow
def test_a_prediction_equals_the_evaluation(predictor, small_checkpoint, image, make_config, monkeypatch):
    """With boxes that extend beyond the image."""
    monkeypatch.setattr(predictor, "clip", False)
    config = make_config("--eval_config.K", 15)
    detector = own_detector(small_checkpoint, config.eval_config, "CPU")
    pixels, view = make_input(image, 1.0, Fit(False, (96, 96)), 4)
    batch = normalize(pixels, config.dataset_config.mean, config.dataset_config.std)[None]
    with operation_by_operation():
        output = detector.network(ms.Tensor(batch)).asnumpy()[0]
    expected = merge([to_image(output, view)], True, 15)
    found = predictor(image)
    assert len(found) == len(expected) and (np.diff(found.scores) <= 0).all()
    order = np.argsort(-expected[:, 4], kind="stable")
    np.testing.assert_allclose(found.detections(), expected[order], atol=1e-3)
    assert found.class_names == [["rectangle", "ellipse", "triangle"][int(label)] for label in expected[order, 5]]


@pytest.mark.slow
def test_every_kind_of_source(predictor, image, tmp_path):
    path = tmp_path / "p.png"
    cv2.imwrite(str(path), image)
    expected = predictor(image).detections()
    pillow = Image.fromarray(image[:, :, ::-1])
    transparent = np.dstack([image, np.zeros_like(image[:, :, 0])])
    for source in (str(path), path, path.read_bytes(), pillow, transparent, image.astype(np.uint16) << 8):
        np.testing.assert_array_equal(predictor(source).detections(), expected)
    gray = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    np.testing.assert_array_equal(as_image(gray), np.dstack([gray] * 3))


@pytest.mark.parametrize("source, error, part", [
    (b"nothing", ValueError, "not an image of a known format"), (b"", ValueError, "known format"),
    ("/nowhere.jpg", FileNotFoundError, "nowhere"),
    (7, ValueError, "int is not an image"), (np.zeros((3, 4)), ValueError, "float64"),
    (np.zeros((0, 4, 3), np.uint8), ValueError, "not an image"),
    (np.zeros((4, 4, 2), np.uint8), ValueError, "not an image"),
])
def test_not_an_image(source, error, part, predictor):
    with pytest.raises(error, match=part):
        predictor(source)


def test_unknown_options_and_models(small_checkpoint, tmp_path):
    with pytest.raises(UserError, match=r"eval_config.flip_test\b"):
        Predictor(str(small_checkpoint), "CPU", flip_tets=True)
    with pytest.raises(UserError, match="nowhere"):
        Predictor("/nowhere.ckpt", "CPU")
    for wrong in (None, 3, ["x.onnx"]):
        with pytest.raises(UserError, match=type(wrong).__name__):
            Predictor(wrong, "CPU")
    side = {"dataset": "d", "classes": ["a"], "category_ids": [1], "mean": [0, 0, 0], "std": [1, 1, 1],
            "input_res": [96, 64], "batch_size": 1, "input_type": "uint8", "down_ratio": 4, "K": 7, "flip_test": False}
    (tmp_path / "x.json").write_text(json.dumps(side))
    (tmp_path / "x.mindir").touch()
    for options in ({"flip_test": True}, {"K": 8}, {"keep_res": True}, {"input_res": [64, 64]}):
        with pytest.raises(UserError, match=next(iter(options))):
            Predictor(str(tmp_path / "x.mindir"), "CPU", **options)


@pytest.mark.slow
def test_an_exported_file_has_fixed_weights(export_mindir, tiny_data, monkeypatch, tmp_path):
    """Only an explicit --use_ema false is an error; an edited default, which concerns checkpoints, is ignored."""
    path = export_mindir("floats_one", *NARROW[:2])
    for args in (["tools/predict.py", "--input", tiny_data / "val2017", "--output", tmp_path / "out", "--mindir"],
                 ["tools/serve.py", "--port", 0, "--mindir"],
                 ["eval.py", "--data_dir", tiny_data, "--load_checkpoint_path"]):
        done = call_script(*args, path, "--use_ema", "false", "--device_target", "CPU", check=False)
        assert_user_error(done, "--use_ema false")
    make_config = predictor_module.make_config

    def edited(**given):
        config = make_config(**given)
        config.use_ema = False
        return config

    monkeypatch.setattr(predictor_module, "make_config", edited)
    assert Predictor(str(path), "CPU").classes == ["rectangle", "ellipse", "triangle"]


@pytest.mark.slow
def test_the_average_or_the_weights(predictor, small_checkpoint, image, tmp_path, graphless):
    """The average is modified to detect nothing, so that the detections show which weights are used."""
    stored = {name: values.asnumpy() for name, values in read_checkpoint(str(small_checkpoint)).items()}
    average = {f"ema.{name}": values for name, values in stored.items()}
    average["ema.hm.2.bias"] = np.full(3, -20, np.float32)
    path = save_weights(str(tmp_path / "both.ckpt"), {**stored, **average})
    shutil.copy(side_file(str(small_checkpoint)), side_file(path))
    average, weights = Predictor(path, "CPU", K=15), Predictor(path, "CPU", K=15, use_ema=False)
    assert average(image).scores.max() < 1e-6
    assert average.settings.endswith(", the average of the weights")
    assert weights.settings.endswith(", the weights, not their average")
    assert "weights" not in predictor.settings
    np.testing.assert_array_equal(weights(image).detections(), predictor(image).detections())


@pytest.mark.slow
def test_many_threads_get_the_right_answers(predictor, tiny_data):
    """Images of different sizes in parallel: each result equals that of a single thread."""
    paths = sorted((tiny_data / "val2017").iterdir())
    images = [cv2.resize(cv2.imread(str(path)), (90 + 10 * number, 80)) for number, path in enumerate(paths)]
    alone = [predictor(source).detections() for source in images]
    wrong = []

    def ask(number):
        for turn in range(5):
            index = (number + turn) % len(images)
            if not np.array_equal(predictor(images[index]).detections(), alone[index]):
                wrong.append(index)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_predictions_are_selected_by_score_and_index():
    rows = np.array([[0, 0, 1, 1, 0.2, 1], [0, 0, 2, 2, 0.9, 0], [0, 0, 3, 3, 0.5, 1]], np.float32)
    found = as_prediction(rows, {"classes": ["a", "b"]})
    assert isinstance(found, Prediction) and found.class_names == ["a", "b", "b"]
    np.testing.assert_array_equal(found.above(0.5).boxes, [[0, 0, 2, 2], [0, 0, 3, 3]])
    assert found.keep(found.labels == 1).class_names == ["b", "b"] and len(found.above(0.95)) == 0


@pytest.mark.slow
def test_the_heatmap_is_where_the_objects_are(predictor, image):
    heat, view = predictor.heatmap(image)
    assert heat.shape == (3, 24, 24) and 0 <= heat.min() and heat.max() <= 1
    best = predictor(image)
    label, y, x = np.unravel_index(heat.argmax(), heat.shape)
    assert best.scores[0] == pytest.approx(heat.max(), rel=1e-5) and best.labels[0] == label


def test_the_docstring_examples_run(lively_onnx, image, tmp_path, monkeypatch):
    """In a folder with the files they use."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(lively_onnx, "centernet.onnx")
    cv2.imwrite("image.jpg", image)
    finder, runner = doctest.DocTestFinder(recurse=False), doctest.DocTestRunner()
    for documented in (Prediction, Predictor, UserError):
        examples, = finder.find(documented, globs={**vars(predictor_module), "UserError": UserError})
        assert examples.examples and runner.run(examples).failed == 0
