"""What happens to every request of the web service around its answer: request id, access log, key, HEAD."""
import asyncio
import contextlib
import datetime
import hashlib
import hmac
import json
import queue
import re
import sys
import threading
import time
import uuid

from src import errors
from src.errors import UserError
from src.service_body import ENDS, Ended, Ending, Limits

ID = re.compile(rb"[\x21-\x7e]{1,128}")
OPEN = ("/", "/health", "/ready", "/version", "/docs", "/openapi.json")  # paths that need no key
HEADERS = ("X-Request-ID", "Retry-After")  # that a page elsewhere may read
SHORTEST_KEY = 16
WAITING_LINES = 10_000


class AccessLog:
    """Writes lines in a thread of its own, so that one who does not read them, or a full disk, holds nothing up: then lines are left out,
    and counted in the next entry.

    stream is a buffered binary one, which takes a line whole or not at all; by default, one to standard output.
    """

    def __init__(self, stream=None):
        self.stream = stream or open(sys.stdout.fileno(), "wb", closefd=False)
        self.lines, self.left_out = queue.Queue(WAITING_LINES), 0
        self.thread = threading.Thread(target=self._write, name="access log", daemon=True)
        self.thread.start()

    def say(self, sentence):
        """Write a line for people."""
        with contextlib.suppress(queue.Full):
            self.lines.put_nowait(sentence)

    def add(self, **entry):
        """Write an entry, as JSON."""
        if self.left_out:
            entry["lines_left_out"] = self.left_out
        try:
            self.lines.put_nowait(entry)
            self.left_out = 0
        except queue.Full:
            self.left_out += 1

    def end(self):
        """Write what waits, if that takes no longer than a second."""
        with contextlib.suppress(queue.Full):
            self.lines.put_nowait(None)
        self.thread.join(1)

    def _write(self):
        lost = 0
        while (line := self.lines.get()) is not None:
            is_entry = isinstance(line, dict)
            if is_entry and lost:
                line["lines_left_out"] = line.get("lines_left_out", 0) + lost
            try:
                self.stream.write((json.dumps(line) if is_entry else line).encode() + b"\n")
                lost = 0 if is_entry else lost
            except (OSError, ValueError):
                lost = 1 + (line.get("lines_left_out", 0) if is_entry else lost)
            with contextlib.suppress(OSError, ValueError):  # what is not taken stays in the stream's buffer
                self.stream.flush()


def read_keys(path):
    """The keys in a file, one a line, as their digests; a line that begins with # is a comment. Raises UserError."""
    errors.require_file(path, "file of keys (--api_key_file)")
    with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
        lines = [(number, line.strip()) for number, line in enumerate(file, 1)]
    keys = [(number, line) for number, line in lines if line and not line.startswith("#")]
    if not keys:
        raise UserError(f"{path} has no key; expected one a line")
    for number, key in keys:
        if len(key) < SHORTEST_KEY:
            raise UserError(f"{path}: the key in line {number} has fewer than {SHORTEST_KEY} characters; "
                            "python -c 'import secrets; print(secrets.token_urlsafe())' makes one")
        if len(key.split()) > 1:
            raise UserError(f"{path}: the key in line {number} has blanks; a comment is a line of its own, which begins with #")
    return [digest(key.encode(errors="surrogateescape")) for _, key in keys]


def digest(key):
    """Of one length for all keys, so that comparing says nothing about it."""
    return hashlib.sha256(key).digest()


def knows(keys, headers):
    """Whether a request's headers (bytes by their lower-case name) have one of the keys; takes the same time for every wrong one."""
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    given = [digest(token.strip() if scheme.lower() == b"bearer" else b""), digest(headers.get(b"x-api-key", b""))]
    return sum(hmac.compare_digest(one, key) for one in given for key in keys) > 0


def entry_of(scope):
    """The log's entry of a request, given its ASGI scope, or what is known of it; made and put there if there is none yet."""
    if "log" not in scope:
        given, client = dict(scope.get("headers", ())).get(b"x-request-id", b""), scope.get("client")
        scope["log"] = {"time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds"),
                        "id": given.decode() if ID.fullmatch(given) else uuid.uuid4().hex, "client": client[0] if client else None,
                        "method": scope.get("method"), "path": scope.get("path"), "status": None}
    return scope["log"]


class Access:
    """ASGI middleware, the outermost one: gives a request its id, answers HEAD as GET, reads on what a refused client is still sending, and
    logs. The application finds the log's entry in scope["log"], and may add to it. answered(entry) is called at the end of each."""

    def __init__(self, app, limits: Limits, ending: Ending, log: AccessLog | None = None, answered=None):
        self.app, self.limits, self.ending, self.log, self.answered = app, limits, ending, log, answered

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start = time.perf_counter()
        headers, entry = dict(scope["headers"]), entry_of(scope)
        scope = {**scope, "method": "GET" if scope["method"] == "HEAD" else scope["method"]}
        body = Body(receive, self.limits, self.ending)

        async def answer(message):
            if message["type"] == "http.response.start":
                entry["status"] = message["status"]
                if message["status"] >= 400 and (body.began or b"expect" not in headers):
                    await body.read_on()
                message = {**message, "headers": [*message.get("headers", ()), (b"x-request-id", entry["id"].encode())]}
            await send(message)

        try:
            await self.app(scope, body.receive, answer)
        except asyncio.CancelledError:  # by a second Ctrl-C
            if entry["status"] is None:
                await refuse(answer, 503, "the service is ending", ENDS)
        finally:
            entry["milliseconds"] = round(1000 * (time.perf_counter() - start), 1)
            if self.answered:
                self.answered(entry)
            if self.log:
                self.log.add(**entry)


class Keys:
    """ASGI middleware that refuses a request without one of the keys, but for the OPEN paths."""

    def __init__(self, app, keys):
        self.app, self.keys = app, keys

    async def __call__(self, scope, receive, send):
        headers = dict(scope.get("headers", ()))
        if scope["type"] != "http" or scope["path"] in OPEN or knows(self.keys, headers):
            await self.app(scope, receive, send)
            return
        given = headers.keys() & {b"authorization", b"x-api-key"}
        problem = "the key is none of this service's" if given else "this service needs a key"
        await refuse(send, 401, f"{problem}: send Authorization: Bearer KEY, or X-API-Key: KEY", {"WWW-Authenticate": "Bearer"})


async def refuse(send, status, detail, headers):
    """Answer a request in place of the application."""
    body = json.dumps({"detail": detail}).encode()
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}
    encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})


class Body:
    """What comes of a request's body."""

    def __init__(self, receive, limits: Limits, ending: Ending):
        self._receive, self.limits, self.ending = receive, limits, ending
        self.began = self.ended = False
        self.size = 0
        self.end = time.monotonic() + limits.body_seconds

    async def receive(self):
        """ASGI's receive."""
        message = await self._receive()
        self.began = True
        self.size += len(message.get("body", b""))
        self.ended = not message.get("more_body", False)
        return message

    async def read_on(self):
        """Read what still comes, within bounds: a client that is sending would not see an answer."""

        async def read():
            while not self.ended and self.size <= 2 * self.limits.max_bytes:
                await self.receive()

        with contextlib.suppress(asyncio.TimeoutError, Ended):
            await self.ending.wait_for(read(), max(0, self.end - time.monotonic()))
