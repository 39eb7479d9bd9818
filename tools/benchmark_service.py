"""The "serve" part of tools/benchmark.py: tools/serve.py with an ONNX file under load, in turns with the bare network
in a loop."""
import contextlib
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse

import psutil

from src.core.errors import UserError
from src.core.timing import Case
from tools.benchmark_inputs import CLASSES, build_detector, jpeg, photograph, settings

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SIDE = 512  # input size in pixels
SECONDS = 20  # per turn
CLIENTS = 100
IMAGES = 16  # distinct images to send


def serve_part(runs):
    """Throughput, latency and memory of the service, and a comparison of its responses with the Predictor."""
    with tempfile.TemporaryDirectory() as folder:
        model = os.path.join(folder, "untrained.onnx")
        write_model(model)
        with serving(model) as (address, process):
            yield from cases(runs, model, address, process)


def write_model(path):
    """Write an untrained network as an ONNX file."""
    from src.export.onnx_graph import Graph
    from src.export.onnx_model import build_model
    from src.tasks import DETECTION

    config = settings()
    description = {
        "dataset": "none", "classes": [f"class {number}" for number in range(CLASSES)],
        "category_ids": list(range(1, CLASSES + 1)),
        "mean": config.dataset_config.mean, "std": config.dataset_config.std, "input_res_train": [SIDE, SIDE],
        "evaluation": {}, "input_res": None, "batch_size": None, "input_type": "float32", "down_ratio": 4, "K": 100,
        "flip_test": False,
    }
    metadata = {name: json.dumps(value) for name, value in description.items()}
    model = build_model(DETECTION, build_detector().network, False, Graph("deform_conv"), ("batch", "height", "width"),
                        6, metadata)
    with open(path, "wb") as file:
        file.write(model.SerializeToString())


@contextlib.contextmanager
def serving(model):
    """Run a service during the block; yields (host and port, process)."""
    command = [sys.executable, os.path.join(ROOT, "tools", "serve.py"), "--onnx", model, "--port", "0",
               "--score_thresh", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        line = next((line for line in process.stdout if line.startswith("serving on ")), None)
        if line is None:
            raise UserError("tools/serve.py failed; its error is above")
        threading.Thread(target=process.stdout.read, daemon=True).start()  # its access log
        yield urllib.parse.urlsplit(line.split()[2]).netloc, process
    finally:
        process.terminate()
        process.wait()


def cases(runs, model, address, process):
    """The Cases of a running service."""
    from src.inference.predictor import Predictor

    predictor = Predictor(model)
    bodies = [jpeg(photograph(seed=seed)) for seed in range(IMAGES)]
    expected = [expected_objects(predictor(body)) for body in bodies]
    inputs = [predictor.prepare(photograph())]
    load = Load(address, bodies, expected)
    load.run(2 * CLIENTS, clients=CLIENTS)  # warm-up
    start, bare, rates = memory(process), [], []
    for _ in range(runs):
        bare.append(rate_of(lambda: predictor.compute(inputs)))
        rates.append(load.for_seconds(SECONDS))
    alone = [load.one(0) for _ in range(20)]
    load.times.clear()
    load.paced(statistics.median(rates) / 2, SECONDS)
    yield Case("bare network in a loop", unit="images per second", seconds=bare)
    yield Case(f"service, {CLIENTS} clients", unit="images per second", seconds=rates)
    yield Case("  relative to the bare network", unit="ratio", seconds=[one / other for one, other in zip(rates, bare)])
    yield Case("single request", unit="s", seconds=alone)
    yield Case("99th percentile at half the rate, relative to a single request", unit="ratio",
               seconds=[sorted(load.times)[int(0.99 * len(load.times))] / statistics.median(alone)])
    yield Case("/health under load", unit="s", seconds=load.health)
    yield Case("memory afterwards, relative to the start", unit="ratio", seconds=[memory(process) / start])
    for status in sorted(load.statuses):
        yield Case(f"responses with status {status}", unit="", seconds=[load.statuses[status]])
    yield Case("responses that differ from the Predictor", unit="", seconds=[load.wrong])


def expected_objects(prediction):
    """The objects that the service should return for a Prediction."""
    return [[name, round(float(score), 4), [round(float(side), 2) for side in box]]
            for name, score, box in zip(prediction.class_names, prediction.scores, prediction.boxes)]


def rate_of(function):
    """Calls per second, over one turn."""
    calls, start = 0, time.perf_counter()
    while time.perf_counter() - start < SECONDS:
        function()
        calls += 1
    return calls / (time.perf_counter() - start)


def memory(process):
    """The memory of a service and its workers, in MB."""
    service = psutil.Process(process.pid)
    return sum(one.memory_info().rss for one in (service, *service.children())) / 2**20


class Load:
    """Clients that send images to a service and check its responses."""

    def __init__(self, address, bodies, expected):
        self.address, self.bodies, self.expected = address, bodies, expected
        self.times, self.statuses, self.health, self.wrong = [], {}, [], 0
        self.lock = threading.Lock()

    def one(self, number):
        """Send an image; return the seconds to its response, or None if the status is not 200."""
        number %= len(self.bodies)
        start = time.perf_counter()
        connection = http.client.HTTPConnection(self.address, timeout=120)
        try:
            connection.request("POST", "/predict", self.bodies[number])
            response = connection.getresponse()
            content, status = json.loads(response.read()), response.status
        except (OSError, http.client.HTTPException, ValueError):
            content, status = {}, 0
        finally:
            connection.close()
        seconds = time.perf_counter() - start
        objects = [[one["class"], one["score"], one["box"]] for one in content.get("objects", [])]
        with self.lock:
            self.statuses[status] = self.statuses.get(status, 0) + 1
            self.wrong += status == 200 and objects != self.expected[number]
            if status == 200:
                self.times.append(seconds)
        return seconds if status == 200 else None

    def run(self, most=None, clients=CLIENTS, end=None):
        """Let clients send images in sequence, `most` in total or until `end`; return the number of responses."""
        numbers, succeeded = iter(range(most or 10**9)), []

        def client():
            while end is None or time.perf_counter() < end:
                with self.lock:
                    number = next(numbers, None)
                if number is None:
                    return
                if self.one(number) is None:
                    time.sleep(0.5)
                else:
                    succeeded.append(number)

        self._threads([client] * clients)
        return len(succeeded)

    def for_seconds(self, seconds):
        """Send from CLIENTS clients for `seconds`, polling /health meanwhile; return the images per second."""
        start = time.perf_counter()
        watch = threading.Thread(target=self._watch_health, args=(start + seconds,))
        watch.start()
        rate = self.run(end=start + seconds) / (time.perf_counter() - start)
        watch.join()
        return rate

    def paced(self, rate, seconds):
        """Send `rate` images per second at even intervals, independent of the responses."""
        start = time.perf_counter()

        def send_later(number):
            time.sleep(max(0, start + number / rate - time.perf_counter()))
            self.one(number)

        self._threads([lambda number=number: send_later(number) for number in range(max(2, int(rate * seconds)))])

    def _watch_health(self, end):
        while time.perf_counter() < end:
            start = time.perf_counter()
            connection = http.client.HTTPConnection(self.address, timeout=60)
            connection.request("GET", "/health")
            connection.getresponse().read()
            connection.close()
            self.health.append(time.perf_counter() - start)
            time.sleep(0.2)

    @staticmethod
    def _threads(functions):
        threads = [threading.Thread(target=function) for function in functions]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
