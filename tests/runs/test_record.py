"""src/runs/record.py: log lines, the progress bar on a terminal, the record of steps and scores."""
import contextlib
import fcntl
import json
import os
import pty
import re
import struct
import sys
import termios

import numpy as np
import pytest

from src.commands.loss import read_losses
from src.core.backups import MARK
from src.core.console import LOG, progress
from src.core.errors import UserError
from src.runs.record import TrainingLog, best_score, epochs_trained, is_record, read_scores, read_training_log
from src.training import resume
from tests.conftest import TINY, start_script, step_results

LOG_LINE = re.compile(
    r"epoch: (\d+) \| current epoch percent: (\d\.\d{3}) \| step: (\d+) \| loss (\S+) \| "
    r"overflow (True|False) \| scaling_sens (\S+) \| lr (\S+)"
)


def test_a_resumed_record_continues_and_loses_nothing(tmp_path):
    """Steps beyond the checkpoint are repeated; their earlier records are backed up."""
    path = str(tmp_path / "r.jsonl")

    def record(steps, done):
        log = TrainingLog(path, done)
        for step in steps:
            log.step(step, 10, step_results(1.0, 0.5, 0.3, 0.2, False, 1.0, 1e-4), 4.0)
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


def test_the_loss_chart_stays_next_to_its_record(tmp_path):
    """A new run moves both, going back copies both, and a resumed run keeps its own."""
    path, chart = tmp_path / "train_record.jsonl", tmp_path / "loss.png"

    def run(steps, done, drawn):
        log = TrainingLog(str(path), done)
        for step in steps:
            log.step(step, 10, step_results(1.0, 0.5, 0.3, 0.2, False, 1.0, 1e-4), 4.0)
        log.close()
        chart.write_text(f"{MARK}: {drawn}")

    run((1, 2, 3), 0, "first")
    run((4,), 3, "first, on")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["loss.png", "train_record.jsonl"]
    for number in (1, 3):  # other files: the next number with both names free is used
        (tmp_path / f"loss.{number}.png").write_text("mine")
    run((2, 3), 1, "went back")
    run((1,), 0, "new")
    names = ("loss.1.png", "loss.2.png", "loss.3.png", "loss.4.png", "loss.png")
    drawn = [(tmp_path / name).read_text().removeprefix(f"{MARK}: ") for name in names]
    assert drawn == ["mine", "first, on", "mine", "went back", "new"]
    assert [len(read_training_log(str(tmp_path / f"train_record.{name}.jsonl"))) for name in (2, 4)] == [4, 3]


def test_going_back_to_a_branch_uses_its_record(tmp_path):
    """The run's own record belongs to the other branch, with the same step numbers."""
    def record(path, steps, rate, **options):
        log = TrainingLog(str(path), **options)
        for step in steps:
            log.step(step, 10, step_results(1.0, 0.5, 0.3, 0.2, False, 1.0, rate), 4.0)
        log.close()

    def entries(path):
        return [(entry["step"], entry["lr"]) for entry in read_training_log(str(path))]

    for name in ("ckpt_0.1", "ckpt_0.2"):
        (tmp_path / name).mkdir()
    path, old = tmp_path / "r.jsonl", tmp_path / "ckpt_0.1" / "r.jsonl"
    record(old, (1, 2, 3, 4), 0.1, done=0)
    record(path, (1, 2, 3, 4, 5), 0.2, done=0)
    branch = resume.earlier_record(str(tmp_path / "ckpt_0.1" / "centernet-1_4.ckpt"), str(path))
    assert branch == str(old)
    for folder in (tmp_path / "ckpt_0.2", tmp_path):  # no record, and the run's own
        assert resume.earlier_record(str(folder / "c.ckpt"), str(path)) == ""
    record(path, (4, 5), 0.3, done=3, aside=str(tmp_path / "ckpt_0.2"), branch=branch)
    assert entries(path) == [(1, 0.1), (2, 0.1), (3, 0.1), (4, 0.3), (5, 0.3)]
    assert entries(tmp_path / "ckpt_0.2" / "r.jsonl") == [(step, 0.2) for step in range(1, 6)]
    assert len(entries(old)) == 4


def test_a_record_on_a_full_disk(tmp_path):
    log = TrainingLog(None, 0)
    log.file = open("/dev/full", "w")
    with pytest.raises(UserError, match="/dev/full .*No space left on device"):
        log.step(7, 10, step_results(1.0, 0.5, 0.3, 0.2, False, 1.0, 1e-4), 4.0)
    assert log.file.closed


def test_the_log_line_and_its_record(least_run):
    lines = [line for line in (least_run / "stdout.txt").read_text().splitlines() if line.startswith("epoch:")]
    assert len(lines) == 7
    records = read_training_log(str(least_run / "train_record.jsonl"))
    for number, (line, record) in enumerate(zip(lines, records), 1):
        match = LOG_LINE.fullmatch(line)
        assert match, line
        epoch, percent, step, loss, overflow, scale, rate = match.groups()
        assert (int(epoch), float(percent), int(step)) == ((number - 1) // 5, ((number - 1) % 5 + 1) / 5, number)
        assert (overflow, scale) == ("False", "1024.0")
        assert np.float32(loss) == np.float32(record["loss"]) and np.float32(rate) == np.float32(record["lr"])
        total = record["hm_loss"] + 0.1 * record["wh_loss"] + record["off_loss"]
        assert record["loss"] == pytest.approx(total, rel=1e-5)
        assert record["images_per_second"] > 0
    np.testing.assert_allclose([record["lr"] for record in records], [2.5e-4] + [5e-4] * 6, rtol=1e-5)


# ---------------------------------------------------------------- logged steps


def write_steps(log, steps, overflows=(), losses=None):
    for step in steps:
        loss = losses[step] if losses else 2.0
        results = step_results(np.float32(loss), 0.5, 0.3, 0.2, step in overflows, 1024.0, np.float32(1e-4))
        log.step(step, 10, results, 8.0)


@pytest.mark.parametrize("interval, first, last, overflows, expected", [
    (1, 1, 4, (), [1, 2, 3, 4]), (5, 1, 12, (), [5, 10, 12]),
    (5, 8, 15, (), [10, 15]),  # by step number, wherever the run starts
    (100, 1, 7, (2, 3), [2, 3, 7]),
])
def test_lines_every_log_interval_steps(interval, first, last, overflows, expected, tmp_path, console):
    """The last step and steps that overflow are always logged; the record has every step."""
    log = TrainingLog(str(tmp_path / "r.jsonl"), 0, interval=interval, last_step=last)
    write_steps(log, range(first, last + 1), overflows)
    log.close()
    lines = console.readouterr().out.splitlines()
    assert [int(LOG_LINE.fullmatch(line)[3]) for line in lines] == expected
    assert [entry["step"] for entry in read_training_log(str(tmp_path / "r.jsonl"))] == list(range(first, last + 1))


# ---------------------------------------------------------------- scores


SCORES = {"AP": 0.3124, "AP50": 0.7, "AP_small": -1.0}


def test_scores_are_separate_from_steps(tmp_path, console):
    path = str(tmp_path / "r.jsonl")
    log = TrainingLog(path, 0, last_step=20)
    write_steps(log, range(1, 11))
    log.scores(10, 10, SCORES)
    write_steps(log, range(11, 16))
    log.scores(15, 10, {"AP": np.float64(0.5)})
    log.close()
    lines = console.readouterr().out.splitlines()
    assert [line for line in lines if "AP" in line] == ["epoch 0: AP 0.312, AP50 0.700", "epoch 1: AP 0.500"]
    with open(path, encoding="utf-8") as file:
        assert json.loads(file.readlines()[10]) == {"epoch": 0, "step": 10, "scores": SCORES}
    assert read_scores(path) == [(10, 0, SCORES), (15, 1, {"AP": 0.5})]
    steps = read_training_log(path)
    assert [entry["step"] for entry in steps] == list(range(1, 16))
    assert epochs_trained(steps)[10] == 1 and epochs_trained(steps)[15] == 1.5
    assert read_losses(path, "log") == dict.fromkeys(range(1, 16), 2.0)  # the judge of a log reads steps only


def test_a_resumed_record_keeps_the_scores_up_to_its_start(tmp_path):
    """Scores after the last step that is kept stay; those of repeated steps are dropped."""
    path = str(tmp_path / "r.jsonl")
    log = TrainingLog(path, 0)
    for step in range(1, 6):
        write_steps(log, [step])
        log.scores(step, 10, {"AP": step / 10})
    log.close()
    TrainingLog(path, 3).close()
    assert [step for step, _, _ in read_scores(path)] == [1, 2, 3]
    assert [entry["step"] for entry in read_training_log(path)] == [1, 2, 3]
    assert [step for step, _, _ in read_scores(str(tmp_path / "r.1.jsonl"))] == [1, 2, 3, 4, 5]


def test_a_record_of_scores_only_is_backed_up(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text('{"epoch": 0, "step": 9, "scores": {"AP": 0.1}}\n')
    TrainingLog(str(path), 3).close()
    assert path.read_text() == "" and len(read_scores(str(tmp_path / "r.1.jsonl"))) == 1


@pytest.mark.parametrize("line", [
    '{"epoch": 0, "step": 5, "scores": {"AP": "high"}}', '{"epoch": 0, "step": 5, "scores": [0.3]}',
    '{"epoch": 0, "scores": {"AP": 0.3}}',
    '{"epoch": 0, "step": "5", "scores": {"AP": 0.3}}', '{"epoch": 0, "step": 5, "scores": null}', '["scores"]',
    '"scores"', "7",
    '{"epoch": 0, "step": 5, "sco', '{"epoch": true, "step": 5, "scores": {}}',
])
def test_damaged_scores_are_named(line, tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text(f'{{"epoch": 0, "step": 5, "scores": {{"AP": 0.3}}}}\n{line}\n')
    for read in (read_training_log, read_scores):
        with pytest.raises(UserError, match="r.jsonl, line 2: "):
            read(str(path))
    path.write_text(f'{{"epoch": 0, "step": 5, "scores": {{"AP": 0.3}}}}\n{line}')  # a run was killed here
    if line.endswith("sco"):
        assert len(read_scores(str(path))) == 1 and read_training_log(str(path)) == []


def test_the_best_score():
    scores = [(5, 0, {"AP": 0.1}), (10, 1, {"AP": 0.3}), (15, 2, {"AP": 0.3}), (20, 3, {"AP50": 0.9})]
    assert best_score(scores) == scores[2]  # of equal scores the later one
    assert best_score([]) is None and best_score(scores[3:]) is None and best_score([(5, 0, {"AP": -1.0})]) is None


# ---------------------------------------------------------------- progress bar


@contextlib.contextmanager
def terminal(columns):
    """A pseudo terminal: (a file to write to, a function that closes it and returns the output)."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    file = os.fdopen(slave, "w", encoding="utf-8")

    def written():
        file.close()
        return read_terminal(master)

    yield file, written
    os.close(master)


def read_terminal(master):
    """The complete output on a terminal whose other side is closed."""
    chunks = []
    with contextlib.suppress(OSError):  # raised by Linux at the end of the output
        while chunk := os.read(master, 65536):
            chunks.append(chunk)
    return b"".join(chunks).decode("utf-8")


def screen(text):
    """The lines on a terminal after output with carriage returns and cursor movements up."""
    lines, row, column = [""], 0, 0
    for token in re.findall(r"\x1b\[A|\r|\n|[^\x1b\r\n]+", text):
        if token == "\x1b[A":
            row -= 1
        elif token == "\r":
            column = 0
        elif token == "\n":
            row, column = row + 1, 0
            lines += [""] * (row == len(lines))
        else:
            lines[row] = lines[row].ljust(column)[:column] + token + lines[row][column + len(token) :]
            column += len(token)
    return [line.rstrip() for line in lines]


BAR = re.compile(r"epoch (\d+) \|.*\| step +(\d+)/(\d+), loss (\S+?)(?:, (\S+) images/s)?(?:, (\d+) overflows)?, "
                 r"(\S+) left")


def test_a_bar_on_a_terminal(tmp_path, monkeypatch, console):
    """Other lines, and another bar, appear above it; steps have no log lines."""
    with terminal(110) as (file, written):
        monkeypatch.setattr(sys, "stdout", file)
        monkeypatch.setattr(sys, "stderr", file)
        log = TrainingLog(str(tmp_path / "r.jsonl"), 4, interval=2, last_step=24)
        losses = {step: float("inf") if step == 8 else float(step) for step in range(5, 25)}
        write_steps(log, range(5, 15), (8,), losses)
        LOG.info("a warning")
        list(progress(range(3), "detecting"))
        log.scores(14, 10, SCORES)
        write_steps(log, range(15, 25), (), losses)
        log.close()
        LOG.info("the end")
        lines = screen(written())
    assert lines[0] == "a warning" and lines[1].startswith("detecting: 100%")
    assert lines[2] == "epoch 1: AP 0.312, AP50 0.700"
    epoch, step, of, loss, rate, overflows, left = BAR.fullmatch(lines[3]).groups()
    assert (epoch, step, of, rate, overflows) == ("2", "24", "24", "8.0", "1") and re.fullmatch(r"[\d:]+", left)
    # mean of the finite ones of the last 20
    assert float(loss) == pytest.approx((sum(range(5, 25)) - 8) / 19, rel=1e-3)
    assert lines[4:] == ["the end", ""]
    assert len(read_training_log(str(tmp_path / "r.jsonl"))) == 20


def test_closing_before_the_first_step_shows_no_bar(monkeypatch):
    with terminal(80) as (file, written):
        monkeypatch.setattr(sys, "stdout", file)
        TrainingLog(None, 0, last_step=9).close()
        assert written() == ""


@pytest.mark.slow
def test_training_on_a_terminal(least_graphs, tiny_records, tmp_path):
    """train.py on a terminal: each step moves the bar, and is recorded."""
    args = [*TINY, "--epoch_size", 2, "--compile_cache_dir", least_graphs, "--mindrecord_dir", tiny_records,
            "--train_steps", 7]
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    with os.fdopen(slave, "wb") as screen_of_process, open(os.devnull, "wb") as nowhere:
        process = start_script("tests/least_train.py", *args, cwd=tmp_path, stdout=screen_of_process, stderr=nowhere)
    text = read_terminal(master)
    os.close(master)
    assert process.wait() == 0, text
    bars = [match for line in re.split(r"[\r\n]+", text) if (match := BAR.fullmatch(line.strip()))]
    assert {int(bar[2]) for bar in bars} <= set(range(1, 8))
    assert bars[0][2] == "1" and bars[-1][2] == "7" and bars[-1][3] == "7"
    assert "current epoch percent" not in text
    records = read_training_log(str(tmp_path / "train_record.jsonl"))
    assert float(bars[0][4]) == pytest.approx(records[0]["loss"], rel=1e-3)
    assert float(bars[-1][4]) == pytest.approx(np.mean([entry["loss"] for entry in records]), rel=1e-3)
    lines = screen(text)
    assert BAR.fullmatch(lines[next(index for index, line in enumerate(lines) if line.startswith("peak memory")) - 1])


@pytest.mark.parametrize("text, ours", [
    ('{"epoch": 1, "val_loss": 0.5}', False), ('{"step": 1, "hm_loss": 0.5}', True), ('{"scores": {}}', True),
])
def test_a_record_is_recognized_by_the_losses_of_a_task(text, ours, tmp_path):
    (tmp_path / "train_record.jsonl").write_text(text + "\n")
    assert is_record(str(tmp_path / "train_record.jsonl")) == ours


def test_a_record_that_lacks_a_loss_of_its_task_is_refused(tmp_path):
    path = tmp_path / "train_record.jsonl"
    step = {"epoch": 0, "step": 1, "loss": 1.0, "hm_loss": 0.5, "wh_loss": 0.5, "off_loss": 0.1, "lr": 0.1,
            "images_per_second": 3.0}
    for lost in ("hm_loss", "wh_loss"):
        without = {name: value for name, value in step.items() if name != lost}
        path.write_text(json.dumps(without) + "\n" + json.dumps(step) + "\n")
        with pytest.raises(UserError, match=f"line 1.*{lost}"):
            read_training_log(str(path))
