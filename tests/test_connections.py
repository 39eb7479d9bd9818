"""src/connections.py: over real connections, with and without TLS, to a server in this process."""
import contextlib
import gc
import json
import socket
import ssl
import subprocess
import threading
import time

import pytest
import uvicorn

from src.connections import Connections, protocol
from tests.test_service import Service, png

HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
CHUNKED = b"POST /predict HTTP/1.1\r\nHost: x\r\nX-Request-ID: mine\r\nTransfer-Encoding: chunked\r\n\r\n"


@contextlib.contextmanager
def running(header_seconds=60.0, most=100, context=None):
    """(the Service, its address, its Connections) of a server in a thread."""
    service, connections, listener = Service(), Connections(most), socket.create_server(("127.0.0.1", 0), backlog=128)
    http = protocol(connections, header_seconds, service.log, context)
    server = uvicorn.Server(uvicorn.Config(service.app, http=http, ws="none", log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield service, listener.getsockname(), connections
    finally:
        server.should_exit = True
        thread.join(20)
        service.network.end()
    assert not thread.is_alive()


def ask(address, data, context=None):
    """(status, headers, body) of all that comes until the other side closes the connection."""
    with socket.create_connection(address, timeout=30) as plain:
        connection = context.wrap_socket(plain, server_hostname="127.0.0.1") if context else plain
        connection.sendall(data)
        return answer_of(connection)


def answer_of(connection):
    """(status, headers, body) of the answer on a connection, which is read to its end."""
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(100_000):
            parts.append(part)
    head, _, body = b"".join(parts).partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return int(first.split()[1]), dict(line.lower().split(": ", 1) for line in lines), body


def make_certificate(folder):
    """The ssl.SSLContexts of a server and of its clients."""
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", "key.pem",
                    "-out", "cert.pem", "-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"],
                   check=True, capture_output=True, cwd=folder)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return server, ssl.create_default_context(cafile=str(folder / "cert.pem"))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return make_certificate(tmp_path_factory.mktemp("tls"))


# ---------------------------------------------------------------- TLS


def test_https(certificate):
    server, client = certificate
    with running(context=server) as (service, address, connections):
        status, headers, body = ask(address, HEALTH, client)
        assert status == 200 and json.loads(body)["status"] == "ok"
        image = png()
        head = b"POST /predict HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(image)
        assert json.loads(ask(address, head + image, client)[2])["objects"][0]["score"] == 0.2
        with pytest.raises(OSError), socket.create_connection(address, timeout=30) as plain:  # no TLS: sent away
            plain.sendall(HEALTH)
            if not plain.recv(1000):
                raise ConnectionResetError
    assert not len(connections)


def test_silent_connections_keep_no_one_out_of_https(certificate, caplog):
    """Of more than there may be, the one that has waited longest goes, before TLS has begun as after it, without a word on stderr."""
    server, client = certificate
    with running(most=10, context=server) as (service, address, connections), contextlib.ExitStack() as held:
        silent = [held.enter_context(socket.create_connection(address, timeout=30)) for _ in range(120)]
        assert ask(address, HEALTH, client)[0] == 200
        with contextlib.suppress(ConnectionResetError):
            assert silent[0].recv(1) == b""
        assert 0 < len(connections) <= 10
    gc.collect()  # asyncio tells of a task's exception when the task goes
    assert not caplog.records


def test_a_handshake_has_the_time_of_headers(certificate):
    server, client = certificate
    with running(header_seconds=0.3, context=server) as (service, address, connections):
        start = time.monotonic()
        with socket.create_connection(address, timeout=30) as silent, contextlib.suppress(ConnectionResetError):
            assert silent.recv(1) == b""
        assert 0.2 < time.monotonic() - start < 10
        with socket.create_connection(address, timeout=30) as plain, client.wrap_socket(plain, server_hostname="127.0.0.1") as shaken:
            status, _, body = answer_of(shaken)
        assert status == 408 and "headers" in json.loads(body)["detail"]


def test_the_end_waits_for_no_handshake(certificate):
    with running(context=certificate[0]) as (service, address, connections), contextlib.ExitStack() as held:
        held.enter_context(socket.create_connection(address, timeout=30))
        while not len(connections):
            time.sleep(0.001)
        start = time.monotonic()
    assert time.monotonic() - start < 15 and not len(connections)


# ---------------------------------------------------------------- what is refused before there is a request


@pytest.mark.parametrize("data, status, part", [
    (b"hello\r\n\r\n", 400, "illegal request line"), (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + bytes(70_000), 431, "too long"),
    (b"GET / HTTP/1.1\r\n\r\n", 400, "Host"), (b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501, "chunked"),
    (b"GET / HT", 408, "the headers did not come within 0.5 s"),
], ids=["no HTTP", "large", "no host", "encoding", "late"])
def test_every_refusal_has_a_sentence_an_id_and_a_line_in_the_log(data, status, part):
    with running(header_seconds=0.5) as (service, address, _):
        found, headers, body = ask(address, data)
        assert found == status and headers["content-type"] == "application/json" and part in json.loads(body)["detail"]
        entry, = service.log.entries
    assert entry["status"] == status and entry["id"] == headers["x-request-id"] and entry["client"] == "127.0.0.1"


def test_tiny_chunks_are_refused():
    """400,000 of a byte take seconds to parse, for a body of 2.4 MB as it is sent."""
    with running() as (service, address, _):
        with socket.create_connection(address, timeout=30) as connection:
            connection.sendall(CHUNKED + 101 * b"1\r\nx\r\n")
            status, headers, body = answer_of(connection)
        assert status == 400 and "send larger ones" in json.loads(body)["detail"] and headers["x-request-id"] == "mine"
        image = png()
        for size in (len(image), 1):  # a small one may come in any
            parts = [image[at : at + size] for at in range(0, len(image), size)]
            chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in [*parts[:90], b"".join(parts[90:])] if part)
            assert ask(address, CHUNKED.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + chunks + b"0\r\n\r\n")[0] == 200
    assert [(one["id"], one["status"]) for one in service.log.entries] == [("mine", 400), ("mine", 200), ("mine", 200)]


def test_a_broken_chunk_is_refused_and_logged_once():
    with running() as (service, address, _):
        with socket.create_connection(address, timeout=30) as connection:
            connection.sendall(CHUNKED.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"))
            assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")  # the application waits for the body
            connection.sendall(b"no size\r\n")
            status, headers, body = answer_of(connection)
        assert status == 400 and "illegal chunk header" in json.loads(body)["detail"] and headers["x-request-id"] == "mine"
    entry, = service.log.entries
    assert (entry["id"], entry["status"], entry["path"]) == ("mine", 400, "/predict")
