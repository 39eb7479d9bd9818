"""examples/node: detection in Node.js with an exported file."""
import json
import re
import shutil
import subprocess

import cv2
import numpy as np
import pytest
from PIL import Image

from src.inference.predictor import Predictor
from tests.conftest import ROOT, assert_same_detections, assert_user_error, exporter, noise_image

pytestmark = pytest.mark.slow
FIXED = ("--export_config.onnx_dynamic", "false", "--export_config.input_res", "[128, 96]")
FORMS = {
    "free": ("--export_config.onnx_dcn", "grid_sample"),
    "free_bytes": ("--export_config.onnx_dcn", "deform_conv", "--export_config.input_type", "uint8"),
    "fixed": (*FIXED, "--export_config.batch_size", 2),
    "fixed_bytes": (*FIXED, "--export_config.batch_size", 1, "--export_config.input_type", "uint8"),
}


@pytest.fixture(scope="module")
def detect(tmp_path_factory):
    """detect(words...) -> CompletedProcess of detect.mjs, with the packages that npm installs as its README says."""
    if not shutil.which("node") or not shutil.which("npm"):
        pytest.skip("no Node.js on this machine")
    folder = tmp_path_factory.mktemp("node")
    for name in ("node", "web"):  # they share a file
        shutil.copytree(f"{ROOT}/examples/{name}", folder / name, ignore=shutil.ignore_patterns("node_modules"))
    program = folder / "node" / "detect.mjs"
    done = subprocess.run(["npm", "install", "--ignore-scripts"], cwd=program.parent, capture_output=True, text=True,
                          timeout=500)
    unreachable = re.search("E404|ETARGET|ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT", done.stderr)
    if done.returncode and unreachable:
        pytest.skip(f"npm cannot reach the packages of examples/node: {unreachable[0]}")
    assert done.returncode == 0, done.stderr[-2000:]

    def run(*words):
        command = ["node", program, *words]
        return subprocess.run([*map(str, command)], cwd=folder, capture_output=True, text=True, timeout=120)

    return run


@pytest.fixture(scope="module")
def export(deformable_file, tmp_path_factory):
    """export(name, args...) -> path of an ONNX file that finds 20 objects, each of which depends on the image."""
    return exporter(deformable_file, tmp_path_factory.mktemp("files"), ".onnx", "--export_config.export_format",
                    "ONNX", "--eval_config.K", 20, network="SMALL")


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    """An image of neither the size nor the shape of any input."""
    path = tmp_path_factory.mktemp("picture") / "image.png"
    cv2.imwrite(str(path), cv2.resize(noise_image(3, 12, 16), (151, 97)))
    return path


def records(done):
    """The records that detect.mjs printed."""
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


def assert_found(found, expected):
    """Assert that records are a Prediction; both sample the image exactly, but may round a byte to either side."""
    classes = sorted(set(expected.class_names))
    assert {record["name"] for record in found} <= {*classes}
    ours = np.array([[*record["box"], record["score"], classes.index(record["name"])] for record in found])
    labels = [classes.index(name) for name in expected.class_names]
    assert_same_detections(ours, np.column_stack([expected.boxes, expected.scores, labels]), 1e-2)


@pytest.mark.parametrize("form", FORMS)
def test_it_finds_the_predictors_boxes(form, detect, export, picture):
    path = export(form, *FORMS[form])
    found = records(detect(path, picture, "--score", 0))
    assert len(found) == 20 and set(found[0]) == {"name", "score", "box"}
    assert_found(found, Predictor(str(path), SOFT_NMS=False, clip=False)(picture))


def test_only_scores_of_at_least_the_threshold_are_printed(detect, export, picture):
    path = export("free", *FORMS["free"])
    every = records(detect(path, picture, "--score", 0))
    scores = [record["score"] for record in every]
    assert scores == sorted(scores, reverse=True)
    assert records(detect(path, picture)) == [record for record in every if record["score"] >= 0.3]
    assert records(detect(path, picture, "--score", scores[4])) == every[:5]
    assert records(detect(path, picture, "--score", 1.1)) == []


@pytest.mark.parametrize("kind", ["gray", "transparent", "turned"])
def test_it_reads_images_as_the_predictor_does(kind, detect, export, picture, tmp_path):
    """Gray or transparent pixels, a JPEG that a camera recorded on its side."""
    image, path = Image.open(picture), tmp_path / "image.png"
    if kind == "gray":
        image.convert("L").save(path)
    elif kind == "transparent":
        image.putalpha(Image.linear_gradient("L").resize(image.size))
        image.save(path)
    else:
        path, exif = tmp_path / "image.jpg", Image.Exif()
        exif[0x0112] = 6  # to be turned clockwise
        image.save(path, quality=100, exif=exif)
    model = export("free", *FORMS["free"])
    assert_found(records(detect(model, path, "--score", 0)), Predictor(str(model), SOFT_NMS=False, clip=False)(path))


@pytest.fixture(scope="module")
def wrong_files(export, picture, tmp_path_factory):
    """A folder with a model, an image, and files that are neither."""
    folder = tmp_path_factory.mktemp("wrong")
    good = export("free", *FORMS["free"])
    of_bytes = export("free_bytes", *FORMS["free_bytes"])
    maps = export("maps", "--export_config.onnx_decode", "false")
    shutil.copy(picture, folder / "image.png")
    (folder / "text.png").write_text("not an image")
    (folder / "cut.png").write_bytes(picture.read_bytes()[:2000])
    side = f"{good}.json"
    for name, model, description in (("good", good, side), ("maps", maps, f"{maps}.json"), ("alone", good, None),
                                     ("text", folder / "text.png", side), ("unlike", good, picture),
                                     ("other", good, f"{ROOT}/examples/node/package.json"),
                                     ("mixed", good, f"{of_bytes}.json")):
        shutil.copy(model, folder / f"{name}.onnx")
        if description:
            shutil.copy(description, folder / f"{name}.onnx.json")
    return folder


@pytest.mark.parametrize("words, parts", [
    (["good.onnx"], ["MODEL.onnx IMAGE"]),
    (["good.onnx", "image.png", "--score", "high"], ["--score"]),
    (["good.onnx", "image.png", "--threshold", "1"], ["--threshold"]),
    (["none.onnx", "image.png"], ["none.onnx", "no such file"]),
    (["alone.onnx", "image.png"], ["alone.onnx.json", "no such file", "export.py"]),
    (["unlike.onnx", "image.png"], ["unlike.onnx.json", "not JSON"]),
    (["other.onnx", "image.png"], ["other.onnx", "classes", "export.py"]),
    (["mixed.onnx", "image.png"], ["mixed.onnx", "uint8"]),
    (["text.onnx", "image.png"], ["text.onnx", "ONNX Runtime"]),
    (["maps.onnx", "image.png"], ["maps.onnx", "heat, wh, reg", "--export_config.onnx_decode true"]),
    (["good.onnx", "none.png"], ["none.png", "image"]),
    (["good.onnx", "text.png"], ["text.png", "image"]),
    (["good.onnx", "cut.png"], ["cut.png", "image"]),
])
def test_a_mistake_gets_one_sentence(words, parts, detect, wrong_files):
    done = detect(*[wrong_files / word if "." in word else word for word in words])
    assert_user_error(done, *parts)
    assert done.stdout == "" and len(done.stderr.splitlines()) == 1
