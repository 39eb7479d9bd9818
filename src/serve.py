"""A detector as a web service: a page, POST /predict, and what operating it needs."""
import asyncio
import functools
import logging
import os
import time
from dataclasses import dataclass, field
from typing import Annotated

import cv2
import jinja2
from fastapi import FastAPI, HTTPException, Query, Request, Security
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response
from fastapi.security import APIKeyHeader, HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from src import image_files
from src.predictor import Predictor
from src.service_body import ENDS, HOW, Ended, Ending, Limits, Uploads, files_of, read_body
from src.service_models import Answer, Answers, Health, Problem, Ready, Sent, Version, wants_image
from src.service_queue import Network, Queue, QueueFull
from src.service_urls import Fetcher, NotAllowed, NotFetched, TooMany
from src.version import __version__
from src.visual import draw_detections

PAGES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "pages")
POLICY = {"Content-Security-Policy": "default-src 'self' 'unsafe-inline'; img-src 'self' blob: data:"}
BINARY = {"type": "string", "format": "binary"}
FORM = {"type": "object", "required": ["file"], "properties": {"file": {"type": "array", "items": BINARY}}}
BODY = {"requestBody": {"description": "an image, or a form with one or more files; none with url", "content": {
    "application/octet-stream": {"schema": BINARY}, "multipart/form-data": {"schema": FORM}}}}
PROBLEMS = {400: "no image in the body", 401: "no key", 403: "a url that is not allowed", 408: "the body did not come in time",
            413: "too large", 415: "not an image, or a form that is not UTF-8", 422: "a damaged image, or a parameter that cannot be",
            500: "detecting failed", 503: "every place is taken, or the service ends: Retry-After says when to try again",
            504: "not computed within the deadline"}
LONGEST_SIDE = 65_500  # pixels of a JPEG, as OpenCV writes it
LEFT = 499  # nobody sees this status but the log: the client has left


@dataclass(frozen=True)
class Served:
    """What a service is made of. url_hosts are those from which it takes images by their address."""

    predictor: Predictor
    network: Network
    limits: Limits
    model_name: str
    score_thresh: float
    url_hosts: tuple = ()
    ending: Ending = field(default_factory=Ending)
    needs_key: bool = False


class Metrics:
    """The service's figures in Prometheus' form, in a registry of their own."""

    def __init__(self, waiting, network):
        self.registry = CollectorRegistry()
        self.requests = Counter("predict_requests", "answers of POST /predict", ["status"], registry=self.registry)
        self.seconds = Histogram("predict_seconds", "time from a request's last byte to its answer of 200", registry=self.registry,
                                 buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30))
        self.objects = Counter("predict_objects", "objects detected", registry=self.registry)
        for name, what, value in (("predict_in_work", "images that wait or are computed", waiting),
                                  ("network_images", "images computed", lambda: network.images),
                                  ("network_batches", "batches computed", lambda: network.batches)):
            Gauge(name, what, registry=self.registry).set_function(value)

    def answered(self, entry):
        """Count an answer, given the log's entry of its request."""
        if (entry["method"], entry["path"]) == ("POST", "/predict"):
            self.requests.labels(entry["status"]).inc()


def build_app(served: Served) -> FastAPI:
    """The web application of a Predictor, without service_access.Access around it."""
    # Their pages of documentation would load scripts from elsewhere; their redirects believe the header Host.
    app = FastAPI(title="CenterNet", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False)
    service = Service(served)
    app.state.metrics = service.metrics
    # Which of them a request has, service_access.Keys checks; here they are told.
    keys = [Security(HTTPBearer(auto_error=False)), Security(APIKeyHeader(name="X-API-Key", auto_error=False))] if served.needs_key else []
    add_pages(app, service, keys)
    app.add_exception_handler(404, functools.partial(say, "there is nothing at {path}; /docs says what there is"))
    app.add_exception_handler(405, functools.partial(say, "{path} does not take {method}; /docs says what it takes"))
    problems = {status: {"model": Problem, "description": what} for status, what in PROBLEMS.items()}
    image = {200: {"content": {"image/jpeg": {"schema": BINARY}}, "description": "the objects, or the image with its boxes"}}

    @app.post("/predict", openapi_extra=BODY, responses={**image, **problems}, response_model=Answer | Answers, operation_id="predict",
              dependencies=keys)
    async def predict(request: Request, sent: Annotated[Sent, Query()]):
        """Detect in the image in the body, or in each file of a form."""
        try:
            return await service.predict(request, sent)
        except HTTPException:
            raise
        except Exception:
            logging.getLogger("uvicorn.error").exception("POST /predict failed")
            raise HTTPException(500, "detecting failed; the server's log says why") from None

    return app


def add_pages(app, service, keys):
    """The addresses that say something about the service; keys are the dependencies of those that need one."""
    served = service.served

    @app.get("/", include_in_schema=False)
    async def page():
        return FileResponse(os.path.join(PAGES, "serve.html"), headers=POLICY)

    @app.get("/docs", include_in_schema=False)
    async def docs():
        template = jinja2.Environment(loader=jinja2.FileSystemLoader(PAGES), autoescape=True).get_template("serve_docs.html")
        return HTMLResponse(template.render(api=app.openapi(), limits=served.limits), headers=POLICY)

    @app.get("/health", operation_id="health")
    async def health() -> Health:
        """Whether the service runs, and what it serves."""
        return Health(status="ok", model=served.model_name, classes=served.predictor.classes, score_thresh=served.score_thresh,
                      limits=vars(served.limits))

    @app.get("/ready", operation_id="ready", response_model=Ready, responses={503: {"model": Ready, "description": "not yet, or no more"}})
    async def ready():
        """Whether the graphs are compiled: 200, or 503 if they are not, or the service is ending."""
        is_ready = served.network.ready and not served.ending.begun
        return JSONResponse({"ready": is_ready, "batch_sizes": served.network.sizes}, 200 if is_ready else 503)

    @app.get("/version", operation_id="version")
    async def version() -> Version:
        """What answers."""
        return Version(version=__version__, model=served.model_name)

    @app.get("/metrics", operation_id="metrics", response_class=Response, dependencies=keys, responses={
        200: {"content": {"text/plain": {}}}, 401: {"model": Problem, "description": PROBLEMS[401]}})
    async def figures():
        """Figures for Prometheus."""
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)


async def say(sentence, request: Request, error):
    """An answer that says what is wrong with an address."""
    detail = sentence.format(path=request.url.path, method=request["log"]["method"] if "log" in request.scope else request.method)
    return JSONResponse({"detail": detail}, error.status_code, error.headers)


class Service:
    """What POST /predict does."""

    def __init__(self, served: Served):
        self.served, limits = served, served.limits
        largest = 2 * min(limits.queue, 4)  # so many bodies of max_bytes may come at a time, be fetched, and be in the queue
        room = largest * limits.max_bytes
        self.uploads = Uploads(room)
        self.queue = Queue(served.network, functools.partial(decode, max_pixels=limits.max_pixels), limits.queue, limits.deadline, room)
        self.fetch = Fetcher(served.url_hosts, limits.max_bytes, largest)
        self.metrics = Metrics(lambda: self.queue.taken, served.network)

    async def predict(self, request: Request, sent: Sent) -> Response:
        """The answer to a request. Raises HTTPException."""
        check_once(request.query_params)
        as_image = wants_image(sent, request.headers.get("accept", ""))
        files = await self.files(request, sent)
        if as_image and len(files) > 1:
            raise HTTPException(422, f"an image is the answer to one file, and the form has {len(files)}; leave format=image out")
        if self.served.ending.begun:
            raise HTTPException(503, "the service is ending", ENDS)
        try:
            with self.queue.place([body for _, body in files], as_image):
                return await until_left(request, self.answer(request, files, sent, as_image), self.served.limits.deadline)
        except QueueFull as full:
            again = {"Retry-After": str(full.retry_after)}
            raise HTTPException(503, f"the queue is full; try again in {full.retry_after} s", again) from None

    async def files(self, request, sent):
        """The files to detect in: [(name or None, bytes)]."""
        body = await read_body(request, self.served.limits, self.uploads, self.served.ending)
        if sent.url is None:
            return await files_of(request, body, self.served.limits.queue)
        if body:
            raise HTTPException(400, "there is a url and a body; send one of them")
        if not self.served.url_hosts:
            raise HTTPException(403, "this service takes no addresses (--allow_urls names hosts from which it does); send the image")
        return [(None, await self.fetched(request, sent.url))]

    async def fetched(self, request, url):
        """The bytes at a URL, given up when the client leaves, the time is over or the service ends."""
        seconds = self.served.limits.body_seconds
        try:
            return await until_left(request, self.served.ending.wait_for(self.fetch(url), seconds))
        except NotAllowed as error:
            raise HTTPException(403, str(error)) from None
        except NotFetched as error:
            raise HTTPException(422, f"the image could not be fetched: {error}") from None
        except asyncio.TimeoutError:
            raise HTTPException(422, f"the image could not be fetched: it did not come within {seconds:g} s") from None
        except TooMany as error:
            raise HTTPException(503, f"{error}; try again", {"Retry-After": "1"}) from None
        except Ended:
            raise HTTPException(503, "the service is ending", ENDS) from None

    async def answer(self, request, files, sent, as_image):
        """The response for files that have places."""
        start, score = time.perf_counter(), self.served.score_thresh if sent.score is None else sent.score
        results = await asyncio.gather(*(self.queue.detect(body) for _, body in files), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException) and (len(files) == 1 or not isinstance(result, HTTPException)):
                raise result
        found = [result for result in results if not isinstance(result, HTTPException)]
        log = request.scope.get("log", {})
        for name in ("queue", "network"):
            log[f"{name}_milliseconds"] = milliseconds(max((getattr(one, f"{name}_seconds") for one in found), default=0))
        log["images"] = len(files)
        seconds = time.perf_counter() - start
        self.metrics.seconds.observe(seconds)
        self.metrics.objects.inc(sum(len(one.prediction.above(score)) for one in found))
        if as_image:
            drawn = await self.queue.drawing.run(self.drawn, files[0][1], found[0].prediction.above(score))
            return Response(drawn, media_type="image/jpeg")
        if len(files) == 1:
            return JSONResponse(as_answer(found[0], score, seconds))
        return JSONResponse({"files": [file_answer(name, result, score, seconds) for (name, _), result in zip(files, results)]})

    def drawn(self, body, prediction):
        """The image in a body with its boxes, as a JPEG."""
        image = decode(body, self.served.limits.max_pixels)
        if max(image.shape) > LONGEST_SIDE:
            raise HTTPException(422, f"a JPEG has at most {LONGEST_SIDE} pixels a side; leave format=image out")
        return cv2.imencode(".jpg", draw_detections(image, prediction.detections(), self.served.predictor.classes))[1].tobytes()


def check_once(parameters):
    """Raise HTTPException if a query parameter is given twice: only the last would count."""
    for name in parameters:
        if len(parameters.getlist(name)) > 1:
            raise HTTPException(422, f"the parameter {name} is given more than once")


async def until_disconnect(request):
    """Wait until the client leaves."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def until_left(request, work, deadline=None):
    """The result of work, which is given up if the client leaves or the deadline passes."""
    work, left = asyncio.ensure_future(work), asyncio.ensure_future(until_disconnect(request))
    try:
        await asyncio.wait((work, left), timeout=deadline, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return work.result()
        if left.done():
            raise HTTPException(LEFT, "the client left")
        raise HTTPException(504, f"the image was not computed within {deadline:g} s (--deadline)")
    finally:
        for task in (work, left):
            task.cancel()
        await asyncio.wait((work, left))


def milliseconds(seconds):
    return round(1000 * seconds, 1)


def as_answer(detected, score, seconds):
    """The models' Answer of a Detected."""
    prediction = detected.prediction.above(score)
    return {
        "width": detected.size[0], "height": detected.size[1], "milliseconds": milliseconds(seconds),
        "queue_milliseconds": milliseconds(detected.queue_seconds), "network_milliseconds": milliseconds(detected.network_seconds),
        "objects": [
            {"class": name, "label": int(label), "score": round(float(value), 4), "box": [round(float(side), 2) for side in box]}
            for box, value, label, name in zip(prediction.boxes, prediction.scores, prediction.labels, prediction.class_names)
        ],
    }


def file_answer(name, result, score, seconds):
    """The models' FileAnswer of a Detected or an HTTPException."""
    if isinstance(result, HTTPException):
        return {"file": name, "status": result.status_code, "detail": result.detail, "result": None}
    return {"file": name, "status": 200, "detail": None, "result": as_answer(result, score, seconds)}


def decode(body: bytes, max_pixels: int):
    """The image of a file's bytes. Raises HTTPException: 415 if they are none, 413 if it is too large, 422 if damaged."""
    try:
        return image_files.decode_whole_image(body, max_pixels=max_pixels)
    except image_files.UnknownFormat:
        raise HTTPException(415, f"not an image ({', '.join(image_files.FORMATS)}); {HOW}") from None
    except image_files.TooManyPixels:
        raise HTTPException(413, f"the image has more than {max_pixels} pixels") from None
    except ValueError as error:
        raise HTTPException(422, f"a damaged image: {error}") from error
