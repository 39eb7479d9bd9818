"""src/runs/tensorboard.py, checked with TensorBoard's own reader."""
import math
import os
import re
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest

from src.core.errors import UserError
from src.runs.record import TrainingLog, read_training_log
from src.runs.tensorboard import Summaries
from tests.conftest import ROOT, TINY, noise_image, step_results, train_least


def read(folder):
    """TensorBoard's view of a folder: {tag: [(step, value)]}, images as encoded bytes."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0}).Reload()
    tags = events.Tags()
    shown = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags["scalars"]}
    return shown | {tag: [(event.step, event.encoded_image_string) for event in events.Images(tag)]
                    for tag in tags["images"]}


def record(summaries, steps, rate=0.5):
    """Write steps with a learning rate."""
    for step in steps:
        summaries.step(step, {"epoch": 0, "step": step, "loss": 2.0 + step, "hm_loss": 1.0, "wh_loss": 2.0,
                              "off_loss": 0.5, "lr": rate,
                              "images_per_second": 8.0, "scaling_sens": 1024.0, "overflow": False})


def test_written_events_are_read(tmp_path):
    image = cv2.GaussianBlur(noise_image(0), (0, 0), 5)
    summaries = Summaries(str(tmp_path / "a folder"), 0)
    record(summaries, (1, 2))
    summaries.scores(2, {"AP": 0.25, "AP_small": -1.0, "AP50": 0.75})
    summaries.image(2, "a \udcff.jpg", image)
    summaries.close()
    shown = read(tmp_path / "a folder")
    encoded = dict(shown.pop("predictions/a \\udcff.jpg"))[2]
    assert shown == {
        "losses/loss": [(1, 3.0), (2, 4.0)], "losses/hm_loss": [(1, 1.0), (2, 1.0)],
        "losses/wh_loss": [(1, 2.0), (2, 2.0)],
        "losses/off_loss": [(1, 0.5), (2, 0.5)], "rates/lr": [(1, 0.5), (2, 0.5)],
        "rates/images_per_second": [(1, 8.0), (2, 8.0)],
        "rates/scaling_sens": [(1, 1024.0), (2, 1024.0)], "scores/AP": [(2, 0.25)], "scores/AP50": [(2, 0.75)],
    }
    decoded = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    assert np.abs(decoded.astype(int) - image).mean() < 5  # JPEG; swapped color channels would differ far more


@pytest.mark.slow
def test_a_resumed_run_hides_repeated_steps(tmp_path):
    """Both runs start within one second, and the first was killed while writing."""
    first = Summaries(str(tmp_path), 0)
    record(first, range(1, 7), 0.5)
    first.close()
    path = next(tmp_path.iterdir())
    path.write_bytes(path.read_bytes()[:-10])
    content = path.read_bytes()
    second = Summaries(str(tmp_path), 3)
    assert not second.empty
    record(second, (4, 5), 0.25)
    second.close()
    assert read(tmp_path)["rates/lr"] == [(1, 0.5), (2, 0.5), (3, 0.5), (4, 0.25), (5, 0.25)]
    assert path.read_bytes() == content and len(list(tmp_path.iterdir())) == 2


def test_a_new_run_backs_up_the_earlier_one(tmp_path):
    for rate in (0.5, 0.25):
        summaries = Summaries(str(tmp_path / "tensorboard"), 0)
        record(summaries, (1,), rate)
        summaries.close()
    for name, rate in (("tensorboard.1", 0.5), ("tensorboard", 0.25)):
        assert read(tmp_path / name)["rates/lr"] == [(1, rate)]


@pytest.mark.parametrize("value, shown",
                         [(math.nan, math.nan), (math.inf, math.inf), (1e300, math.inf), (np.float32(0.5), 0.5)])
def test_numbers_of_a_diverged_training(value, shown, tmp_path):
    summaries = Summaries(str(tmp_path), 0)
    summaries.step(1, {"loss": value})
    summaries.scores(1, {"AP": value})
    summaries.close()
    for tag in ("losses/loss", "scores/AP"):
        assert read(tmp_path)[tag] == [(1, pytest.approx(shown, nan_ok=True))]


def test_a_full_disk_ends_in_one_sentence(tmp_path):
    class Full:
        def write_event(self, event):
            raise OSError(28, "No space left on device")

    summaries = Summaries(str(tmp_path), 0)
    summaries.writer = Full()
    with pytest.raises(UserError, match=f"{tmp_path} .*No space left on device"):
        record(summaries, (1,))
    summaries.close()


def logged(folder, steps, rate, branch="", **options):
    """Log steps, and a score after each, with a TrainingLog and Summaries."""
    log = TrainingLog(str(folder / "r.jsonl"), branch=branch,
                      summaries=Summaries(str(folder / "tensorboard"), options["done"]), **options)
    for step in steps:
        log.step(step, 10, step_results(1.0, 0.5, 0.3, 0.2, False, 1.0, rate), 4.0)
        log.scores(step, 10, {"AP": rate})
    log.close()


def test_a_resumed_run_without_event_files_replays_its_record(tmp_path):
    logged(tmp_path, (1, 2, 3), 0.5, done=0)
    shutil.rmtree(tmp_path / "tensorboard")
    logged(tmp_path, (3,), 0.25, done=2)
    shown = read(tmp_path / "tensorboard")
    assert shown["rates/lr"] == shown["scores/AP"] == [(1, 0.5), (2, 0.5), (3, 0.25)]


def test_going_back_to_a_branch_shows_its_steps(tmp_path):
    (tmp_path / "ckpt_0.1").mkdir()
    logged(tmp_path, (1, 2, 3, 4), 0.5, done=0)
    shutil.copy(tmp_path / "r.jsonl", tmp_path / "ckpt_0.1")
    logged(tmp_path, (3, 4, 5), 0.25, done=2)
    logged(tmp_path, (5,), 0.125, done=4, branch=str(tmp_path / "ckpt_0.1" / "r.jsonl"))
    shown = read(tmp_path / "tensorboard")
    assert shown["rates/lr"] == shown["scores/AP"] == [(1, 0.5), (2, 0.5), (3, 0.5), (4, 0.5), (5, 0.125)]


def test_without_the_package_training_does_not_start(tiny_records, tmp_path):
    code = f"""import runpy, sys
sys.modules.update(mindspore=None, tensorboardX=None)
sys.path.insert(0, {ROOT!r})
runpy.run_path({os.path.join(ROOT, "train.py")!r}, run_name="__main__")
"""
    args = [*map(str, TINY), "--mindrecord_dir", tiny_records, "--tensorboard", "true"]
    done = subprocess.run([sys.executable, "-c", code, *args], cwd=tmp_path, capture_output=True, text=True,
                          check=False)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert "pip install -r " in done.stderr and "requirements-tensorboard.txt" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_training_writes_event_files(least_run, tiny_records, light_steps, tmp_path):
    """A run without tensorboard is resumed with it, and with a log interval."""
    shutil.copytree(least_run / "ckpt_0", tmp_path / "ckpt_0")
    shutil.copy(least_run / "train_record.jsonl", tmp_path)
    args = ["--mindrecord_dir", tiny_records, "--train_steps", 7, "--load_checkpoint_path", "ckpt_0/centernet-1_3.ckpt"]
    done = train_least(*args, "--resume", "true", "--tensorboard", "true", "--log_interval", 5, cwd=tmp_path)
    assert re.findall(r"^epoch: .* step: (\d+)", done.stdout, re.M) == ["5", "7"]
    shown = read(tmp_path / "tensorboard")
    steps = read_training_log(str(tmp_path / "train_record.jsonl"))
    assert [entry["step"] for entry in steps] == list(range(1, 8))
    for tag, name in (("losses/loss", "loss"), ("rates/lr", "lr"), ("rates/images_per_second", "images_per_second")):
        assert shown[tag] == [(entry["step"], pytest.approx(entry[name], rel=1e-6)) for entry in steps]
