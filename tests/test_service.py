"""The web service's answers, its operation and its bounds, called without a network; test_serve.py has the rest."""
import asyncio
import io
import json
import os
import threading
import time

import cv2
import numpy as np
import pytest
from starlette.middleware.cors import CORSMiddleware

from src import serve
from src.errors import UserError
from src.serve import Served, build_app
from src.service_access import Access, AccessLog, Keys, read_keys
from src.service_body import Ending, Limits
from src.service_models import Answer, Answers, Health, Problem
from src.version import version
from tests.test_service_queue import Held, started

KEY = "a-key-of-some-length"


class Log:
    """Keeps the entries of an access log."""

    def __init__(self):
        self.entries = []

    def add(self, **entry):
        self.entries.append(entry)


class Service:
    """A service around a Held network, and its client."""

    def __init__(self, queue=4, deadline=60.0, body_seconds=5.0, url_hosts=(), keys=None, origins=None):
        self.predictor, self.log, self.ending = Held(), Log(), Ending()
        self.network = started(self.predictor)
        limits = Limits(100_000, 1_000_000, queue, deadline, body_seconds)
        app = build_app(Served(self.predictor, self.network, limits, "held.ckpt", 0.1, url_hosts, self.ending, needs_key=bool(keys)))
        self.api, answered = app.openapi(), app.state.metrics.answered
        app = Keys(app, read_keys(keys)) if keys else app
        app = CORSMiddleware(app, origins, allow_methods=["GET", "POST"], allow_headers=["*"]) if origins else app
        self.app = Access(app, limits, self.ending, self.log, answered)

    async def send(self, method, path, body=b"", parts=None, leave=None, **headers):
        """(status, headers, content) of a request; parts generates those of the body; on `leave`, an Event, the client goes."""
        path, _, query = path.partition("?")
        named = [(name.lower().replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "path": path,
                 "raw_path": path.encode(), "query_string": query.encode(), "root_path": "", "scheme": "http",
                 "headers": named, "client": ("192.0.2.1", 1),
                 "server": ("test", 80)}
        sent, start, never = parts or whole(body), {}, leave or asyncio.Event()
        content = io.BytesIO()

        async def receive():
            async for part, more in sent:
                return {"type": "http.request", "body": part, "more_body": more}
            await never.wait()
            return {"type": "http.disconnect"}

        async def answer(message):
            if message["type"] == "http.response.start":
                start.update(message)
            content.write(message.get("body", b""))

        await self.app(scope, receive, answer)
        found = {name.decode(): value.decode() for name, value in start["headers"]}
        data = content.getvalue()
        return start["status"], found, json.loads(data) if found.get("content-type") == "application/json" and data else data

    def call(self, *words, **named):
        return asyncio.run(self.send(*words, **named))


async def whole(body):
    yield body, False


async def stalled():
    yield b"abc", True
    await asyncio.Event().wait()


@pytest.fixture(scope="module")
def service():
    one = Service()
    yield one
    one.network.end()


def png(value=51, shape=(8, 8, 3)):
    return cv2.imencode(".png", np.full(shape, value, np.uint8))[1].tobytes()


def form(*files):
    """(body, Content-Type) of a form with files (name, bytes)."""
    parts = [f'--bo\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\nContent-Type: image/png\r\n\r\n'.encode() + data
             for name, data in files]
    return b"\r\n".join([*parts, b"--bo--\r\n"]), "multipart/form-data; boundary=bo"


# ---------------------------------------------------------------- answers


def test_an_answer_is_as_typed(service):
    status, headers, content = service.call("POST", "/predict", png())
    answer = Answer.model_validate(content)
    assert status == 200 and (answer.width, answer.height) == (8, 8) and [one.score for one in answer.objects] == [0.2]
    assert content["objects"][0]["class"] == "thing" and answer.milliseconds >= answer.network_milliseconds
    assert service.call("POST", "/predict?score=0.3", png())[2]["objects"] == []


@pytest.mark.parametrize("path, accept", [("/predict?format=image", "*/*"), ("/predict", "image/jpeg"),
                                          ("/predict", "image/jpeg;q=0.9, */*;q=0.8")])
def test_the_image_with_its_boxes(path, accept, service):
    status, headers, data = service.call("POST", path, png(51, (300, 400, 3)), accept=accept)
    drawn = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert status == 200 and headers["content-type"] == "image/jpeg" and drawn.shape == (300, 400, 3)
    assert np.abs(drawn.astype(int) - 51).max() > 50 and np.median(drawn) in range(50, 53)
    assert service.call("POST", path, png(), accept="application/json, image/jpeg")[1]["content-type"] == (
        "image/jpeg" if "format" in path else "application/json")


@pytest.mark.parametrize("query, accept, kind", [
    ("?format=json", "image/jpeg", "application/json"), ("?format=image", "application/json", "image/jpeg"),
    ("", "image/jpeg;q=0, application/json", "application/json"), ("", "application/json;q=0.1, image/jpeg", "image/jpeg"),
    ("", "image/jpeg;q=0.1, application/json", "application/json"), ("", "IMAGE/*, application/json", "application/json"),
    ("", "image/jpeg, */*", "image/jpeg"), ("", "*/*", "application/json"), ("", "", "application/json"),
    ("", "image/*;q=0, image/jpeg;q=0.2, */*;q=0.1", "image/jpeg"), ("", "image/jpeg;q=nan", "application/json"),
    ("", "image/jpeg, application/json", "image/jpeg"), ("", "image/png", "application/json"),
])
def test_what_the_answer_is(query, accept, kind, service):
    assert service.call("POST", f"/predict{query}", png(), accept=accept)[1]["content-type"] == kind


@pytest.mark.parametrize("query, name", [("score=abc&score=1", "score"), ("score=0.5&score=0.5", "score"),
                                         ("format=json&format=image", "format"), ("url=http://a/x&url=http://b/x", "url")])
def test_a_parameter_is_given_once(query, name, service):
    status, _, content = service.call("POST", f"/predict?{query}", png())
    assert status == 422 and name in str(content["detail"])


def test_an_image_too_long_for_a_jpeg(service):
    status, _, content = service.call("POST", "/predict?format=image", png(5, (1, 70_000, 3)))
    assert status == 422 and "pixels a side" in content["detail"]


@pytest.mark.parametrize("query, field", [("scor=0.5", "scor"), ("score=0.5&x=1", "x"), ("format=gif", "format"), ("score=nan", "score"),
                                          ("score=-1", "score")])
def test_unknown_and_wrong_parameters(query, field, service):
    status, _, content = service.call("POST", f"/predict?{query}", png())
    assert status == 422 and [one.loc for one in Problem.model_validate(content).detail] == [["query", field]]


def test_forms(service):
    pytest.importorskip("python_multipart")
    body, kind = form(("a b.png", png(102)))
    status, _, content = service.call("POST", "/predict", body, content_type=kind)
    assert status == 200 and Answer.model_validate(content).objects[0].score == 0.4
    body, kind = form(("one.png", png(51)), ("none.txt", b"hello"), ("two.png", png(102)))
    status, _, content = service.call("POST", "/predict", body, content_type=kind)
    files = Answers.model_validate(content).files
    assert status == 200 and [(one.file, one.status) for one in files] == [("one.png", 200), ("none.txt", 415), ("two.png", 200)]
    assert [one.result and one.result.objects[0].score for one in files] == [0.2, None, 0.4] and "not an image" in files[1].detail
    assert service.call("POST", "/predict?format=image", body, content_type=kind)[0] == 422


def test_a_form_with_a_field_that_would_go_unread(service):
    pytest.importorskip("python_multipart")
    body, kind = form(("x.png", png()))
    field = b'--bo\r\nContent-Disposition: form-data; name="score"\r\n\r\n0.3\r\n'
    status, _, content = service.call("POST", "/predict", field + body, content_type=kind)
    assert status == 422 and "'score'" in content["detail"]


@pytest.mark.parametrize("body, kind, part", [(*form(), "no file"), (b"--bo--", "multipart/form-data", "boundary"),
                                              (b"xx", form()[1], "form"),
                                              (b'--bo\r\nContent-Disposition: x\r\n\r\nx\r\n--bo--\r\n', form()[1], "name")])
def test_wrong_forms(body, kind, part, service, caplog):
    pytest.importorskip("python_multipart")
    status, _, content = service.call("POST", "/predict", body, content_type=kind)
    assert status == 400 and part in content["detail"] and not caplog.records


def test_a_form_with_more_files_than_may_wait(service):
    pytest.importorskip("python_multipart")
    for files, expected in ((4, 200), (5, 413), (50, 413)):  # of --queue 4, where nothing waits
        body, kind = form(*[("x.png", png())] * files)
        status, _, content = service.call("POST", "/predict", body, content_type=kind)
        assert status == expected and (status == 200 or "more files than the 4" in content["detail"])


@pytest.mark.parametrize("charset", ["unicode_escape", "raw_unicode_escape", "UTF-7", "utf-16-surrogatepass", "punycode", "zip"])
def test_a_form_is_in_utf_8(charset, service):
    """Python's other charsets make texts of a file's name that no answer can hold."""
    pytest.importorskip("python_multipart")
    body, kind = form((r"\ud800+2AA-", png()), ("b", png()))
    assert service.call("POST", "/predict", body, content_type=kind)[0] == 200
    for given in (f"{kind}; charset={charset}", f'{kind}; charset="{charset}"', f"multipart/form-data; CHARSET={charset}; boundary=bo"):
        status, _, content = service.call("POST", "/predict", body, content_type=given)
        assert status == 415 and "utf-8" in content["detail"]
    assert service.call("POST", "/predict", body, content_type=f"{kind}; charset=UTF-8")[2]["files"][0]["file"] == r"\ud800+2AA-"


@pytest.mark.parametrize("name", [b'filename="\xed\xa0\x80"', b"filename*=utf-8''%ED%A0%80", b"filename*=utf-7''+2AA-",
                                  b'filename="\xff\xfe"', b"filename*=unicode_escape''%5Cud800"])
def test_a_file_of_any_name(name, service):
    pytest.importorskip("python_multipart")
    part = b'--bo\r\nContent-Disposition: form-data; name="file"; ' + name + b"\r\n\r\n" + png() + b"\r\n"
    assert service.call("POST", "/predict", 2 * part + b"--bo--\r\n", content_type="multipart/form-data; boundary=bo")[0] in (200, 400, 422)


def test_addresses(service, monkeypatch):
    status, _, content = service.call("POST", "/predict?url=http://example.org/x.jpg")
    assert status == 403 and "--allow_urls" in content["detail"]
    other = Service(url_hosts=("example.org",))

    async def get(fetcher, address):
        return png(102), None

    monkeypatch.setattr("src.service_urls.Fetcher.get", get)
    assert other.call("POST", "/predict?url=https://example.org/x.jpg")[2]["objects"][0]["score"] == 0.4
    assert other.call("POST", "/predict?url=https://example.com/x.jpg")[0] == 403
    assert other.call("POST", "/predict?url=https://example.org/x.jpg", png())[0] == 400


class Host:
    """A host of images that sends `start` and then, again and again, `drip`; without one, nothing more. `gone` is set when a client is."""

    def __init__(self, start=b"", drip=b""):
        self.start, self.drip, self.clients, self.gone = start, drip, 0, asyncio.Event()

    async def __aenter__(self):
        self.server = await asyncio.start_server(self.answer, "127.0.0.1", 0)
        self.name = f"127.0.0.1:{self.server.sockets[0].getsockname()[1]}"
        self.path = f"/predict?url=http://{self.name}/x.png"
        return self

    async def __aexit__(self, *error):
        self.server.close()

    async def answer(self, reader, writer):
        try:
            await reader.readuntil(b"\r\n\r\n")
            self.clients += 1
            writer.write(self.start)
            while self.drip:
                writer.write(self.drip)
                await writer.drain()
                await asyncio.sleep(0.01)
            await reader.read()
        except (OSError, EOFError):
            pass
        self.gone.set()
        writer.close()


@pytest.mark.parametrize("scheme, start, drip", [
    ("http", b"", b""), ("https", b"", b""),  # of which the latter does not even shake hands
    ("http", b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", b"x"), ("http", b"HTTP/1.1 200 OK\r\nContent-Length: 90000\r\n\r\n", b"x"),
    ("http", b"HTTP/1.1 200 OK\r\nX: ", b"x"), ("http", b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    ("http", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"x"),
    ("http", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n")])
def test_a_host_that_drips_is_left_when_the_time_is_over(scheme, start, drip):
    async def fetched():
        async with Host(start, drip) as host:
            service = Service(body_seconds=0.3, url_hosts=(host.name,))
            found = await asyncio.wait_for(service.send("POST", host.path.replace("http", scheme)), 10)
            await asyncio.wait_for(host.gone.wait(), 10)
            return found

    status, _, content = asyncio.run(fetched())
    assert status == 422 and "within 0.3 s" in content["detail"]


def test_what_is_fetched_holds_no_image_up_and_is_refused_where_it_is_too_much():
    async def fetched():
        async with Host() as host:
            service = Service(url_hosts=(host.name,))
            leave = asyncio.Event()
            fetches = [asyncio.create_task(service.send("POST", host.path, leave=leave)) for _ in range(8)]
            await until(lambda: host.clients == 8)
            image = await asyncio.wait_for(service.send("POST", "/predict", png()), 3)  # less than the 5 s in which a fetch ends
            ninth = await asyncio.wait_for(service.send("POST", host.path), 3)
            leave.set()
            left = await asyncio.wait_for(asyncio.gather(*fetches), 3)
            again = asyncio.create_task(service.send("POST", host.path))
            await asyncio.wait_for(until(lambda: host.clients == 9), 3)
            service.ending.begin()
            return image, ninth, [one[0] for one in left], await asyncio.wait_for(again, 3)

    image, (status, headers, content), left, ended = asyncio.run(fetched())
    assert image[0] == 200 and left == [499] * 8
    assert status == 503 and headers["retry-after"] == "1" and "8 addresses" in content["detail"]
    assert ended[0] == 503 and "ending" in ended[2]["detail"] and ended[1]["connection"] == "close"


# ---------------------------------------------------------------- the queue


async def until(condition):
    while not condition():
        await asyncio.sleep(0.001)


def test_twenty_at_once_are_all_answered():
    service = Service(queue=20)

    async def all_of_them():
        return await asyncio.gather(*(service.send("POST", "/predict", png(10 * value)) for value in range(20)))

    found = asyncio.run(all_of_them())
    assert [status for status, _, _ in found] == [200] * 20
    assert [one["objects"][0]["score"] for _, _, one in found[3:]] == [round(10 * value / 255, 4) for value in range(3, 20)]


def test_a_drawing_does_not_wait_for_the_decoding_of_others(monkeypatch):
    decoded, slow = threading.Event(), png(5)
    decode = serve.decode
    monkeypatch.setattr(serve, "decode", lambda body, max_pixels: (body != slow or decoded.wait(20)) and decode(body, max_pixels))
    service = Service(queue=40)

    async def both():
        service.predictor.gate.clear()
        service.predictor.entered.clear()
        first = asyncio.create_task(service.send("POST", "/predict?format=image", png()))
        await until(service.predictor.entered.is_set)
        others = [asyncio.create_task(service.send("POST", "/predict", slow)) for _ in range(2 * os.cpu_count() + 2)]
        for _ in range(50):
            await asyncio.sleep(0)
        service.predictor.gate.set()
        try:
            return [(await asyncio.wait_for(first, 10))[0]]
        finally:
            decoded.set()
            await asyncio.gather(*others)

    assert asyncio.run(both()) == [200]


def test_a_full_queue_says_when_to_come_again():
    service = Service(queue=4)

    async def five():
        service.predictor.gate.clear()
        service.network.seconds_each = 1.3  # and the time of decoding
        waiting = [asyncio.create_task(service.send("POST", "/predict", png())) for _ in range(4)]
        for _ in range(50):
            await asyncio.sleep(0)
        late = await service.send("POST", "/predict", png())
        service.predictor.gate.set()
        return late, await asyncio.gather(*waiting)

    (status, headers, content), waited = asyncio.run(five())
    assert status == 503 and headers["retry-after"] == "6" and "try again in 6 s" in content["detail"]
    assert [one[0] for one in waited] == [200] * 4


def test_the_deadline():
    service = Service(deadline=0.2)
    service.predictor.gate.clear()
    status, _, content = service.call("POST", "/predict", png())
    service.predictor.gate.set()
    assert status == 504 and "0.2 s" in content["detail"]


def test_who_leaves_gives_back_the_place():
    service = Service(queue=1)

    async def leave():
        service.predictor.gate.clear()
        left = asyncio.Event()
        first = asyncio.create_task(service.send("POST", "/predict", png(), leave=left))
        await until(service.predictor.entered.is_set)
        left.set()
        status = (await first)[0]
        service.predictor.gate.set()
        return status, (await service.send("POST", "/predict", png()))[0]

    service.predictor.entered.clear()
    assert asyncio.run(leave()) == (499, 200)


def test_a_body_that_does_not_come_takes_no_place_and_ends_in_time():
    service = Service(queue=1, body_seconds=0.3)

    async def both():
        slow = asyncio.create_task(service.send("POST", "/predict", parts=stalled()))
        await asyncio.sleep(0)
        return (await service.send("POST", "/predict", png()))[0], (await slow)[0]

    assert asyncio.run(both()) == (200, 408)


async def held(service):
    """The task of a request whose image the network has, and holds until the predictor's gate opens."""
    service.predictor.gate.clear()
    service.predictor.entered.clear()
    taken = asyncio.create_task(service.send("POST", "/predict", png()))
    await until(service.predictor.entered.is_set)
    return taken


def test_an_end_finishes_what_is_there_and_refuses_what_comes():
    service = Service()

    async def end():
        taken = await held(service)
        sending = asyncio.create_task(service.send("POST", "/predict", parts=stalled()))
        for _ in range(20):
            await asyncio.sleep(0)
        service.ending.begin()
        late, refused = await service.send("POST", "/predict", png()), await sending
        ready = await service.send("GET", "/ready")
        service.predictor.gate.set()
        return (await taken)[0], refused, late, ready[0]

    taken, refused, late, ready = asyncio.run(end())
    assert taken == 200 and ready == 503
    for status, headers, content in (refused, late):
        assert status == 503 and "ending" in content["detail"] and headers["connection"] == "close"


def test_who_ends_it_at_once_leaves_no_one_without_a_sentence():
    """A second Ctrl-C cancels what still waits."""
    service = Service()

    async def end_at_once():
        taken = await held(service)
        service.ending.begin()
        taken.cancel()
        found = await taken
        service.predictor.gate.set()
        return found

    status, headers, content = asyncio.run(end_at_once())
    assert status == service.log.entries[0]["status"] == 503 and content == {"detail": "the service is ending"}
    assert headers["connection"] == "close" and headers["retry-after"] == "10"


def test_a_failure_is_a_sentence(service, caplog):
    status, _, content = service.call("POST", "/predict", png(13))
    assert status == 500 and "log" in content["detail"] and "thirteen" in caplog.text


# ---------------------------------------------------------------- operation


def test_the_access_log(service):
    service.log.entries.clear()
    headers = service.call("POST", "/predict", png(), x_request_id="abc-1")[1]
    own = service.call("GET", "/health")[1]["x-request-id"]
    for wrong in ("with space", "x" * 129, ""):
        assert service.call("GET", "/health", x_request_id=wrong)[1]["x-request-id"] not in (wrong, own)
    service.call("HEAD", "/nothing")
    first, *_, last = service.log.entries
    assert headers["x-request-id"] == first["id"] == "abc-1" and len(own) == 32
    assert (first["method"], first["path"], first["status"], first["client"]) == ("POST", "/predict", 200, "192.0.2.1")
    assert first["milliseconds"] >= first["network_milliseconds"] >= 0 and first["queue_milliseconds"] >= 0
    assert (last["method"], last["status"]) == ("HEAD", 404) and all(json.dumps(entry) for entry in service.log.entries)


def test_a_log_that_nobody_reads_holds_nothing_up():
    class Blocked(io.BytesIO):
        def write(self, data):
            gate.wait(10)
            return super().write(data)

    gate = threading.Event()
    stream = Blocked()
    log = AccessLog(stream)
    for number in range(10_100):
        log.add(number=number)
    gate.set()
    log.add(last=True)
    log.thread.join(0.5)
    for _ in range(3):
        log.end()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert lines[0] == {"number": 0} and 10_000 <= len(lines) < 10_110


class Disk(io.RawIOBase):
    """A file on a disk that has room for so many bytes more."""

    def __init__(self, room):
        self.room, self.data = room, b""

    def writable(self):
        return True

    def write(self, data):
        taken = bytes(data[: self.room])
        if not taken:
            raise OSError(28, "No space left on device")
        self.room -= len(taken)
        self.data += taken
        return len(taken)


def test_a_log_goes_on_when_its_disk_has_room_again():
    """Whole lines; those that are missing are counted."""
    disk = Disk(1000)
    log = AccessLog(io.BufferedWriter(disk, 500))
    log.say("listening")
    for number in range(100):
        log.add(number=number, text="x" * 30)
    while log.thread.is_alive() and not log.lines.empty():
        time.sleep(0.001)
    disk.room = 10_000
    for number in range(100, 105):
        log.add(number=number)
    log.end()
    first, *lines = disk.data.decode().splitlines()
    entries = [json.loads(line) for line in lines]
    assert first == "listening" and [one["number"] for one in entries[-5:]] == [100, 101, 102, 103, 104]
    assert 20 < len(entries) < 60 and len(entries) + sum(one.get("lines_left_out", 0) for one in entries) == 105


@pytest.mark.parametrize("path", ["/", "/health", "/ready", "/version", "/docs", "/openapi.json", "/metrics"])
def test_head_is_answered_as_get(path, service):
    assert service.call("HEAD", path)[0] == service.call("GET", path)[0] == 200


def test_what_is_said_of_the_service(service):
    assert service.call("GET", "/version")[2] == {"version": version(), "model": "held.ckpt"}
    assert service.call("GET", "/ready")[2] == {"ready": True, "batch_sizes": [1, 2, 4, 8]}
    assert Health.model_validate(service.call("GET", "/health")[2]).limits.queue == 4
    for method, path, status in (("GET", "/predict", 405), ("HEAD", "/predict", 405), ("DELETE", "/health", 405), ("GET", "/x", 404)):
        found, headers, content = service.call(method, path)
        assert found == status and path in content["detail"] and (status == 404 or "allow" in headers)
    status, headers, content = service.call("POST", "/predict/", png(), host="evil.example")  # no redirect to where Host says
    assert status == 404 and "location" not in headers and "/predict/" in content["detail"]


def test_not_ready_before_the_graphs_are_compiled(service):
    sizes, service.network.sizes = service.network.sizes, []
    assert service.call("GET", "/ready")[0] == 503 and service.call("GET", "/health")[0] == 200
    service.network.sizes = sizes


def test_the_documentation_has_no_scripts(service):
    page = service.call("GET", "/docs")[2].decode()
    assert "<script" not in page and "src=" not in page and "https://" not in page
    assert all(part in page for part in ("POST /predict", "format", "503", "FileAnswer", version()))


def test_the_openapi_document(service):
    validator = pytest.importorskip("openapi_spec_validator")
    validator.validate(service.api)
    answers = service.api["paths"]["/predict"]["post"]["responses"]
    assert set(answers) == {"200", "400", "401", "403", "408", "413", "415", "422", "500", "503", "504"}
    names = [one["$ref"].rpartition("/")[2] for one in answers["200"]["content"]["application/json"]["schema"]["anyOf"]]
    assert names == ["Answer", "Answers"] and answers["503"]["content"]["application/json"]["schema"]["$ref"].endswith("/Problem")
    assert set(service.api["paths"]) == {"/predict", "/health", "/ready", "/version", "/metrics"}
    assert "securitySchemes" not in service.api["components"]  # without keys


def test_keys(tmp_path):
    path = tmp_path / "keys"
    path.write_text(f"# of the shop\n{KEY}\n\nanother-{KEY}\n")
    service = Service(keys=str(path), origins=["https://shop.example"])
    assert [service.call("GET", one)[0] for one in ("/health", "/ready", "/version", "/docs", "/")] == [200] * 5
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {KEY}"}, {"x_api_key": ""},
                    {"x_api_key": "# of the shop"}):
        status, found, content = service.call("POST", "/predict", png(), **headers)
        assert status == 401 and found["www-authenticate"] == "Bearer" and "key" in content["detail"]
    assert service.call("GET", "/metrics")[0] == 401
    assert service.call("POST", "/predict", png(), x_api_key="wrong")[2]["detail"].startswith("the key is none of this service's: send ")
    assert b'predict_requests_total{status="401"} 6.0' in service.call("GET", "/metrics", x_api_key=KEY)[2]
    for path, method in (("/predict", "post"), ("/metrics", "get")):
        assert service.api["paths"][path][method]["security"] == [{"HTTPBearer": []}, {"APIKeyHeader": []}]
    assert "security" not in service.api["paths"]["/health"]["get"] and "Authorization: Bearer" in service.call("GET", "/docs")[2].decode()
    for headers in ({"authorization": f"Bearer {KEY}"}, {"authorization": f"bearer another-{KEY}"}, {"x_api_key": KEY}):
        assert service.call("POST", "/predict", png(), **headers)[0] == 200
    asked = {"origin": "https://shop.example", "access_control_request_method": "POST", "access_control_request_headers": "authorization"}
    assert service.call("OPTIONS", "/predict", **asked)[0] == 200  # a browser asks without the key
    assert service.call("POST", "/predict", png(), origin="https://shop.example")[1]["access-control-allow-origin"] == "https://shop.example"


def test_a_file_of_keys_may_come_from_windows_and_have_comments(tmp_path):
    path = tmp_path / "keys"
    path.write_bytes(f"{KEY}\r\n  # indented: not a key\r\n\r\n  another-{KEY}  \r\n".encode("utf-8-sig"))
    service = Service(keys=str(path))
    for key in (KEY, f"another-{KEY}"):
        assert service.call("GET", "/metrics", x_api_key=key)[0] == 200
    assert len(read_keys(str(path))) == 2


def test_one_right_key_is_enough(tmp_path):
    """Where a proxy puts an Authorization of its own there, the other header still counts."""
    (tmp_path / "keys").write_text(KEY)
    service = Service(keys=str(tmp_path / "keys"))
    for wrong in ("Bearer of-the-proxy", "Basic abc"):
        assert service.call("GET", "/metrics", authorization=wrong, x_api_key=KEY)[0] == 200
        assert service.call("GET", "/metrics", authorization=wrong, x_api_key="wrong")[0] == 401
    assert service.call("GET", "/metrics", authorization=f"Bearer {KEY}", x_api_key="wrong")[0] == 200


@pytest.mark.parametrize("text, part", [("", "no key"), ("# only this\n", "no key"), ("short\n", "line 1 .* fewer than 16"),
                                        (f"# x\n{KEY}  # of the shop\n", "line 2 .* blanks"), (f"{KEY}\n{KEY} {KEY}", "line 2 .* blanks")])
def test_wrong_files_of_keys(text, part, tmp_path):
    (tmp_path / "keys").write_text(text)
    with pytest.raises(UserError, match=part):
        read_keys(str(tmp_path / "keys"))
    with pytest.raises(UserError, match="api_key_file"):
        read_keys(str(tmp_path / "none"))


def test_pages_elsewhere(service):
    assert "access-control-allow-origin" not in service.call("GET", "/health", origin="https://shop.example")[1]
    open_to_one = Service(origins=["https://shop.example"])
    assert open_to_one.call("POST", "/predict", png(), origin="https://shop.example")[1]["access-control-allow-origin"] == "https://shop.example"
    assert "access-control-allow-origin" not in open_to_one.call("GET", "/health", origin="https://other.example")[1]
