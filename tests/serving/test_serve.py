"""src/serving/service.py and tools/serve.py over real HTTP, and the page in a real browser."""
import collections
import concurrent.futures
import contextlib
import functools
import io
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

import cv2
import numpy as np
import psutil
import pytest
from PIL import Image

from src.commands import serve
from src.core.errors import UserError
from src.imaging import drawing, skeletons
from src.inference.predictor import Predictor
from tests.conftest import (
    ROOT,
    assert_user_error,
    bomb_tiff,
    call_script,
    lines_with,
    noise_image,
    run_script,
    save_lively,
    start_script,
    user_error,
    wait_until,
)
from tests.serving.test_images import alive, until

LIMITS = ("--max_bytes", "3000000", "--max_pixels", "2000000", "--queue", "4", "--deadline", "20")


@contextlib.contextmanager
def serving(model, *args, script="tools/serve.py"):
    """(address, process) of a server for a checkpoint or an ONNX file, on a free port; script is the server's."""
    option = "--onnx" if str(model).endswith(".onnx") else "--load_checkpoint_path"
    command = [sys.executable, os.path.join(ROOT, script), option, str(model), "--device_target", "CPU", "--port", "0",
               "--score_thresh", "0.1", *args]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("serving on "):
                break
        else:
            raise AssertionError("".join(lines))
        assert bool(lines_with(lines, "warning", "docs/serving.md")) == ("0.0.0.0" in args)
        yield lines[-1].split()[2], process
    finally:
        process.terminate()
        process.communicate(timeout=60)


@pytest.fixture(scope="module")
def server(lively_onnx):
    """The address of a running server with small limits."""
    with serving(lively_onnx, *LIMITS) as (address, _):
        yield address


def send(url, body=None, headers=None):
    """Send a request; returns (status, content), JSON decoded."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers or {}), timeout=120) as answer:
            status, data = answer.status, answer.read()
    except urllib.error.HTTPError as error:
        status, data = error.code, error.read()
    try:
        return status, json.loads(data)
    except ValueError:
        return status, data.decode()


def encoded(image, ending=".png"):
    return cv2.imencode(ending, image)[1].tobytes()


@pytest.mark.slow
def test_predict_equals_the_predictor(server, lively_onnx):
    image = noise_image(3, 70, 120)
    found = assert_answered_as(Predictor(str(lively_onnx)), server, image)
    median = float(np.median(found.scores))
    assert len(send(f"{server}/predict?score={median}", encoded(image))[1]["objects"]) == len(found.above(median))


@pytest.mark.slow
def test_boxes_are_clipped_or_not(server, lively_onnx):
    """The objects of an image's corner extend beyond it only with --clip false."""
    corner = noise_image(3, 70, 120)[:40, :50]

    def boxes(address):
        return np.array([entry["box"] for entry in send(f"{address}/predict?score=0", encoded(corner))[1]["objects"]])

    inside = boxes(server)
    assert inside.min() >= 0 and (inside[:, 2:] <= (50, 40)).all()
    with serving(lively_onnx, "--clip", "false") as (address, _):
        whole = boxes(address)
    assert whole.min() < 0 and (whole[:, 2:] > (50, 40)).any()


def assert_answered_as(predictor, address, image):
    """A service detects the same as a Predictor, whose Prediction is returned."""
    status, answer = send(f"{address}/predict?score=0", encoded(image))
    found = predictor(image)
    assert status == 200 and (answer["height"], answer["width"]) == image.shape[:2]
    assert [entry["class"] for entry in answer["objects"]] == found.class_names
    np.testing.assert_allclose([entry["box"] for entry in answer["objects"]], found.boxes, atol=0.02)
    np.testing.assert_allclose([entry["score"] for entry in answer["objects"]], found.scores, atol=1e-4)
    return found


def bomb():
    """A PNG of a few kilobytes that decodes to more pixels than allowed."""
    data = io.BytesIO()
    Image.new("1", (20000, 20000)).save(data, "PNG")
    return data.getvalue()


@functools.cache
def wrong_requests():
    """{name: (body or function that makes it, headers, status, part of the response)}."""
    half = encoded(noise_image(1))
    return {
        "empty": (b"", {}, 400, "no image in the body"), "text": (b"hello", {}, 415, "not an image"),
        "zeros": (bytes(100_000), {}, 415, "not an image"),
        "half": (half[: len(half) // 2], {}, 422, "damaged"), "pdf": (b"%PDF-1.7 ...", {}, 415, "not an image"),
        "form": (b"--x--", {"Content-Type": "multipart/form-data; boundary=x"}, 400, "image"),
        "large": (bytes(3_000_001), {}, 413, "larger than 3000000 bytes"),
        "pixels": (bomb, {}, 413, "more than 2000000 pixels"),
        "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", {}, 415, "not an image"),
    }


@pytest.mark.parametrize("name", wrong_requests())
def test_invalid_requests_get_a_reason(name, server):
    body, headers, expected, part = wrong_requests()[name]
    status, answer = send(f"{server}/predict", body() if callable(body) else body, headers)
    assert status == expected and part in answer["detail"]
    assert send(f"{server}/health")[0] == 200


def test_an_invalid_score(server):
    status, answer = send(f"{server}/predict?score=7", encoded(noise_image(1)))
    assert status == 422 and answer["detail"].startswith("score: ")


@pytest.mark.slow
def test_random_damage_never_takes_it_down(server):
    """An image with random bytes changed or cut off: always 200 or a 4xx."""
    rng = np.random.default_rng(0)
    whole = {ending: encoded(noise_image(2), ending) for ending in (".png", ".jpg", ".webp", ".bmp", ".tif")}
    statuses = collections.Counter()
    for number in range(100):
        data = bytearray(list(whole.values())[number % len(whole)])
        for index in rng.integers(0, len(data), rng.integers(1, 20)):
            data[index] = rng.integers(256)
        length = rng.integers(1, len(data)) if number % 2 else len(data)
        statuses[send(f"{server}/predict", bytes(data[:length]))[0]] += 1
    assert set(statuses) <= {200, 413, 415, 422} and statuses[422] + statuses[415] > 20
    assert send(f"{server}/health")[0] == 200


def test_a_hundred_concurrent_clients(server):
    body = encoded(noise_image(4))
    with concurrent.futures.ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(lambda _: send(f"{server}/predict", body), range(100)))
    statuses = collections.Counter(status for status, _ in answers)
    assert set(statuses) <= {200, 503} and statuses[200] >= 4
    for status, answer in answers:
        assert "objects" in answer if status == 200 else "try again" in answer["detail"]
    assert send(f"{server}/predict", body)[0] == 200


def connect(address):
    host, port = address.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=60)


def memory_of(process):
    """The peak memory in MB of a process and its workers."""
    total = 0
    for pid in (process.pid, *children_of(process)):
        with open(f"/proc/{pid}/status", encoding="ascii") as file:
            total += next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024
    return total


def many_scans(count=20_000, side=3000):
    """A progressive JPEG with `count` tiny scans: a decoder passes over the complete image for each."""
    data = io.BytesIO()
    Image.new("L", (side, side), 128).save(data, "JPEG", progressive=True)
    data = data.getvalue()
    last = data.rindex(b"\xff\xda")
    return data[:last] + count * data[last:-2] + data[-2:]


@pytest.mark.slow
def test_an_endless_decoder_is_killed_at_the_deadline_and_at_shutdown(lively_onnx):
    hostile = many_scans()
    with serving(lively_onnx, "--deadline", "3", "--max_batch", "1") as (address, process):
        start = time.monotonic()
        status, answer = send(f"{address}/predict", hostile)
        assert time.monotonic() - start < 60  # it takes minutes
        assert status == 504 and "3 s" in answer["detail"] or status == 422
        assert send(f"{address}/predict", encoded(noise_image(4)))[0] == 200
        children = children_of(process)
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            answers = [pool.submit(send, f"{address}/predict", hostile) for _ in range(4)]
            time.sleep(0.5)
            process.terminate()
            assert process.wait(60) == 0
        assert {answer.result()[0] for answer in answers} <= {422, 504}
    until(lambda: not alive(children))


def children_of(process):
    """The process ids of a process' children."""
    return [child.pid for child in psutil.Process(process.pid).children()]


@pytest.mark.slow
def test_a_hanging_network_does_not_prevent_shutdown(lively_onnx, tmp_path):
    (tmp_path / "hanging.py").write_text(f"""
import sys, threading, time
sys.path.insert(0, {ROOT!r})
from src.inference.predictor import Predictor
from src.commands import serve

real, ready = Predictor.compute, threading.Event()
Predictor.compute = lambda self, batch: time.sleep(600) if ready.is_set() else real(self, batch)
if __name__ == "__main__":
    from src.serving.queue import Network
    start = Network.start
    Network.start = lambda self, when_done: start(self, lambda: (ready.set(), when_done()))
    serve.errors.run(serve.main)
""")
    args = ("--deadline", "2", "--max_batch", "1")
    with serving(lively_onnx, *args, script=str(tmp_path / "hanging.py")) as (address, process):
        status, answer = send(f"{address}/predict", encoded(noise_image(4)))
        assert status == 504 and "2 s" in answer["detail"] and send(f"{address}/health")[0] == 200
        with concurrent.futures.ThreadPoolExecutor() as pool:
            waiting = pool.submit(send, f"{address}/predict", encoded(noise_image(4)))
            time.sleep(0.3)
            process.terminate()
            output = process.communicate(timeout=60)[0]  # it hangs for ten minutes
        assert process.returncode == 0 and output.splitlines()[-1] == "ended"
        assert waiting.result()[0] == 504 and "Traceback" not in output


def assert_graceful_shutdown(address, process, number):
    """On a signal, requests in progress get a response; idle connections do not matter."""
    image = encoded(noise_image(4))
    with connect(address), connect(address) as sending:
        send(f"{address}/predict", image)
        sending.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(image) + image[:100])
        time.sleep(0.3)
        process.send_signal(number)
        time.sleep(0.3)
        sending.sendall(image[100:])
        assert sending.recv(20).startswith(b"HTTP/1.1 200 ")
        output = process.communicate(timeout=60)[0]
        assert process.returncode == 0 and output.splitlines()[-1] == "ended" and "Traceback" not in output


@pytest.mark.slow
def test_hostile_requests_take_no_memory(lively_onnx):
    """The pixel limit holds for the decoder: a TIFF of 1x1 for Pillow but 12000x12000 for libtiff once took 1.8 GB."""
    with serving(lively_onnx, *LIMITS, "--max_batch", "1") as (address, process):
        for _ in range(6):  # to reach each worker
            send(f"{address}/predict", encoded(noise_image(4)))
        before = memory_of(process)
        for hostile in (bomb_tiff(), bomb()):
            assert send(f"{address}/predict", hostile)[0] in (413, 422)
        assert memory_of(process) - before < 100
        call_script("tests/soak/service.py", "--url", address, "--pid", process.pid, "--count", 200)


@pytest.mark.slow
def test_a_second_ctrl_c_ends_it_immediately(lively_onnx):
    with serving(lively_onnx) as (address, process), connect(address) as sending:
        sending.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc")
        time.sleep(0.3)
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            time.sleep(0.5)
        output = process.communicate(timeout=30)[0]  # the deadline is a minute
        assert process.returncode == 130 and "interrupted" in output and "Traceback" not in output


def test_health_and_metrics(server):
    status, health = send(f"{server}/health")
    assert status == 200 and health["status"] == "ok" and health["classes"] == ["rectangle", "ellipse", "triangle"]
    assert health["model"] == "lively.onnx" and health["limits"]["queue"] == 4

    def metric(name):
        line = next(line for line in send(f"{server}/metrics")[1].splitlines() if line.startswith(name + " "))
        return float(line.split()[-1])

    send(f"{server}/predict", encoded(noise_image(4)))
    before = metric('predict_requests_total{status="200"}')
    for _ in range(3):
        send(f"{server}/predict", encoded(noise_image(4)))
    send(f"{server}/predict", b"x")
    assert metric('predict_requests_total{status="200"}') == before + 3
    assert metric('predict_requests_total{status="415"}') >= 1
    assert metric("predict_seconds_count") >= 4 and metric("predict_in_work") == 0


def test_the_default_address_is_local(server):
    assert server.startswith("http://127.0.0.1:")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_public_address_with_cors_and_shutdown_by_signal(number, lively_onnx):
    """A warning is logged, and pages of the given origin are allowed."""
    args = ("--host", "0.0.0.0", "--max_batch", "1", "--cors_origins", "https://shop.example", "--deadline", "20")
    with serving(lively_onnx, *args) as (address, process):
        for origin, allowed in (("https://shop.example", True), ("https://other.example", False)):
            request = urllib.request.Request(f"{address}/health", headers={"Origin": origin})
            with urllib.request.urlopen(request, timeout=60) as answer:
                assert (answer.headers["Access-Control-Allow-Origin"] == origin) == allowed
        assert address.startswith("http://0.0.0.0:")
        assert_graceful_shutdown(address, process, number)


@pytest.mark.slow
@pytest.mark.parametrize("args, part", [
    (["--load_checkpoint_path", "/nowhere.ckpt", "--port", "0"], "/nowhere.ckpt"),
    (["--mindir", "x", "--queue", "0"], "--queue"),
    (["--load_checkpoint_path", "CKPT", "--host", "203.0.113.7"], "203.0.113.7"),
    (["--load_checkpoint_path", "CKPT", "--port", "99999"], "99999"),
    (["--load_checkpoint_path", "CKPT", "--host", "a" * 300], "aaa"),
    (["--load_checkpoint_path", "CKPT", "--score_thresh", "nan"], "--score_thresh"),
    (["--load_checkpoint_path", "CKPT", "--max_connections", "99999999999999999999"], "--max_connections"),
])
def test_mistakes(args, part, lively_checkpoint, tmp_path):
    args = [lively_checkpoint if arg == "CKPT" else arg for arg in args]
    assert_user_error(run_script("tools/serve.py", *args, cwd=tmp_path, check=False), part)


@pytest.mark.slow
@pytest.mark.parametrize("args, part", [
    (["--deadline", "0"], "--deadline"), (["--batch_wait_ms", "-1"], "--batch_wait_ms"),
    (["--batch_tolerance", "-1"], "--batch_tolerance"),
    (["--tls_cert", "/nowhere.pem"], "/nowhere.pem"), (["--tls_cert", "CKPT"], "--tls_key"),
    (["--tls_cert", "CKPT", "--tls_key", "CKPT"], "lively.ckpt"),
    (["--api_key_file", "/nowhere"], "--api_key_file"),
])
def test_mistakes_of_operation(args, part, lively_checkpoint, tmp_path):
    args = [lively_checkpoint if arg == "CKPT" else arg for arg in args]
    args = ["--load_checkpoint_path", lively_checkpoint, "--port", 0, *args]
    assert_user_error(run_script("tools/serve.py", *args, cwd=tmp_path, check=False), part)


def test_the_network_gets_the_options_of_batches(lively_onnx, monkeypatch):
    """test_queue.py tests what they do."""
    class Network:
        def __init__(self, predictor, *options):
            raise UserError(f"{options}")

    monkeypatch.setattr("src.serving.queue.Network", Network)
    monkeypatch.setattr("src.serving.images.Workers", object)
    monkeypatch.setattr("src.serving.access.start_log", lambda: lambda: True)
    with user_error("(4, 0.02, 0.5)"):
        serve.main(["--onnx", str(lively_onnx), "--port", "0", "--max_batch", "4", "--batch_wait_ms", "20",
                    "--batch_tolerance", "0.5"])


@pytest.mark.slow
def test_https_keys_and_the_access_log(lively_onnx, tmp_path):
    certificate, private, keys = (tmp_path / name for name in ("cert.pem", "key.pem", "keys"))
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", private, "-out", certificate,
                    "-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"],
                   check=True, capture_output=True)
    keys.write_text("a-key-of-this-test\n")
    args = ("--tls_cert", certificate, "--tls_key", private, "--api_key_file", keys, "--max_batch", 1)
    with serving(lively_onnx, *map(str, args)) as (address, process):
        assert address.startswith("https://")
        context = ssl.create_default_context(cafile=str(certificate))
        body = encoded(noise_image(4))
        with_key = {"Authorization": "Bearer a-key-of-this-test", "X-Request-ID": "mine"}
        for headers, expected in (({}, 401), (with_key, 200)):
            request = urllib.request.Request(f"{address}/predict", body, headers)
            try:
                with urllib.request.urlopen(request, timeout=60, context=context) as answer:
                    assert answer.status == expected and answer.headers["X-Request-ID"] == "mine"
            except urllib.error.HTTPError as error:
                assert error.code == expected
        process.terminate()
        output = process.communicate(timeout=60)[0]
    entries = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    assert [entry["status"] for entry in entries] == [401, 200] and entries[1]["id"] == "mine"
    assert 0 < entries[1]["network_milliseconds"] <= entries[1]["milliseconds"]


@pytest.mark.slow
def test_alive_before_it_is_ready(tmp_path):
    """With MindSpore and a network that compiles fast; its results equal the Predictor's."""
    save_lively(tmp_path, arch="res_18", num_stacks=[1, 1, 1, 1], down_ratio=16)
    args = ["--load_checkpoint_path", tmp_path / "lively.ckpt", "--port", 0, "--device_target", "CPU", "--max_batch", 1]
    with open(tmp_path / "log", "w+") as log:
        process = start_script("tools/serve.py", *args, stdout=log)
        try:
            wait_until(lambda: "listening on " in (tmp_path / "log").read_text(), 100, "the address")
            address = (tmp_path / "log").read_text().partition("listening on ")[2].split(";")[0]
            assert send(f"{address}/health")[0] == 200
            assert send(f"{address}/predict", encoded(noise_image(4)))[0] == 200  # after waiting
            assert send(f"{address}/ready") == (200, {"batch_sizes": [1]})
            assert_answered_as(Predictor(str(tmp_path / "lively.ckpt"), "CPU"), address, noise_image(3, 70, 120))
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=60) == 0
        finally:
            process.kill()


@pytest.mark.slow
def test_a_generated_client_works(server, tmp_path):
    """openapi-python-client generates a client from /openapi.json, whose calls return the service's responses."""
    pytest.importorskip("openapi_python_client")
    (tmp_path / "api.json").write_text(json.dumps(send(f"{server}/openapi.json")[1]))
    (tmp_path / "config.yml").write_text("post_hooks: []\n")
    subprocess.run([sys.executable, "-m", "openapi_python_client", "generate", "--path", "api.json", "--config",
                    "config.yml", "--meta", "none", "--output-path", "generated", "--fail-on-warning"],
                   cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "image.png").write_bytes(encoded(noise_image(4)))
    (tmp_path / "use.py").write_text(f"""
import json
from generated import Client
from generated.api.default import health, predict
from generated.models import Answer
from generated.types import File

client = Client(base_url="{server}")
data = open("image.png", "rb")
answer = predict.sync(client=client, body=File(payload=data), score=0.05)
assert isinstance(answer, Answer), answer
print(json.dumps([[one.class_, one.score, one.box] for one in answer.objects]))
print(health.sync(client=client).model)
""")
    done = subprocess.run([sys.executable, "use.py"], cwd=tmp_path, check=True, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    expected = send(f"{server}/predict?score=0.05", encoded(noise_image(4)))[1]["objects"]
    assert json.loads(lines[0]) == [[one["class"], one["score"], one["box"]] for one in expected]
    assert lines[1] == "lively.onnx"


def test_a_port_in_use(server, lively_checkpoint, tmp_path):
    args = ("--load_checkpoint_path", lively_checkpoint, "--port", server.rsplit(":", 1)[1])
    done = run_script("tools/serve.py", *args, cwd=tmp_path, check=False)
    assert_user_error(done, "127.0.0.1", "--port")


# ---------------------------------------------------------------- the page


@pytest.fixture
def page(browser, server):
    """The page, freshly opened; script errors and requests to other hosts fail the test."""
    tab = browser.new_page(viewport={"width": 1100, "height": 800})
    problems = []
    tab.on("pageerror", lambda error: problems.append(str(error)))
    local = (server, "blob:", "data:")
    tab.on("request", lambda request: request.url.startswith(local) or problems.append(request.url))
    tab.goto(server)
    yield tab
    tab.close()
    assert problems == []


def test_an_image_is_chosen_and_its_boxes_are_shown(page, server, tmp_path):
    image = np.full((90, 120, 3), 90, np.uint8)
    cv2.imwrite(str(tmp_path / "p.png"), image)
    expected = send(f"{server}/predict?score=0.1", encoded(image))[1]["objects"]
    assert expected
    page.set_input_files("#file", tmp_path / "p.png")
    page.wait_for_selector("#objects li")
    assert page.locator("#objects li").count() == len(expected)
    best = expected[0]
    assert page.locator("#objects li").first.inner_text().split() == [best["class"], f"{best['score']:.2f}"]
    assert "120 × 90 pixels" in page.inner_text("#note") and page.inner_text("#model") == "lively.onnx · 3 classes"
    colors = page.evaluate("""() => { const c = document.getElementById("canvas");
        const data = c.getContext("2d").getImageData(0, 0, c.width, c.height).data, seen = new Set();
        for (let i = 0; i < data.length; i += 4) seen.add(data[i] + "," + data[i + 1] + "," + data[i + 2]);
        return [...seen]; }""")
    assert "90,90,90" in colors and len(colors) > 3  # the image and the drawings


def test_the_slider_hides_lower_scores(page, server, tmp_path):
    cv2.imwrite(str(tmp_path / "p.png"), noise_image(8))
    scores = [entry["score"] for entry in send(f"{server}/predict?score=0.05", encoded(noise_image(8)))[1]["objects"]]
    page.set_input_files("#file", tmp_path / "p.png")
    page.wait_for_selector("#objects li")
    for value in ("0.05", "0.3", "0.95"):
        page.fill("#score", value)
        assert page.locator("#objects li").count() == sum(score >= float(value) for score in scores)
        assert page.inner_text("#shown-score") == f"{float(value):.2f}"


def test_a_dropped_file_that_is_not_an_image_gets_a_message(page):
    data = page.evaluate_handle("""() => { const data = new DataTransfer();
        data.items.add(new File(["no image"], "x.txt", { type: "text/plain" })); return data; }""")
    page.dispatch_event("#drop", "drop", {"dataTransfer": data})
    page.wait_for_selector("#alarm:not([hidden])")
    assert "not an image" in page.inner_text("#alarm")


def test_a_dropped_image_is_processed(page):
    body = list(encoded(noise_image(9)))
    data = page.evaluate_handle("""(body) => { const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(body)], "x.png", { type: "image/png" })); return data; }""", body)
    page.dispatch_event("#drop", "drop", {"dataTransfer": data})
    page.wait_for_selector("#canvas:not([hidden])")
    assert page.is_hidden("#alarm")
    with page.expect_download() as download:
        page.click("#save")
    saved = json.loads(open(download.value.path(), encoding="utf-8").read())
    assert saved["width"] == 128 and len(saved["objects"]) == page.locator("#objects li").count()


@pytest.fixture
def images(tmp_path):
    """Two images and a file that is not an image."""
    for number in (8, 9):
        cv2.imwrite(str(tmp_path / f"{number}.png"), noise_image(number))
    (tmp_path / "none.png").write_text("no image")
    return [tmp_path / name for name in ("8.png", "none.png", "9.png")]


def test_several_files_are_processed(page, images):
    page.set_input_files("#file", images)
    page.wait_for_selector("#strip button:nth-child(3)")
    assert [button.inner_text() for button in page.locator("#strip button").all()] == ["8.png", "none.png", "9.png"]
    assert page.is_visible("#canvas") and page.locator("#objects li").count()
    page.click("#strip button:nth-child(2)")
    assert "not an image" in page.inner_text("#alarm") and page.is_hidden("#canvas")
    assert not page.locator("#objects li").count()
    page.click("#strip button:nth-child(3)")
    assert page.is_visible("#canvas") and page.is_hidden("#alarm")


def test_an_old_result_disappears_when_a_new_one_fails(page, images):
    page.set_input_files("#file", images[0])
    page.wait_for_selector("#canvas:not([hidden])")
    page.set_input_files("#file", images[1])
    page.wait_for_selector("#alarm:not([hidden])")
    assert page.is_hidden("#canvas") and page.is_hidden("#save") and page.is_hidden("#save-image")
    assert not page.locator("#objects li").count() and "curl" not in page.inner_text("body")


def test_the_image_with_its_boxes_is_saved(page, images):
    page.set_input_files("#file", images[0])
    page.wait_for_selector("#save-image:not([hidden])")
    with page.expect_download() as download:
        page.click("#save-image")
    assert download.value.suggested_filename == "8-boxes.jpg"
    assert cv2.imread(str(download.value.path())).shape == (675, 900, 3)


def test_labels_do_not_overlap(page, images):
    page.set_input_files("#file", images[0])
    page.wait_for_selector("#objects li")
    page.fill("#score", "0.05")
    labels = page.evaluate("placed")
    assert len(labels) > 2
    for index, (x, y, width, height) in enumerate(labels):
        for a, b, w, h in labels[:index]:
            assert x >= a + w or a >= x + width or y >= b + h or b >= y + height


def test_the_classes_are_listed(page):
    """In the colors of their boxes."""
    wait_until(lambda: page.locator("#classes span").count() == 3, 10, "the classes")
    assert page.locator("#classes span").all_inner_texts() == ["rectangle", "ellipse", "triangle"]
    assert page.locator("#classes").is_visible() and "3 classes" in page.inner_text("#all-classes summary")
    colors = [int(value) for value in re.findall(r"\d+", page.locator("#classes i").nth(1).evaluate(
        "square => square.style.background"))]
    np.testing.assert_allclose(colors, drawing.class_color(1)[::-1], atol=1)


def test_a_sample_image_is_offered(page, server):
    """Of drawn shapes, from the service itself; its objects are those of /predict."""
    with urllib.request.urlopen(f"{server}/sample.jpg", timeout=60) as answer:
        body = answer.read()
    assert cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR).shape == (288, 288, 3)
    expected = send(f"{server}/predict?score=0.1", body)[1]["objects"]
    page.click("#sample")
    page.wait_for_selector("#objects li")
    assert page.locator("#objects li").count() == len(expected) and "288 × 288" in page.inner_text("#note")
    with page.expect_download() as download:
        page.click("#save")
    assert download.value.suggested_filename == "sample.json"


def test_the_description_of_the_api_looks_like_the_page(page, server):
    """The same colors, corners and font, within a phone's width, and a way back."""
    styles = """[document.body, document.querySelector("section")].map((node) => { const style = getComputedStyle(node);
        return [style.backgroundColor, style.color, style.fontFamily, style.borderRadius]; })"""
    expected = page.evaluate(styles)
    page.click("text=API")
    page.wait_for_selector("text=openapi.json")
    assert page.evaluate(styles) == expected
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.click("header a")
    page.wait_for_selector("#drop")


def test_a_phone_is_asked_for_a_photo(browser, server):
    tab = browser.new_page(viewport={"width": 400, "height": 800}, has_touch=True, is_mobile=True)
    tab.goto(server)
    assert tab.inner_text("#invitation") == "Choose or take a photo"
    assert tab.evaluate("document.documentElement.scrollWidth") <= 400
    tab.close()


# ---------------------------------------------------------------- keypoints and 3D boxes on the page


KEYPOINTS = {"names": ["nose", "left_hand", "right_hand", "left_foot", "right_foot"], "flip_idx": [[1, 2], [3, 4]],
             "skeleton": [[1, 3], [2, 4], [3, 4], [0, 1]]}
POSED = {"class": "person", "label": 0, "score": 0.9, "box": [100, 100, 700, 500],
         "keypoints": [[0, 0, 0], [600, 200, 0.9], [200, 200, 0.9], [600, 400, 0.05], [200, 400, 0.9]]}


def answer_with(page, *objects, **about):
    """Reload the page, with a service that answers with these objects in an image of 900x600."""
    health = {"model": "m.onnx", "classes": ["person", "car"], "score_thresh": 0.1, "limits": {}, **about}
    answer = {"width": 900, "height": 600, "milliseconds": 1, "objects": objects}
    page.route("**/health", lambda route: route.fulfill(json=health))
    page.route("**/predict*", lambda route: route.fulfill(json=answer))
    page.reload()


def test_the_camera_of_3d_boxes_is_sent(page, tmp_path):
    """Only models with 3D boxes have the field. What is typed is sent for the same files again; what the service says
    about a wrong camera is shown."""
    wait_until(lambda: page.locator("#classes span").count() == 3, 10, "the answer of /health")
    assert page.is_hidden("#calib")
    answer_with(page, {**POSED, "keypoints": None}, camera={"matrix": [], "size": [1, 1]})
    sent = []
    page.on("request", lambda request: sent.append(request.url) if "/predict" in request.url else None)
    page.wait_for_selector("#calib")
    cv2.imwrite(str(tmp_path / "p.png"), noise_image(8))
    page.set_input_files("#file", tmp_path / "p.png")
    page.wait_for_selector("#objects li")
    assert len(sent) == 1 and "calib" not in sent[0]
    page.fill("#calib", "700, 700, 320,96")
    page.keyboard.press("Enter")
    wait_until(lambda: len(sent) == 2, 10, "the second request")
    assert urllib.parse.parse_qs(urllib.parse.urlparse(sent[1]).query)["calib"] == ["700, 700, 320,96"]
    problem = {"detail": "calib has 3 numbers; expected fx fy cx cy"}
    page.route("**/predict*", lambda route: route.fulfill(json=problem, status=422))
    page.fill("#calib", "700, 700, 320")
    page.keyboard.press("Enter")
    page.wait_for_selector("#alarm:not([hidden])")
    assert "3 numbers" in page.inner_text("#alarm") and "camera" in page.inner_text("#alarm")


@pytest.fixture
def posing(page):
    """The page, whose service answers with two objects, the second one without keypoints."""
    answer_with(page, POSED, {**POSED, "score": 0.8, "keypoints": [[0, 0, 0]] * 5}, keypoints=KEYPOINTS)
    # Not wait_for_function, whose script the page's security policy forbids.
    wait_until(lambda: page.evaluate("bones.length") > 0, 10, "the answer of /health")
    return page


def canvas_pixel(page, x, y):
    """A pixel of the page's canvas: red, green, blue."""
    return page.evaluate("([x, y]) => [...$('canvas').getContext('2d').getImageData(x, y, 1, 1).data]", [x, y])[:3]


def test_skeletons_are_drawn(posing, tmp_path):
    """Bones between keypoints that are present, in the colors of their sides; a guessed keypoint is a ring."""
    cv2.imwrite(str(tmp_path / "p.png"), np.full((600, 900, 3), 90, np.uint8))
    posing.set_input_files("#file", tmp_path / "p.png")
    posing.wait_for_selector("#objects li")
    middle, left, right = (posing.evaluate(f"shade({side}, 0)") for side in range(3))
    for place, color in (((600, 300), left), ((200, 300), right), ((400, 400), middle), ((600, 200), left)):
        np.testing.assert_allclose(canvas_pixel(posing, *place), color, atol=3)
    assert canvas_pixel(posing, 600, 400) == [0, 0, 0]  # the ring
    assert canvas_pixel(posing, 300, 100 + 50) == [90] * 3  # no bone to the missing nose
    assert canvas_pixel(posing, 3, 3) == [90] * 3  # which is not drawn at 0, 0


def test_3d_boxes_are_drawn(page, tmp_path):
    """Their edges in place of the box, and the distance in the list."""
    solid = {"class": "car", "label": 1, "score": 0.9, "box": [100, 100, 700, 500], "location": [1, 1.5, 12.34],
             "dimensions": [1.5, 1.6, 4], "rotation_y": 0, "alpha": 0,
             "lines": [[150, 200, 650, 200], [400, 200, 400, 450]]}
    answer_with(page, solid, camera={"size": [900, 600]})
    cv2.imwrite(str(tmp_path / "p.png"), np.full((600, 900, 3), 90, np.uint8))
    page.set_input_files("#file", tmp_path / "p.png")
    page.wait_for_selector("#objects li")
    assert "car, 12.3 m" in page.inner_text("#objects li")
    for place in ((300, 200), (600, 200), (400, 350)):
        np.testing.assert_allclose(canvas_pixel(page, *place), page.evaluate("color(1)"), atol=3)
    for place in ((100, 300), (700, 300), (300, 500), (500, 350)):
        assert canvas_pixel(page, *place) == [90] * 3


def test_the_pages_colors_are_those_of_the_other_drawings(page):
    for label in range(20):
        assert np.abs(np.subtract(page.evaluate(f"color({label})"), drawing.class_color(label)[::-1])).max() <= 1
        for side in range(3):
            expected = skeletons.shade(side, label)[::-1]
            assert np.abs(np.subtract(page.evaluate(f"shade({side}, {label})"), expected)).max() <= 1
