"""Real processes that start in a moment: a server that has loaded MindSpore and this project forks each of them.

It saves the three seconds of CPU that loading takes. Run as a script with a socket's path, this file is the server; `start` is the
client. Each process has its own number, folder, environment, signals and output, and ends as any Python process does.
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
# What MindSpore, its libraries and Python read as they are loaded: with other values, a process has to load them itself.
READ_AT_LOADING = ("GLOG_", "MS_", "OMP_", "ONEDNN_", "LD_", "PYTHON", "MPL", "CUDA_", "ASCEND_")


def read_at_loading():
    """The environment's part that a prepared process cannot change any more."""
    return {name: value for name, value in os.environ.items() if name.startswith(READ_AT_LOADING)}


class Server:
    """The server's process, which lives as long as this object's."""

    def __init__(self, folder):
        self.path = os.path.join(folder, "prepared.socket")
        self.environment = read_at_loading()
        # Ends with its standard input, which closes with this process, however that ends.
        self.process = subprocess.Popen([sys.executable, os.path.abspath(__file__), self.path], cwd=ROOT, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE)
        self.process.stdout.readline()

    def fits(self):
        """Whether what it has loaded is what this environment would have loaded."""
        return read_at_loading() == self.environment

    def start(self, script, words, cwd, stdout, stderr):
        """A Started that runs a script, whose output goes to these files."""
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self.path)
        request = json.dumps([script, [str(word) for word in words], os.fspath(cwd or os.getcwd()), dict(os.environ)]).encode()
        socket.send_fds(connection, [len(request).to_bytes(8, "big")], [stdout.fileno(), stderr.fileno()])
        connection.sendall(request)
        return Started([script, *words], connection)


class Started:
    """A process of the server's: pid, and what subprocess.Popen has of the same names."""

    def __init__(self, args, connection):
        self.args = args
        self._answers = connection.makefile("r")
        self._connection = connection
        self.pid = int(self._answers.readline())
        self.returncode = None

    def wait(self, timeout=None):
        """Its exit code, negative for a signal. Raises subprocess.TimeoutExpired."""
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
        """Send it a signal; none if it has ended, as its number may be another's then."""
        if self.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self):
        """End it at once."""
        self.send_signal(signal.SIGKILL)


def _serve(path):
    """Answer requests until standard input ends; returns the request in each process that is to run one."""
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
    """The request of a connection, in the process that runs it; the one between it and the server reports on it."""
    length, descriptors, _, _ = socket.recv_fds(connection, 8, 2)
    with connection.makefile("rb") as file:
        script, words, cwd, environment = json.loads(file.read(int.from_bytes(length, "big")))
    pid = os.fork()
    if pid:
        connection.sendall(f"{pid}\n".encode())
        _, status = os.waitpid(pid, 0)
        with contextlib.suppress(OSError):  # nobody waits any more
            connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
        os._exit(0)
    connection.close()
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, descriptor in enumerate((nothing, *descriptors)):
        os.dup2(descriptor, number)
    for descriptor in (nothing, *descriptors):
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    os.chdir(cwd)
    return script, words


if __name__ == "__main__":
    sys.path[0] = ROOT
    import src.evaluation.evaluator  # noqa: F401

    script, words = _serve(sys.argv[1])
    sys.argv = [script, *words]
    sys.path[0] = os.path.dirname(script)
    runpy.run_path(script, run_name="__main__")
