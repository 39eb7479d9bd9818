"""Images by their address, for the web service: only from hosts that its operator names, and never from inside its network."""
import asyncio
import functools
import ipaddress
import os
import re
import socket
import ssl
import string
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import h11

from src.errors import UserError

REDIRECTS = 3
PART = 2 * 1024  # bytes that are read and looked at, before others have their turn
PORTS = {"http": 80, "https": 443}
NAMED = re.compile(r"(\[[^\[\]]+\]|[^:\[\]]+)(?::(\d{1,5}))?")  # HOST or HOST:PORT
NAME = re.compile(r"[a-z0-9._-]+")
IN_PATH = "/%:@!$&'()*+,;=~-._"  # stay in an address' path as they are
UNICAST = ipaddress.ip_network("2000::/3")  # the IPv6 addresses of the internet
SIX_TO_FOUR = ipaddress.ip_network("2002::/16")  # hold an IPv4 address (RFC 3056)
NAT64 = ipaddress.ip_network("64:ff9b::/96")  # stand for an IPv4 address where there is only IPv6 (RFC 6052)


class NotAllowed(ValueError):
    """An address that this service does not go to."""


class NotFetched(ValueError):
    """An address that gives no image's bytes within the bounds."""


class TooMany(ValueError):
    """As many addresses are being fetched as may be at a time."""


@dataclass(frozen=True)
class Address:
    """What is fetched: scheme, host (as host_name gives it), port, and the path with its query, in ASCII."""

    scheme: str
    host: str
    port: int
    target: str


class Fetcher:
    """Fetches the bytes at addresses whose hosts are among `hosts` (as read_hosts gives them), at most `most` at a time. It sets no time:
    who waits for it cancels it.

    A host's name must not lead to a private address, and every redirect is looked at the same way. An address in numbers that stands among
    the hosts may be private: the operator has named it.
    """

    def __init__(self, hosts: tuple, max_bytes: int, most: int):
        self.hosts, self.max_bytes, self.most = hosts, max_bytes, most
        self.running = 0
        self.lookups = ThreadPoolExecutor(most, "lookup")  # a name's addresses are found by a function that waits

    async def __call__(self, url: str) -> bytes:
        """The bytes at a URL. Raises NotAllowed, NotFetched or TooMany."""
        address = self.check(url)
        if self.running >= self.most:
            raise TooMany(f"{self.most} addresses are being fetched, which is as many as may be")
        self.running += 1
        try:
            for _ in range(REDIRECTS + 1):
                found, location = await self.get(address)
                if location is None:
                    return found
                url = urllib.parse.quote(location, safe=string.punctuation)
                address = self.check(url, f"{address.scheme}://{address.host}:{address.port}{address.target}")
            raise NotFetched(f"more than {REDIRECTS} redirects")
        finally:
            self.running -= 1

    def check(self, url, base=""):
        """The Address of a URL, which a base may complete, if it may be fetched. Raises NotAllowed."""
        try:
            parts = urllib.parse.urlsplit(urllib.parse.urljoin(base, url))
            port = PORTS.get(parts.scheme) if parts.port is None else parts.port
            host = host_name(parts.hostname or "")
        except ValueError as error:
            raise NotAllowed(f"not an address of an image: {error}") from error
        if parts.scheme not in PORTS or parts.username is not None:
            raise NotAllowed("not an address of an image: expected http:// or https://, a host and a path")
        if f"{host}:{port}" not in self.hosts and not (host in self.hosts and port in PORTS.values()):
            raise NotAllowed(f"{host}:{port} is not among the hosts that --allow_urls names")
        query = urllib.parse.quote(parts.query, safe=string.punctuation)
        return Address(parts.scheme, host, port, urllib.parse.quote(parts.path or "/", safe=IN_PATH) + (f"?{query}" if query else ""))

    async def get(self, address):
        """(bytes, None) at a checked Address, or (None, the bytes of where it redirects to). Raises NotAllowed or NotFetched."""
        try:
            reader, writer = await self.connect(address)
            try:
                return await exchange(address, reader, writer, self.max_bytes)
            finally:
                writer.transport.abort()
        except OSError as error:
            raise NotFetched(f"{address.host} gave no image: {reason(error)}") from error
        except h11.RemoteProtocolError as error:  # whose text holds what the host sent
            raise NotFetched(f"{address.host} gave no image: its answer is not HTTP, or not whole") from error

    async def connect(self, address):
        """The reader and the writer of a connection to the very IP address that the host's name was found to have."""
        host = address.host.strip("[]")
        look_up = functools.partial(socket.getaddrinfo, host, address.port, type=socket.SOCK_STREAM)
        found = await asyncio.get_running_loop().run_in_executor(self.lookups, look_up)
        numbers = list(dict.fromkeys(info[4][0] for info in found))
        if not is_numbers(host) and not all(map(is_public, numbers)):
            raise NotAllowed(f"{host} leads to a private address")
        secure = {"ssl": tls(), "server_hostname": host} if address.scheme == "https" else {}
        return await asyncio.open_connection(numbers[0], address.port, limit=PART, **secure)


def read_hosts(words: str) -> tuple:
    """The hosts in the option --allow_urls, with their ports where it names them. Raises UserError for what no address can have."""
    hosts = []
    for word in filter(None, map(str.strip, words.split(","))):
        named = NAMED.fullmatch(word)
        try:
            if not named or named[2] and not 0 < int(named[2]) < 2**16:
                raise ValueError
            hosts.append(host_name(named[1]) + (f":{int(named[2])}" if named[2] else ""))
        except ValueError:
            raise UserError(f"--allow_urls has {word!r}; expected a host, or a host and a port, as images.example.org, "
                            "cdn.example.org:8443 or [2001:db8::1]:9000") from None
    return tuple(hosts)


def host_name(host):
    """A host as it is compared: in lower-case ASCII, an IPv6 address in its shortest form and in brackets. Raises ValueError."""
    if ":" in host:
        return f"[{ipaddress.IPv6Address(host.strip('[]'))}]"
    name = host.encode("idna").decode().lower()
    if not NAME.fullmatch(name):
        raise ValueError(f"{host!r} is no name of a host")
    return name


def is_numbers(host):
    """Whether a host is an IP address."""
    try:
        return bool(ipaddress.ip_address(host))
    except ValueError:
        return False


def is_public(address):
    """Whether an IP address belongs to the internet. Of the IPv6 forms of an IPv4 address only NAT64's can."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if found in NAT64:
        found = ipaddress.IPv4Address(int(found) % 2**32)
    if found.version == 6 and (found not in UNICAST or found in SIX_TO_FOUR):
        return False
    return found.is_global and not found.is_multicast


@functools.cache
def tls():
    """The settings of HTTPS; they read the system's certificates."""
    return ssl.create_default_context()


def reason(error):
    """What an OSError says, without the address that a name leads to."""
    if isinstance(error, (ssl.SSLError, socket.gaierror)):
        return error.strerror or type(error).__name__
    return os.strerror(error.errno) if error.errno else "the connection broke"


async def exchange(address, reader, writer, max_bytes):
    """Send a request, and return what Fetcher.get does. Raises NotFetched, OSError or h11.RemoteProtocolError."""
    http = h11.Connection(h11.CLIENT)
    host = address.host if address.port == PORTS[address.scheme] else f"{address.host}:{address.port}"
    headers = [("Host", host), ("Accept", "image/*"), ("Accept-Encoding", "identity"), ("User-Agent", "centernet"), ("Connection", "close")]
    for event in (h11.Request(method="GET", target=address.target, headers=headers), h11.EndOfMessage()):
        writer.write(http.send(event))
    while isinstance(response := await next_event(http, reader), h11.InformationalResponse):
        pass
    location = dict(response.headers).get(b"location")
    if response.status_code in (301, 302, 303, 307, 308) and location:
        return None, location
    if response.status_code != 200:
        raise NotFetched(f"{address.host} answered {response.status_code}")
    found = bytearray()
    while isinstance(event := await next_event(http, reader), h11.Data):
        found += event.data
        if len(found) > max_bytes:
            raise NotFetched(f"more than {max_bytes} bytes")
    return bytes(found), None


async def next_event(http, reader):
    """What the host says next."""
    while (event := http.next_event()) is h11.NEED_DATA:
        http.receive_data(await reader.read(PART))
        await asyncio.sleep(0)  # reading alone does not wait while there is something to read
    return event
