"""Serve a detector on this machine: a web page to drop images on, and POST /predict for programs."""
import ipaddress
import os
import socket
import ssl

from ..core import errors
from ..core.console import LOG
from ..core.errors import UserError
from ..core.project import how_to_install
from ..inference.options import OptionParser, add_model_options, open_model_of
from ..model_utils.config import load_defaults

KEEP_ALIVE = 75  # seconds that a connection may be silent between two requests; longer than a proxy keeps it
HEADER_BYTES = 32_768  # of a request


def main(argv=None):
    parser = OptionParser(description=__doc__)
    add_model_options(parser)
    parser.add_argument("--host", default="127.0.0.1",
                        help="address to listen on (default: %(default)s, this machine alone; others need a proxy: docs/serving.md)")
    parser.add_argument("--port", type=int, default=8000, help="port; 0 takes a free one (default: %(default)s)")
    parser.add_argument("--score_thresh", type=float, default=load_defaults()[0]["eval_config.score_thresh"],
                        help="where the slider starts, and the smallest score of POST /predict without ?score= (default: %(default)s)")
    parser.add_argument("--max_bytes", type=int, default=20_000_000, help="largest body (default: %(default)s)")
    parser.add_argument("--max_pixels", type=int, default=40_000_000, help="largest image (default: %(default)s)")
    parser.add_argument("--queue", type=int, default=128, help="images at a time; more get 503 (default: %(default)s)")
    parser.add_argument("--deadline", type=float, default=60.0, help="seconds from a request to its answer, or 504 (default: %(default)s)")
    parser.add_argument("--max_connections", type=int, default=800,
                        help="open connections and requests at a time; more get 503 (default: %(default)s)")
    parser.add_argument("--max_batch", type=int, default=8, help="images that are computed together at most (default: %(default)s)")
    parser.add_argument("--batch_wait_ms", type=float, default=0.0,
                        help="time to wait for more of them, where none waits (default: %(default)s)")
    parser.add_argument("--batch_tolerance", type=float, default=0.0,
                        help="largest difference of a number in the network's output that computing together may make; larger batches that "
                             "make a larger one are not used (default: %(default)s)")
    parser.add_argument("--cors_origins", default="", metavar="URL,...",
                        help="origins of pages elsewhere that may call it, such as https://shop.example, or * (default: none)")
    parser.add_argument("--api_key_file", metavar="FILE", help="keys, one a line, of which a request must have one")
    parser.add_argument("--tls_cert", metavar="FILE", help="certificate, with its chain (PEM): HTTPS in place of HTTP")
    parser.add_argument("--tls_key", metavar="FILE", help="its private key (PEM)")
    options = parser.parse_args(argv)
    for name in ("max_bytes", "max_pixels", "queue", "deadline", "max_connections", "max_batch"):
        if not 0 < getattr(options, name) < 2**31:
            raise UserError(f"--{name} is {getattr(options, name)}; expected a number above 0, below {2**31}")
    for name in ("batch_wait_ms", "batch_tolerance"):
        if not 0 <= getattr(options, name) < 2**31:
            raise UserError(f"--{name} is {getattr(options, name)}; expected a number from 0, below {2**31}")
    if not 0 <= options.score_thresh <= 1:
        raise UserError(f"--score_thresh is {options.score_thresh}; expected a number from 0 to 1")
    check_tls(options.tls_cert, options.tls_key)
    model = open_model_of(options)
    return serve(model, options, listen(options.host, options.port))


def check_tls(certificate, key):
    """Raise UserError unless both files of HTTPS are there and fit, or none is named."""
    if certificate is None and key is None:
        return
    for name, path in (("--tls_cert", certificate), ("--tls_key", key)):
        errors.require_file(path, f"PEM file ({name})")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, ValueError) as error:
        raise UserError(f"{certificate} and {key} are no certificate and its key without a password ({error})") from error


def listen(host, port):
    """A socket that listens. Raises UserError if the address cannot be had."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=512)
    except (OSError, OverflowError, ValueError) as error:  # ValueError: a host that can be no name
        raise UserError(f"cannot listen on {host}:{port}: {error}; name another --host or --port") from error


def serve(model, options, listener):
    """Load the model, and serve until interrupted; requests that come while the graphs are compiled wait."""
    # What is slow to load is loaded when there is something to do.
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
    is_written, workers = start_log(), Workers()  # which load beside the model
    predictor = Predictor(model, options.device_target, options.device_id, onnx_provider=options.onnx_provider,
                          use_ema=options.use_ema)
    network = Network(predictor, options.max_batch, options.batch_wait_ms / 1000, options.batch_tolerance)
    limits = Limits(max_bytes=options.max_bytes, max_pixels=options.max_pixels, queue=options.queue, deadline=options.deadline)
    host, port = listener.getsockname()[:2]
    address = f"http{'s' if options.tls_cert else ''}://{f'[{host}]' if ':' in host else host}:{port}"
    service = Service(predictor, network, workers, limits, os.path.basename(model.path), options.score_thresh)
    app, pages = build_app(service, keys), options.cors_origins.split(",")
    if options.cors_origins:
        app = CORSMiddleware(app, pages, allow_methods=["GET", "POST"], allow_headers=["*"], expose_headers=HEADERS)
    server = uvicorn.Server(uvicorn.Config(
        Access(app, service.metrics.count), http="h11", ws="none", lifespan="off", log_level="error", server_header=False,
        ssl_certfile=options.tls_cert, ssl_keyfile=options.tls_key, limit_concurrency=options.max_connections,
        timeout_keep_alive=KEEP_ALIVE, h11_max_incomplete_event_size=HEADER_BYTES, timeout_graceful_shutdown=options.deadline))

    def ready():
        if network.error:
            server.should_exit = True
        else:
            LOG.warning(f"serving on {address} (Ctrl-C ends it)")  # with --quiet, too; behind the lines before it, which a thread writes

    LOG.info(predictor.settings)
    if not ipaddress.ip_address(host.partition("%")[0]).is_loopback:
        LOG.warning(f"warning: {address} can be reached from other machines; clients that send or read slowly can shut all others out, "
                    "unless a proxy stands in front: docs/serving.md")
    LOG.info(f"listening on {address}; compiling the graph")
    network.start(ready)
    code = 0
    try:
        server.run(sockets=[listener])  # until a signal, which it passes on when the last answers are sent
    except KeyboardInterrupt:
        code = 130 if server.force_exit else 0  # by a second signal
        LOG.info("interrupted" if code else "ended")
    finally:
        workers.end()
        ended = network.end(1)
        if not is_written() or not ended:  # what still computes or writes answers an end of Python with pages of trace, or never
            os._exit(code)
    if network.error:
        raise network.error
    return code
