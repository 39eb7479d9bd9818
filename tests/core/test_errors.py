"""How scripts end: user errors, interrupts, closed pipes."""
import glob
import os
import re
import signal
import subprocess
import sys

import pytest

from src.core import errors
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


def run_body(body):
    """Run a script with this body of main(); return the CompletedProcess."""
    command = [sys.executable, "-c", SCRIPT.format(root=ROOT, body=body)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_both_signals_print_one_line_and_exit_with_130(number):
    done = run_body(f"os.kill(os.getpid(), signal.{number}); signal.pause()")
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


@pytest.mark.parametrize("closed, code, stderr", [(">&-", 0, "error\n"), ("2>&-", 0, ""), (">&- 2>&-", 0, "")])
def test_closed_streams_discard_output(closed, code, stderr):
    """A daemon's parent may close them."""
    script = SCRIPT.format(root=ROOT, body="print('output', flush=True); print('error', file=sys.stderr)")
    command = ["sh", "-c", f'"$0" -c "$1" {closed}', sys.executable, script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (code, stderr)


def unread(command, streams=("stdout",)):
    """Run a command with these streams as closed pipes; return (exit code, output on the other stream)."""
    reader, writer = os.pipe()
    os.close(reader)
    ends = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **dict.fromkeys(streams, writer)}
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(command, text=True, timeout=100, env=environment, **ends)
    os.close(writer)
    return done.returncode, "".join(text or "" for text in (done.stdout, done.stderr))


@pytest.mark.parametrize("body, streams, code, output", [
    ("print('text')", ["stdout"], 141, ""), ("print('text', flush=True)", ["stdout"], 141, ""),
    ("print('x' * 10**6)", ["stdout"], 141, ""),
    ("sys.stdout.write('text'); raise errors.UserError('wrong')", ["stdout"], 2, "error: wrong\n"),
    ("raise errors.UserError('wrong')", ["stderr"], 2, ""),
    ("raise errors.Interrupted('x')", ["stdout", "stderr"], 130, ""),
    ("print('text')", ["stdout", "stderr"], 141, ""),
    ("raise BrokenPipeError(32, 'Broken pipe')", [], 2, "error: Broken pipe\n"),
    ("raise SystemExit(3)", [], 3, ""), ("raise SystemExit('text')", [], 1, "text\n"),
])
def test_a_closed_output_pipe_ends_a_script_silently(body, streams, code, output):
    """As with `| head`; another broken pipe is an error."""
    assert unread([sys.executable, "-c", SCRIPT.format(root=ROOT, body=body)], streams) == (code, output)


def test_a_closed_output_pipe_with_unbuffered_output():
    """The launchers run Python with -u."""
    script = SCRIPT.format(root=ROOT, body="print('text'); raise errors.UserError('wrong')")
    assert unread([sys.executable, "-u", "-c", script]) == (141, "")


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_closed_output_pipe_ends_every_script_silently(script):
    code, output = unread([sys.executable, os.path.join(ROOT, script), "--help"])
    assert code in (0, 141) and output == ""  # argparse ignores the error while it prints


def test_the_message_of_an_interrupt_is_printed():
    done = run_body("raise errors.Interrupted('3 of 4 images; continue with: x')")
    assert (done.returncode, done.stderr) == (130, "interrupted: 3 of 4 images; continue with: x\n")


def test_an_ignored_signal_stays_ignored():
    """nohup ignores SIGHUP, and shells make background processes ignore SIGINT."""
    script = SCRIPT.format(root=ROOT, body="os.kill(os.getpid(), signal.SIGINT); print('alive')")
    ignoring = f"import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n{script}"
    done = subprocess.run([sys.executable, "-c", ignoring], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "alive\n")


@pytest.fixture
def clock(monkeypatch):
    """The clock of Interrupts, as a list with one number."""
    now = [100.0]
    monkeypatch.setattr("src.core.interrupts.time.monotonic", lambda: now[0])
    return now


def test_the_echo_of_a_signal_is_ignored(clock):
    interrupts = Interrupts()
    with pytest.raises(KeyboardInterrupt):
        interrupts._handle()
    clock[0] += 0.5
    interrupts._handle()  # MindSpore's SIGTERM after SIGINT, or the launcher's after the terminal's
    clock[0] += 5
    with pytest.raises(KeyboardInterrupt):
        interrupts._handle()


def test_a_deferred_signal_waits_and_a_second_one_does_not(clock):
    interrupts = Interrupts()
    with interrupts.deferred():
        assert not interrupts.requested
        interrupts._handle()
        interrupts._handle()
        assert interrupts.requested
        clock[0] += 5
        with pytest.raises(KeyboardInterrupt):
            interrupts._handle()


def test_a_blocked_signal_raises_at_the_end_of_the_block(clock):
    interrupts = Interrupts()
    done = []
    with pytest.raises(KeyboardInterrupt), interrupts.blocked():
        interrupts._handle()
        done.append("compiled")
    assert done
    with interrupts.blocked():  # an earlier signal is not raised again
        pass


def test_a_signal_can_end_a_process_immediately():
    done = run_body("exec('with errors.INTERRUPTS.immediate(): os.kill(os.getpid(), signal.SIGINT); signal.pause()')")
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_signals_that_are_not_ignored_are_handled():
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


def test_a_signal_during_the_import_of_mindspore_ends_the_process_immediately(tmp_path):
    """An exception would leave it half initialized, and Python would abort with pages of traceback."""
    package = tmp_path / "mindspore"
    package.mkdir()
    (package / "__init__.py").touch()
    body = "os.kill(os.getpid(), signal.SIGINT)"
    (package / "inner.py").write_text(f"import os, signal\ntry:\n    {body}\nexcept BaseException:\n    os.abort()\n")
    script = LOADING.format(root=ROOT, folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


@pytest.mark.parametrize("script", ["src/dataset.py", "tools/make_shapes_dataset.py"])
def test_a_signal_while_a_script_is_loading(script, tmp_path):
    """In scripts with imports before main(): a stand-in for OpenCV sends the signal."""
    (tmp_path / "cv2.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nsignal.pause()\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, os.path.join(ROOT, script)], capture_output=True, text=True, timeout=60,
                          env=environment)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_characters_outside_the_terminals_encoding_are_escaped():
    """Chinese class names on a latin-1 terminal, and undecodable file names."""
    for encoding, text in (("latin-1", "\\u77e9\\u5f62"), ("utf-8", "\\udcff")):
        script = SCRIPT.format(root=ROOT, body=f"print('{text}')")
        environment = {**os.environ, "PYTHONIOENCODING": encoding}
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, env=environment, timeout=60)
        assert (done.returncode, done.stdout.decode().strip()) == (0, text)


@pytest.mark.slow
@pytest.mark.parametrize("args", [["--help"], ["--devices", "0-x"], ["--merge", "/nowhere"], []])
def test_a_script_in_this_process_ends_as_in_its_own(args, tmp_path):
    called, run = (start("tools/make_rank_table.py", *args, cwd=tmp_path, check=False)
                   for start in (call_script, run_script))
    assert (called.returncode, called.stdout, called.stderr) == (run.returncode, run.stdout, run.stderr)


def test_a_script_in_this_process_leaves_it_unchanged(tmp_path):
    """A script that fails: its traceback is printed as by a process of its own."""
    script = tmp_path / "breaks.py"
    script.write_text("import os, signal, sys\nos.environ['LEFT'] = os.getcwd()\nsys.path.append('left')\n"
                      "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nraise ValueError(sys.argv[1])\n")
    before = os.getcwd(), list(sys.path), sys.argv, dict(os.environ), signal.getsignal(signal.SIGTERM)
    done = call_script(script, "reason", cwd=tmp_path, check=False)
    assert done.returncode == 1 and "Traceback" in done.stderr and done.stderr.endswith("ValueError: reason\n")
    assert before == (os.getcwd(), list(sys.path), sys.argv, dict(os.environ), signal.getsignal(signal.SIGTERM))
    with pytest.raises(AssertionError, match="ValueError: reason"):
        call_script(script, "reason", cwd=tmp_path)


def test_a_script_in_this_process_cannot_replace_it(tmp_path):
    """loss.py calls exec, which would silently end the tests."""
    done = call_script("loss.py", "--help", cwd=tmp_path, check=False)
    assert done.returncode == 1 and "call it with run_script" in done.stderr


def test_the_exit_code_is_written_to_a_new_file(tmp_path):
    """A signal during the write does not change it, and an existing file stays."""
    environment = {**os.environ, "CENTERNET_EXIT_CODE_FILE": "code"}
    script = SCRIPT.format(root=ROOT, body="return 3")
    interrupting_open = ("open_file = open\nerrors.open = lambda *args, **kwargs: "
                         "(os.kill(os.getpid(), signal.SIGTERM), open_file(*args, **kwargs))[1]\n")
    interrupted = script.replace("errors.run(", f"{interrupting_open}errors.run(")
    done = subprocess.run([sys.executable, "-c", interrupted], cwd=tmp_path, env=environment, capture_output=True,
                          text=True, timeout=60)
    assert (done.returncode, done.stderr, (tmp_path / "code").read_text()) == (3, "", "3\n")
    (tmp_path / "code").write_text("mine")
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, timeout=60)
    assert (tmp_path / "code").read_text() == "mine"


def test_problems_are_raised_together():
    problems = errors.Problems()
    problems.raise_all()
    for message in ("a is 1", "b is 2\nc is 3", "b is 2"):
        with problems:
            raise errors.UserError(message)
    with problems:
        pass
    with pytest.raises(ValueError), problems:
        raise ValueError("not the user's")
    with pytest.raises(errors.UserError) as raised:
        problems.raise_all()
    assert str(raised.value) == "a is 1\nb is 2\nc is 3"
