"""TCP ports of this machine."""
import socket


def free_port() -> int:
    """A port that is currently free on all of the machine's addresses."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]
