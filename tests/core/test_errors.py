"""How scripts end: mistakes and interrupts."""
import glob
import os
import re
import signal
import subprocess
import sys

import pytest

from src.core.interrupts import Interrupts
from tests.conftest import ROOT, call_script, run_script

SCRIPTS = ["train.py", "eval.py", "export.py", "preprocess.py", "postprocess.py", "src/dataset.py",
           "scripts/ascend_distributed_launcher/get_distribute_train_cmd.py",
           *(os.path.relpath(path, ROOT) for path in sorted(glob.glob(f"{ROOT}/tools/*.py"))
             if re.search(r"errors\.run\(| start\(\"", open(path, encoding="utf-8").read()))]
SCRIPT = """
import os, signal, sys
sys.path.insert(0, {root!r})
from src.core import errors

def main():
    {body}

errors.run(main)
"""


def ended(body):
    """A process whose main() is body: CompletedProcess."""
    return subprocess.run([sys.executable, "-c", SCRIPT.format(root=ROOT, body=body)], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_both_signals_end_in_one_line_and_130(number):
    done = ended(f"os.kill(os.getpid(), signal.{number}); signal.pause()")
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


@pytest.mark.parametrize("closed, code, said", [(">&-", 0, "told\n"), ("2>&-", 0, ""), (">&- 2>&-", 0, "")])
def test_closed_streams_take_what_is_said(closed, code, said):
    """A daemon's parent may close them."""
    script = SCRIPT.format(root=ROOT, body="print('said', flush=True); print('told', file=sys.stderr)")
    done = subprocess.run(["sh", "-c", f'"$0" -c "$1" {closed}', sys.executable, script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (code, said)


def unread(command, streams=("stdout",)):
    """(exit code, what the other stream got) of a command of which nobody reads these streams."""
    reader, writer = os.pipe()
    os.close(reader)
    ends = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **dict.fromkeys(streams, writer)}
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(command, text=True, timeout=100, env=environment, **ends)
    os.close(writer)
    return done.returncode, "".join(text or "" for text in (done.stdout, done.stderr))


@pytest.mark.parametrize("body, streams, code, said", [
    ("print('said')", ["stdout"], 141, ""), ("print('said', flush=True)", ["stdout"], 141, ""), ("print('x' * 10**6)", ["stdout"], 141, ""),
    ("sys.stdout.write('said'); raise errors.UserError('wrong')", ["stdout"], 2, "error: wrong\n"),
    ("raise errors.UserError('wrong')", ["stderr"], 2, ""), ("raise errors.Interrupted('x')", ["stdout", "stderr"], 130, ""),
    ("print('said')", ["stdout", "stderr"], 141, ""), ("raise BrokenPipeError(32, 'Broken pipe')", [], 2, "error: Broken pipe\n"),
    ("raise SystemExit(3)", [], 3, ""), ("raise SystemExit('text')", [], 1, "text\n"),
])
def test_an_output_that_nobody_reads_ends_without_a_word(body, streams, code, said):
    """As with `| head`; a pipe of the work's own that breaks is an error."""
    assert unread([sys.executable, "-c", SCRIPT.format(root=ROOT, body=body)], streams) == (code, said)


def test_an_output_that_nobody_reads_as_it_is_written():
    """As the launchers have Python write."""
    command = [sys.executable, "-u", "-c", SCRIPT.format(root=ROOT, body="print('said'); raise errors.UserError('wrong')")]
    assert unread(command) == (141, "")


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_ends_so(script):
    code, said = unread([sys.executable, os.path.join(ROOT, script), "--help"])
    assert code in (0, 141) and said == ""  # argparse passes over it while it writes


def test_what_was_written_is_said():
    done = ended("raise errors.Interrupted('3 of 4 images; go on with: x')")
    assert (done.returncode, done.stderr) == (130, "interrupted: 3 of 4 images; go on with: x\n")


def test_an_ignored_signal_stays_ignored():
    """nohup and shells that start a process in the background ask for that."""
    script = SCRIPT.format(root=ROOT, body="os.kill(os.getpid(), signal.SIGINT); print('alive')")
    done = subprocess.run([sys.executable, "-c", f"import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n{script}"],
                          capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "alive\n")


@pytest.fixture
def clock(monkeypatch):
    """The time that Interrupts sees, as a list with one number."""
    now = [100.0]
    monkeypatch.setattr("src.core.interrupts.time.monotonic", lambda: now[0])
    return now


def test_the_echo_of_a_signal_does_not_count(clock):
    interrupts = Interrupts()
    with pytest.raises(KeyboardInterrupt):
        interrupts._handle()
    clock[0] += 0.5
    interrupts._handle()  # MindSpore's SIGTERM after SIGINT, or the launcher's after the terminal's
    clock[0] += 5
    with pytest.raises(KeyboardInterrupt):
        interrupts._handle()


def test_a_noted_signal_waits_and_a_second_one_does_not(clock):
    interrupts = Interrupts()
    with interrupts.deferred():
        assert not interrupts.requested
        interrupts._handle()
        interrupts._handle()
        assert interrupts.requested
        clock[0] += 5
        with pytest.raises(KeyboardInterrupt):
            interrupts._handle()


def test_a_held_signal_raises_at_the_end_of_the_block(clock):
    interrupts = Interrupts()
    done = []
    with pytest.raises(KeyboardInterrupt), interrupts.blocked():
        interrupts._handle()
        done.append("compiled")
    assert done
    with interrupts.blocked():  # a signal of before is not raised again
        pass


def test_a_process_can_end_at_once():
    done = ended("exec('with errors.INTERRUPTS.immediate(): os.kill(os.getpid(), signal.SIGINT); signal.pause()')")
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_signals_are_handled_where_nobody_ignores_them():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        interrupts = Interrupts()
        interrupts.install()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


LOADING = """
import os, signal, sys
sys.path[:0] = [{root!r}, {folder!r}]
from src.core import errors

def main():
    import mindspore.inner

errors.run(main)
"""


def test_a_signal_while_mindspore_is_loaded_ends_the_process_at_once(tmp_path):
    """An exception there leaves it half made, and Python then aborts with pages of trace."""
    package = tmp_path / "mindspore"
    package.mkdir()
    (package / "__init__.py").touch()
    body = "os.kill(os.getpid(), signal.SIGINT)"
    (package / "inner.py").write_text(f"import os, signal\ntry:\n    {body}\nexcept BaseException:\n    os.abort()\n")
    script = LOADING.format(root=ROOT, folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


@pytest.mark.parametrize("script", ["src/dataset.py", "tools/make_shapes_dataset.py"])
def test_a_signal_while_a_script_is_loaded(script, tmp_path):
    """Of those that load much before their main() runs: a stand-in for OpenCV sends the signal."""
    (tmp_path / "cv2.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nsignal.pause()\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, os.path.join(ROOT, script)], capture_output=True, text=True, timeout=60, env=environment)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_letters_that_the_terminal_lacks_are_printed_as_numbers():
    """Class names in Chinese on a latin-1 terminal, and file names that are no text."""
    for encoding, text in (("latin-1", "\\u77e9\\u5f62"), ("utf-8", "\\udcff")):
        script = SCRIPT.format(root=ROOT, body=f"print('{text}')")
        environment = {**os.environ, "PYTHONIOENCODING": encoding}
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, env=environment, timeout=60)
        assert (done.returncode, done.stdout.decode().strip()) == (0, text)


@pytest.mark.slow
@pytest.mark.parametrize("words", [["--help"], ["--devices", "0-x"], ["--merge", "/nowhere"], []])
def test_a_script_called_in_this_process_ends_as_in_its_own(words, tmp_path):
    called, run = (start("tools/make_rank_table.py", *words, cwd=tmp_path, check=False) for start in (call_script, run_script))
    assert (called.returncode, called.stdout, called.stderr) == (run.returncode, run.stdout, run.stderr)


def test_a_script_called_in_this_process_leaves_it_as_it_was(tmp_path):
    """One that breaks: its traceback is told as a process tells it."""
    script = tmp_path / "breaks.py"
    script.write_text("import os, signal, sys\nos.environ['LEFT'] = os.getcwd()\nsys.path.append('left')\n"
                      "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nraise ValueError(sys.argv[1])\n")
    before = os.getcwd(), list(sys.path), sys.argv, dict(os.environ), signal.getsignal(signal.SIGTERM)
    done = call_script(script, "reason", cwd=tmp_path, check=False)
    assert done.returncode == 1 and "Traceback" in done.stderr and done.stderr.endswith("ValueError: reason\n")
    assert before == (os.getcwd(), list(sys.path), sys.argv, dict(os.environ), signal.getsignal(signal.SIGTERM))
    with pytest.raises(AssertionError, match="ValueError: reason"):
        call_script(script, "reason", cwd=tmp_path)


def test_a_called_script_does_not_take_the_place_of_the_tests(tmp_path):
    """The project's loss.py becomes another process: called in this one, it would end the tests without a word."""
    done = call_script("loss.py", "--help", cwd=tmp_path, check=False)
    assert done.returncode == 1 and "call it with run_script" in done.stderr


def test_the_exit_code_is_told_in_a_new_file(tmp_path):
    """A signal while it is written does not change it, and a file that is there stays."""
    environment = {**os.environ, "CENTERNET_EXIT_CODE_FILE": "code"}
    script = SCRIPT.format(root=ROOT, body="return 3")
    slow = script.replace("errors.run(", "open_file = open\nerrors.open = lambda *words, **more: (os.kill(os.getpid(), signal.SIGTERM), "
                          "open_file(*words, **more))[1]\nerrors.run(")
    done = subprocess.run([sys.executable, "-c", slow], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr, (tmp_path / "code").read_text()) == (3, "", "3\n")
    (tmp_path / "code").write_text("mine")
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, timeout=60)
    assert (tmp_path / "code").read_text() == "mine"
