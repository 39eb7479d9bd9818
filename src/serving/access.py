"""Layers around the web service: API keys, errors as JSON, request ids, the access log."""
import asyncio
import datetime
import hashlib
import hmac
import json
import logging
import logging.handlers
import queue
import re
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Request, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..core import errors
from ..core.console import LOG
from ..core.errors import UserError
from ..core.other_names import unknown
from .schema import PredictQuery

HEADERS = ("X-Request-ID", "Retry-After")  # readable by pages of other origins
REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")
MIN_KEY_LENGTH = 16
MAX_QUEUED_LINES = 10_000

# ---------------------------------------------------------------- keys


def read_keys(path: str) -> list[bytes]:
    """Read a file of keys, one per line, and return their digests; # begins a comment line. Raises UserError."""
    errors.require_file(path, "API key file (--api_key_file)")
    with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
        lines = [(number, line.strip()) for number, line in enumerate(file, 1)]
    keys = [(number, line) for number, line in lines if line and not line.startswith("#")]
    if not keys:
        raise UserError(f"{path} has no keys; expected one per line")
    for number, key in keys:
        if len(key) < MIN_KEY_LENGTH or len(key.split()) > 1:
            raise UserError(f"{path}: the key in line {number} has whitespace or fewer than {MIN_KEY_LENGTH} "
                            "characters; python -c 'import secrets; print(secrets.token_urlsafe())' generates one")
    return [digest(key) for _, key in keys]


def digest(key: str) -> bytes:
    """The SHA-256 digest of a key: of fixed length, so that comparisons reveal nothing about the key's length."""
    return hashlib.sha256(key.encode(errors="surrogateescape")).digest()


def key_dependency(keys: Sequence[bytes]) -> Callable[..., Awaitable[None]]:
    """A FastAPI dependency that requires one of the keys (digests); it takes the same time for any wrong key."""
    bearer_scheme, header_scheme = HTTPBearer(auto_error=False), APIKeyHeader(name="X-API-Key", auto_error=False)

    async def require_key(bearer: Annotated[HTTPAuthorizationCredentials | None, Security(bearer_scheme)],
                          key: Annotated[str | None, Security(header_scheme)]) -> None:
        # Headers are decoded as Latin-1, which browsers send; curl sends the terminal's UTF-8.
        given = [digest(form) for value in (bearer and bearer.credentials, key) if value
                 for form in {value, value.encode("latin-1").decode("utf-8", "surrogateescape")}]
        if not sum(hmac.compare_digest(one, known) for one in given for known in keys):
            reason = "wrong key" if given else "a key is required"
            raise HTTPException(401, f"{reason}: send Authorization: Bearer KEY or X-API-Key: KEY",
                                {"WWW-Authenticate": "Bearer"})

    return require_key


# ---------------------------------------------------------------- errors


def problem(status: int, detail: Any, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The response to a failed request, a schema.Problem."""
    return JSONResponse({"detail": detail}, status, headers)


def unknown_parameter(name: str) -> str:
    """The message about a query parameter that POST /predict does not have, with the one that it may have meant."""
    answer = unknown(name, "", PredictQuery.model_fields.keys(), prefix="")
    return f"unknown parameter{answer and f', {answer}'}"


def add_exception_handlers(app: FastAPI) -> None:
    """Let an application respond to exceptions with a schema.Problem."""

    async def http_error(request: Request, error: Any) -> JSONResponse:
        path = request.url.path
        details = {404: f"{path} not found; see /docs", 405: f"{path} does not support {request.method}; see /docs"}
        return problem(error.status_code, details.get(error.status_code, error.detail), error.headers)

    async def invalid_request(request: Request, error: Any) -> JSONResponse:
        wrong = [(str(one["loc"][-1]), one) for one in error.errors()]
        details = [f"{name}: {unknown_parameter(name) if one['type'] == 'extra_forbidden' else one['msg']}"
                   for name, one in wrong]
        if any(one["type"] == "extra_forbidden" for _, one in wrong):
            details.append(f"{request.url.path} takes {', '.join(PredictQuery.model_fields)}; see /docs")
        return problem(422, "; ".join(details))

    async def internal_error(request: Request, error: Exception) -> JSONResponse:
        return problem(500, "detection failed; see the server's log")

    app.add_exception_handler(StarletteHTTPException, http_error)
    app.add_exception_handler(RequestValidationError, invalid_request)
    app.add_exception_handler(Exception, internal_error)


# ---------------------------------------------------------------- the log


class Access:
    """The outermost ASGI middleware: assigns request ids, handles HEAD as GET, logs requests and calls count(entry).

    The application finds the log entry in scope["log"] and may add to it.
    """

    def __init__(self, app: ASGIApp, count: Callable[[dict], Any]):
        self.app, self.count = app, count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start, given = time.perf_counter(), dict(scope["headers"]).get(b"x-request-id", b"")
        entry = {"time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds"),
                 "id": given.decode() if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex,
                 "client": scope["client"] and scope["client"][0],
                 "method": scope["method"], "path": scope["path"], "status": None}

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                entry["status"] = message["status"]
                message = {**message, "headers": [*message["headers"], (b"x-request-id", entry["id"].encode())]}
            await send(message)

        scope = {**scope, "log": entry, "method": "GET" if scope["method"] == "HEAD" else scope["method"]}
        try:
            await self.app(scope, receive, answer)
        except asyncio.CancelledError:  # by a second Ctrl-C, or at shutdown if a client has not read its response
            if entry["status"] is None:
                await problem(503, "the service is shutting down")(scope, receive, answer)
        finally:
            entry["milliseconds"] = round(1000 * (time.perf_counter() - start), 1)
            self.count(entry)
            LOG.info(json.dumps(entry))


def start_log() -> Callable[[], bool]:
    """Let LOG write to standard output in a thread: a stalled reader or a full disk loses lines but blocks nothing.

    Returns a function that waits up to a second and returns whether all lines are written.
    """
    logging.raiseExceptions = False  # for lines dropped from a full queue
    lines: queue.Queue = queue.Queue(MAX_QUEUED_LINES)
    LOG.handlers = [logging.handlers.QueueHandler(lines)]
    logging.handlers.QueueListener(lines, logging.StreamHandler(sys.stdout)).start()

    def is_written() -> bool:
        end = time.monotonic() + 1
        while lines.unfinished_tasks and time.monotonic() < end:
            time.sleep(0.01)
        return not lines.unfinished_tasks

    return is_written
