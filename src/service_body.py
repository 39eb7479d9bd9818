"""The bodies of the web service's requests: read within their bounds, and the files in a form."""
import asyncio
import contextlib
import logging
from dataclasses import dataclass

from fastapi import HTTPException, Request
from starlette import formparsers
from starlette.requests import ClientDisconnect

HOW = "send an image's bytes as the body (curl --data-binary @image.jpg URL) or as a form's file (curl -F file=@image.jpg URL)"
ENDS = {"Retry-After": "10", "Connection": "close"}  # headers of an answer that the service is ending
FIELDS = 10  # of a form, beside its files
CHARSETS = (b"utf-8", b"utf8", b"us-ascii")  # of a form's names; others of Python's make texts that are none, or take minutes


@dataclass(frozen=True)
class Limits:
    """What a request may ask for: bytes of its body, pixels of an image, images that wait at a time, seconds until its answer and for
    sending its body."""

    max_bytes: int
    max_pixels: int
    queue: int
    deadline: float
    body_seconds: float


class Uploads:
    """The bodies that are being sent. Where there is no room for all, those that began first are dropped: a client that stalls loses
    what it has sent before one that has just come does."""

    def __init__(self, room):
        self.room = room  # bytes
        self.parts = {}  # of each upload, in the order in which they began; None of one that is dropped

    @contextlib.contextmanager
    def begin(self):
        """An upload, kept until the block ends."""
        upload = object()
        self.parts[upload] = []
        try:
            yield upload
        finally:
            self.drop(upload)
            del self.parts[upload]

    def add(self, upload, part):
        """Keep a part of an upload, unless that is dropped."""
        if self.parts[upload] is not None:
            self.parts[upload].append(part)
            self.room -= len(part)
        for oldest in self.parts:
            if self.room >= 0:
                break
            self.drop(oldest)

    def drop(self, upload):
        """Forget the parts of an upload."""
        self.room += sum(map(len, self.parts[upload] or ()))
        self.parts[upload] = None


class Ended(Exception):
    """The service is ending, and waits for no more bodies."""


class Ending:
    """Whether the service is ending. What then still waits for a client is given up."""

    def __init__(self):
        self.begun = False
        self.waiting = set()

    def begin(self):
        """End."""
        self.begun = True
        for task in self.waiting:
            task.cancel()

    async def wait_for(self, work, seconds):
        """Await a coroutine. Raises asyncio.TimeoutError after so many seconds, and Ended when the service is ending."""
        task = asyncio.ensure_future(work)
        self.waiting.add(task)
        try:
            if not self.begun:
                await asyncio.wait({task}, timeout=seconds)
            if self.begun and (not task.done() or task.cancelled()):
                raise Ended
            if not task.done():
                raise asyncio.TimeoutError
            return task.result()
        finally:
            self.waiting.discard(task)
            task.cancel()


async def read_body(request: Request, limits: Limits, uploads: Uploads, ending: Ending) -> bytes:
    """The request's body. One that is too large or dropped is read on, so that the answer does not meet a client that is still sending.

    Raises HTTPException: 413 for a body of too many bytes, 408 for one that does not come in time, 503 for one there is no room for and
    when the service is ending, 400 if the client leaves.
    """
    size = 0
    with uploads.begin() as upload:

        async def read():
            nonlocal size
            async for part in request.stream():
                size += len(part)
                if size > limits.max_bytes:
                    uploads.drop(upload)
                else:
                    uploads.add(upload, part)
                if size > 2 * limits.max_bytes:  # so much is read only to answer in peace
                    return

        try:
            await ending.wait_for(read(), limits.body_seconds)
        except asyncio.TimeoutError:
            raise HTTPException(408, f"the body did not come within {limits.body_seconds:g} s") from None
        except Ended:
            raise HTTPException(503, "the service is ending", ENDS) from None
        except ClientDisconnect:
            raise HTTPException(400, "the client left before the body had come") from None
        if size > limits.max_bytes:
            raise HTTPException(413, f"the body is larger than {limits.max_bytes} bytes")
        parts = uploads.parts[upload]
        if parts is None:
            raise HTTPException(503, "more is being sent than there is room for; try again", {"Retry-After": "1"})
        return b"".join(parts)


async def files_of(request: Request, body: bytes, most: int) -> list:
    """The files in a body, [(name, bytes)]: those of a form, or the body itself, without a name. Raises HTTPException if it has none,
    or a form other fields."""
    if not body:
        raise HTTPException(400, f"the body is empty; {HOW}")
    if not request.headers.get("content-type", "").lower().startswith("multipart/"):
        return [(None, body)]
    if formparsers.multipart is None:
        raise HTTPException(415, "this service reads no forms, as python-multipart is not installed; send an image's bytes as the body")

    async def stream():
        yield body

    charset = formparsers.parse_options_header(request.headers["content-type"])[1].get(b"charset", CHARSETS[0])
    if charset.lower() not in CHARSETS:
        raise HTTPException(415, "the charset of a form is utf-8")
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # it tells of every form that is none, and so does the answer
    parser = formparsers.MultiPartParser(request.headers, stream(), max_files=most, max_fields=FIELDS)
    parser.spool_max_size = len(body) + 1  # no file on a disk: it is in memory already
    try:
        form = await parser.parse()
    except (formparsers.MultiPartException, ValueError, KeyError) as error:
        if str(getattr(error, "message", "")).startswith("Too many files"):
            raise HTTPException(413, f"the form has more files than the {most} that may wait at a time (--queue)") from None
        raise HTTPException(400, f"not a form that can be read: {getattr(error, 'message', error)}") from None
    try:
        files = [(value.filename or name, await value.read()) for name, value in form.multi_items() if not isinstance(value, str)]
    finally:
        await form.close()
    fields = [name for name, value in form.multi_items() if isinstance(value, str)]
    if fields:
        raise HTTPException(422, f"the form has the field {fields[0][:100]!r}, and only files are read; parameters go into the address")
    if not files:
        raise HTTPException(400, "the form has no file; curl -F file=@image.jpg URL sends one")
    return files
