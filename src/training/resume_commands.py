"""Command lines that continue from the output of a training run."""
import os
import shlex
import sys

from ..core.project import next_steps, relative_to_user, user_directory
from ..inference.models import uses_of
from ..weights.run_folder import run_of


def resume_command(checkpoint: str, rank_size: int) -> str:
    """Return the instruction for resuming from a checkpoint, as the end of a message."""
    if not checkpoint:
        return "this process writes no checkpoints" + (", rank 0 does" if rank_size > 1 else "")
    here, checkpoint = os.getcwd(), os.path.abspath(checkpoint)
    before = ""
    if "CENTERNET_SEVERAL_SERVERS" in os.environ and checkpoint.startswith(os.path.join(here, "")):
        # The launcher on this server renames this folder while others would look for the checkpoint in it.
        backup = os.path.join(user_directory(), f"{os.path.basename(here)}-earlier")
        before = f"first `{shlex.join(['mv', here, backup])}`, copy that folder to each server, and "
        checkpoint = os.path.join(backup, os.path.relpath(checkpoint, here))
    options = ["--resume", "true", "--load_checkpoint_path", checkpoint]
    if rank_size > 1:
        return f"{before}repeat the launcher's command with {shlex.join(options)} appended"
    return f"resume with: {shlex.join([*sys.orig_argv, *options])}"


def commands_for(checkpoint: str, data_dir: str, result_dir: str) -> str:
    """Return lines with the commands that evaluate, report, try and export a checkpoint, relative to the user's folder.

    data_dir is the data set, or an empty string if the run has none; result_dir is its save_result_dir. The commands
    name the run's folder if it holds both.
    """
    result_dir, run = result_dir or ".", run_of(checkpoint)
    in_run = bool(run) and os.path.realpath(run) == os.path.realpath(result_dir)
    model, result_dir = relative_to_user(run if in_run else checkpoint), relative_to_user(result_dir)
    place = [] if in_run or result_dir == "." else ["--save_result_dir", result_dir]
    steps = [
        ("eval.py", "--data_dir", relative_to_user(data_dir) or "DATA", "--load_checkpoint_path", model, *place),
        ("tools/report.py", result_dir),
    ]
    return next_steps(*steps, *uses_of(run if in_run else checkpoint))
