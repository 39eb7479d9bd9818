"""The commands that go on from what a training wrote, in the words that a shell takes."""
import os
import shlex
import sys

from ..core.project import command, relative_to_user, user_directory


def resume_command(checkpoint: str, rank_size: int) -> str:
    """The words that name a checkpoint and what goes on from it."""
    if not checkpoint:
        return "this process writes no checkpoints" + (", rank 0 does" if rank_size > 1 else "")
    here, checkpoint = os.getcwd(), os.path.abspath(checkpoint)
    before = ""
    if "CENTERNET_SEVERAL_SERVERS" in os.environ and checkpoint.startswith(os.path.join(here, "")):
        # Of this folder the launcher on this server makes room while others would look for the checkpoint in it.
        aside = os.path.join(user_directory(), f"{os.path.basename(here)}-earlier")
        before = f"first `{shlex.join(['mv', here, aside])}`, have that folder on each server, and "
        checkpoint = os.path.join(aside, os.path.relpath(checkpoint, here))
    words = ["--resume", "true", "--load_checkpoint_path", checkpoint]
    if rank_size > 1:
        return f"{before}go on with the launcher's same command and, behind it, {shlex.join(words)}"
    return f"go on with: {shlex.join([*sys.orig_argv, *words])}"


def commands_for(checkpoint: str, data_dir: str, result_dir: str) -> str:
    """Lines with the commands that evaluate, report, try and export a checkpoint, as they hold where the user stands.

    data_dir is the data set, "" if the training knows none, result_dir its save_result_dir.
    """
    checkpoint, result_dir = relative_to_user(checkpoint), relative_to_user(result_dir or ".")
    evaluation = ["--data_dir", relative_to_user(data_dir) or "DATA", "--load_checkpoint_path", checkpoint]
    steps = [
        ("eval.py", *evaluation, *(["--save_result_dir", result_dir] if result_dir != "." else [])),
        ("tools/report.py", result_dir),
        ("tools/predict.py", "--load_checkpoint_path", checkpoint, "--input", "IMAGES", "--output", "detections"),
        ("export.py", "--export_config.ckpt_file", checkpoint, "--export_config.export_format", "ONNX"),
    ]
    return "\n".join(["next:", *(f"  {command(script)} {shlex.join(words)}" for script, *words in steps)])
