"""src/core/console.py: the log in scripts and in other programs, --quiet, rank labels."""
import contextlib
import logging
import os
import re
import subprocess
import sys

import pytest

from src.commands import train
from src.core import console as console_module
from src.core.console import LOG, Console, be_quiet, compiling, log_skipped, progress, show
from src.inference.options import OptionParser
from src.model_utils.config import as_parameters, get_config
from src.model_utils.local_adapter import rank_label
from tests.conftest import ROOT, call_script, user_error
from tests.runs.test_record import terminal

PROGRAM = """import logging, sys
sys.path[0] = {root!r}
{configured}
from src import Predictor
from src.core.console import LOG, log_skipped
LOG.info("loaded 100%")
log_skipped(["a.jpg"])
"""


@pytest.mark.slow
@pytest.mark.parametrize("configured, stderr", [
    ("", ""),
    ("logging.basicConfig(level=logging.INFO)", "INFO:centernet:loaded 100%\nWARNING:centernet:skipped a.jpg\n"),
    ("logging.basicConfig()", "WARNING:centernet:skipped a.jpg\n"),
    ("logging.basicConfig(level=logging.INFO); logging.getLogger('centernet').setLevel(logging.ERROR)", ""),
])
def test_a_program_shows_and_silences_the_log(configured, stderr):
    command = [sys.executable, "-c", PROGRAM.format(root=ROOT, configured=configured)]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/")
    assert done.returncode == 0 and done.stdout == "" and done.stderr == stderr


def test_scripts_print_messages_unchanged(console):
    for message in ("loaded 100% %s", "", "two\nlines\n", "a\u2028b\x0cc"):
        LOG.info(message)
    LOG.debug("details")
    assert console.readouterr() == ("loaded 100% %s\n\ntwo\nlines\n\na\u2028b\x0cc\n", "")


def test_output_errors_reach_the_script(console, monkeypatch):
    """logging's own handlers would continue, and `| head` would train to the end."""
    def broken(*_):
        raise BrokenPipeError

    monkeypatch.setattr(sys.stdout, "write", broken)
    with pytest.raises(BrokenPipeError):
        LOG.info("loaded")


def test_a_quiet_log_has_only_warnings(console):
    be_quiet()
    LOG.info("loaded")
    log_skipped(["a.jpg"])
    assert list(progress(range(3), "working", every=0)) == [0, 1, 2]
    show("the result")
    assert console.readouterr() == ("skipped a.jpg\nthe result\n", "")


@pytest.mark.parametrize("quiet", [False, True])
def test_a_quiet_terminal_has_no_bar(quiet, console, monkeypatch):
    if quiet:
        be_quiet()
    with terminal(80) as (file, written):
        monkeypatch.setattr(sys, "stderr", file)
        assert list(progress(range(3), "working")) == [0, 1, 2]
        assert ("working: 100%" in written()) != quiet


class Clock:
    """A clock that only its owner moves, instead of the module time."""

    now = 0.0

    def perf_counter(self):
        return self.now


def working(clock, seconds, compilations):
    """Yield numbers, each after its seconds of work; before some, {number: seconds}, something is compiled."""
    for number, duration in enumerate(seconds):
        if number in compilations:
            with compiling(f"graph {number}"):
                clock.now += compilations[number]
        clock.now += duration
        yield number


def test_progress_does_not_count_compilation(console, monkeypatch):
    """Items of 2 s, of which the first compiles for 100 s and the sixth for 50 s: always 0.5 items per second, and no
    line before 10 s of work."""
    monkeypatch.setattr(console_module, "time", clock := Clock())
    assert list(progress(working(clock, [2.0] * 11, {0: 100, 5: 50}), "detecting", total=11)) == list(range(11))
    assert console.readouterr().out.splitlines() == [
        "compiling graph 0", "detecting: 5/11, 0.50/s, 12 s left", "compiling graph 5",
        "detecting: 10/11, 0.50/s, 2 s left"]


def test_a_failed_compilation_does_not_count_either(console, monkeypatch):
    monkeypatch.setattr(console_module, "time", clock := Clock())

    def items():
        with contextlib.suppress(ValueError), compiling("a graph"):
            clock.now += 100
            raise ValueError
        yield from working(clock, [4.0] * 3, {})

    list(progress(items(), "detecting"))
    assert "detecting: 3, 0.25/s" in console.readouterr().out


def test_a_bar_does_not_count_compilation(console, monkeypatch):
    """Items of 0.2 s, of which the first compiles for 1000 s: 5 items per second, and no minutes left."""
    clock = Clock()
    monkeypatch.setattr(console_module, "time", clock)
    monkeypatch.setattr("tqdm.std.time", lambda: clock.now)
    with terminal(100) as (file, written):
        monkeypatch.setattr(sys, "stderr", file)
        assert len(list(progress(working(clock, [0.2] * 50, {0: 1000}), "detecting", total=100))) == 50
        shown = written()
    rates = [float(rate) for rate in re.findall(r"([\d.]+)it/s", shown)]
    assert rates and all(abs(rate - 5) < 0.1 for rate in rates), shown
    assert not re.search(r"<\d\d+:\d\d:|<[1-9]\d:", shown), shown


@pytest.mark.parametrize("args, quiet", [
    ([], False), (["--quiet"], True), (["--quiet", "--seed", "2"], True), (["--quiet", "true"], True),
    (["--quiet=false"], False),
])
def test_quiet_on_the_command_line(args, quiet, console):
    assert get_config("", args).quiet == quiet
    assert LOG.isEnabledFor(logging.INFO) != quiet and LOG.isEnabledFor(logging.WARNING)
    assert get_config("", [f"--{name}={value}" for name, value in as_parameters(args).items()]).quiet == quiet


def test_quiet_in_a_configuration_file(console, tmp_path):
    (tmp_path / "r.yaml").write_text("quiet: true\n")
    get_config("", ["--config_path", str(tmp_path / "r.yaml")])
    assert not LOG.isEnabledFor(logging.INFO)


def test_quiet_needs_a_boolean():
    with user_error("quiet", "maybe"):
        get_config("", ["--quiet", "maybe"])


def test_a_tools_quiet_does_not_take_the_next_argument(console):
    parser = OptionParser()
    parser.add_argument("folders", nargs="+")
    assert parser.parse_args(["--quiet", "a", "b"]).folders == ["a", "b"] and not LOG.isEnabledFor(logging.INFO)


@pytest.mark.parametrize("args", [["--quiet"], ["--quiet", "true"]])
def test_a_quiet_check_prints_its_results(args, tiny_data):
    """The tables and the picture's path are omitted; headings, problems and the verdict are not."""
    options = ["--data_dir", tiny_data, "--quick", "--save_result_dir", tiny_data / "look"]
    verbose, quiet = (call_script("tools/check_dataset.py", *options, *more, check=False) for more in ([], args))
    assert verbose.returncode == quiet.returncode
    assert verbose.stdout.partition("\nnext:")[0].splitlines()[-1] == quiet.stdout.splitlines()[-1]
    lines = quiet.stdout.splitlines()
    assert set(lines) < set(verbose.stdout.splitlines()) and any(line.startswith("val: ") for line in lines)


# ---------------------------------------------------------------- ranks


@pytest.mark.parametrize("environment, label", [
    ({}, ""), ({"RANK_ID": "1"}, ""), ({"RANK_ID": "0", "RANK_SIZE": "2"}, ""),
    ({"RANK_ID": "1", "RANK_SIZE": "2"}, "[rank 1] "),
    ({"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3"}, "[rank 3] "),
    ({"MS_ROLE": "MS_WORKER", "MS_NODE_ID": "2"}, "[rank 2] "),
])
def test_rank_label(environment, label, monkeypatch):
    for name in ("RANK_ID", "RANK_SIZE", "MS_ROLE", "MS_NODE_ID", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert rank_label() == label


def test_each_line_has_the_label(console):
    LOG.handlers = [Console("[rank 1] ")]
    LOG.info("one\ntwo")
    assert console.readouterr().out == "[rank 1] one\n[rank 1] two\n"


@pytest.mark.parametrize("on_terminal, args, labeled", [
    (True, [], True), (False, [], False), (True, ["--distribute", "false"], False),
])
def test_ranks_are_labeled_on_a_terminal(on_terminal, args, labeled, console, monkeypatch, tmp_path):
    """A rank's log file has no labels."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py", *args])
    for name, value in {"RANK_ID": "1", "RANK_SIZE": "2"}.items():
        monkeypatch.setitem(os.environ, name, value)
    with terminal(110) as (file, written):
        with monkeypatch.context() as patch, user_error("--mindrecord_dir"):
            if on_terminal:
                patch.setattr(sys, "stdout", file)
            train.main()
        lines = (written() if on_terminal else console.readouterr().out).splitlines()
    assert lines and all(line.startswith("[rank 1] ") == labeled for line in lines)
