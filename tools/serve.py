"""Serve a detector on this machine: a web page to drop images on, and POST /predict for programs."""
import os
import socket
import sys

if __name__ == "__main__":
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from src import errors
from src.errors import UserError
from src.model_utils.config import load_defaults
from src.options import OptionParser, add_model_options, check_model_options
from src.project import how_to_install


def main(argv=None):
    parser = OptionParser(description=__doc__)
    add_model_options(parser)
    parser.add_argument("--host", default="127.0.0.1",
                        help="address to listen on (default: %(default)s, this machine alone; there is no password)")
    parser.add_argument("--port", type=int, default=8000, help="port; 0 takes a free one (default: %(default)s)")
    parser.add_argument("--score_thresh", type=float, default=load_defaults()[0]["eval_config.score_thresh"],
                        help="where the slider starts, and the smallest score of POST /predict without ?score= (default: %(default)s)")
    parser.add_argument("--max_bytes", type=int, default=20_000_000, help="largest body (default: %(default)s)")
    parser.add_argument("--max_pixels", type=int, default=40_000_000, help="largest image (default: %(default)s)")
    parser.add_argument("--max_requests", type=int, default=8, help="images in work at a time; more get 503 (default: %(default)s)")
    parser.add_argument("--body_seconds", type=float, default=30.0, help="time for sending an image (default: %(default)s)")
    parser.add_argument("--header_seconds", type=float, default=10.0, help="time for a request's headers (default: %(default)s)")
    parser.add_argument("--max_connections", type=int, default=2000,
                        help="open connections; for one more, that which has waited longest goes (default: %(default)s)")
    options = parser.parse_args(argv)
    for name in ("max_bytes", "max_pixels", "max_requests", "body_seconds", "header_seconds", "max_connections"):
        if not 0 < getattr(options, name) < 2**31:
            raise UserError(f"--{name} is {getattr(options, name)}; expected a number above 0, below {2**31}")
    if not 0 <= options.score_thresh <= 1:
        raise UserError(f"--score_thresh is {options.score_thresh}; expected a number from 0 to 1")
    model = check_model_options(options)
    listener = listen(options.host, options.port)
    serve(model, options, listener)


def listen(host, port):
    """A socket that listens. Raises UserError if the address cannot be had."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=512)
    except (OSError, OverflowError, ValueError) as error:  # ValueError: a host that can be no name
        raise UserError(f"cannot listen on {host}:{port}: {error}; name another --host or --port") from error


def serve(model, options, listener):
    """Load the model, compile its graph, and serve until interrupted."""
    # What is slow to load is loaded when there is something to do.
    try:
        import uvicorn

        from src.connections import BACKLOG, Connections, protocol, raise_file_limit
        from src.serve import Limits, build_app
    except ImportError as error:
        raise UserError(f"{error.name} is not installed; {how_to_install('serve')}") from error
    import numpy as np

    from src.predictor import Predictor

    predictor = Predictor(model, options.device_target, options.device_id, onnx_provider=options.onnx_provider)
    print("compiling the graph", flush=True)
    with errors.INTERRUPTS.at_once():
        predictor.predict_image(np.zeros((64, 64, 3), np.uint8))
    limits = Limits(options.max_bytes, options.max_pixels, options.max_requests, options.body_seconds)
    app = build_app(predictor, limits, os.path.basename(model), options.score_thresh)
    host, port = listener.getsockname()[:2]
    print(f"serving on http://{f'[{host}]' if ':' in host else host}:{port} (Ctrl-C ends it)", flush=True)
    connections = Connections(raise_file_limit(options.max_connections))
    settings = uvicorn.Config(app, http=protocol(connections, options.header_seconds), ws="none", backlog=BACKLOG, log_level="warning",
                              timeout_keep_alive=10, timeout_graceful_shutdown=10)
    uvicorn.Server(settings).run(sockets=[listener])  # until a signal, which it passes on when the last answers are sent


def command() -> None:
    """What centernet-serve runs."""
    errors.run(main)


if __name__ == "__main__":
    command()
