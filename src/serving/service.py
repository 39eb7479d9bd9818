"""A detector as a web service: a page, POST /predict, and what operating it needs."""
import asyncio
import os
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Annotated

import jinja2
import python_multipart  # noqa: F401  Starlette's forms need it
from fastapi import Depends, FastAPI, HTTPException, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from ..core.version import __version__
from ..inference.predictor import Predictor
from ..tasks import task_of
from .access import add_problems, key_dependency
from .images import HOW, Workers, draw, prepare
from .queue import Job, Network, Slots
from .schema import Health, Limits, Problem, Sent, answer_of

PAGES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "pages")
POLICY = {"Content-Security-Policy": "default-src 'self' 'unsafe-inline'; img-src 'self' blob: data:"}
BINARY = {"type": "string", "format": "binary"}
FORM = {"type": "object", "required": ["file"], "properties": {"file": BINARY}}
BODY = {"requestBody": {"description": "an image, or a form with one as its file", "required": True, "content": {
    "application/octet-stream": {"schema": BINARY}, "multipart/form-data": {"schema": FORM}}}}
IMAGE = {"content": {"image/jpeg": {"schema": BINARY}}, "description": "the objects, or the image with its boxes"}
PROBLEMS = {400: "no image in the body", 401: "no key", 408: "the body did not come in time", 413: "too large", 415: "not an image",
            422: "a damaged image, or a parameter that cannot be", 500: "detecting failed",
            503: "the queue is full: Retry-After says when to try again", 504: "not computed within the deadline"}
BODIES = 8  # of the largest size that may be in memory
LEFT = 499  # nobody sees this status but the log: the client has left


class Metrics:
    """The service's figures in Prometheus' form, in a registry of their own."""

    def __init__(self, places, network):
        self.registry = CollectorRegistry()
        self.requests = Counter("predict_requests", "answers of POST /predict", ["status"], registry=self.registry)
        self.seconds = Histogram("predict_seconds", "time from a request's last byte to its answer of 200", registry=self.registry,
                                 buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30))
        self.objects = Counter("predict_objects", "objects detected", registry=self.registry)
        for name, what, value in (("predict_in_work", "images that wait or are computed", lambda: places.taken),
                                  ("network_images", "images computed", lambda: network.images),
                                  ("network_batches", "batches computed", lambda: network.batches)):
            Gauge(name, what, registry=self.registry).set_function(value)

    def count(self, entry):
        """Count an answer, given the log's entry of its request."""
        if (entry["method"], entry["path"]) == ("POST", "/predict"):
            self.requests.labels(entry["status"]).inc()


def build_app(service: "Service", keys: Sequence = ()) -> FastAPI:
    """The web application of a service, without access.Access around it; keys are digests, or none if everybody may ask."""
    # Their pages of documentation would load scripts from elsewhere; their redirects believe the header Host.
    app = FastAPI(title="CenterNet", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False)
    needed = [Depends(key_dependency(keys))] if keys else []
    add_problems(app)
    add_pages(app, service, needed)
    problems: dict[int | str, dict] = {status: {"model": Problem, "description": what} for status, what in PROBLEMS.items()}

    @app.post("/predict", openapi_extra=BODY, responses={200: IMAGE, **problems}, response_model=service.answer_model,
              operation_id="predict", dependencies=needed)
    async def predict(request: Request, sent: Annotated[Sent, Query()]):
        """Detect in the image in the body, or in a form's file."""
        return await service.predict(request, sent)

    return app


def add_pages(app, service, needed):
    """The addresses that say something about the service; needed are the dependencies of those that need a key."""
    pages = jinja2.Environment(loader=jinja2.FileSystemLoader(PAGES), autoescape=True)

    @app.get("/", include_in_schema=False)
    async def page():
        return HTMLResponse(pages.get_template("serve.html").render(), headers=POLICY)

    @app.get("/docs", include_in_schema=False)
    async def docs():
        return HTMLResponse(pages.get_template("serve_docs.html").render(api=app.openapi(), limits=service.limits), headers=POLICY)

    @app.get("/health", operation_id="health")
    async def health() -> Health:
        """Whether the service runs, and what it serves."""
        return Health(status="ok", version=__version__, model=service.model_name, classes=service.predictor.classes,
                      score_thresh=service.score_thresh, limits=service.limits)

    @app.get("/ready", operation_id="ready", responses={503: {"model": Problem, "description": "not yet"}})
    async def ready() -> dict[str, list[int]]:
        """Whether the graphs are compiled: 200 and the batch sizes in use, or 503."""
        if not service.network.sizes:
            raise HTTPException(503, "the graphs are being compiled", {"Retry-After": "1"})
        return {"batch_sizes": service.network.sizes}

    @app.get("/metrics", operation_id="metrics", response_class=Response, dependencies=needed, responses={
        200: {"content": {"text/plain": {}}}, 401: {"model": Problem, "description": PROBLEMS[401]}})
    async def figures():
        """Figures for Prometheus."""
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)


class Service:
    """What POST /predict does: a place in the queue, the body, decoding, the network, the answer."""

    def __init__(self, predictor: Predictor, network: Network, workers: Workers, limits: Limits, model_name: str, score_thresh: float):
        self.predictor, self.network, self.workers, self.limits = predictor, network, workers, limits
        self.model_name, self.score_thresh = model_name, score_thresh
        self.description = predictor.detector.description
        self.schema = task_of(self.description).schema
        self.answer_model = answer_of(self.schema.Object)
        self.places = Slots(limits.queue, limits.deadline, BODIES * limits.max_bytes)
        self.metrics = Metrics(self.places, network)
        read = ("input_res", "down_ratio", "from_bytes", "description")  # of a detector by make_inputs; the workers get no more of it
        self.detector = SimpleNamespace(**{name: getattr(predictor.detector, name) for name in read})

    async def predict(self, request: Request, sent: Sent) -> Response:
        """The answer to a request. Raises HTTPException."""
        end = time.perf_counter() + self.limits.deadline
        with self.places.take() as hold:
            try:
                body = await asyncio.wait_for(read_image(request, self.limits.max_bytes, hold), self.limits.deadline)
            except asyncio.TimeoutError:
                raise HTTPException(408, f"the body did not come within {self.limits.deadline:g} s") from None
            except ClientDisconnect:
                raise HTTPException(LEFT, "the client left") from None
            answer = asyncio.ensure_future(self.answer(request, body, sent))
            left = asyncio.ensure_future(wait_for_disconnect(request))
            try:
                await asyncio.wait((answer, left), timeout=end - time.perf_counter(), return_when=asyncio.FIRST_COMPLETED)
                if answer.done():
                    return answer.result()
                if left.done():
                    raise HTTPException(LEFT, "the client left")
                raise HTTPException(504, f"the image was not computed within {self.limits.deadline:g} s (--deadline)")
            finally:
                answer.cancel()
                left.cancel()

    async def answer(self, request, body, sent):
        """The response for an image's bytes. Raises HTTPException."""
        start, taken, is_ready = time.perf_counter(), self.places.taken, bool(self.network.sizes)
        size, inputs, preparing = await self.workers.run(prepare, body, self.limits.max_pixels, self.detector, self.predictor.config)
        outputs, computing, computed = await asyncio.wrap_future(self.network.submit(Job(inputs)))
        prediction = self.predictor.finish(outputs, inputs).above(self.score_thresh if sent.score is None else sent.score)
        drawn = None
        if sent.format == "image":
            drawn = await self.workers.run(draw, body, self.limits.max_pixels, prediction.detections(), self.description)
        seconds = time.perf_counter() - start
        if is_ready:  # else it has waited for the graphs
            self.places.note(seconds, taken)
        self.metrics.seconds.observe(seconds)
        self.metrics.objects.inc(len(prediction))
        times = {"queue_milliseconds": milliseconds(computing - start - preparing), "network_milliseconds": milliseconds(computed)}
        request.scope.get("log", {}).update(times)
        if drawn:
            return Response(drawn, media_type="image/jpeg")
        objects = self.schema.objects(prediction.detections(), self.description)
        return JSONResponse({"width": size[0], "height": size[1], "milliseconds": milliseconds(seconds), **times, "objects": objects})


async def wait_for_disconnect(request):
    """Wait until the client leaves."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def milliseconds(seconds):
    return round(1000 * seconds, 1)


async def read_image(request: Request, max_bytes: int, hold) -> bytes:
    """The bytes of a request's image: its body, or the one file of a form; hold makes room for them. Raises HTTPException."""

    async def parts():
        size = 0
        async for part in request.stream():
            hold(len(part))
            size += len(part)
            if size > max_bytes:
                raise HTTPException(413, f"the body is larger than {max_bytes} bytes")
            yield part

    if not request.headers.get("content-type", "").lower().startswith("multipart/"):
        body = b"".join([part async for part in parts()])
    else:
        parser = MultiPartParser(request.headers, parts(), max_files=1, max_fields=0)
        parser.spool_max_size = max_bytes + 1  # no file on a disk: there is room in memory
        try:
            form = await parser.parse()
        except (MultiPartException, ValueError) as error:  # ValueError: a charset that is none
            raise HTTPException(400, f"expected a form with one file alone: {getattr(error, 'message', error)}") from None
        body = b"".join([await file.read() for _, file in form.multi_items() if isinstance(file, UploadFile)])
        await form.close()
    if not body:
        raise HTTPException(400, f"there is no image in the body; {HOW}")
    return body
