"""docs/nginx.conf in front of tools/serve.py: slow, oversized or too many requests harm no others.

All connections are local.
"""
import contextlib
import http.client
import json
import os
import resource
import select
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
EACH = 20  # concurrent requests per address
IDLE = 64  # connections to the service that nginx keeps open
HALVES = [  # of requests that clients do not finish
    b"", b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-",
    b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nabc",
    b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n" + bytes(200_000),
]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def many_files():
    """Raise the limit of open files: each client takes one in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.contextmanager
def proxy(folder, service):
    """The port of nginx in front of a service's address, with docs/nginx.conf apart from ports and folders."""
    if not NGINX:
        assert not os.environ.get("REQUIRE_NGINX"), "no nginx found"
        pytest.skip("no nginx on this machine")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with open(os.path.join(ROOT, "docs", "nginx.conf"), encoding="utf-8") as file:
        text = file.read()
    names = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    folders = "".join(f"{name}_temp_path {folder / name};" for name in names)
    # A small send buffer in the kernel, so that nginx has to buffer responses for slow readers.
    for old, new in (("listen 80;", f"listen 127.0.0.1:{port} sndbuf=4k;"), ("127.0.0.1:8000", service),
                     ("http {", f"http {{ {folders}")):
        assert text.count(old) == 1
        text = text.replace(old, new)
    (folder / "nginx.conf").write_text(text)
    rights = "user root;" if os.getuid() == 0 else ""  # nginx's own user cannot enter the test's folder
    args = ["-p", folder, "-c", folder / "nginx.conf", "-e", folder / "error.log", "-g",
            f"daemon off; pid {folder}/nginx.pid; {rights}"]
    process = subprocess.Popen([NGINX, *args])
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
    """(port of nginx, address of the service behind it); first checks the log of a request through both."""
    folder = tmp_path_factory.mktemp("nginx")
    with serving(lively_onnx, "--max_batch", "1") as (address, process), \
            proxy(folder, address.removeprefix("http://")) as port:
        request = urllib.request.Request(f"http://127.0.0.1:{port}/health", headers={"X-Forwarded-For": "203.0.113.7"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            entry = json.loads(process.stdout.readline())
            assert answer.status == 200 and answer.headers["X-Request-ID"] == entry["id"]
            assert entry["client"] == "127.0.0.1"
        yield port, address


@contextlib.contextmanager
def clients(port, count, small=False):
    """Connections from many addresses; with `small`, their receive buffers are tiny."""
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
    """The number of open connections to a service."""
    port = f":{int(address.rpartition(':')[2]):04X}"
    with open("/proc/net/tcp", encoding="ascii") as file:  # columns 2 and 3: remote address, state (01: established)
        return sum(line.split()[2].endswith(port) and line.split()[3] == "01" for line in file)


def assert_responsive(port):
    """/health and /predict respond soon; without a proxy they would wait until the slow clients give up."""
    seconds = []
    for _ in range(5):
        start = time.monotonic()
        assert send(f"http://127.0.0.1:{port}/health")[0] == 200
        seconds.append(time.monotonic() - start)
    assert statistics.median(seconds) < 10, seconds  # generous, for a busy machine
    status, answer = send(f"http://127.0.0.1:{port}/predict", encoded(noise_image(4)))
    assert status == 200 and "objects" in answer


def test_the_proxied_paths(served):
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
            assert_responsive(port)
            assert connections_to(address) < IDLE + 10
            for number, sender in enumerate(senders):
                if number % len(HALVES) > 1:
                    sender.sendall(b"x")  # continue slowly


def test_a_thousand_slow_readers(served):
    port, address = served
    large = encoded(noise_image(1, 1500, 1500), ".jpg")
    drawing = b"POST /predict?format=image HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(large) + large
    with clients(port, ADDRESSES * EACH, small=True) as readers:
        for number, reader in enumerate(readers):
            reader.sendall(drawing if number > 994 else b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            if number % 200 == 199:
                assert_responsive(port)
        until(lambda: connections_to(address) < IDLE + 10)  # nginx has the responses
        for reader in (readers[990], readers[999]):  # a late reader gets the complete response
            response = http.client.HTTPResponse(reader)
            response.begin()
            assert response.status == 200 and len(response.read()) == int(response.headers["Content-Length"]) > 10_000


@pytest.mark.parametrize("chunked", [False, True])
def test_oversized_bodies(chunked, served):
    port, address = served
    before = send(f"{address}/metrics")[1]
    chunk = bytes(1_000_000)
    length = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: 30000000"
    with clients(port, 20) as senders:
        for sender in senders:
            sender.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\n" + length + b"\r\n\r\n")
            with contextlib.suppress(ConnectionError):
                for _ in range(25):
                    sender.sendall(b"%x\r\n%s\r\n" % (len(chunk), chunk) if chunked else chunk)
        assert_responsive(port)
        answers = []
        for sender in senders:
            with contextlib.suppress(ConnectionError):
                answers.append(sender.recv(1000)[:13])
        assert answers and set(answers) == {b"HTTP/1.1 413 "}
    after = send(f"{address}/metrics")[1]
    assert 'status="413"' not in before and 'status="413"' not in after  # they did not reach the service


def test_one_address_cannot_take_all_connections(served):
    """nginx's two processes accept the connections in any order: some 8 of the 40 are refused, not the last 8."""
    port, _ = served
    with contextlib.ExitStack() as held:
        senders = [held.enter_context(socket.create_connection(("127.0.0.1", port), source_address=("127.0.1.1", 0)))
                   for _ in range(40)]
        for sender in senders:
            sender.sendall(HALVES[2])
        refused = {}

        def eight_are_refused():
            for sender in select.select(senders, [], [], 0.1)[0]:
                with contextlib.suppress(ConnectionError):  # one of the 32, after client_body_timeout
                    if answer := sender.recv(1000):
                        refused[sender] = answer[:13]
            return len(refused) >= 8
        until(eight_are_refused)
        assert list(refused.values()) == [b"HTTP/1.1 429 "] * 8
        assert_responsive(port)
