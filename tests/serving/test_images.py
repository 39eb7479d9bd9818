"""src/serving/images.py: decoder processes, which are killed when nobody waits for their results."""
import asyncio
import os
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
from starlette.exceptions import HTTPException

from src.inference.pipeline import make_inputs
from src.serving import images
from src.serving.images import Workers
from src.tasks.detection.results import draw
from tests import worker_tasks
from tests.conftest import ROOT, noise_image
from tests.serving.test_queue import Held


@pytest.fixture(scope="module")
def workers():
    workers = Workers()
    yield workers
    workers.end()
    assert not alive(list(workers.pool._pool_manager.worker_manager.workers))


def run(workers, function, *args, seconds=30.0):
    """The result of a function in a worker; TimeoutError after `seconds`."""
    return asyncio.run(asyncio.wait_for(workers.run(function, *args), seconds))


def alive(pids):
    """The processes that are running."""
    return [pid for pid in pids
            if os.path.exists(f"/proc/{pid}") and "Z" not in open(f"/proc/{pid}/stat").read().split()[2]]


def until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def png(image):
    return cv2.imencode(".png", image)[1].tobytes()


def test_an_image_is_prepared_as_in_this_process(workers):
    image, held = noise_image(3, 70, 120), Held()
    size, inputs, seconds = run(workers, images.prepare, png(image), 10**6, held.detector, held.config, None)
    (pixels, view), = inputs
    (expected, expected_view), = make_inputs(image, held.detector, held.config, None)
    assert size == (120, 70) and seconds > 0
    assert (view.width, view.out_hw) == (expected_view.width, expected_view.out_hw)
    np.testing.assert_array_equal(pixels, expected)


def test_an_image_is_drawn(workers):
    image, found = np.full((300, 400, 3), 51, np.uint8), np.array([[50, 50, 200, 200, 0.9, 0]], np.float32)
    description = {"classes": ["thing"]}
    drawn = run(workers, images.draw, png(image), 10**6, found, description)
    drawn = cv2.imdecode(np.frombuffer(drawn, np.uint8), cv2.IMREAD_COLOR)
    expected = draw(image, found, description).astype(int)
    assert np.abs(expected - 51).max() > 50 and np.abs(drawn - expected).mean() < 3  # JPEG losses


@pytest.mark.parametrize("body, function, args, status, part", [
    (b"hello", "prepare", (None, None, None), 415, "not an image"),
    (png(noise_image(1))[:500], "prepare", (None, None, None), 422, "damaged"),
    (png(noise_image(1, 2000, 1000)), "prepare", (None, None, None), 413, "more than 1000000 pixels"),
    (png(np.zeros((1, 70_000, 3), np.uint8)), "draw", (np.zeros((0, 6)), []), 422, "pixels a side"),
], ids=["none", "half", "large", "long"])
def test_an_http_error_is_passed_on(body, function, args, status, part, workers):
    with pytest.raises(HTTPException, match=part) as error:
        run(workers, getattr(images, function), body, 1_000_000, *args)
    assert error.value.status_code == status


def test_the_processes_load_neither_mindspore_nor_the_service(workers):
    loaded = run(workers, worker_tasks.modules)
    others = {"mindspore", "torch", "onnxruntime", "fastapi", "uvicorn", "src.serving.service"}
    assert "src.serving.images" in loaded and not others & set(loaded)


def test_a_hanging_process_is_killed_when_nobody_waits_and_others_continue(workers):
    async def both():
        hanging = [asyncio.create_task(workers.run(worker_tasks.hang)) for _ in range(workers.count - 1)]
        await asyncio.sleep(0.2)  # until processes have them
        free = await workers.run(worker_tasks.process)
        busy = set(workers.pool._pool_manager.worker_manager.workers) - {free}
        for task in hanging:
            task.cancel()
        await asyncio.gather(*hanging, return_exceptions=True)
        return busy

    busy = asyncio.run(both())
    until(lambda: not alive(busy))
    with pytest.raises(asyncio.TimeoutError):
        run(workers, worker_tasks.hang, seconds=0.3)
    assert run(workers, worker_tasks.process)


def test_an_image_that_crashes_its_process_is_rejected(workers):
    """503 if it crashes before Pebble knows which image the process has."""
    with pytest.raises(HTTPException, match="the image") as error:
        run(workers, worker_tasks.crash)
    assert error.value.status_code in (422, 503) and run(workers, worker_tasks.process)


def test_a_process_ends_if_its_service_was_killed_while_it_loaded(workers):
    """Otherwise it would wait for images forever, with the service's output and socket open."""
    with pytest.raises(HTTPException, match="the image"):
        run(workers, worker_tasks.lose_its_service)
    assert run(workers, worker_tasks.process)


def test_other_exceptions_are_passed_on(workers):
    with pytest.raises(ZeroDivisionError, match="zero"):
        run(workers, worker_tasks.fail)


def test_workers_ignore_signals(workers):
    """A signal to all processes is left to the service."""
    pid = run(workers, worker_tasks.process)
    os.kill(pid, signal.SIGTERM)
    os.kill(pid, signal.SIGINT)
    time.sleep(0.3)
    assert alive([pid])


@pytest.mark.slow
def test_processes_killed_while_idle_are_restarted():
    workers = Workers()
    try:
        for pid in {run(workers, worker_tasks.process) for _ in range(8)}:
            os.kill(pid, signal.SIGKILL)
        until(lambda: not workers.pool.active)
        assert run(workers, worker_tasks.process)
    finally:
        workers.end()


@pytest.mark.slow
@pytest.mark.parametrize("function, args", [
    (worker_tasks.give_and_crash, ()), (worker_tasks.process, (worker_tasks.Deadly(),)),
], ids=["gives", "takes"])
def test_a_process_killed_while_it_holds_the_shared_lock(function, args, monkeypatch):
    """It returns a result or receives an image: the processes are restarted, and waiting images get a response."""
    monkeypatch.setattr(images, "MAX_LOCK_SECONDS", 0.5)
    workers = Workers()

    async def several():
        first = asyncio.create_task(workers.run(function, *args))
        await asyncio.wait([first], timeout=3)
        waiting = asyncio.create_task(workers.run(worker_tasks.process))
        await asyncio.sleep(0.3)
        first.cancel()
        return await asyncio.wait_for(asyncio.gather(first, waiting, return_exceptions=True), 20)

    try:
        assert run(workers, worker_tasks.process)
        answers = asyncio.run(several())
        assert all(isinstance(answer, (HTTPException, asyncio.CancelledError, int)) for answer in answers)
        assert run(workers, worker_tasks.process, seconds=20)
    finally:
        workers.end()


@pytest.mark.slow
def test_processes_end_when_their_service_is_killed(tmp_path):
    """Even hanging ones."""
    script = """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
from src.serving.images import Workers
from tests import worker_tasks

async def all_of_them():
    workers = Workers()
    print(await workers.run(worker_tasks.process), flush=True)
    await asyncio.gather(*(workers.run(worker_tasks.hang) for _ in range(workers.count)))

if __name__ == "__main__":
    asyncio.run(all_of_them())
"""
    (tmp_path / "script.py").write_text(script)
    process = subprocess.Popen([sys.executable, tmp_path / "script.py", ROOT], stdout=subprocess.PIPE, text=True)
    pid = int(process.stdout.readline())
    assert alive([pid])
    process.kill()
    process.communicate()
    until(lambda: not alive([pid]))
