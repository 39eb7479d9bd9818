"""src/service_urls.py: what is fetched, and what is not, from a server of this test."""
import asyncio
import http.server
import socket
import ssl
import threading

import pytest

from src import service_urls
from src.errors import UserError
from src.service_urls import Fetcher, NotAllowed, NotFetched, is_public, read_hosts


class Images(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.paths.append(self.path)
        self.send_response(302 if self.path.startswith("/to") else 200 if self.path.startswith("/ok") else 404)
        if self.path.startswith("/to"):
            self.send_header("Location", self.path.removeprefix("/to"))
        self.end_headers()
        self.wfile.write(b"bytes" * (1000 if "big" in self.path else 1))

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def server():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Images)
    server.paths = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


@pytest.fixture
def port(server):
    return server.server_address[1]


def fetch(url, *hosts):
    """What a Fetcher with these hosts gives for a URL."""
    return asyncio.run(Fetcher(read_hosts(",".join(hosts)), 1000, 2)(url))


async def talk(answer):
    """What comes of fetching from a host that sends these bytes, and ends."""
    async def host(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(host, "127.0.0.1", 0) as server:
        named = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        return await Fetcher((named,), 1000, 2)(f"http://{named}/x.jpg")


def test_an_address_in_numbers_that_is_named_is_fetched(port):
    assert fetch(f"http://127.0.0.1:{port}/ok", f"127.0.0.1:{port}") == b"bytes"
    assert fetch(f"http://127.0.0.1:{port}/to/ok", f"127.0.0.1:{port}") == b"bytes"


def test_a_redirect_between_hosts_that_are_both_named_is_followed(port):
    with pytest.raises(NotFetched, match=r"127\.0\.0\.2 .*refused"):  # where nobody listens
        fetch(f"http://127.0.0.1:{port}/tohttp://127.0.0.2:{port}/ok", f"127.0.0.1:{port}", f"127.0.0.2:{port}")
    with pytest.raises(NotAllowed, match=r"127\.0\.0\.2"):
        fetch(f"http://127.0.0.1:{port}/tohttp://127.0.0.2:{port}/ok", f"127.0.0.1:{port}")


@pytest.mark.parametrize("path, asked", [("/ok?q=ü", "/ok?q=%C3%BC"), ("/ok ü%20?a=b c&d[]=%FC", "/ok%20%C3%BC%20?a=b%20c&d[]=%FC"),
                                         ("/to/ok?x=ü", "/to/ok?x=%C3%BC"), ("/ok#part", "/ok"), ("/ok?a=\n1", "/ok?a=1")])
def test_an_address_of_other_letters_than_ascii(path, asked, server, port):
    assert fetch(f"http://127.0.0.1:{port}{path}", f"127.0.0.1:{port}") == b"bytes"
    assert asked in server.paths[-2:]


@pytest.mark.parametrize("location, part", [(b"http://[bad/", "not an address"), (b"http://h:x/", "not an address"),
                                            (b"//\xfc\xff/", "no name"), (b"http://a..b/", "not an address")])
def test_a_redirect_to_what_is_no_address(location, part):
    with pytest.raises(NotAllowed, match=part):
        asyncio.run(talk(b"HTTP/1.1 302 Found\r\nLocation: " + location + b"\r\n\r\n"))


def test_a_redirect_in_bytes_that_are_no_ascii():
    with pytest.raises(NotFetched, match="redirects"):  # each one is asked: to the same host
        asyncio.run(talk(b"HTTP/1.1 302 Found\r\nLocation: /ok?x=\xfc\r\n\r\n"))


@pytest.mark.parametrize("answer", [b"SSH-2.0-secret\r\n", b"secret", b"", b"HTTP/1.1 200 OK\r\nsecret\r\n\r\n",
                                    b"HTTP/1.1 200 OK\r\nX: secret", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nsecret",
                                    b"HTTP/1.1 101 secret\r\n\r\n", b"HTTP/1.1 200 secret\r\n" * 2,
                                    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nsecret\r\n"])
def test_what_is_no_http_is_not_passed_on(answer):
    with pytest.raises(NotFetched, match="not HTTP") as error:
        asyncio.run(talk(answer))
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("answer", [b"HTTP/1.0 200 OK\r\n\r\nbytes",
                                    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nbytes",
                                    b"HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nby\r\n3\r\ntes\r\n0\r\n\r\n"])
def test_the_forms_of_a_body(answer):
    assert asyncio.run(talk(answer)) == b"bytes"


@pytest.mark.parametrize("url", ["http://127.0.0.1:{port}/ok", "http://example.org.evil.test/ok", "http://example.org:{port}/ok",
                                 "http://user@example.org/ok", "http://example.org@127.0.0.1:{port}/ok", "file:///etc/passwd", "ftp://example.org/x",
                                 "http:///ok", "", "example.org/x.jpg", "http://[::1]:{port}/ok", "http://example.org:99999/", "http://[/"])
def test_what_is_not_named_is_not_asked(url, port, monkeypatch):
    monkeypatch.setattr(Fetcher, "connect", None)
    with pytest.raises(NotAllowed):
        fetch(url.format(port=port), "example.org")


@pytest.mark.parametrize("named, url", [("MÜLLER.example", "http://xn--mller-kva.example/x"), ("xn--mller-kva.example", "https://müller.Example:443/x"),
                                        ("[0:0:0:0:0:0:0:1]:9", "http://[::1]:9/"), ("10.0.0.5:09000", "http://10.0.0.5:9000/")])
def test_a_host_is_known_however_it_is_written(named, url, monkeypatch):
    monkeypatch.setattr(Fetcher, "connect", lambda self, address: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fetch(url, named)


@pytest.mark.parametrize("word", ["https://images.example.org/", "images.example.org/", "::1", "[::1", "[zz]", "a..b", ".example.org",
                                  "*.example.org", "h:", "h:0", "h:99999", "h:x", "user@h", "a b", "x" * 64])
def test_hosts_that_no_address_can_have(word):
    with pytest.raises(UserError, match="--allow_urls has .*expected a host"):
        read_hosts(f"example.org,{word}")


@pytest.mark.parametrize("address, private", [("127.0.0.1", True), ("10.1.2.3", True), ("169.254.169.254", True),
                                              ("::1", True), ("fd00::1", True), ("::ffff:10.0.0.1", True),
                                              ("64:ff9b::a9fe:a9fe", True), ("64:ff9b::7f00:1", True), ("64:ff9b:1::1", True),
                                              ("fec0::1", True), ("::127.0.0.1", True), ("::ffff:0:127.0.0.1", True),
                                              ("2002:7f00:1::", True), ("2001:0:1::", True), ("2001:db8::1", True), ("ff0e::1", True),
                                              ("64:ff9b::5db8:d822", False),
                                              ("0.0.0.0", True), ("224.0.0.1", True), ("fe80::1%eth0", True),
                                              ("93.184.216.34", False), ("2606:2800:220:1::1", False)])
def test_a_name_that_leads_inside(address, private, monkeypatch):
    assert is_public(address) is not private
    monkeypatch.setattr(socket, "getaddrinfo", lambda *words, **named: [(0, 0, 0, "", ("93.184.216.34", 80)), (0, 0, 0, "", (address, 80))])
    monkeypatch.setattr(asyncio, "open_connection", lambda *words, **named: 1 / 0)
    with pytest.raises(NotAllowed if private else ZeroDivisionError, match="private" if private else None):
        fetch("http://example.org/x.jpg", "example.org")


@pytest.mark.parametrize("path, error, part", [("/to//localhost/ok", NotAllowed, "localhost"), ("/toftp://x/", NotAllowed, "http"),
                                               ("/to/to/to/to/to/ok", NotFetched, "redirects"), ("/no", NotFetched, "404"),
                                               ("/ok/big", NotFetched, "more than 1000 bytes")])
def test_what_is_refused_on_the_way(path, error, part, port):
    with pytest.raises(error, match=part):
        fetch(f"http://127.0.0.1:{port}{path}", f"127.0.0.1:{port}")


def test_nobody_there():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        free = listener.getsockname()[1]
    with pytest.raises(NotFetched, match="refused"):
        fetch(f"http://127.0.0.1:{free}/ok", f"127.0.0.1:{free}")


def test_what_is_said_of_an_error_does_not_name_the_address_behind_a_name():
    errors = [OSError(111, "Connect call failed ('10.0.0.5', 80)"), ConnectionResetError(), ssl.SSLError(1, "wrong version number"),
              socket.gaierror(-2, "Name or service not known")]
    assert list(map(service_urls.reason, errors)) == ["Connection refused", "the connection broke", "wrong version number",
                                                      "Name or service not known"]
