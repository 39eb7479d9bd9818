"""docs/nginx.conf in front of tools/serve.py: who is slow, too large or too many harms nobody else. Everything stays on this machine."""
import contextlib
import http.client
import json
import os
import resource
import shutil
import socket
import statistics
import subprocess
import time
import urllib.request

import pytest

from tests.conftest import ROOT, noise_image
from tests.serving.test_images import until
from tests.serving.test_serve import encoded, send, serving

NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
ADDRESSES = 50  # of clients: 127.0.0.2, 127.0.0.3, ...
EACH = 20  # requests that one of them has at a time
IDLE = 64  # connections to the service that nginx keeps
HALVES = [  # of requests, as clients begin them and do not end them
    b"", b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-", b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nabc",
    b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n" + bytes(200_000),
]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def many_files():
    """Each client takes a file of this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.contextmanager
def proxy(folder, service):
    """The port of nginx with docs/nginx.conf, in front of a service's address; only ports and folders are other ones."""
    if not NGINX:
        assert not os.environ.get("REQUIRE_NGINX"), "no nginx found"
        pytest.skip("no nginx on this machine")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with open(os.path.join(ROOT, "docs", "nginx.conf"), encoding="utf-8") as file:
        text = file.read()
    folders = "".join(f"{name}_temp_path {folder / name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    # The system's own room for what a client does not take is small, too: so nginx has to keep the rest.
    for old, new in (("listen 80;", f"listen 127.0.0.1:{port} sndbuf=4k;"), ("127.0.0.1:8000", service), ("http {", f"http {{ {folders}")):
        assert text.count(old) == 1
        text = text.replace(old, new)
    (folder / "nginx.conf").write_text(text)
    rights = "user root;" if os.getuid() == 0 else ""  # of its own user, it could not enter the test's folder
    words = ["-p", folder, "-c", folder / "nginx.conf", "-e", folder / "error.log", "-g", f"daemon off; pid {folder}/nginx.pid; {rights}"]
    process = subprocess.Popen([NGINX, *words])
    try:
        while process.poll() is None and socket.socket().connect_ex(("127.0.0.1", port)):
            time.sleep(0.02)
        assert process.poll() is None
        yield port
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="module")
def served(lively_onnx, tmp_path_factory):
    """(port of nginx, address of the service behind it); before it is given, a request through both has been logged rightly."""
    folder = tmp_path_factory.mktemp("nginx")
    with serving(lively_onnx, "--max_batch", "1") as (address, process), proxy(folder, address.removeprefix("http://")) as port:
        request = urllib.request.Request(f"http://127.0.0.1:{port}/health", headers={"X-Forwarded-For": "203.0.113.7"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            entry = json.loads(process.stdout.readline())
            assert answer.status == 200 and answer.headers["X-Request-ID"] == entry["id"] and entry["client"] == "127.0.0.1"
        yield port, address


@contextlib.contextmanager
def clients(port, count, small=False):
    """Connections from many addresses; small ones have hardly room for what they do not read."""
    with contextlib.ExitStack() as held:
        made = []
        for number in range(count):
            client = held.enter_context(socket.socket())
            if small:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            client.settimeout(30)
            client.bind((f"127.0.0.{2 + number % ADDRESSES}", 0))
            client.connect(("127.0.0.1", port))
            made.append(client)
        yield made


def connections_to(address):
    """How many connections to a service are open."""
    number = f":{int(address.rpartition(':')[2]):04X}"
    with open("/proc/net/tcp", encoding="ascii") as file:
        return sum(line.split()[2].endswith(number) and line.split()[3] == "01" for line in file)  # its remote side; established


def assert_in_use(port):
    """/health answers soon, and an image is detected; without a proxy both would wait until the slow clients give up."""
    seconds = []
    for _ in range(5):
        start = time.monotonic()
        assert send(f"http://127.0.0.1:{port}/health")[0] == 200
        seconds.append(time.monotonic() - start)
    assert statistics.median(seconds) < 10, seconds  # the machine may have others to serve
    status, answer = send(f"http://127.0.0.1:{port}/predict", encoded(noise_image(4)))
    assert status == 200 and "objects" in answer


def test_what_it_passes_on(served):
    port, address = served
    assert send(f"http://127.0.0.1:{port}/metrics")[0] == 404 and send(f"{address}/metrics")[0] == 200
    assert send(f"http://127.0.0.1:{port}/predict", b"x")[0] == 415
    assert b"CenterNet" in urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60).read()


def test_a_thousand_slow_senders(served):
    port, address = served
    with clients(port, ADDRESSES * EACH) as senders:
        for number, sender in enumerate(senders):
            sender.sendall(HALVES[number % len(HALVES)])
        for _ in range(5):
            assert_in_use(port)
            assert connections_to(address) < IDLE + 10
            for number, sender in enumerate(senders):
                if number % len(HALVES) > 1:
                    sender.sendall(b"x")  # so slowly they go on


def test_a_thousand_slow_readers(served):
    port, address = served
    large = encoded(noise_image(1, 1500, 1500), ".jpg")
    drawing = b"POST /predict?format=image HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(large) + large
    with clients(port, ADDRESSES * EACH, small=True) as readers:
        for number, reader in enumerate(readers):
            reader.sendall(drawing if number > 994 else b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            if number % 200 == 199:
                assert_in_use(port)
        until(lambda: connections_to(address) < IDLE + 10)  # nginx has the answers
        for reader in (readers[990], readers[999]):  # who reads at last gets all of it
            response = http.client.HTTPResponse(reader)
            response.begin()
            assert response.status == 200 and len(response.read()) == int(response.headers["Content-Length"]) > 10_000


@pytest.mark.parametrize("chunked", [False, True])
def test_oversized_bodies(chunked, served):
    port, address = served
    before = send(f"{address}/metrics")[1]
    part = bytes(1_000_000)
    length = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: 30000000"
    with clients(port, 20) as senders:
        for sender in senders:
            sender.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\n" + length + b"\r\n\r\n")
            with contextlib.suppress(ConnectionError):
                for _ in range(25):
                    sender.sendall(b"%x\r\n%s\r\n" % (len(part), part) if chunked else part)
        assert_in_use(port)
        answers = []
        for sender in senders:
            with contextlib.suppress(ConnectionError):
                answers.append(sender.recv(1000)[:13])
        assert answers and set(answers) == {b"HTTP/1.1 413 "}
    assert 'status="413"' not in before and 'status="413"' not in send(f"{address}/metrics")[1]  # the service has not seen them


def test_one_address_does_not_take_all_the_room(served):
    port, _ = served
    with contextlib.ExitStack() as held:
        senders = [held.enter_context(socket.create_connection(("127.0.0.1", port), source_address=("127.0.1.1", 0))) for _ in range(40)]
        for sender in senders:
            sender.sendall(HALVES[2])
        for sender in senders[32:]:
            assert sender.recv(1000).startswith(b"HTTP/1.1 429 ")
        assert_in_use(port)
