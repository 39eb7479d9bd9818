"""examples/c: the program in C finds the Predictor's boxes, and reports mistakes."""
import glob
import importlib.util
import json
import os
import re
import shutil
import struct
import subprocess
import zlib

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from src.imaging.view import Fit, make_input, normalize
from src.inference.predictor import Predictor
from tests.conftest import ROOT, assert_same_detections, assert_user_error, exporter, noise_image

pytestmark = pytest.mark.slow
HEADERS = {"libonnxruntime-dev": "onnxruntime/onnxruntime_c_api.h", "libstb-dev": "stb/stb_image.h"}
SUITE = "trixie"  # the first Debian that has both
KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"
# Wrong memory accesses, leaks and undefined behavior end the program with another exit code.
STRICT = "-O1 -g -Wall -Wextra -Werror -fsanitize=address,undefined -fno-sanitize-recover=all"


def include_folder(folder):
    """The folder with HEADERS: the system's, or one filled from Debian's packages, which are not installed."""
    if all(os.path.exists(os.path.join("/usr/include", header)) for header in HEADERS.values()):
        return "/usr/include"
    if not shutil.which("apt-get") or not os.path.exists(KEYS):
        pytest.skip(f"neither {' and '.join(HEADERS)} nor Debian's apt-get on this machine")

    def apt(*args):
        command = ["apt-get", "-o", f"Dir={folder}", "-o", "APT::Sandbox::User=root", *args]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
        if done.returncode:
            pytest.skip(f"apt-get cannot reach {' and '.join(HEADERS)} of Debian {SUITE}: {done.stderr[-300:]}")

    listed = subprocess.run(["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"],
                            capture_output=True, text=True)
    archives = [uri for uri in listed.stdout.split() if uri.endswith("/debian/")]
    if not archives:
        pytest.skip("apt-get has no archive of Debian here")
    for name in ("etc/apt/preferences.d", "var/lib/apt/lists/partial", "var/cache/apt/archives/partial"):
        (folder / name).mkdir(parents=True)
    (folder / "etc/apt/sources.list").write_text(f"deb [signed-by={KEYS}] {archives[0]} {SUITE} main\n")
    apt("update")
    apt("download", *HEADERS)
    for package in folder.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", package, folder], check=True)
    return folder / "usr" / "include"


@pytest.fixture(scope="module")
def detect(tmp_path_factory):
    """detect(arguments...) -> CompletedProcess of the program, with output as text.

    It is built as its README says, with the library of the Python package onnxruntime, which comes without headers.
    """
    if not shutil.which("cc") or not shutil.which("make"):
        pytest.skip("no C compiler or no make on this machine")
    package = os.path.dirname(importlib.util.find_spec("onnxruntime").origin)
    libraries = glob.glob(os.path.join(package, "capi", "libonnxruntime.so.*"))
    if not libraries:
        pytest.skip("this package onnxruntime has no libonnxruntime.so")
    includes = include_folder(tmp_path_factory.mktemp("packages"))
    folder = tmp_path_factory.mktemp("in c")  # a space must not matter
    runtime = folder / "runtime"
    (runtime / "lib").mkdir(parents=True)
    (runtime / "include").symlink_to(os.path.join(includes, "onnxruntime"))
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):  # for linking, and for starting
        (runtime / "lib" / name).symlink_to(libraries[0])
    shutil.copytree(os.path.join(ROOT, "examples", "c"), folder / "c", ignore=shutil.ignore_patterns("detect"))
    (folder / "stb").symlink_to(os.path.join(includes, "stb"))
    options = [f"ORT={runtime}", f"STB={folder / 'stb'}", f"CFLAGS={STRICT}"]
    done = subprocess.run(["make", *options], cwd=folder / "c", capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]

    def run(*args, **options):
        return subprocess.run([folder / "c" / "detect", *map(str, args)], stderr=subprocess.PIPE, encoding="utf-8",
                              timeout=300, **{"stdout": subprocess.PIPE, **options})

    return run


def rows_of(done, classes):
    """The lines of a successful program as rows [M, 6]: x1, y1, x2, y2, score, label."""
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert f"{len(lines)} detections in" in done.stderr
    return np.array([[*map(float, box), float(score), classes.index(name)] for name, score, *box in lines])


@pytest.mark.parametrize("args", [(), ("--export_config.input_type", "uint8", "--export_config.onnx_dynamic", "false",
                                       "--export_config.input_res", "[128, 96]", "--export_config.batch_size", 2)],
                         ids=["float32 free", "uint8 fixed"])
def test_the_program_finds_the_predictors_boxes(args, detect, lively_checkpoint, tmp_path):
    """Images that are reduced, enlarged, and of the input's size. Both compute each pixel exactly and round it, so that
    few differ, by 1 of 255. The program writes two digits of a box: an error of 0.005."""
    export = exporter(lively_checkpoint, tmp_path, ".onnx", "--export_config.export_format", "ONNX",
                      "--export_config.onnx_dcn", "grid_sample", "--eval_config.K", 20)
    path = export("centernet", *args)
    predictor = Predictor(str(path), runtime="onnxruntime", SOFT_NMS=False, clip=False)
    for name, image in (("reduced", cv2.resize(noise_image(4, 24, 20), (301, 407))),
                        ("enlarged", noise_image(5, 20, 33)), ("same", cv2.resize(noise_image(3, 12, 16), (128, 96)))):
        cv2.imwrite(str(tmp_path / f"{name}.png"), image)
        found = rows_of(detect(path, tmp_path / f"{name}.png", 0), predictor.classes)
        expected = predictor.predict_image(image)
        assert_same_detections(found, expected.detections(), 1e-2)
        least = float(np.sort(expected.scores)[10]) + 1e-3
        above = rows_of(detect(path, tmp_path / f"{name}.png", least), predictor.classes)
        assert len(above) == len(expected.above(least)) < 20


# Boxes in output pixels, score, class; a further value, as other tasks have.
ROWS = [[1, 2, 5, 4, 0.75, 2, 7], [0, 0, 8, 4, 0.5, 0, 7], [1, 1, 2, 2, 0.3125, 1, 7], [1, 1, 2, 2, 0.25, 1, 7]]
NAMES = ["plain", "tab\tand\nline", 'Grün "中\\😀"']
METADATA = {"classes": NAMES, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4], "down_ratio": 4,
            "input_res_train": [64, 96]}


def node(operator, inputs, output, **attributes):
    return helper.make_node(operator, inputs, [output], **attributes)


def constant(output, value):
    return node("Constant", [], output, value=numpy_helper.from_array(np.array(value)))


def small_model(path, output="detections", shape=(1, 3, 16, 32), kind=TensorProto.FLOAT, nodes=None, **metadata):
    """Write a model with an exported file's interface, whose output is ROWS unless there are nodes; returns its path.

    metadata {name: JSON, or None to leave it out} replaces METADATA.
    """
    nodes = nodes or [constant(output, np.float32([ROWS]))]
    ends = [[helper.make_tensor_value_info("image", kind, shape)],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)]]
    model = helper.make_model(helper.make_graph(nodes, "small", *ends), ir_version=8,
                              opset_imports=[helper.make_opsetid("", 16)])
    texts = {**{name: json.dumps(value) for name, value in METADATA.items()}, **metadata}
    helper.set_model_props(model, {name: text for name, text in texts.items() if text is not None})
    onnx.save(model, path)
    return path


# 1000 times the input's values, four in a row, as boxes of score 1 and class 1.
ECHO = [node("Cast", ["image"], "numbers", to=TensorProto.FLOAT), constant("thousand", np.float32(1000)),
        node("Mul", ["numbers", "thousand"], "large"), constant("sizes", np.int64([1, -1, 4])),
        node("Reshape", ["large", "sizes"], "boxes"), constant("margins", np.int64([0, 0, 0, 0, 0, 2])),
        constant("one", np.float32(1)), node("Pad", ["boxes", "margins", "one"], "detections")]


@pytest.mark.parametrize("width, height", [(61, 77), (11, 5), (32, 16)])
@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.UINT8], ids=["float32", "uint8"])
def test_the_input_is_the_predictors(kind, width, height, detect, tmp_path):
    """A network that returns its input, of 32x16 pixels: equal, except that some pixels may be rounded differently."""
    image = noise_image(6, height, width)
    cv2.imwrite(str(tmp_path / "image.png"), image)
    from_bytes = kind == TensorProto.UINT8
    path = small_model(tmp_path / "echo.onnx", shape=(1, 16, 32, 3) if from_bytes else (1, 3, 16, 32), kind=kind,
                       nodes=ECHO, down_ratio="1")
    boxes = rows_of(detect(path, tmp_path / "image.png", 1), ["plain", "tab and line"])[:, :4].reshape(-1, 2)
    pixels, _ = make_input(image, 1, Fit(False, [32, 16]), 4)
    scale = max(width / 32, height / 16)
    found = (((boxes - [width / 2, height / 2]) / scale + [16, 8]) / 1000).ravel()
    expected, unit = pixels.ravel(), 1
    if not from_bytes:
        expected = normalize(pixels, METADATA["mean"], METADATA["std"]).ravel()
        unit = np.repeat(1 / 255 / np.array(METADATA["std"]), 16 * 32)
    difference = np.abs(found - expected) / unit  # in steps of a byte
    assert difference.max() < 1.01 and (difference < 0.01).mean() > 0.99


def png(width, height, rows=b""):
    """The bytes of an RGB PNG file with these sides in its header, whatever the rows."""
    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.fixture
def picture(tmp_path):
    """A black image of 80x20 pixels."""
    path = tmp_path / "picture.png"
    path.write_bytes(png(80, 20, bytes(20 * (1 + 3 * 80))))
    return path


def test_boxes_are_mapped_to_the_image(detect, picture, tmp_path):
    """80x20 pixels in an input of 32x16: 2.5 image pixels per input pixel, 10 per output pixel; the centers are 40, 10
    and 16, 8."""
    path = small_model(tmp_path / "model.onnx")
    cv2.imwrite(str(tmp_path / "picture.jpg"), cv2.imread(str(picture)))
    for image in (picture, tmp_path / "picture.jpg"):
        done = detect(path, image)
        assert done.stdout == ('Grün "中\\😀"\t0.7500\t10.00\t10.00\t50.00\t30.00\n'
                               "plain\t0.5000\t0.00\t-10.00\t80.00\t30.00\n"
                               "tab and line\t0.3125\t10.00\t0.00\t20.00\t10.00\n")
        assert done.returncode == 0 and "3 detections in" in done.stderr
    assert detect(path, picture, 1).stdout == ""


@pytest.mark.parametrize("shape, kind", [
    (("batch", 3, "height", "width"), TensorProto.FLOAT), (("batch", "height", "width", 3), TensorProto.UINT8)],
    ids=["float32", "uint8"])
def test_a_free_size_becomes_the_trainings(shape, kind, detect, picture, tmp_path):
    """80x20 pixels in 64x96: 1.25 image pixels per input pixel, 5 per output pixel; JSON with UTF-8 and spaces."""
    spaced = json.dumps(NAMES, ensure_ascii=False, indent=1)
    path = small_model(tmp_path / "model.onnx", shape=shape, kind=kind, classes=spaced, mean=" [ 0 , 0,0 ]\n")
    lines = detect(path, picture, 0.5).stdout.splitlines()
    assert lines == ['Grün "中\\😀"\t0.7500\t5.00\t-40.00\t25.00\t-30.00', "plain\t0.5000\t0.00\t-50.00\t40.00\t-30.00"]


def assert_one_error(done, *parts):
    """assert_user_error, and nothing else is written: neither detections nor a report of the sanitizers."""
    assert_user_error(done, *parts)
    assert done.stdout == "" and re.fullmatch(r"error: [^\n]+[;:] [^\n]+\n", done.stderr), done.stderr


DAMAGED = [
    ("classes", None), ("mean", None), ("input_res_train", None), ("classes", ""), ("classes", "[]"),
    ("classes", '["a'), ("classes", '["a", '), ("classes", '["\\'), ("classes", '["\\u12'), ("classes", '["\\x"]'),
    ("classes", '["a" "b"]'), ("classes", '["one class of three"]'), ("mean", "[0.1, 0.2]"),
    ("mean", "[0.1, 0.2, 0.3, 0.4]"), ("mean", "0.1"), ("mean", "[0.1, 0.2, nan]"), ("std", "[0.1, 0, 0.1]"),
    ("down_ratio", "4 4"), ("down_ratio", "four"), ("input_res_train", "[1e9, 64]"), ("input_res_train", "null")]


@pytest.mark.parametrize("name, text", DAMAGED)
def test_damaged_metadata_is_an_error(name, text, detect, picture, tmp_path):
    path = small_model(tmp_path / "model.onnx", **{name: text})
    assert_one_error(detect(path, picture), str(path), name, "export.py")


@pytest.mark.parametrize("options, part", [
    ({"output": "heat"}, "--export_config.onnx_decode true"),
    ({"shape": (1, 3, 16)}, "not a batch of images"), ({"kind": TensorProto.INT64}, "not a batch of images"),
    ({"shape": (1, 3, 16, 99999)}, "--export_config.input_res"), ({"shape": (2**60, 3, 16, 32)}, "out of memory"),
    ({"nodes": [constant("detections", np.float32(ROWS))]}, "[batch, K, 6]")])
def test_another_networks_file_is_an_error(options, part, detect, picture, tmp_path, monkeypatch):
    monkeypatch.setenv("ASAN_OPTIONS", "allocator_may_return_null=1")  # as without the sanitizer
    assert_one_error(detect(small_model(tmp_path / "model.onnx", **options), picture), part)


@pytest.mark.parametrize("content, part", [
    (None, "No such file"), (b"", "ONNX Runtime"), (b"no model", "ONNX Runtime")], ids=["missing", "empty", "text"])
def test_a_file_that_is_no_model_is_an_error(content, part, detect, picture, tmp_path):
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    assert_one_error(detect(path, picture), str(path), part)


BROKEN_IMAGES = {
    "missing": None, "empty": b"", "ppm": b"P6\n2 2\n255\n" + bytes(12), "no pixel": png(0, 5),
    "few rows": png(4, 4, bytes(20)), "cut off": png(80, 20, bytes(20 * 241))[:60], "huge": png(2**31 - 1, 2**31 - 1),
    "large": png(2**24, 2**24), "jpeg": b"\xff\xd8\xff"}


@pytest.mark.parametrize("content", BROKEN_IMAGES.values(), ids=BROKEN_IMAGES)
def test_a_file_that_is_no_image_is_an_error(content, detect, tmp_path):
    path = tmp_path / "image.png"
    if content is not None:
        path.write_bytes(content)
    assert_one_error(detect(small_model(tmp_path / "model.onnx"), path), str(path), "JPEG or PNG")


def test_arguments_are_checked(detect, picture, tmp_path):
    path = small_model(tmp_path / "model.onnx")
    for words in ((), (path,), (path, picture, 0.5, "more")):
        assert_one_error(detect(*words), "MODEL.onnx IMAGE.jpg")
    for score in ("", "0.5x", "-0.1", "1.5", "nan"):
        assert_one_error(detect(path, picture, score), f"the least score is {score};")
    assert_one_error(detect(tmp_path, picture), str(tmp_path))
    assert_one_error(detect(path, tmp_path), str(tmp_path))


def test_a_full_disk_is_an_error(detect, picture, tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full on this system")
    with open("/dev/full", "w") as full:
        done = detect(small_model(tmp_path / "model.onnx"), picture, stdout=full)
    assert done.returncode == 2 and "the output cannot be written" in done.stderr
