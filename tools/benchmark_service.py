"""The part "serve" of tools/benchmark.py: a load on tools/serve.py with an ONNX file, beside the bare network in a loop, in turns."""
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
SIDE = 512  # pixels of the network's input
SECONDS = 20  # of each turn
CLIENTS = 100
IMAGES = 16  # different ones that are sent


def serve_part(runs):
    """Rates, times and memory of the service, and whether its answers are the Predictor's."""
    with tempfile.TemporaryDirectory() as folder:
        model = os.path.join(folder, "untrained.onnx")
        write_model(model)
        with serving(model) as (address, process):
            yield from cases(runs, model, address, process)


def write_model(path):
    """Write an untrained network as an ONNX file."""
    from src.export.onnx_model import build_model
    from src.tasks import DETECTION

    config = settings()
    size = {"input_res": None, "batch_size": None, "input_type": "float32", "down_ratio": 4, "K": 100, "flip_test": False}
    classes = [f"class {number}" for number in range(CLASSES)]
    description = {"dataset": "none", "classes": classes, "category_ids": list(range(1, CLASSES + 1)), "mean": config.dataset_config.mean,
                   "std": config.dataset_config.std, "input_res_train": [SIDE, SIDE], "evaluation": {}, **size}
    model = build_model(DETECTION, build_detector().network, False, "deform_conv", ("batch", "height", "width"), 6,
                        {name: json.dumps(value) for name, value in description.items()})
    with open(path, "wb") as file:
        file.write(model.SerializeToString())


@contextlib.contextmanager
def serving(model):
    """(host and port, process) of a service that runs until the block ends."""
    command = [sys.executable, os.path.join(ROOT, "tools", "serve.py"), "--onnx", model, "--port", "0", "--score_thresh", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        line = next((line for line in process.stdout if line.startswith("serving on ")), None)
        if line is None:
            raise UserError("tools/serve.py ended with an error (above)")
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
    load.run(2 * CLIENTS, clients=CLIENTS)  # what is slow the first time
    start, bare, rates = memory(process), [], []
    for _ in range(runs):
        bare.append(rate_of(lambda: predictor.compute(inputs)))
        rates.append(load.for_seconds(SECONDS))
    alone = [load.one(0) for _ in range(20)]
    load.times.clear()
    load.paced(statistics.median(rates) / 2, SECONDS)
    yield Case("the bare network in a loop", unit="images a second", seconds=bare)
    yield Case(f"the service, {CLIENTS} clients", unit="images a second", seconds=rates)
    yield Case("  of the bare network's", unit="ratio", seconds=[one / other for one, other in zip(rates, bare)])
    yield Case("one image alone", unit="s", seconds=alone)
    yield Case("99th percentile at half the rate, of that", unit="ratio",
               seconds=[sorted(load.times)[int(0.99 * len(load.times))] / statistics.median(alone)])
    yield Case("/health in the meantime", unit="s", seconds=load.health)
    yield Case("memory after all that, of that at the start", unit="ratio", seconds=[memory(process) / start])
    for status in sorted(load.statuses):
        yield Case(f"answers with status {status}", unit="", seconds=[load.statuses[status]])
    yield Case("answers unlike the Predictor's", unit="", seconds=[load.wrong])


def expected_objects(prediction):
    """What the service is to answer for a Prediction."""
    return [[name, round(float(score), 4), [round(float(side), 2) for side in box]]
            for name, score, box in zip(prediction.class_names, prediction.scores, prediction.boxes)]


def rate_of(function):
    """Calls a second, over one turn."""
    calls, start = 0, time.perf_counter()
    while time.perf_counter() - start < SECONDS:
        function()
        calls += 1
    return calls / (time.perf_counter() - start)


def memory(process):
    """The memory of a service and of its workers, in MB."""
    service = psutil.Process(process.pid)
    return sum(one.memory_info().rss for one in (service, *service.children())) / 2**20


class Load:
    """Clients that send images to a service, and compare what it answers."""

    def __init__(self, address, bodies, expected):
        self.address, self.bodies, self.expected = address, bodies, expected
        self.times, self.statuses, self.health, self.wrong = [], {}, [], 0
        self.lock = threading.Lock()

    def one(self, number):
        """Send an image; returns the seconds to its answer, None if that is not 200."""
        number %= len(self.bodies)
        start = time.perf_counter()
        connection = http.client.HTTPConnection(self.address, timeout=120)
        try:
            connection.request("POST", "/predict", self.bodies[number])
            answer = connection.getresponse()
            content, status = json.loads(answer.read()), answer.status
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
        """Let clients send one image after the other, `most` in all or until a time; returns how many were answered."""
        numbers, counted = iter(range(most or 10**9)), []

        def client():
            while end is None or time.perf_counter() < end:
                with self.lock:
                    number = next(numbers, None)
                if number is None:
                    return
                if self.one(number) is None:
                    time.sleep(0.5)
                else:
                    counted.append(number)

        self._threads([client] * clients)
        return len(counted)

    def for_seconds(self, seconds):
        """The images a second that CLIENTS are answered who send for so many seconds; /health is asked meanwhile."""
        start = time.perf_counter()
        watch = threading.Thread(target=self._watch_health, args=(start + seconds,))
        watch.start()
        rate = self.run(end=start + seconds) / (time.perf_counter() - start)
        watch.join()
        return rate

    def paced(self, rate, seconds):
        """Send so many images a second, evenly, whatever the answers take."""
        start = time.perf_counter()

        def later(number):
            time.sleep(max(0, start + number / rate - time.perf_counter()))
            self.one(number)

        self._threads([lambda number=number: later(number) for number in range(max(2, int(rate * seconds)))])

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
