"""src/service_urls.py: what is fetched, and what is not, from a server of this test."""
import http.server
import socket
import threading

import pytest

from src import service_urls
from src.service_urls import Fetcher, NotAllowed, NotFetched, is_public


class Images(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(302 if self.path.startswith("/to") else 200 if self.path.startswith("/ok") else 404)
        if self.path.startswith("/to"):
            self.send_header("Location", self.path.removeprefix("/to"))
        self.end_headers()
        self.wfile.write(b"bytes" * (1000 if "big" in self.path else 1))
        if "slow" in self.path:
            self.server.stop.wait(10)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def port():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Images)
    server.stop = threading.Event()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.stop.set()
    server.shutdown()


def fetcher(*hosts, seconds=5.0):
    return Fetcher(hosts, 1000, seconds)


def test_an_address_in_numbers_that_is_named_is_fetched(port):
    assert fetcher(f"127.0.0.1:{port}")(f"http://127.0.0.1:{port}/ok") == b"bytes"
    assert fetcher(f"127.0.0.1:{port}")(f"http://127.0.0.1:{port}/to/ok") == b"bytes"


@pytest.mark.parametrize("url", ["http://127.0.0.1:{port}/ok", "http://example.org.evil.test/ok", "http://example.org:{port}/ok",
                                 "http://user@example.org/ok", "http://example.org@127.0.0.1:{port}/ok", "file:///etc/passwd", "ftp://example.org/x",
                                 "http:///ok", "", "example.org/x.jpg", "http://[::1]:{port}/ok", "http://example.org:99999/", "http://[/"])
def test_what_is_not_named_is_not_asked(url, port, monkeypatch):
    monkeypatch.setattr(service_urls, "connect", None)
    with pytest.raises(NotAllowed):
        fetcher("example.org")(url.format(port=port))


@pytest.mark.parametrize("address, private", [("127.0.0.1", True), ("10.1.2.3", True), ("169.254.169.254", True),
                                              ("::1", True), ("fd00::1", True), ("::ffff:10.0.0.1", True),
                                              ("0.0.0.0", True), ("224.0.0.1", True), ("fe80::1%eth0", True),
                                              ("93.184.216.34", False), ("2606:2800:220:1::1", False)])
def test_a_name_that_leads_inside(address, private, monkeypatch):
    assert is_public(address) is not private
    monkeypatch.setattr(socket, "getaddrinfo", lambda *words, **named: [(0, 0, 0, "", ("93.184.216.34", 80)), (0, 0, 0, "", (address, 80))])
    monkeypatch.setattr(socket, "create_connection", lambda *words, **named: 1 / 0)
    with pytest.raises(NotAllowed if private else ZeroDivisionError, match="private" if private else None):
        fetcher("example.org")("http://example.org/x.jpg")


@pytest.mark.parametrize("path, error, part", [("/to//localhost/ok", NotAllowed, "localhost"), ("/toftp://x/", NotAllowed, "http"),
                                               ("/to/to/to/to/to/ok", NotFetched, "redirects"), ("/no", NotFetched, "404"),
                                               ("/ok/big", NotFetched, "more than 1000 bytes")])
def test_what_is_refused_on_the_way(path, error, part, port):
    with pytest.raises(error, match=part):
        fetcher(f"127.0.0.1:{port}")(f"http://127.0.0.1:{port}{path}")


def test_who_is_slow_is_left(port):
    with pytest.raises(NotFetched, match="time|timed out"):
        fetcher(f"127.0.0.1:{port}", seconds=0.3)(f"http://127.0.0.1:{port}/ok/slow")


def test_nobody_there():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        free = listener.getsockname()[1]
    with pytest.raises(NotFetched, match="refused"):
        fetcher(f"127.0.0.1:{free}")(f"http://127.0.0.1:{free}/ok")
