"""src/training_log.py: the log's lines and the record of steps."""
import re

import numpy as np
import pytest

from src import resume
from src.errors import UserError
from src.training_log import TrainingLog, read_training_log

LOG_LINE = re.compile(
    r"epoch: (\d+) \| current epoch percent: (\d\.\d{3}) \| step: (\d+) \| loss (\S+) \| "
    r"overflow (True|False) \| scaling_sens (\S+) \| lr (\S+)"
)


def test_a_resumed_record_goes_on_and_loses_nothing(tmp_path):
    """Steps beyond the checkpoint are done again; those that were recorded of them are kept aside."""
    path = str(tmp_path / "r.jsonl")

    def record(steps, done):
        log = TrainingLog(path, done)
        for step in steps:
            log.step(step, 10, (1.0, 0.5, 0.3, 0.2, False, 1.0, 1e-4), 4.0)
        log.close()

    def steps(name):
        return [entry["step"] for entry in read_training_log(str(tmp_path / name))]

    record((1, 2, 3, 4), 0)
    record((4, 5), 3)
    assert steps("r.jsonl") == [1, 2, 3, 4, 5] and steps("r.1.jsonl") == [1, 2, 3, 4]
    record((6,), 5)
    assert steps("r.jsonl") == [1, 2, 3, 4, 5, 6] and len(list(tmp_path.iterdir())) == 2
    record((1,), 0)
    assert steps("r.jsonl") == [1] and steps("r.2.jsonl") == [1, 2, 3, 4, 5, 6]


def test_going_back_to_a_branch_takes_its_record(tmp_path):
    """The run's own record is of the other branch, whose steps have the same numbers."""
    def record(path, steps, rate, **options):
        log = TrainingLog(str(path), **options)
        for step in steps:
            log.step(step, 10, (1.0, 0.5, 0.3, 0.2, False, 1.0, rate), 4.0)
        log.close()

    def entries(path):
        return [(entry["step"], entry["lr"]) for entry in read_training_log(str(path))]

    for name in ("ckpt_0.1", "ckpt_0.2"):
        (tmp_path / name).mkdir()
    path, old = tmp_path / "r.jsonl", tmp_path / "ckpt_0.1" / "r.jsonl"
    record(old, (1, 2, 3, 4), 0.1, done=0)
    record(path, (1, 2, 3, 4, 5), 0.2, done=0)
    branch = resume.record_beside(str(tmp_path / "ckpt_0.1" / "centernet-1_4.ckpt"), str(path))
    assert branch == str(old)
    for folder in (tmp_path / "ckpt_0.2", tmp_path):  # none, and the run's own
        assert resume.record_beside(str(folder / "c.ckpt"), str(path)) == ""
    record(path, (4, 5), 0.3, done=3, aside=str(tmp_path / "ckpt_0.2"), branch=branch)
    assert entries(path) == [(1, 0.1), (2, 0.1), (3, 0.1), (4, 0.3), (5, 0.3)]
    assert entries(tmp_path / "ckpt_0.2" / "r.jsonl") == [(step, 0.2) for step in range(1, 6)] and len(entries(old)) == 4


def test_a_record_on_a_full_disk(tmp_path):
    log = TrainingLog(None, 0)
    log.file = open("/dev/full", "w")
    with pytest.raises(UserError, match="/dev/full could not be written .No space left on device."):
        log.step(7, 10, (1.0, 0.5, 0.3, 0.2, False, 1.0, 1e-4), 4.0)
    assert log.file.closed


def test_the_log_line_and_its_record(tiny_run):
    lines = [line for line in (tiny_run / "stdout.txt").read_text().splitlines() if line.startswith("epoch:")]
    assert len(lines) == 7
    records = read_training_log(str(tiny_run / "train_record.jsonl"))
    for number, (line, record) in enumerate(zip(lines, records), 1):
        match = LOG_LINE.fullmatch(line)
        assert match, line
        epoch, percent, step, loss, overflow, scale, rate = match.groups()
        assert (int(epoch), float(percent), int(step)) == ((number - 1) // 5, ((number - 1) % 5 + 1) / 5, number)
        assert (overflow, scale) == ("False", "1024.0")
        assert np.float32(loss) == np.float32(record["loss"]) and np.float32(rate) == np.float32(record["lr"])
        parts = record["hm_loss"] + 0.1 * record["wh_loss"] + record["off_loss"]
        assert record["loss"] == pytest.approx(parts, rel=1e-5)
        assert record["images_per_second"] > 0
    np.testing.assert_allclose([record["lr"] for record in records], [2.5e-4] + [5e-4] * 6, rtol=1e-5)
