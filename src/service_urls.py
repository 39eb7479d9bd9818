"""Images by their address, for the web service: only from hosts that its operator names, and never from inside its network."""
import http.client
import ipaddress
import socket
import ssl
import time
import urllib.parse
from dataclasses import dataclass

REDIRECTS = 3
PART = 64 * 1024  # bytes that are read at a time
PORTS = {"http": 80, "https": 443}


class NotAllowed(ValueError):
    """An address that this service does not go to."""


class NotFetched(ValueError):
    """An address that gives no image's bytes within the bounds."""


@dataclass(frozen=True)
class Fetcher:
    """Fetches the bytes at an address whose host is among `hosts` (HOST for the ports 80 and 443, HOST:PORT for another one).

    A host's name must not lead to a private address, and every redirect is looked at the same way. An address in numbers that stands among
    the hosts may be private: the operator has named it.
    """

    hosts: tuple
    max_bytes: int
    seconds: float

    def __call__(self, url: str) -> bytes:
        """The bytes at a URL. Raises NotAllowed or NotFetched."""
        end = time.monotonic() + self.seconds
        for _ in range(REDIRECTS + 1):
            parts = self.check(url)
            try:
                found, location = self.get(parts, end)
            except (OSError, http.client.HTTPException) as error:
                raise NotFetched(f"{parts.hostname} gave no image: {error or type(error).__name__}") from error
            if location is None:
                return found
            url = urllib.parse.urljoin(url, location)
        raise NotFetched(f"more than {REDIRECTS} redirects")

    def check(self, url):
        """The parts of a URL that may be fetched. Raises NotAllowed."""
        try:
            parts = urllib.parse.urlsplit(url)
            port = parts.port or PORTS.get(parts.scheme)
        except ValueError as error:
            raise NotAllowed(f"not an address of an image: {error}") from error
        host = (parts.hostname or "").lower()
        if parts.scheme not in PORTS or not host or parts.username is not None:
            raise NotAllowed("not an address of an image: expected http:// or https://, a host and a path")
        named = f"[{host}]" if ":" in host else host
        if f"{named}:{port}" not in self.hosts and not (named in self.hosts and port in PORTS.values()):
            raise NotAllowed(f"{named}:{port} is not among the hosts that --allow_urls names")
        return parts

    def get(self, parts, end):
        """(bytes, None) at a checked address, or (None, where it redirects to)."""
        connection = connect(parts, end)
        try:
            path = urllib.parse.quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._") + (f"?{parts.query}" if parts.query else "")
            connection.request("GET", path, headers={"Accept": "image/*", "User-Agent": "centernet"})
            response = connection.getresponse()
            if response.status in (301, 302, 303, 307, 308) and response.getheader("Location"):
                return None, response.getheader("Location")
            if response.status != 200:
                raise NotFetched(f"{parts.hostname} answered {response.status}")
            return read(response, connection.sock, self.max_bytes, end), None
        finally:
            connection.close()


def connect(parts, end):
    """An HTTP connection to a checked address, by the very address that its host's name was found to have."""
    port = parts.port or PORTS[parts.scheme]
    try:
        ipaddress.ip_address(parts.hostname)
        named_in_numbers = True
    except ValueError:
        named_in_numbers = False
    addresses = list(dict.fromkeys(info[4][0] for info in socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)))
    if not named_in_numbers and not all(is_public(address) for address in addresses):
        raise NotAllowed(f"{parts.hostname} leads to a private address")
    plain = socket.create_connection((addresses[0], port), timeout=left(end))
    connection = http.client.HTTPConnection(parts.hostname, port)
    try:
        secure = parts.scheme == "https"
        connection.sock = ssl.create_default_context().wrap_socket(plain, server_hostname=parts.hostname) if secure else plain
    except BaseException:
        plain.close()
        raise
    return connection


def is_public(address):
    """Whether an IP address belongs to the internet, also inside an IPv6 form of an IPv4 one."""
    found = ipaddress.ip_address(address.partition("%")[0])
    inner = getattr(found, "ipv4_mapped", None) or getattr(found, "sixtofour", None)
    return found.is_global and not found.is_multicast and (inner is None or is_public(str(inner)))


def read(response, sock, max_bytes, end):
    """A response's body. Raises NotFetched if it is too large or slow."""
    parts, size = [], 0
    while True:
        if sock is not None:
            sock.settimeout(left(end))
        part = response.read1(PART)
        if not part:
            return b"".join(parts)
        size += len(part)
        if size > max_bytes:
            raise NotFetched(f"more than {max_bytes} bytes")
        parts.append(part)


def left(end):
    """The seconds until a time. Raises NotFetched if it has passed."""
    seconds = end - time.monotonic()
    if seconds <= 0:
        raise NotFetched("it did not come in time")
    return seconds
