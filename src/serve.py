"""A detector as a web service: a page, POST /predict, GET /health and GET /metrics."""
import asyncio
import io
import logging
import os
import time
import warnings
from dataclasses import dataclass

from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, Response
from PIL import Image, UnidentifiedImageError
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from src.predictor import Predictor, as_picture

PAGE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "pages", "serve.html")
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
BODY = {"requestBody": {"required": True, "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}}}
HOW = "send a picture's bytes as the body: curl --data-binary @picture.jpg URL"


@dataclass(frozen=True)
class Limits:
    """What a request may ask for: bytes of its body, pixels of its picture, requests in work at a time, seconds to send the body."""

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
        self.in_work = Gauge("predict_in_work", "requests in work", registry=self.registry)
        self.objects = Counter("predict_objects", "objects found", registry=self.registry)


def build_app(predictor: Predictor, limits: Limits, model_name: str, score_thresh: float) -> FastAPI:
    """The web application of a Predictor."""
    app = FastAPI(title="CenterNet", docs_url=None, redoc_url=None)  # those pages would load scripts from elsewhere; /openapi.json stays
    metrics = Metrics()
    in_work = 0
    metrics.in_work.set_function(lambda: in_work)

    @app.get("/", include_in_schema=False)
    def page():
        return FileResponse(PAGE, headers={"Content-Security-Policy": "default-src 'self' 'unsafe-inline'; img-src 'self' blob: data:"})

    @app.get("/health")
    def health():
        """Whether the service runs, and what it serves."""
        return {"status": "ok", "model": model_name, "classes": predictor.classes, "score_thresh": score_thresh, "limits": vars(limits)}

    @app.get("/metrics")
    def figures():
        """Figures for Prometheus."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.post("/predict", openapi_extra=BODY)
    async def predict(request: Request, score: float = Query(score_thresh, ge=0, le=1)):
        """Detect in the picture in the body; boxes are x1, y1, x2, y2 in its pixels (turned as its EXIF tag says), best first."""
        nonlocal in_work
        status = 500
        in_work += 1
        start = time.perf_counter()
        try:
            if in_work > limits.max_requests:
                await read_body(request, limits, keep=False)
                raise HTTPException(503, f"{limits.max_requests} pictures are in work; try again", {"Retry-After": "1"})
            body = await read_body(request, limits)
            check_picture(request, body, limits)
            picture, found = await run_in_threadpool(detect, predictor, body)
            found = found.above(score)
            status = 200
            metrics.seconds.observe(time.perf_counter() - start)
            metrics.objects.inc(len(found))
            return {
                "width": picture.shape[1], "height": picture.shape[0], "milliseconds": round(1000 * (time.perf_counter() - start), 1),
                "objects": [
                    {"class": name, "label": int(label), "score": round(float(value), 4), "box": [round(float(side), 2) for side in box]}
                    for box, value, label, name in zip(found.boxes, found.scores, found.labels, found.class_names)
                ],
            }
        except HTTPException as error:
            status = error.status_code
            raise
        except Exception:
            logging.getLogger("uvicorn.error").exception("POST /predict failed")
            raise HTTPException(500, "detecting failed; the server's log says why") from None
        finally:
            in_work -= 1
            metrics.requests.labels(status).inc()

    return app


async def read_body(request: Request, limits: Limits, keep: bool = True) -> bytes:
    """The request's body; without keep it is only read, so that the answer does not meet a client that is still sending.

    Raises HTTPException: 413 for a body of too many bytes, 408 for one that does not come.
    """
    parts = []

    async def read():
        size = 0
        async for part in request.stream():
            size += len(part)
            if keep and size <= limits.max_bytes:
                parts.append(part)
            if size > 2 * limits.max_bytes:  # so much is read only to answer in peace
                break
        return size

    try:
        size = await asyncio.wait_for(read(), limits.body_seconds)
    except asyncio.TimeoutError:
        raise HTTPException(408, f"the body did not come within {limits.body_seconds:g} s") from None
    if size > limits.max_bytes:
        raise HTTPException(413, f"the body is larger than {limits.max_bytes} bytes")
    return b"".join(parts)


def check_picture(request: Request, body: bytes, limits: Limits):
    """Raise HTTPException unless the body begins as a picture of a known format and allowed size; nothing is decoded."""
    if not body:
        raise HTTPException(400, f"the body is empty; {HOW}")
    if request.headers.get("content-type", "").startswith("multipart/"):
        raise HTTPException(415, f"a form is no picture; {HOW}")
    too_many = HTTPException(413, f"the picture has more than {limits.max_pixels} pixels")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(body), formats=FORMATS) as picture:
                width, height = picture.size
    except UnidentifiedImageError:
        raise HTTPException(415, f"not a picture ({', '.join(FORMATS)}); {HOW}") from None
    except Image.DecompressionBombError:
        raise too_many from None
    except Exception as error:  # Pillow raises many kinds for damaged files
        raise HTTPException(422, f"a damaged picture: {error}") from None
    if width * height > limits.max_pixels:
        raise too_many


def detect(predictor: Predictor, body: bytes):
    """(picture, Prediction) of a picture's bytes. Raises HTTPException 422 if they are damaged."""
    try:
        picture = as_picture(body)
    except ValueError as error:
        raise HTTPException(422, f"a damaged picture: {error}") from error
    return picture, predictor.predict_picture(picture)
