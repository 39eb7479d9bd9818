"""Processes that start quickly: a server that has imported MindSpore and this project forks them.

It saves the three seconds of CPU time of the import. Run as a script with a socket's path, this file is the server;
`Server.start` is the client. Each process has its own id, folder, environment, signals and output, and exits like any
Python process.
"""
import contextlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# Variables that MindSpore, its libraries and Python read when they are loaded: with other values, a process has to
# load them itself.
READ_AT_LOADING = ("GLOG_", "MS_", "OMP_", "ONEDNN_", "LD_", "PYTHON", "MPL", "CUDA_", "ASCEND_")


def read_at_loading():
    """The environment variables that a prepared process can no longer change."""
    return {name: value for name, value in os.environ.items() if name.startswith(READ_AT_LOADING)}


class Server:
    """The server process, which lives as long as this process."""

    def __init__(self, folder):
        self.path = os.path.join(folder, "prepared.socket")
        self.environment = read_at_loading()
        # It exits when its standard input closes, which happens however this process ends.
        self.process = subprocess.Popen([sys.executable, os.path.abspath(__file__), self.path], cwd=ROOT,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.process.stdout.readline()

    def fits(self):
        """Whether its libraries were loaded in an environment like the current one."""
        return read_at_loading() == self.environment

    def start(self, script, args, cwd, stdout, stderr):
        """Run a script with its output in these files; return a Started."""
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self.path)
        folder = os.fspath(cwd or os.getcwd())
        request = json.dumps([script, [str(arg) for arg in args], folder, dict(os.environ)]).encode()
        socket.send_fds(connection, [len(request).to_bytes(8, "big")], [stdout.fileno(), stderr.fileno()])
        connection.sendall(request)
        return Started([script, *args], connection)


class Started:
    """A process that the server started, with the attributes pid, args and returncode of subprocess.Popen."""

    def __init__(self, args, connection):
        self.args = args
        self._answers = connection.makefile("r")
        self._connection = connection
        self.pid = int(self._answers.readline())
        self.returncode = None

    def wait(self, timeout=None):
        """Wait for the exit code, negative for a signal, and return it. Raises subprocess.TimeoutExpired."""
        if self.returncode is None:
            self._connection.settimeout(timeout)
            try:
                self.returncode = int(self._answers.readline())
            except TimeoutError:
                raise subprocess.TimeoutExpired(self.args, timeout) from None
            self._answers.close()
            self._connection.close()
        return self.returncode

    def send_signal(self, number):
        """Send a signal, unless the process has ended: another one may have its id."""
        if self.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self):
        """Kill the process."""
        self.send_signal(signal.SIGKILL)


def _serve(path):
    """Serve requests until standard input closes. In each forked process, return the request to run."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    print("ready", flush=True)
    if os.fork() == 0:
        sys.stdin.read()
        os.kill(os.getppid(), signal.SIGTERM)
        os._exit(0)
    signal.signal(signal.SIGCHLD, _reap)
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            listener.close()
            return _receive(connection)
        connection.close()


def _reap(*_):
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _receive(connection):
    """Receive a request and fork: the child returns it to run it, the parent reports the child's id and exit code."""
    length, descriptors, _, _ = socket.recv_fds(connection, 8, 2)
    with connection.makefile("rb") as file:
        script, args, cwd, environment = json.loads(file.read(int.from_bytes(length, "big")))
    pid = os.fork()
    if pid:
        connection.sendall(f"{pid}\n".encode())
        _, status = os.waitpid(pid, 0)
        with contextlib.suppress(OSError):  # the client is gone
            connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
        os._exit(0)
    connection.close()
    null = os.open(os.devnull, os.O_RDONLY)
    for number, descriptor in enumerate((null, *descriptors)):
        os.dup2(descriptor, number)
    for descriptor in (null, *descriptors):
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    os.chdir(cwd)
    return script, args


if __name__ == "__main__":
    sys.path[0] = ROOT
    import src.evaluation.evaluator  # noqa: F401

    script, args = _serve(sys.argv[1])
    sys.argv = [script, *args]
    sys.path[0] = os.path.dirname(script)
    runpy.run_path(script, run_name="__main__")
