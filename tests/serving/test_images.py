"""src/serving/images.py: images in processes that are killed when nobody waits for them any more."""
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
    """Two processes."""
    made = Workers()
    yield made
    made.end()
    assert not alive(list(made.pool._pool_manager.worker_manager.workers))


def run(workers, function, *words, seconds=30.0):
    """What a function gives in a process; TimeoutError after so many seconds."""
    return asyncio.run(asyncio.wait_for(workers.run(function, *words), seconds))


def alive(numbers):
    """Those of the processes that run."""
    return [number for number in numbers if os.path.exists(f"/proc/{number}") and "Z" not in open(f"/proc/{number}/stat").read().split()[2]]


def until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def png(image):
    return cv2.imencode(".png", image)[1].tobytes()


def test_an_image_is_prepared_as_in_this_process(workers):
    image, held = noise_image(3, 70, 120), Held()
    size, inputs, seconds = run(workers, images.prepare, png(image), 10**6, held.detector, held.config)
    (pixels, view), = inputs
    (expected, where), = make_inputs(image, held.detector, held.config)
    assert size == (120, 70) and seconds > 0 and view.width == where.width and view.out_hw == where.out_hw
    np.testing.assert_array_equal(pixels, expected)


def test_an_image_is_drawn(workers):
    image, found = np.full((300, 400, 3), 51, np.uint8), np.array([[50, 50, 200, 200, 0.9, 0]], np.float32)
    description = {"classes": ["thing"]}
    drawn = run(workers, images.draw, png(image), 10**6, found, description)
    drawn = cv2.imdecode(np.frombuffer(drawn, np.uint8), cv2.IMREAD_COLOR)
    expected = draw(image, found, description).astype(int)
    assert np.abs(expected - 51).max() > 50 and np.abs(drawn - expected).mean() < 3  # a JPEG


@pytest.mark.parametrize("body, function, words, status, part", [
    (b"hello", "prepare", (None, None), 415, "not an image"), (png(noise_image(1))[:500], "prepare", (None, None), 422, "damaged"),
    (png(noise_image(1, 2000, 1000)), "prepare", (None, None), 413, "more than 1000000 pixels"),
    (png(np.zeros((1, 70_000, 3), np.uint8)), "draw", (np.zeros((0, 6)), []), 422, "pixels a side"),
], ids=["none", "half", "large", "long"])
def test_a_refusal_comes_back(body, function, words, status, part, workers):
    with pytest.raises(HTTPException, match=part) as refused:
        run(workers, getattr(images, function), body, 1_000_000, *words)
    assert refused.value.status_code == status


def test_the_processes_load_neither_mindspore_nor_the_service(workers):
    loaded = run(workers, worker_tasks.modules)
    others = {"mindspore", "torch", "onnxruntime", "fastapi", "uvicorn", "src.serving.service"}
    assert "src.serving.images" in loaded and not others & set(loaded)


def test_what_hangs_is_killed_when_nobody_waits_and_others_go_on(workers):
    async def both():
        hanging = [asyncio.create_task(workers.run(worker_tasks.hang)) for _ in range(workers.count - 1)]
        await asyncio.sleep(0.2)  # whichever process has them
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


def test_an_image_that_ends_its_process_is_refused(workers):
    """503 where it ends so soon that Pebble does not know yet which image the process had."""
    with pytest.raises(HTTPException, match="the image") as refused:
        run(workers, worker_tasks.crash)
    assert refused.value.status_code in (422, 503) and run(workers, worker_tasks.process)


def test_a_process_whose_service_was_killed_while_it_loaded_ends(workers):
    """It would wait for images for ever, with the service's output and socket open."""
    with pytest.raises(HTTPException, match="the image"):
        run(workers, worker_tasks.lose_its_service)
    assert run(workers, worker_tasks.process)


def test_another_error_comes_back_as_it_is(workers):
    with pytest.raises(ZeroDivisionError, match="zero"):
        run(workers, worker_tasks.fail)


def test_a_signal_to_all_processes_leaves_them_to_the_service(workers):
    number = run(workers, worker_tasks.process)
    os.kill(number, signal.SIGTERM)
    os.kill(number, signal.SIGINT)
    time.sleep(0.3)
    assert alive([number])


@pytest.mark.slow
def test_processes_that_were_killed_while_idle_are_started_again():
    workers = Workers()
    try:
        for number in {run(workers, worker_tasks.process) for _ in range(8)}:
            os.kill(number, signal.SIGKILL)
        until(lambda: not workers.pool.active)
        assert run(workers, worker_tasks.process)
    finally:
        workers.end()


@pytest.mark.slow
@pytest.mark.parametrize("function, words", [(worker_tasks.give_and_crash, ()), (worker_tasks.process, (worker_tasks.Deadly(),))],
                         ids=["gives", "takes"])
def test_a_process_that_was_killed_with_the_lock_of_all(function, words, monkeypatch):
    """While it gives a result, or takes an image: others are started, and what waits is answered."""
    monkeypatch.setattr(images, "MAX_LOCK_SECONDS", 0.5)
    workers = Workers()

    async def several():
        first = asyncio.create_task(workers.run(function, *words))
        await asyncio.wait([first], timeout=3)
        waiting = asyncio.create_task(workers.run(worker_tasks.process))
        await asyncio.sleep(0.3)
        first.cancel()
        return await asyncio.wait_for(asyncio.gather(first, waiting, return_exceptions=True), 20)

    try:
        assert run(workers, worker_tasks.process)
        assert all(isinstance(answer, (HTTPException, asyncio.CancelledError, int)) for answer in asyncio.run(several()))
        assert run(workers, worker_tasks.process, seconds=20)
    finally:
        workers.end()


@pytest.mark.slow
def test_they_end_with_a_service_that_is_killed(tmp_path):
    """Also where they hang."""
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
    number = int(process.stdout.readline())
    assert alive([number])
    process.kill()
    process.communicate()
    until(lambda: not alive([number]))
