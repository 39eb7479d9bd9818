"""Serve a detector on this machine: a web page to drop images on, and POST /predict for programs."""
import os
import re
import socket
import ssl
import sys

if __name__ == "__main__":
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from src import errors
from src.errors import UserError
from src.model_utils.config import load_defaults
from src.options import OptionParser, add_model_options, check_model_options
from src.project import how_to_install
from src.utils import whole_file


def main(argv=None):
    parser = OptionParser(description=__doc__)
    add_model_options(parser)
    parser.add_argument("--host", default="127.0.0.1",
                        help="address to listen on (default: %(default)s, this machine alone)")
    parser.add_argument("--port", type=int, default=8000, help="port; 0 takes a free one (default: %(default)s)")
    parser.add_argument("--score_thresh", type=float, default=load_defaults()[0]["eval_config.score_thresh"],
                        help="where the slider starts, and the smallest score of POST /predict without ?score= (default: %(default)s)")
    parser.add_argument("--max_bytes", type=int, default=20_000_000, help="largest body (default: %(default)s)")
    parser.add_argument("--max_pixels", type=int, default=40_000_000, help="largest image (default: %(default)s)")
    parser.add_argument("--queue", "--max_requests", type=int, default=128,
                        help="images that wait at a time; more get 503 (default: %(default)s)")
    parser.add_argument("--deadline", type=float, default=60.0,
                        help="seconds until an image is computed, or gets 504 (default: %(default)s)")
    parser.add_argument("--max_batch", type=int, default=8, help="images that are computed together at most (default: %(default)s)")
    parser.add_argument("--batch_wait_ms", type=float, default=0.0,
                        help="time to wait for more of them, where none waits (default: %(default)s)")
    parser.add_argument("--batch_tolerance", type=float, default=0.0,
                        help="largest difference of a number in the network's output that computing together may make; larger batches that "
                             "make a larger one are not used (default: %(default)s)")
    parser.add_argument("--body_seconds", type=float, default=30.0, help="time for sending an image (default: %(default)s)")
    parser.add_argument("--header_seconds", type=float, default=10.0, help="time for a request's headers (default: %(default)s)")
    parser.add_argument("--max_connections", type=int, default=2000,
                        help="open connections; for one more, that which has waited longest goes (default: %(default)s)")
    parser.add_argument("--allow_urls", default="", metavar="HOST[:PORT],...",
                        help="hosts from which ?url= may name an image (default: none)")
    parser.add_argument("--cors_origins", default="", metavar="URL,...",
                        help="origins of pages elsewhere that may call it, or * for all (default: none)")
    parser.add_argument("--api_key_file", metavar="FILE", help="keys, one a line, of which a request must have one")
    parser.add_argument("--tls_cert", metavar="FILE", help="certificate, with its chain (PEM): HTTPS in place of HTTP")
    parser.add_argument("--tls_key", metavar="FILE", help="its private key (PEM)")
    parser.add_argument("--address_file", metavar="FILE", help="file that gets the address, such as http://127.0.0.1:8000, at the start")
    options = parser.parse_args(argv)
    for name in ("max_bytes", "max_pixels", "queue", "deadline", "max_batch", "body_seconds", "header_seconds", "max_connections"):
        if not 0 < getattr(options, name) < 2**31:
            raise UserError(f"--{name} is {getattr(options, name)}; expected a number above 0, below {2**31}")
    for name in ("batch_wait_ms", "batch_tolerance"):
        if not 0 <= getattr(options, name) < 2**31:
            raise UserError(f"--{name} is {getattr(options, name)}; expected a number from 0, below {2**31}")
    if not 0 <= options.score_thresh <= 1:
        raise UserError(f"--score_thresh is {options.score_thresh}; expected a number from 0 to 1")
    options.cors_origins = origins(options.cors_origins)
    secure = tls_context(options.tls_cert, options.tls_key)
    model = check_model_options(options)
    listener = listen(options.host, options.port)
    serve(model, options, listener, secure)


def tls_context(certificate, key):
    """The ssl.SSLContext of HTTPS; None if neither of its files is named. Raises UserError unless both are there and fit."""
    if certificate is None and key is None:
        return None
    for name, path in (("--tls_cert", certificate), ("--tls_key", key)):
        errors.require_file(path, f"PEM file ({name})")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, ValueError) as error:
        raise UserError(f"{certificate} and {key} are no certificate and its key without a password ({error})") from error
    return context


def listen(host, port):
    """A socket that listens. Raises UserError if the address cannot be had."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=512)
    except (OSError, OverflowError, ValueError) as error:  # ValueError: a host that can be no name
        raise UserError(f"cannot listen on {host}:{port}: {error}; name another --host or --port") from error


def listed(words):
    """The words of an option that are separated by commas."""
    return tuple(word.strip() for word in words.split(",") if word.strip())


def origins(words):
    """The origins in --cors_origins. Raises UserError for what no browser sends as one: it would match nothing, without a word."""
    for origin in listed(words):
        default_port = origin.endswith(":80") and origin.startswith("http:") or origin.endswith(":443") and origin.startswith("https:")
        if not re.fullmatch(r"\*|null|[a-z][a-z0-9+.-]*://[^/?#@*\sA-Z]+", origin) or default_port:
            raise UserError(f"--cors_origins: {origin} is no origin as browsers send it; expected such as https://shop.example or "
                            "http://shop.example:8080, in small letters, without a path, or * for all")
    return listed(words)


def serve(model, options, listener, secure):
    """Load the model, and serve until interrupted; requests that come while the graphs are compiled wait."""
    # What is slow to load is loaded when there is something to do.
    try:
        import uvicorn
        from starlette.middleware.cors import CORSMiddleware

        from src.connections import BACKLOG, Connections, protocol, raise_file_limit
        from src.serve import Served, build_app
        from src.service_access import HEADERS, Access, AccessLog, Keys, read_keys
        from src.service_body import Limits
        from src.service_queue import Network
        from src.service_urls import read_hosts
    except ImportError as error:
        raise UserError(f"{error.name} is not installed; {how_to_install('serve')}") from error
    from src.predictor import Predictor

    hosts = read_hosts(options.allow_urls)
    keys = read_keys(options.api_key_file) if options.api_key_file else None
    predictor = Predictor(model, options.device_target, options.device_id, onnx_provider=options.onnx_provider,
                          use_ema=options.use_ema)
    log = AccessLog()
    log.say(predictor.settings)
    network = Network(predictor, options.max_batch, options.batch_wait_ms / 1000, options.batch_tolerance)
    limits = Limits(options.max_bytes, options.max_pixels, options.queue, options.deadline, options.body_seconds)
    served = Served(predictor, network, limits, os.path.basename(model), options.score_thresh, hosts, needs_key=bool(keys))
    app = build_app(served)
    answered = app.state.metrics.answered
    if keys:
        app = Keys(app, keys)
    if options.cors_origins:
        app = CORSMiddleware(app, options.cors_origins, allow_methods=["GET", "POST"], allow_headers=["*"], expose_headers=HEADERS)
    connections = Connections(raise_file_limit(options.max_connections))
    settings = uvicorn.Config(Access(app, limits, served.ending, log, answered), ws="none", lifespan="off", backlog=BACKLOG,
                              http=protocol(connections, options.header_seconds, log, secure), log_level="error", timeout_keep_alive=10,
                              timeout_graceful_shutdown=options.deadline, server_header=False)

    class Server(uvicorn.Server):
        async def shutdown(self, sockets=None):
            served.ending.begin()
            await super().shutdown(sockets)

    server = Server(settings)
    address = address_of(listener, secure)
    if options.address_file is not None:
        write_address(options.address_file, address)
    log.say(f"listening on {address}; compiling the graph")

    def ready():
        if network.error:
            server.should_exit = True
        else:
            log.say(f"serving on {address} (Ctrl-C ends it)")

    network.start(ready)
    try:
        server.run(sockets=[listener])  # until a signal, which it passes on when the last answers are sent
    except KeyboardInterrupt:
        if server.force_exit:  # by a second signal
            raise
        log.say("ended")
    finally:
        log.end()
        if not network.end(1):  # what compiles or computes answers an end of Python with pages of trace
            print("interrupted", file=sys.stderr, flush=True)
            os._exit(130)
    if network.error:
        raise network.error


def address_of(listener, secure):
    """The URL of a socket that listens."""
    host, port = listener.getsockname()[:2]
    return f"http{'s' if secure else ''}://{f'[{host}]' if ':' in host else host}:{port}"


def write_address(path, address):
    """Write the file of --address_file. Raises UserError where there is another one, or none can be."""
    if os.path.lexists(path):
        errors.require_file(path, "file of the address (--address_file)")
        with open(path, "rb") as file:
            if not re.fullmatch(rb"https?://\S+\n", file.read(200)):
                raise UserError(f"{path} (--address_file) is there and holds no address; name another file, or remove it")
    with whole_file(path) as partial, open(partial, "w", encoding="utf-8") as file:
        file.write(f"{address}\n")


def command() -> None:
    """What centernet-serve runs."""
    errors.run(main)


if __name__ == "__main__":
    command()
