"""Train twice over the same steps, once undisturbed and once killed at random times and resumed, and compare the runs.

python tests/soak/kills.py --folder DIR [--steps 8000] [--save_every 50] [--kills 24] [--seconds 110] [--seed 0]. Not
part of CI: takes an hour or more. With --save_every 1 most kills happen while a checkpoint is written.

Checks that a killed training finds an intact checkpoint and resumes from the last saved step, and that all losses and
the last checkpoint are bit-identical to the undisturbed training. Also reports the memory of the undisturbed training
over its steps.
"""
import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path[0] = ROOT

SIDE, BATCH = 64, 2


def make_records(folder):
    """Generate a data set of drawn shapes as MindRecord files, unless it exists; return their folder."""
    records = os.path.join(folder, "records")
    if not os.path.exists(os.path.join(records, "coco_det.train.mind.manifest.json")):
        python("tools/make_shapes_dataset.py", "--output", os.path.join(folder, "shapes"))
        python("src/dataset.py", "--coco_data_dir", os.path.join(folder, "shapes"), "--mindrecord_dir", records)
    return records


def python(script, *args):
    """Run one of the project's scripts without output."""
    subprocess.run([sys.executable, os.path.join(ROOT, script), *args], check=True, stdout=subprocess.DEVNULL)


def start(folder, records, steps, save_every, resume):
    """Start train.py; its output is appended to a file in the folder."""
    args = ["--device_target", "CPU", "--mindrecord_dir", records, "--save_checkpoint_path", folder,
            "--save_result_dir", folder, "--train_config.batch_size", BATCH,
            "--dataset_config.input_res_train", [SIDE, SIDE], "--save_checkpoint_steps", save_every,
            "--save_checkpoint_num", 2, "--epoch_size", 10_000, "--train_steps", steps, "--resume", str(resume).lower()]
    command = [sys.executable, os.path.join(ROOT, "train.py"), *map(str, args)]
    with open(os.path.join(folder, "output.txt"), "ab") as output:
        return subprocess.Popen(command, stdout=output, stderr=output)


def saved_step(folder):
    """The step of the newest checkpoint, or 0 if there is none."""
    from src.weights.run_folder import CHECKPOINT_NAME, find_checkpoints

    found = find_checkpoints(os.path.join(folder, "ckpt_0"))
    return int(CHECKPOINT_NAME.fullmatch(os.path.basename(found[-1]))[1]) if found else 0


def memory(pid):
    """The current memory of a process in MB, or None if it has ended."""
    with contextlib.suppress(OSError, StopIteration), open(f"/proc/{pid}/status", encoding="utf-8") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmRSS"))
    return None


def train_with_kills(folder, records, options, rng):
    """Train with options.kills kills, each after up to 2 * options.seconds; return (number of kills, problems)."""
    done, problems = 0, []
    while True:
        saved, written = saved_step(folder), output_size(folder)
        process = start(folder, records, options.steps, options.save_every, saved > 0)
        try:
            process.wait(rng.uniform(0, 2 * options.seconds) if done < options.kills else None)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            done += 1
            print(f"kill {done}: at step {last_step(folder)}, last saved {saved_step(folder)}", flush=True)
        problems += check_output(folder, written, saved)
        if process.returncode != -signal.SIGKILL:
            return done, problems + [f"exit code {process.returncode} of train.py"] * (process.returncode != 0)


def output_size(folder):
    """The size of the output of the trainings in a folder so far."""
    path = os.path.join(folder, "output.txt")
    return os.path.getsize(path) if os.path.exists(path) else 0


def check_output(folder, written, saved):
    """Problems in a training's output after the first `written` bytes; it should have resumed after step `saved`."""
    with open(os.path.join(folder, "output.txt"), encoding="utf-8", errors="replace") as file:
        file.seek(written)
        lines = file.read().splitlines()
    resumed = [int(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("resuming ")]
    bad = [line for line in lines if line.startswith(("left out:", "error:", "Traceback"))]
    return bad + [f"resumed after step {step}, but step {saved} was saved" for step in resumed if step != saved]


def watch_memory(process, folder, samples):
    """Append (step, MB) of a training to samples once a second, until it ends."""
    while process.poll() is None:
        step, megabytes = last_step(folder), memory(process.pid)
        if step and megabytes:
            samples.append((step, megabytes))
        time.sleep(1)


def last_step(folder):
    """The last step in the record of a training, or 0 if there is none."""
    try:
        with open(os.path.join(folder, "train_record.jsonl"), "rb") as file:
            file.seek(-min(os.path.getsize(file.name), 1000), os.SEEK_END)
            lines = file.read().splitlines(keepends=True)
        lines = [line for line in lines if line.startswith(b"{") and line.endswith(b"}\n")]
        return json.loads(lines[-1])["step"] if lines else 0
    except OSError:
        return 0


def compare(folders, steps):
    """The differences between the trainings in two folders, as sentences."""
    import numpy as np

    from src.runs.record import read_training_log
    from src.weights.checkpoints import read_checkpoint
    from src.weights.run_folder import find_checkpoints

    problems = []
    records = [read_training_log(os.path.join(folder, "train_record.jsonl")) for folder in folders]
    for folder, record in zip(folders, records):
        if [line["step"] for line in record] != list(range(1, steps + 1)):
            problems.append(f"{folder}: the record does not have each of the steps 1 to {steps} once")
    names = ("loss", "hm_loss", "wh_loss", "off_loss", "lr")
    differing = [one["step"] for one, other in zip(*records) if any(one[name] != other[name] for name in names)]
    if differing:
        problems.append(f"the losses of {len(differing)} steps differ, first at step {differing[0]}")
    one, other = (read_checkpoint(find_checkpoints(os.path.join(folder, "ckpt_0"))[-1]) for folder in folders)
    unequal = [name for name in one if not np.array_equal(one[name].asnumpy(), other[name].asnumpy())]
    if unequal:
        problems.append(f"{len(unequal)} of {len(one)} arrays of the last checkpoints differ, such as {unequal[0]}")
    print(f"final losses: {records[0][-1]['loss']!r} undisturbed, {records[1][-1]['loss']!r} killed and resumed")
    return problems


def describe_memory(samples):
    """Print the memory at each tenth of the steps, and its growth by least squares over the last nine tenths."""
    import numpy as np

    samples = np.array([sample for sample in samples if sample[0] < samples[-1][0]])  # without the shutdown
    steps = samples[:, 0]
    tenths = [samples[np.searchsorted(steps, step, "right") - 1] for step in np.linspace(steps[0], steps[-1], 11)]
    print("memory, undisturbed: " + ", ".join(f"{megabytes:.0f} MB at step {step:.0f}" for step, megabytes in tenths))
    late = samples[steps > steps[-1] / 10]
    print(f"growth: {1000 * np.polyfit(late[:, 0], late[:, 1], 1)[0]:.1f} MB per 1,000 steps")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", required=True,
                        help="an empty folder, or one with the MindRecord files of an earlier run")
    parser.add_argument("--steps", type=int, default=8000, help="number of training steps (default: %(default)s)")
    parser.add_argument("--save_every", type=int, default=50, help="steps between checkpoints (default: %(default)s)")
    parser.add_argument("--kills", type=int, default=24, help="number of kills (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=110, help="mean seconds between kills (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the times (default: %(default)s)")
    options = parser.parse_args()
    folder = os.path.abspath(options.folder)
    records = make_records(folder)
    for name in ("undisturbed", "killed"):
        os.mkdir(os.path.join(folder, name))
    start_time = time.time()
    undisturbed, killed = os.path.join(folder, "undisturbed"), os.path.join(folder, "killed")
    process, samples = start(undisturbed, records, options.steps, options.save_every, False), []
    watch = threading.Thread(target=watch_memory, args=(process, undisturbed, samples))
    watch.start()
    try:
        kills, problems = train_with_kills(killed, records, options, random.Random(options.seed))
        print(f"{kills} kills in {(time.time() - start_time) / 60:.0f} minutes of training", flush=True)
        watch.join()
    finally:
        process.kill()
    if process.wait():
        problems.append(f"exit code {process.returncode} of the undisturbed training")
    problems += compare((undisturbed, killed), options.steps)
    describe_memory(samples)
    if kills < options.kills:
        problems.append(f"the training finished after {kills} kills; use more --steps or fewer --seconds")
    print("\n".join(problems) or "the trainings are identical")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
