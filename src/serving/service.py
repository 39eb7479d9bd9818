"""A detector as a web service: a page, POST /predict, health checks and metrics."""
import asyncio
import os
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from types import SimpleNamespace
from typing import Annotated, Any

import jinja2
import numpy as np
import python_multipart  # noqa: F401  required by Starlette's forms
from fastapi import Depends, FastAPI, HTTPException, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from ..core.errors import UserError
from ..core.version import __version__
from ..inference.calibrations import NUMBERS, parse_calib, require_camera
from ..inference.predictor import Predictor
from ..tasks import task_of
from .access import add_exception_handlers, key_dependency
from .images import USAGE, Workers, draw, prepare
from .queue import Job, Network, Slots
from .schema import Health, Limits, PredictQuery, Problem, answer_of

PAGES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "pages")
POLICY = {"Content-Security-Policy": "default-src 'self' 'unsafe-inline'; img-src 'self' blob: data:"}
BINARY = {"type": "string", "format": "binary"}
FORM = {"type": "object", "required": ["file"], "properties": {"file": BINARY}}
BODY = {"requestBody": {"description": "an image, or a form with an image file", "required": True, "content": {
    "application/octet-stream": {"schema": BINARY}, "multipart/form-data": {"schema": FORM}}}}
IMAGE = {"content": {"image/jpeg": {"schema": BINARY}}, "description": "the objects, or the image with their drawing"}
PROBLEMS = {400: "no image in the body", 401: "no valid key", 408: "the body did not arrive in time", 413: "too large",
            415: "not an image", 422: "a damaged image or an invalid parameter", 500: "detection failed",
            503: "the queue is full; retry after Retry-After seconds", 504: "not computed within the deadline"}
MAX_BODIES = 8  # in memory, at their maximum size
CLIENT_DISCONNECTED = 499  # a status for the log only


class Metrics:
    """The service's Prometheus metrics, in their own registry."""

    def __init__(self, slots: Slots, network: Network):
        self.registry = CollectorRegistry()
        self.requests = Counter("predict_requests", "responses to POST /predict", ["status"], registry=self.registry)
        self.seconds = Histogram("predict_seconds", "time from a request's last byte to its response of status 200",
                                 registry=self.registry, buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30))
        self.objects = Counter("predict_objects", "objects detected", registry=self.registry)
        for name, meaning, value in (("predict_in_work", "images waiting or being computed", lambda: slots.taken),
                                     ("network_images", "images computed", lambda: network.images),
                                     ("network_batches", "batches computed", lambda: network.batches)):
            Gauge(name, meaning, registry=self.registry).set_function(value)

    def count(self, entry: dict) -> None:
        """Count a response, given the log entry of its request."""
        if (entry["method"], entry["path"]) == ("POST", "/predict"):
            self.requests.labels(entry["status"]).inc()


def build_app(service: "Service", keys: Sequence[bytes] = (), sample: bytes = b"") -> FastAPI:
    """The web application of a service, to be wrapped in access.Access; keys, digests, none for open access; sample, a
    JPEG that the page offers to try, if any."""
    # FastAPI's documentation pages load scripts from other hosts; its redirects trust the Host header.
    app = FastAPI(title="CenterNet", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False)
    authentication = [Depends(key_dependency(keys))] if keys else []
    add_exception_handlers(app)
    add_pages(app, service, authentication, sample)
    responses: dict[int | str, dict] = {200: IMAGE}
    responses |= {status: {"model": Problem, "description": meaning} for status, meaning in PROBLEMS.items()}

    @app.post("/predict", openapi_extra=BODY, responses=responses, response_model=service.answer_model,
              operation_id="predict", dependencies=authentication)
    async def predict(request: Request, query: Annotated[PredictQuery, Query()]) -> Response:
        """Detect objects in an image: the body, or the file of a form."""
        return await service.predict(request, query)

    return app


def add_pages(app: FastAPI, service: "Service", authentication: Sequence[Any], sample: bytes) -> None:
    """Add the pages and the endpoints about the service; authentication, the dependencies of protected ones; sample, as
    in build_app."""
    pages = jinja2.Environment(loader=jinja2.FileSystemLoader(PAGES), autoescape=True)

    @app.get("/", include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(pages.get_template("serve.html").render(has_sample=bool(sample)), headers=POLICY)

    @app.get("/sample.jpg", include_in_schema=False)
    async def sample_image() -> Response:
        return Response(sample, media_type="image/jpeg") if sample else Response(status_code=404)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        content = pages.get_template("serve_docs.html").render(api=app.openapi(), limits=service.limits)
        return HTMLResponse(content, headers=POLICY)

    @app.get("/health", operation_id="health")
    async def health() -> Health:
        """The status of the service, its model and limits."""
        return Health(status="ok", version=__version__, model=service.model_name, classes=service.predictor.classes,
                      score_thresh=service.score_thresh, limits=service.limits,
                      **service.schema.about(service.description))

    @app.get("/ready", operation_id="ready", responses={503: {"model": Problem, "description": "not ready"}})
    async def ready() -> dict[str, list[int]]:
        """Readiness: 200 and the batch sizes in use once the graphs are compiled, else 503."""
        if not service.network.sizes:
            raise HTTPException(503, "the graphs are being compiled", {"Retry-After": "1"})
        return {"batch_sizes": service.network.sizes}

    @app.get("/metrics", operation_id="metrics", response_class=Response, dependencies=authentication, responses={
        200: {"content": {"text/plain": {}}}, 401: {"model": Problem, "description": PROBLEMS[401]}})
    async def metrics() -> Response:
        """Prometheus metrics."""
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)


class Service:
    """The handler of POST /predict: a slot in the queue, the body, decoding, the network, the response."""

    def __init__(self, predictor: Predictor, network: Network, workers: Workers, limits: Limits, model_name: str,
                 score_thresh: float, calib: np.ndarray | None = None):
        self.predictor, self.network, self.workers, self.limits = predictor, network, workers, limits
        self.model_name, self.score_thresh, self.calib = model_name, score_thresh, calib
        self.description = predictor.detector.description
        self.schema = task_of(self.description).schema
        self.answer_model = answer_of(self.schema.Object)
        self.slots = Slots(limits.queue, limits.deadline, MAX_BODIES * limits.max_bytes)
        self.metrics = Metrics(self.slots, network)
        # The workers get only the attributes that make_inputs uses.
        names = ("input_res", "down_ratio", "from_bytes", "description")
        self.detector = SimpleNamespace(**{name: getattr(predictor.detector, name) for name in names})

    async def predict(self, request: Request, query: PredictQuery) -> Response:
        """Respond to a request. Raises HTTPException."""
        end = time.perf_counter() + self.limits.deadline
        with self.slots.take() as hold:
            try:
                body = await asyncio.wait_for(read_image(request, self.limits.max_bytes, hold), self.limits.deadline)
            except asyncio.TimeoutError:
                raise HTTPException(408, f"the body did not arrive within {self.limits.deadline:g} s") from None
            except ClientDisconnect:
                raise HTTPException(CLIENT_DISCONNECTED, "the client disconnected") from None
            answer = asyncio.ensure_future(self.answer(request, body, query))
            disconnect = asyncio.ensure_future(wait_for_disconnect(request))
            try:
                await asyncio.wait((answer, disconnect), timeout=end - time.perf_counter(),
                                   return_when=asyncio.FIRST_COMPLETED)
                if answer.done():
                    return answer.result()
                if disconnect.done():
                    raise HTTPException(CLIENT_DISCONNECTED, "the client disconnected")
                raise HTTPException(504, f"the image was not computed within {self.limits.deadline:g} s (--deadline)")
            finally:
                answer.cancel()
                disconnect.cancel()

    async def answer(self, request: Request, body: bytes, query: PredictQuery) -> Response:
        """Return the response for an encoded image. Raises HTTPException."""
        start, taken, is_ready = time.perf_counter(), self.slots.taken, bool(self.network.sizes)
        max_pixels, calib = self.limits.max_pixels, self.calib_of(query)
        size, inputs, preparing = await self.workers.run(prepare, body, max_pixels, self.detector,
                                                         self.predictor.config, calib)
        outputs, computing, computed = await asyncio.wrap_future(self.network.submit(Job(inputs)))
        score = self.score_thresh if query.score is None else query.score
        prediction = self.predictor.finish(outputs, inputs).above(score)
        drawn = None
        if query.format == "image":
            drawn = await self.workers.run(draw, body, max_pixels, prediction.detections(), self.description)
        seconds = time.perf_counter() - start
        if is_ready:  # else the time includes compilation
            self.slots.record(seconds, taken)
        self.metrics.seconds.observe(seconds)
        self.metrics.objects.inc(len(prediction))
        times = {"queue_milliseconds": milliseconds(computing - start - preparing),
                 "network_milliseconds": milliseconds(computed)}
        request.scope.get("log", {}).update(times)
        if drawn:
            return Response(drawn, media_type="image/jpeg")
        objects = self.schema.objects(prediction.detections(), self.description)
        return JSONResponse({"width": size[0], "height": size[1], "milliseconds": milliseconds(seconds), **times,
                             "objects": objects})

    def calib_of(self, query: PredictQuery) -> np.ndarray | None:
        """The camera of a request's image, None for the training's; never a file's. Raises HTTPException."""
        if query.calib is None:
            return self.calib
        try:
            require_camera(self.description, "calib")
            return parse_calib([query.calib], "calib", NUMBERS)
        except UserError as error:
            raise HTTPException(422, str(error)) from None


async def wait_for_disconnect(request: Request) -> None:
    """Wait until the client disconnects."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def milliseconds(seconds: float) -> float:
    return round(1000 * seconds, 1)


async def read_image(request: Request, max_bytes: int, hold: Callable[[int], None]) -> bytes:
    """Read the image of a request: its body, or the only file of a form; hold reserves memory. Raises HTTPException."""

    async def chunks() -> AsyncGenerator[bytes, None]:
        size = 0
        async for chunk in request.stream():
            hold(len(chunk))
            size += len(chunk)
            if size > max_bytes:
                raise HTTPException(413, f"the body is larger than {max_bytes} bytes")
            yield chunk

    if not request.headers.get("content-type", "").lower().startswith("multipart/"):
        body = b"".join([chunk async for chunk in chunks()])
    else:
        parser = MultiPartParser(request.headers, chunks(), max_files=1, max_fields=0)
        parser.spool_max_size = max_bytes + 1  # keep the file in memory, which is reserved
        try:
            form = await parser.parse()
        except (MultiPartException, ValueError) as error:  # ValueError: an unknown charset
            reason = getattr(error, "message", error)
            raise HTTPException(400, f"expected a form with a single file: {reason}") from None
        body = b"".join([await file.read() for _, file in form.multi_items() if isinstance(file, UploadFile)])
        await form.close()
    if not body:
        raise HTTPException(400, f"no image in the body; {USAGE}")
    return body
