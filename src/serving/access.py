"""What surrounds every answer of the web service: keys, problems as JSON, request ids, the log."""
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
from typing import Annotated

from fastapi import HTTPException, Request, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException as StarletteHTTPException

from ..core import errors
from ..core.console import LOG
from ..core.errors import UserError

HEADERS = ("X-Request-ID", "Retry-After")  # that a page elsewhere may read
ID = re.compile(rb"[\x21-\x7e]{1,128}")
MIN_KEY = 16
WAITING_LINES = 10_000

# ---------------------------------------------------------------- keys


def read_keys(path):
    """The keys in a file, one a line, as their digests; a line that begins with # is a comment. Raises UserError."""
    errors.require_file(path, "file of keys (--api_key_file)")
    with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
        lines = [(number, line.strip()) for number, line in enumerate(file, 1)]
    keys = [(number, line) for number, line in lines if line and not line.startswith("#")]
    if not keys:
        raise UserError(f"{path} has no key; expected one a line")
    for number, key in keys:
        if len(key) < MIN_KEY or len(key.split()) > 1:
            raise UserError(f"{path}: the key in line {number} has blanks, or fewer than {MIN_KEY} characters; "
                            "python -c 'import secrets; print(secrets.token_urlsafe())' makes one")
    return [digest(key) for _, key in keys]


def digest(key):
    """Of one length for all keys, so that comparing says nothing about it."""
    return hashlib.sha256(key.encode(errors="surrogateescape")).digest()


def key_dependency(keys):
    """What FastAPI is to call before a request that needs one of the keys; it takes the same time for every wrong one."""

    async def require_key(bearer: Annotated[HTTPAuthorizationCredentials | None, Security(HTTPBearer(auto_error=False))],
                          key: Annotated[str | None, Security(APIKeyHeader(name="X-API-Key", auto_error=False))]):
        # A header's bytes come as Latin-1, in which browsers send them; curl sends those of the terminal, UTF-8.
        given = [digest(form) for word in (bearer and bearer.credentials, key) if word
                 for form in {word, word.encode("latin-1").decode("utf-8", "surrogateescape")}]
        if not sum(hmac.compare_digest(one, known) for one in given for known in keys):
            what = "the key is none of this service's" if given else "this service needs a key"
            raise HTTPException(401, f"{what}: send Authorization: Bearer KEY, or X-API-Key: KEY", {"WWW-Authenticate": "Bearer"})

    return require_key


# ---------------------------------------------------------------- problems


def problem(status, detail, headers=None):
    """The answer of every request that gets no other one: the models' Problem."""
    return JSONResponse({"detail": detail}, status, headers)


def add_problems(app):
    """Let an application answer what is raised with a sentence."""

    async def refused(request: Request, error):
        details = {404: f"there is nothing at {request.url.path}", 405: f"{request.url.path} does not take {request.method}"}
        detail = details.get(error.status_code)
        return problem(error.status_code, f"{detail}; /docs says what there is" if detail else error.detail, error.headers)

    async def wrong(request: Request, error):
        names = {"extra_forbidden": "there is no such parameter; /docs lists those that there are"}
        return problem(422, "; ".join(f"{one['loc'][-1]}: {names.get(one['type'], one['msg'])}" for one in error.errors()))

    async def failed(request: Request, error):
        return problem(500, "detecting failed; the server's log says why")

    app.add_exception_handler(StarletteHTTPException, refused)
    app.add_exception_handler(RequestValidationError, wrong)
    app.add_exception_handler(Exception, failed)


# ---------------------------------------------------------------- the log


class Access:
    """ASGI middleware, the outermost one: gives a request its id, answers HEAD as GET, and at its end logs it and calls count(entry). The
    application finds the entry in scope["log"], and may add to it."""

    def __init__(self, app, count):
        self.app, self.count = app, count

    async def __call__(self, scope, receive, send):
        start, given = time.perf_counter(), dict(scope["headers"]).get(b"x-request-id", b"")
        entry = {"time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds"),
                 "id": given.decode() if ID.fullmatch(given) else uuid.uuid4().hex, "client": scope["client"] and scope["client"][0],
                 "method": scope["method"], "path": scope["path"], "status": None}

        async def answer(message):
            if message["type"] == "http.response.start":
                entry["status"] = message["status"]
                message = {**message, "headers": [*message["headers"], (b"x-request-id", entry["id"].encode())]}
            await send(message)

        scope = {**scope, "log": entry, "method": "GET" if scope["method"] == "HEAD" else scope["method"]}
        try:
            await self.app(scope, receive, answer)
        except asyncio.CancelledError:  # by a second Ctrl-C, or where a client has not read its answer until the end
            if entry["status"] is None:
                await problem(503, "the service is ending")(scope, receive, answer)
        finally:
            entry["milliseconds"] = round(1000 * (time.perf_counter() - start), 1)
            self.count(entry)
            LOG.info(json.dumps(entry))


def start_log():
    """Let LOG write to standard output, in a thread of its own: one who does not read it, or a full disk, costs lines and holds nothing up.
    Returns a function that says whether all is written, for which it waits a second."""
    logging.raiseExceptions = False  # on lines that find no place
    lines = queue.Queue(WAITING_LINES)
    LOG.handlers = [logging.handlers.QueueHandler(lines)]
    logging.handlers.QueueListener(lines, logging.StreamHandler(sys.stdout)).start()

    def is_written():
        end = time.monotonic() + 1
        while lines.unfinished_tasks and time.monotonic() < end:
            time.sleep(0.01)
        return not lines.unfinished_tasks

    return is_written
