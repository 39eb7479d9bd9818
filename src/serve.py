"""A detector as a web service: a page, POST /predict, GET /health and GET /metrics."""
import asyncio
import contextlib
import logging
import os
import time
from dataclasses import dataclass

from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.requests import ClientDisconnect

from src import image_files
from src.predictor import Predictor

PAGE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "pages", "serve.html")
BODY = {"requestBody": {"required": True, "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}}}
HOW = "send an image's bytes as the body: curl --data-binary @image.jpg URL"


@dataclass(frozen=True)
class Limits:
    """What a request may ask for: bytes of its body, pixels of its image, images in work at a time, seconds to send the body."""

    max_bytes: int
    max_pixels: int
    max_requests: int
    body_seconds: float


class Metrics:
    """The service's figures in Prometheus' form, in a registry of their own."""

    def __init__(self):
        self.registry = CollectorRegistry()
        self.requests = Counter("predict_requests", "answers of POST /predict", ["status"], registry=self.registry)
        self.seconds = Histogram("predict_seconds", "time of POST /predict, answered with 200", registry=self.registry,
                                 buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30))
        self.in_work = Gauge("predict_in_work", "images in work", registry=self.registry)
        self.objects = Counter("predict_objects", "objects detected", registry=self.registry)


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


def build_app(predictor: Predictor, limits: Limits, model_name: str, score_thresh: float) -> FastAPI:
    """The web application of a Predictor."""
    app = FastAPI(title="CenterNet", docs_url=None, redoc_url=None)  # those pages would load scripts from elsewhere; /openapi.json stays
    metrics = Metrics()
    uploads = Uploads(2 * limits.max_requests * limits.max_bytes)
    in_work = 0
    metrics.in_work.set_function(lambda: in_work)

    @app.get("/", include_in_schema=False)
    async def page():
        return FileResponse(PAGE, headers={"Content-Security-Policy": "default-src 'self' 'unsafe-inline'; img-src 'self' blob: data:"})

    @app.get("/health")
    async def health():
        """Whether the service runs, and what it serves."""
        return {"status": "ok", "model": model_name, "classes": predictor.classes, "score_thresh": score_thresh, "limits": vars(limits)}

    @app.get("/metrics")
    async def figures():
        """Figures for Prometheus."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.post("/predict", openapi_extra=BODY)
    async def predict(request: Request, score: float = Query(score_thresh, ge=0, le=1)):
        """Detect in the image in the body; boxes are x1, y1, x2, y2 in its pixels (turned as its EXIF tag says), best first."""
        nonlocal in_work
        status = 500
        start = time.perf_counter()
        try:
            body = await read_body(request, limits, uploads)
            check_body(request, body)
            if in_work >= limits.max_requests:
                raise HTTPException(503, f"{limits.max_requests} images are in work; try again", {"Retry-After": "1"})
            in_work += 1
            try:
                image, prediction = await run_in_threadpool(detect, predictor, body, limits.max_pixels)
            finally:
                in_work -= 1
            prediction = prediction.above(score)
            status = 200
            metrics.seconds.observe(time.perf_counter() - start)
            metrics.objects.inc(len(prediction))
            return answer(image, prediction, time.perf_counter() - start)
        except HTTPException as error:
            status = error.status_code
            raise
        except ClientDisconnect:
            status = 400
            raise HTTPException(400, "the client left before the body had come") from None
        except Exception:
            logging.getLogger("uvicorn.error").exception("POST /predict failed")
            raise HTTPException(500, "detecting failed; the server's log says why") from None
        finally:
            metrics.requests.labels(status).inc()

    return app


def answer(image, prediction, seconds):
    """What a client gets for an image, of a Prediction."""
    return {
        "width": image.shape[1], "height": image.shape[0], "milliseconds": round(1000 * seconds, 1),
        "objects": [
            {"class": name, "label": int(label), "score": round(float(value), 4), "box": [round(float(side), 2) for side in box]}
            for box, value, label, name in zip(prediction.boxes, prediction.scores, prediction.labels, prediction.class_names)
        ],
    }


async def read_body(request: Request, limits: Limits, uploads: Uploads) -> bytes:
    """The request's body. One that is too large or dropped is read on, so that the answer does not meet a client that is still sending.

    Raises HTTPException: 413 for a body of too many bytes, 408 for one that does not come in time, 503 for one there is no room for.
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
            await asyncio.wait_for(read(), limits.body_seconds)
        except asyncio.TimeoutError:
            raise HTTPException(408, f"the body did not come within {limits.body_seconds:g} s") from None
        if size > limits.max_bytes:
            raise HTTPException(413, f"the body is larger than {limits.max_bytes} bytes")
        parts = uploads.parts[upload]
        if parts is None:
            raise HTTPException(503, "more is being sent than there is room for; try again", {"Retry-After": "1"})
        return b"".join(parts)


def check_body(request: Request, body: bytes):
    """Raise HTTPException for a body that cannot be an image."""
    if not body:
        raise HTTPException(400, f"the body is empty; {HOW}")
    if request.headers.get("content-type", "").startswith("multipart/"):
        raise HTTPException(415, f"a form is no image; {HOW}")


def detect(predictor: Predictor, body: bytes, max_pixels: int):
    """(image, Prediction) of an image's bytes. Raises HTTPException: 415 if they are none, 413 if it is too large, 422 if damaged."""
    try:
        image = image_files.decode_whole_image(body, max_pixels=max_pixels)
    except image_files.UnknownFormat:
        raise HTTPException(415, f"not an image ({', '.join(image_files.FORMATS)}); {HOW}") from None
    except image_files.TooManyPixels:
        raise HTTPException(413, f"the image has more than {max_pixels} pixels") from None
    except ValueError as error:
        raise HTTPException(422, f"a damaged image: {error}") from error
    return image, predictor.predict_image(image)
