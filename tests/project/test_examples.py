"""examples/: programs for users of exported files."""
import functools
import http.server
import json
import os
import shutil
import subprocess
import tarfile
import threading

import cv2
import numpy as np
import pytest

from src.inference.predictor import Predictor
from tests.conftest import ROOT, assert_same_detections, exporter, noise_image

pytestmark = pytest.mark.slow
WEB = "onnxruntime-web@1.30.0"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The address of examples/web with its npm package, and its folder."""
    folder = tmp_path_factory.mktemp("web")
    shutil.copytree(os.path.join(ROOT, "examples", "web"), folder / "site")
    if not shutil.which("npm"):
        pytest.skip("no npm on this machine")
    done = subprocess.run(["npm", "pack", WEB], cwd=folder, capture_output=True, text=True, timeout=300)
    if done.returncode:
        pytest.skip(f"npm cannot reach {WEB}")
    archive, = folder.glob("*.tgz")
    with tarfile.open(archive) as file:
        file.extractall(folder / "unpacked", filter="data")
    target = folder / "site" / "node_modules" / "onnxruntime-web"
    target.parent.mkdir()
    (folder / "unpacked" / "package").rename(target)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder / "site")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.mark.parametrize("args", [("--export_config.onnx_dcn", "grid_sample"),
                                  ("--export_config.input_type", "uint8")])
def test_the_browser_finds_the_predictors_boxes(args, site, browser, deformable_file, tmp_path):
    """An image that is resized, with a network whose boxes all depend on it."""
    export = exporter(deformable_file, tmp_path, ".onnx", "--export_config.export_format", "ONNX",
                      "--export_config.onnx_dynamic", "false", "--export_config.input_res", "[128, 96]",
                      "--export_config.batch_size", 1, "--eval_config.K", 20, network="SMALL")
    path = export("centernet", *args)
    cv2.imwrite(str(tmp_path / "image.png"), cv2.resize(noise_image(3, 12, 16), (151, 97)))
    tab = browser.new_page()
    problems = []
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.goto(site)
    message = tab.locator("#message")
    tab.set_input_files("#model", [str(path)])
    message.get_by_text("choose both files").wait_for()
    tab.set_input_files("#model", [str(path), f"{path}.json"])
    message.get_by_text("3 classes").wait_for(timeout=60000)
    tab.fill("#score", "0")
    tab.set_input_files("#image", str(tmp_path / "image.png"))
    message.get_by_text("20 detections in").wait_for(timeout=60000)
    found = json.loads(tab.evaluate("detect(picture, 0).then(JSON.stringify)"))
    sides = tab.evaluate("[document.getElementById('result').width, document.getElementById('result').height]")
    undrawn = "draw(picture, []); return document.getElementById('result').toDataURL()"
    before, after = (tab.evaluate(f"() => {{ {code} }}") for code in (
        "return document.getElementById('result').toDataURL()", undrawn))
    tab.screenshot(path=os.environ.get("EXAMPLE_SCREENSHOT") or str(tmp_path / "page.png"))
    tab.close()
    assert problems == []
    expected = Predictor(str(path), SOFT_NMS=False, clip=False)(tmp_path / "image.png")
    labels = [expected.class_names.index(entry["name"]) for entry in found]
    ours = np.array([[*entry["box"], entry["score"], label] for entry, label in zip(found, labels)])
    names = [expected.class_names.index(name) for name in expected.class_names]
    assert_same_detections(ours, np.column_stack([expected.boxes, expected.scores, names]), 1e-2)
    assert sides == [604, 388] and before != after  # a small image is enlarged; boxes are drawn
