"""Serve a detector over HTTP: a web page to drop images on, and POST /predict for programs."""
import argparse
import ipaddress
import os
import socket
import ssl
from collections.abc import Sequence
from typing import Any

from ..core import errors
from ..core.console import LOG
from ..core.errors import UserError
from ..core.project import how_to_install
from ..inference.calibrations import one_calibration
from ..inference.models import Model
from ..inference.options import OptionParser, add_clip_option, add_model_options, device_options, open_model_of
from ..model_utils.config import load_defaults

KEEP_ALIVE = 75  # seconds that a connection may be idle between requests; longer than a proxy keeps it open
HEADER_BYTES = 32_768  # maximum size of a request's headers


def main(argv: Sequence[str] | None = None) -> int:
    parser = OptionParser(description=__doc__)
    add_model_options(parser)
    parser.add_argument("--host", default="127.0.0.1",
                        help="address to listen on (default: %(default)s, this machine only; for others, use a proxy: "
                             "docs/serving.md)")
    parser.add_argument("--port", type=int, default=8000,
                        help="port to listen on; 0 selects a free one (default: %(default)s)")
    parser.add_argument("--score_thresh", type=float, default=load_defaults()[0]["eval_config.score_thresh"],
                        help="default minimum score, of the page's slider and of POST /predict without ?score= "
                             "(default: %(default)s)")
    parser.add_argument("--calib", nargs="+", metavar="FILE",
                        help="camera of images without ?calib=, for 3D boxes: FILE (KITTI's with P2:, JSON, or "
                             "numbers), fx fy cx cy, or 12 numbers (default: the training's camera)")
    parser.add_argument("--depth_by_focal", action="store_true", help=load_defaults()[1]["eval_config.depth_by_focal"])
    add_clip_option(parser)
    parser.add_argument("--max_bytes", type=int, default=20_000_000,
                        help="maximum size of a request body in bytes (default: %(default)s)")
    parser.add_argument("--max_pixels", type=int, default=40_000_000,
                        help="maximum number of pixels of an image (default: %(default)s)")
    parser.add_argument("--queue", type=int, default=128,
                        help="maximum number of images in progress; further requests get 503 (default: %(default)s)")
    parser.add_argument("--deadline", type=float, default=60.0,
                        help="timeout of a request in seconds, answered with 504 (default: %(default)s)")
    parser.add_argument("--max_connections", type=int, default=800,
                        help="maximum number of open connections and requests; others get 503 (default: %(default)s)")
    parser.add_argument("--max_batch", type=int, default=8,
                        help="maximum number of images in a batch (default: %(default)s)")
    parser.add_argument("--batch_wait_ms", type=float, default=0.0,
                        help="time to wait for further images of a batch, in milliseconds (default: %(default)s)")
    parser.add_argument("--batch_tolerance", type=float, default=0.0,
                        help="maximum difference that batching may make to a value of the network's output; "
                             "batch sizes that exceed it are not used (default: %(default)s)")
    parser.add_argument("--cors_origins", default="", metavar="URL,...",
                        help="origins of other pages that may call the service, such as https://shop.example, or * "
                             "(default: none)")
    parser.add_argument("--api_key_file", metavar="FILE",
                        help="file of API keys, one per line; requests must carry one of them")
    parser.add_argument("--tls_cert", metavar="FILE", help="certificate with its chain (PEM); enables HTTPS")
    parser.add_argument("--tls_key", metavar="FILE", help="private key of the certificate (PEM)")
    options = parser.parse_args(argv)
    for name in ("max_bytes", "max_pixels", "queue", "deadline", "max_connections", "max_batch"):
        if not 0 < getattr(options, name) < 2**31:
            raise UserError(f"--{name} is {getattr(options, name)}; expected a number above 0 and below {2**31}")
    for name in ("batch_wait_ms", "batch_tolerance"):
        if not 0 <= getattr(options, name) < 2**31:
            raise UserError(f"--{name} is {getattr(options, name)}; expected a number of at least 0 and below {2**31}")
    if not 0 <= options.score_thresh <= 1:
        raise UserError(f"--score_thresh is {options.score_thresh}; expected a number from 0 to 1")
    check_tls(options.tls_cert, options.tls_key)
    model = open_model_of(options)
    one_calibration(options.calib, model.description)  # a mistake is said before the network loads
    return serve(model, options, listen(options.host, options.port))


def check_tls(certificate: str | None, key: str | None) -> None:
    """Raise UserError unless certificate and key are a valid pair, or both None."""
    if certificate is None and key is None:
        return
    for name, path in (("--tls_cert", certificate), ("--tls_key", key)):
        errors.require_file(path or "", f"PEM file ({name})")
    assert certificate is not None and key is not None
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, ValueError) as error:
        raise UserError(f"{certificate} and {key} are not a certificate and its key without a password "
                        f"({error})") from error


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket. Raises UserError if the address is invalid or in use."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=512)
    except (OSError, OverflowError, ValueError) as error:  # ValueError: an invalid host name
        raise UserError(f"cannot listen on {host}:{port}: {error}; choose another --host or --port") from error


def predictor_options(options: argparse.Namespace) -> dict[str, Any]:
    """The arguments of a Predictor that the command line sets."""
    return (device_options(options) | {"clip": options.clip == "true"}
            | ({"depth_by_focal": True} if options.depth_by_focal else {}))


def address_of(listener: socket.socket, is_https: bool) -> str:
    """The URL of a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"http{'s' if is_https else ''}://{f'[{host}]' if ':' in host else host}:{port}"


def sample_of(description: dict) -> bytes:
    """A drawn image for a model with this description to be tried on, a JPEG."""
    import cv2

    from ..tasks import task_of
    from .make_shapes_dataset import sample_image

    return cv2.imencode(".jpg", sample_image(task_of(description).name))[1].tobytes()


def serve(model: Model, options: argparse.Namespace, listener: socket.socket) -> int:
    """Load the model and serve until interrupted; return the exit code. Requests wait while the graphs are compiled."""
    # Slow to load, so not before there is something to do.
    try:
        import uvicorn
        from starlette.middleware.cors import CORSMiddleware

        from ..serving.access import HEADERS, Access, read_keys, start_log
        from ..serving.images import Workers
        from ..serving.queue import Network
        from ..serving.schema import Limits
        from ..serving.service import Service, build_app
    except ImportError as error:
        raise UserError(f"{error.name} is not installed; {how_to_install('serve')}") from error
    from ..inference.predictor import Predictor

    keys = read_keys(options.api_key_file) if options.api_key_file else ()
    is_written, workers = start_log(), Workers()  # they start while the model loads
    predictor = Predictor(model, use_ema=options.use_ema, **predictor_options(options))
    calib = one_calibration(options.calib, model.description)
    network = Network(predictor, options.max_batch, options.batch_wait_ms / 1000, options.batch_tolerance)
    limits = Limits(**{name: getattr(options, name) for name in ("max_bytes", "max_pixels", "queue", "deadline")})
    address = address_of(listener, bool(options.tls_cert))
    service = Service(predictor, network, workers, limits, os.path.basename(model.path), options.score_thresh, calib)
    app: Any = build_app(service, keys, sample_of(model.description))
    if options.cors_origins:
        app = CORSMiddleware(app, options.cors_origins.split(","), allow_methods=["GET", "POST"], allow_headers=["*"],
                             expose_headers=HEADERS)
    server = uvicorn.Server(uvicorn.Config(
        Access(app, service.metrics.count), http="h11", ws="none", lifespan="off", log_level="error",
        server_header=False, ssl_certfile=options.tls_cert, ssl_keyfile=options.tls_key,
        limit_concurrency=options.max_connections, timeout_keep_alive=KEEP_ALIVE,
        h11_max_incomplete_event_size=HEADER_BYTES, timeout_graceful_shutdown=options.deadline))

    def ready() -> None:
        if network.error:
            server.should_exit = True
        else:
            LOG.warning(f"serving on {address} (Ctrl-C to stop)")  # a warning, so that --quiet prints it, too

    LOG.info(predictor.settings)
    if not ipaddress.ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback:
        LOG.warning(f"warning: {address} is reachable from other machines; without a proxy in front, slow clients "
                    "can block all others: docs/serving.md")
    LOG.info(f"listening on {address}; compiling the graph")
    network.start(ready)
    code = 0
    try:
        server.run(sockets=[listener])  # until a signal, which it re-raises after the last response
    except KeyboardInterrupt:
        code = 130 if server.force_exit else 0  # force_exit: by a second signal
        LOG.info("interrupted" if code else "ended")
    finally:
        workers.end()
        ended = network.end(1)
        if not is_written() or not ended:  # threads still at work would print tracebacks or never let Python exit
            os._exit(code)
    if network.error:
        raise network.error
    return code
