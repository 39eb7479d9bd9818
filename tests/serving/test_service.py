"""The web service's responses, operation and limits, without HTTP connections; test_serve.py has the remainder."""
import asyncio
import io
import json
import logging
import os
import sys
import threading
import time

import cv2
import numpy as np
import pytest
from fastapi import HTTPException

from src.core.console import LOG, print_log
from src.core.errors import UserError
from src.core.version import version
from src.inference.predictor import as_prediction
from src.serving import access
from src.serving import service as service_module
from src.serving.access import Access, read_keys, start_log
from src.serving.schema import Health, Limits, PredictQuery, Problem, answer_of
from src.tasks.ddd.cameras import KITTI
from src.tasks.detection.schema import Object
from tests.conftest import own_log
from tests.serving.test_queue import Held, started

KEY = "a-key-of-some-length"


class Threads:
    """Fake Workers that run functions in a thread."""

    async def run(self, function, *args):
        return await asyncio.to_thread(function, *args)


class Service:
    """A service with a Held predictor, and its client."""

    def __init__(self, queue=4, deadline=60.0, keys=(), workers=None, predictor=None):
        self.predictor, self.entries = predictor or Held(), []
        self.network = started(self.predictor)
        limits = Limits(max_bytes=100_000, max_pixels=1_000_000, queue=queue, deadline=deadline)
        service = service_module.Service(self.predictor, self.network, workers or Threads(), limits, "held.ckpt", 0.1)
        app = service_module.build_app(service, keys)
        self.api = app.openapi()
        self.app = Access(app, lambda entry: (service.metrics.count(entry), self.entries.append(entry)))

    async def send(self, method, path, body=b"", chunks=None, leave=None, **headers):
        """Send a request; returns (status, headers, content).

        chunks generates the body's chunks; the client disconnects on the Event `leave`.
        """
        path, _, query = path.partition("?")
        named = [(name.lower().replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "path": path,
                 "raw_path": path.encode(), "query_string": query.encode(), "root_path": "", "scheme": "http",
                 "headers": named, "client": ("192.0.2.1", 1), "server": ("test", 80)}
        sent, start, never = chunks or single(body), {}, leave or asyncio.Event()
        content = io.BytesIO()

        async def receive():
            async for chunk, more in sent:
                return {"type": "http.request", "body": chunk, "more_body": more}
            await never.wait()
            return {"type": "http.disconnect"}

        async def answer(message):
            if message["type"] == "http.response.start":
                start.update(message)
            content.write(message.get("body", b""))

        try:
            await self.app(scope, receive, answer)
        except RuntimeError:  # a server would log it
            assert start
        found = {name.decode(): value.decode() for name, value in start["headers"]}
        data = content.getvalue()
        is_json = found.get("content-type") == "application/json" and data
        return start["status"], found, json.loads(data) if is_json else data

    def call(self, *args, **kwargs):
        return asyncio.run(self.send(*args, **kwargs))


async def single(body):
    yield body, False


async def stalled():
    yield b"abc", True
    await asyncio.Event().wait()


async def endless():
    while True:
        yield bytes(10_000), True


@pytest.fixture(scope="module")
def service():
    one = Service()
    yield one
    one.network.end()


def png(value=51, shape=(8, 8, 3)):
    return cv2.imencode(".png", np.full(shape, value, np.uint8))[1].tobytes()


def form(*files, kind="multipart/form-data; boundary=bo"):
    """The keyword arguments of a request with a form of files (name, bytes)."""
    head = '--bo\r\nContent-Disposition: form-data; name="file"; filename="{}"\r\nContent-Type: image/png\r\n\r\n'
    parts = [head.format(name).encode() + data for name, data in files]
    return {"body": b"\r\n".join([*parts, b"--bo--\r\n"]), "content_type": kind}


# ---------------------------------------------------------------- answers


def test_an_answer_matches_its_type(service):
    status, headers, content = service.call("POST", "/predict", png())
    answer = answer_of(Object).model_validate(content)
    assert status == 200 and (answer.width, answer.height) == (8, 8) and [one.score for one in answer.objects] == [0.2]
    assert content["objects"][0]["class"] == "thing" and answer.milliseconds >= answer.network_milliseconds
    assert service.call("POST", "/predict?score=0.3", png())[2]["objects"] == []


def test_the_image_with_its_boxes(service):
    status, headers, data = service.call("POST", "/predict?format=image", png(51, (300, 400, 3)))
    drawn = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert status == 200 and headers["content-type"] == "image/jpeg" and drawn.shape == (300, 400, 3)
    assert np.abs(drawn.astype(int) - 51).max() > 50 and np.median(drawn) in range(50, 53)
    for path in ("/predict?format=json", "/predict"):
        assert service.call("POST", path, png(), accept="image/jpeg")[1]["content-type"] == "application/json"
    assert service.call("POST", "/predict?format=image", png(5, (1, 70_000, 3)))[0] == 422


KEYPOINTS = {"names": ["left_hand", "right_hand", "tail"], "skeleton": [[0, 1], [1, 2]], "flip_idx": [[0, 1]],
             "of_class": [[0, 1]]}


class Posing(Held):
    """A Held whose objects have keypoints in an image of 400x300; their class lacks the third one."""

    def __init__(self):
        super().__init__()
        self.detector.description |= {"task": "pose", "keypoints": KEYPOINTS}

    def finish(self, outputs, inputs):
        rows = np.hstack([outputs[0], [[100, 200, 0.91234, 300, 200.126, 0.05, 0, 0, 0]]])
        return as_prediction(rows.astype(np.float32), self.detector.description)


def test_keypoints_are_answered_and_drawn():
    """The service learns from the task what /health says; its answer, document and drawing have the keypoints."""
    from src.tasks.pose.schema import Object as Posed

    service = Service(predictor=Posing())
    health = service.call("GET", "/health")[2]
    assert health["keypoints"] == {name: KEYPOINTS[name] for name in ("names", "skeleton", "flip_idx")}
    assert Health.model_validate(health).model == "held.ckpt"
    answer = answer_of(Posed).model_validate(service.call("POST", "/predict", png(51, (300, 400, 3)))[2])
    assert answer.objects[0].keypoints == [[100, 200, 0.9123], [300, 200.13, 0.05], [0, 0, 0]]
    data = service.call("POST", "/predict?format=image", png(51, (300, 400, 3)))[2]
    drawn = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).astype(int)
    assert (np.abs(drawn[200, 100:300] - 51).max(-1) > 30).all()  # the bone
    assert "keypoints" in service.api["components"]["schemas"]["Object"]["properties"]
    assert b"keypoints" in service.call("GET", "/docs")[2]


@pytest.mark.parametrize("query, part", [
    ("scor=0.5", "scor: unknown parameter, did you mean score?"),
    ("conf=0.5", "conf: unknown parameter, did you mean score?"),
    ("score_thresh=0.5", "did you mean score?"),
    ("conf=0.5", "/predict takes score, calib, format"),
    ("iou=0.5", "no IoU threshold"), ("zzz=1", "/predict takes score, calib, format"),
    ("score=0.5&x=1", "x: "), ("format=gif", "format: "),
    ("score=nan", "score: "), ("score=-1", "score: "), ("score=abc", "score: "),
    ("url=http://a/x.jpg", "url: unknown parameter"), ("calib=700,700,320,96", "calib is for models with 3D boxes"),
    ("calib=/etc/passwd", "calib is for models with 3D boxes")])
def test_unknown_and_wrong_parameters(query, part, service):
    status, _, content = service.call("POST", f"/predict?{query}", png())
    assert status == 422 and part in Problem.model_validate(content).detail
    assert "--" not in content["detail"]


def test_the_camera_of_a_request(tmp_path, monkeypatch):
    """Numbers, never the name of a file on the server; without one, the service's own."""
    predictor, own = Held(), np.array([[9.0, 0, 4, 0], [0, 9, 4, 0], [0, 0, 1, 0]])
    predictor.detector.description |= {"task": "ddd", "camera": KITTI}
    limits = Limits(max_bytes=1, max_pixels=1, queue=1, deadline=1.0)
    handler = service_module.Service(predictor, None, None, limits, "held.ckpt", 0.1, own)
    (tmp_path / "9").write_text("700 710 320 96")
    (tmp_path / "c.txt").write_text("secret: 700 710 320 96")
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    assert handler.calib_of(PredictQuery()) is own
    for text in ("700,710,320,96", "700 710 320 96", "700,0,320,0, 0,710,96,0, 0,0,1,0"):
        expected = [[700, 0, 320, 0], [0, 710, 96, 0], [0, 0, 1, 0]]
        np.testing.assert_array_equal(handler.calib_of(PredictQuery(calib=text)), expected)
    for text, part in (("9", "1 numbers"), ("c.txt", "'c.txt' is not a number"), (str(tmp_path / "c.txt"), "is not"),
                       ("folder", "is not a number"), ("", "0 numbers"), ("700,710,320", "3 numbers"),
                       ("nan,1,1,1", "finite"), ("0,0,0,0", "focal"), ("1e200,1e200,1,1", "at most")):
        with pytest.raises(HTTPException) as raised:
            handler.calib_of(PredictQuery(calib=text))
        assert raised.value.status_code == 422
        assert raised.value.detail.startswith("calib") and part in raised.value.detail
        assert "secret" not in raised.value.detail and "--" not in raised.value.detail


@pytest.mark.parametrize("body, status, part", [
    (b"", 400, "no image in the body"), (b"hello", 415, "not an image"), (png()[:-9], 422, "damaged"),
    (bytes(100_001), 413, "larger than 100000 bytes"), (png(5, (1001, 1000)), 413, "more than 1000000 pixels")])
def test_invalid_bodies_get_a_reason(body, status, part, service):
    found, _, content = service.call("POST", "/predict", body)
    assert found == status and part in content["detail"]


def test_a_form_has_one_file(service):
    assert service.call("POST", "/predict", **form(("a b.png", png(102))))[2]["objects"][0]["score"] == 0.4
    for files, status, part in ([[("a", png()), ("b", png())], 400, "single file"], [[], 400, "no image"],
                                [[("a", b"")], 400, "no image"], [[("a", bytes(100_000))], 413, "larger than"]):
        found, _, content = service.call("POST", "/predict", **form(*files))
        assert found == status and part in content["detail"]
    field = b'--bo\r\nContent-Disposition: form-data; name="score"\r\n\r\n0.3\r\n'
    request = form(("x", png()))
    status, _, content = service.call("POST", "/predict", **{**request, "body": field + request["body"]})
    assert status == 400 and "single file" in content["detail"]


@pytest.mark.parametrize("body, kind", [
    (b"--bo--", "multipart/form-data"), (b"xx", "multipart/form-data; boundary=bo"),
    (b"--bo\r\nContent-Disposition: x\r\n\r\nx\r\n--bo--\r\n", "multipart/form-data; boundary=bo")])
def test_malformed_forms(body, kind, service):
    status, _, content = service.call("POST", "/predict", body, content_type=kind)
    assert status == 400 and "detail" in content


@pytest.mark.parametrize("charset", ["unicode_escape", "UTF-7", "utf-16-surrogatepass", "punycode", "idna", "zip",
                                     "nothing"])
def test_a_form_in_any_python_charset(charset, service):
    for name in (r"\ud800+2AA-", "x" * 4000, "x" * 90_000):
        start = time.monotonic()
        sent = form((name, png()), kind=f"multipart/form-data; charset={charset}; boundary=bo")
        assert service.call("POST", "/predict", **sent)[0] in (200, 400)
        assert time.monotonic() - start < 5


# ---------------------------------------------------------------- limits


async def until(condition):
    while not condition():
        await asyncio.sleep(0.001)


async def held(service, leave=None):
    """The task of a request whose image the network holds until the predictor's gate opens."""
    service.predictor.gate.clear()
    service.predictor.entered.clear()
    taken = asyncio.create_task(service.send("POST", "/predict", png(), leave=leave))
    await until(service.predictor.entered.is_set)
    return taken


def test_twenty_concurrent_requests_all_succeed():
    service = Service(queue=20)

    async def all_of_them():
        return await asyncio.gather(*(service.send("POST", "/predict", png(10 * value)) for value in range(20)))

    found = asyncio.run(all_of_them())
    assert [status for status, _, _ in found] == [200] * 20
    scores = [one["objects"][0]["score"] for _, _, one in found[3:]]
    assert scores == [round(10 * value / 255, 4) for value in range(3, 20)]


def test_a_full_queue_returns_retry_after():
    service = Service(queue=1)

    async def two():
        first = await held(service)
        late = await service.send("POST", "/predict", png())
        service.predictor.gate.set()
        return late, await first

    (status, headers, content), first = asyncio.run(two())
    assert status == 503 and headers["retry-after"] == "1" and "try again in 1 s" in content["detail"]
    assert first[0] == 200


def test_the_memory_of_bodies_is_limited():
    """To eight times the largest body, even for unfinished ones."""
    service = Service(queue=100)

    async def unfinished():
        yield bytes(90_000), True
        await asyncio.Event().wait()

    async def many():
        senders = [asyncio.create_task(service.send("POST", "/predict", chunks=unfinished())) for _ in range(20)]
        await asyncio.wait_for(until(lambda: sum(task.done() for task in senders) == 12), 20)
        done = [task.result() for task in senders if task.done()]
        for task in senders:
            task.cancel()
        await asyncio.gather(*senders, return_exceptions=True)
        return done, await service.send("POST", "/predict", png())

    done, good = asyncio.run(many())
    assert [status for status, _, _ in done] == [503] * 12 and good[0] == 200


@pytest.mark.slow
def test_the_deadline():
    service = Service(deadline=1.0)
    service.predictor.gate.clear()
    status, _, content = service.call("POST", "/predict", png())
    service.predictor.gate.set()
    assert status == 504 and "1 s" in content["detail"]
    assert service.call("POST", "/predict", chunks=stalled())[0] == 408
    assert service.call("POST", "/predict", chunks=endless())[0] == 413
    assert service.call("POST", "/predict", png())[0] == 200


def test_a_disconnect_frees_the_slot():
    service = Service(queue=1)

    async def leave():
        left = asyncio.Event()
        first = await held(service, left)
        left.set()
        status = (await first)[0]
        service.predictor.gate.set()
        return status, (await service.send("POST", "/predict", png()))[0]

    assert asyncio.run(leave()) == (499, 200)


def test_abandoned_requests_are_cancelled_in_the_workers():
    class Never:
        cancelled = 0

        async def run(self, *args):
            try:
                await asyncio.Event().wait()
            finally:
                self.cancelled += 1

    workers = Never()
    service = Service(deadline=0.1, workers=workers)
    leave = asyncio.Event()
    leave.set()
    statuses = [service.call("POST", "/predict", png(), leave=event)[0] for event in (None, leave)]
    assert statuses == [504, 499] and workers.cancelled == 2


def test_requests_cancelled_at_shutdown_get_a_response():
    """A second Ctrl-C cancels waiting requests."""
    service = Service()

    async def shut_down():
        taken = await held(service)
        taken.cancel()
        found = await taken
        service.predictor.gate.set()
        return found

    status, _, content = asyncio.run(shut_down())
    assert status == service.entries[0]["status"] == 503 and content == {"detail": "the service is shutting down"}


def test_an_internal_error_gets_a_message(service):
    status, _, content = service.call("POST", "/predict", png(13))
    assert status == 500 and "log" in content["detail"]
    assert service.call("POST", "/predict", png())[0] == 200


# ---------------------------------------------------------------- operation


def test_the_access_log(service):
    service.entries.clear()
    headers = service.call("POST", "/predict", png(), x_request_id="abc-1")[1]
    generated = service.call("GET", "/health")[1]["x-request-id"]
    for invalid in ("with space", "x" * 129, ""):
        assert service.call("GET", "/health", x_request_id=invalid)[1]["x-request-id"] not in (invalid, generated)
    service.call("HEAD", "/nothing")
    first, *_, last = service.entries
    assert headers["x-request-id"] == first["id"] == "abc-1" and len(generated) == 32
    assert (first["method"], first["path"], first["status"], first["client"]) == ("POST", "/predict", 200, "192.0.2.1")
    assert first["milliseconds"] >= first["network_milliseconds"] >= 0 and first["queue_milliseconds"] >= 0
    assert (last["method"], last["status"]) == ("HEAD", 404)
    assert all(json.dumps(entry) for entry in service.entries)


class Pipe(io.StringIO):
    """A standard output that blocks until its gate opens, and fails `failures` times."""

    def __init__(self, failures=0):
        super().__init__()
        self.gate, self.failures = threading.Event(), failures

    def write(self, text):
        self.gate.wait(20)
        self.failures -= 1
        if self.failures >= 0:
            raise OSError(28, "No space left on device")
        return super().write(text)


@pytest.fixture
def logged(monkeypatch):
    """start(pipe) starts the log with a pipe as standard output; returns the result of start_log."""
    raising = logging.raiseExceptions

    def start(pipe):
        monkeypatch.setattr(sys, "stdout", pipe)
        print_log()
        return start_log()

    with own_log():
        yield start
    logging.raiseExceptions = raising


def test_the_log_is_written_line_by_line(logged):
    pipe = Pipe()
    pipe.gate.set()
    is_written = logged(pipe)
    LOG.info("serving 100% on here")
    assert is_written() and pipe.getvalue() == "serving 100% on here\n"


@pytest.mark.slow
def test_a_log_that_nobody_reads_blocks_nothing(logged, monkeypatch, capsys):
    monkeypatch.setattr(access, "MAX_QUEUED_LINES", 100)
    pipe = Pipe()
    is_written = logged(pipe)
    for number in range(300):
        LOG.info(str(number))
    assert not is_written()
    pipe.gate.set()
    assert capsys.readouterr().err == ""


def test_a_log_resumes_after_a_full_disk(logged):
    pipe = Pipe(failures=3)
    pipe.gate.set()
    is_written = logged(pipe)
    for number in range(10):
        LOG.info(str(number))
    assert is_written() and pipe.getvalue().splitlines()[-1] == "9"


@pytest.mark.parametrize("path", ["/", "/health", "/ready", "/docs", "/openapi.json", "/metrics"])
def test_head_is_answered_as_get(path, service):
    assert service.call("HEAD", path)[0] == service.call("GET", path)[0] == 200


def test_health_readiness_and_unknown_paths(service):
    assert service.call("GET", "/ready")[2] == {"batch_sizes": [1, 2, 4, 8]}
    health = Health.model_validate(service.call("GET", "/health")[2])
    assert (health.version, health.model, health.limits.queue) == (version(), "held.ckpt", 4)
    assert health.model_extra == {}  # a task's additions
    for method, path, status in (("GET", "/predict", 405), ("DELETE", "/health", 405), ("GET", "/x", 404)):
        found, headers, content = service.call(method, path)
        assert found == status and path in content["detail"] and (status == 404 or "allow" in headers)
    status, headers, content = service.call("POST", "/predict/", png(), host="evil.example")  # no redirect to the Host
    assert status == 404 and "location" not in headers and "/predict/" in content["detail"]


def test_not_ready_before_the_graphs_are_compiled(service):
    sizes, service.network.sizes = service.network.sizes, []
    assert service.call("GET", "/ready")[0] == 503 and service.call("GET", "/health")[0] == 200
    service.network.sizes = sizes


def test_the_documentation_has_no_scripts(service):
    page = service.call("GET", "/docs")[2].decode()
    assert "<script" not in page and "src=" not in page and "https://" not in page
    assert all(part in page for part in ("POST /predict", "format", "503", "Answer", version()))


def test_the_openapi_document(service):
    validator = pytest.importorskip("openapi_spec_validator")
    validator.validate(service.api)
    answers = service.api["paths"]["/predict"]["post"]["responses"]
    assert set(answers) == {"200", "400", "401", "408", "413", "415", "422", "500", "503", "504"}
    for status, name in ((200, "Answer"), (422, "Problem"), (503, "Problem")):
        assert answers[str(status)]["content"]["application/json"]["schema"]["$ref"].endswith(f"/{name}")
    assert set(service.api["paths"]) == {"/predict", "/health", "/ready", "/metrics"}
    assert "securitySchemes" not in service.api["components"]  # without keys


# ---------------------------------------------------------------- keys


def written(path, text):
    path.write_bytes(text.encode("utf-8-sig"))
    return str(path)


def test_keys(tmp_path):
    """From a file in Windows format, with comments."""
    text = f"# of the shop\r\n{KEY}\r\n  # indented\r\n\r\n  another-{KEY}  \r\n"
    keys = read_keys(written(tmp_path / "keys", text))
    service = Service(keys=keys)
    assert len(keys) == 2 and [service.call("GET", one)[0] for one in ("/health", "/ready", "/docs", "/")] == [200] * 4
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {KEY}"}, {"authorization": KEY},
                    {"x_api_key": ""}, {"x_api_key": "# of the shop"}):
        status, found, content = service.call("POST", "/predict", chunks=stalled(), **headers)  # before the body
        assert status == 401 and found["www-authenticate"] == "Bearer" and "key" in content["detail"]
    assert service.call("GET", "/metrics")[0] == 401
    assert service.call("POST", "/predict", png(), x_api_key="wrong")[2]["detail"].startswith("wrong key: send ")
    assert b'predict_requests_total{status="401"} 7.0' in service.call("GET", "/metrics", x_api_key=KEY)[2]
    for path, method in (("/predict", "post"), ("/metrics", "get")):
        assert service.api["paths"][path][method]["security"] == [{"HTTPBearer": []}, {"APIKeyHeader": []}]
    assert "security" not in service.api["paths"]["/health"]["get"]
    assert "Authorization: Bearer" in service.call("GET", "/docs")[2].decode()
    for headers in ({"authorization": f"Bearer {KEY}"}, {"authorization": f"bearer another-{KEY}"}, {"x_api_key": KEY},
                    {"authorization": "Bearer of-the-proxy", "x_api_key": KEY},
                    {"authorization": f"Bearer {KEY}", "x_api_key": "wrong"}):
        assert service.call("POST", "/predict", png(), **headers)[0] == 200


class Latin1(str):
    """A string encoded like a browser's headers."""

    def encode(self, *_):
        return super().encode("latin-1")


def test_a_key_with_non_ascii_characters(tmp_path):
    """In UTF-8, sent by curl, and in Latin-1, sent by browsers."""
    key = "schlüssel-der-werkstatt"
    service = Service(keys=read_keys(written(tmp_path / "keys", key)))
    for sent in (key, Latin1(key)):
        assert service.call("POST", "/predict", png(), x_api_key=sent)[0] == 200
    assert service.call("POST", "/predict", png(), authorization=f"Bearer {key}")[0] == 200
    for wrong in ("schlussel-der-werkstatt", Latin1("schl\xff\xfe-der-werkstatt")):
        assert service.call("POST", "/predict", png(), x_api_key=wrong)[0] == 401


@pytest.mark.parametrize("text, part", [
    ("", "no key"), ("# only this\n", "no key"), ("short\n", "line 1 .* fewer than 16"),
    (f"# x\n{KEY}  # of the shop\n", "line 2 .* whitespace"), (f"{KEY}\n{KEY} {KEY}", "line 2 .* whitespace")])
def test_invalid_key_files(text, part, tmp_path):
    with pytest.raises(UserError, match=part):
        read_keys(written(tmp_path / "keys", text))
    with pytest.raises(UserError, match="api_key_file"):
        read_keys(os.path.join(tmp_path, "none"))
