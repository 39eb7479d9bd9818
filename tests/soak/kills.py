"""Train twice over the same steps, once undisturbed and once killed at random moments and resumed, and compare the two.

python tests/soak/kills.py --folder DIR [--steps 8000] [--save_every 50] [--kills 24] [--seconds 110] [--seed 0]. Not part of CI: it takes
an hour or more. With --save_every 1 most kills fall into the writing of a checkpoint.

What must hold: a killed training finds a whole checkpoint and goes on from the last step that was saved; every step's loss and the last
checkpoint are, to the last bit, those of the training that was not killed. The memory of that one, by its steps, is reported, too.
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
    """A data set of drawn shapes as MindRecord files, made once."""
    records = os.path.join(folder, "records")
    if not os.path.exists(os.path.join(records, "coco_det.train.mind.manifest.json")):
        python("tools/make_shapes_dataset.py", "--output", os.path.join(folder, "shapes"))
        python("src/dataset.py", "--coco_data_dir", os.path.join(folder, "shapes"), "--mindrecord_dir", records)
    return records


def python(script, *words):
    """Run one of the project's scripts, quietly."""
    subprocess.run([sys.executable, os.path.join(ROOT, script), *words], check=True, stdout=subprocess.DEVNULL)


def start(place, records, steps, save_every, resume):
    """Start train.py in a process of its own; its output is added to a file in place."""
    words = ["--device_target", "CPU", "--mindrecord_dir", records, "--save_checkpoint_path", place, "--save_result_dir", place,
             "--train_config.batch_size", BATCH, "--dataset_config.input_res_train", [SIDE, SIDE], "--save_checkpoint_steps", save_every,
             "--save_checkpoint_num", 2, "--epoch_size", 10_000, "--train_steps", steps, "--resume", str(resume).lower()]
    with open(os.path.join(place, "output.txt"), "ab") as output:
        return subprocess.Popen([sys.executable, os.path.join(ROOT, "train.py"), *map(str, words)], stdout=output, stderr=output)


def saved_step(place):
    """The step of the newest checkpoint, 0 if there is none."""
    from src.weights.side_file import CHECKPOINT_NAME, find_checkpoints

    found = find_checkpoints(os.path.join(place, "ckpt_0"))
    return int(CHECKPOINT_NAME.fullmatch(os.path.basename(found[-1]))[1]) if found else 0


def memory(pid):
    """The memory of a process at this moment, in MB; None if it has ended."""
    with contextlib.suppress(OSError, StopIteration), open(f"/proc/{pid}/status", encoding="utf-8") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmRSS"))
    return None


def train_with_kills(place, records, options, chance):
    """Train, with options.kills kills, each after up to twice options.seconds; returns their number, and what went wrong as sentences."""
    done, problems = 0, []
    while True:
        saved, written = saved_step(place), output_size(place)
        process = start(place, records, options.steps, options.save_every, saved > 0)
        try:
            process.wait(chance.uniform(0, 2 * options.seconds) if done < options.kills else None)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            done += 1
            print(f"kill {done}: at step {last_step(place)}, the last one saved is {saved_step(place)}", flush=True)
        problems += look_at_output(place, written, saved)
        if process.returncode != -signal.SIGKILL:
            return done, problems + [f"train.py ended with {process.returncode}"] * (process.returncode != 0)


def output_size(place):
    """The bytes that the trainings in a place have printed."""
    path = os.path.join(place, "output.txt")
    return os.path.getsize(path) if os.path.exists(path) else 0


def look_at_output(place, written, saved):
    """What is wrong with what a training printed, after the first `written` bytes; it should have gone on after step `saved`."""
    with open(os.path.join(place, "output.txt"), encoding="utf-8", errors="replace") as file:
        file.seek(written)
        lines = file.read().splitlines()
    resumed = [int(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("resuming ")]
    bad = [line for line in lines if line.startswith(("left out:", "error:", "Traceback"))]
    return bad + [f"resumed after step {step}, and {saved} was saved" for step in resumed if step != saved]


def watch_memory(process, place, notes):
    """Note [(step, MB)] of a training once a second, until it ends."""
    while process.poll() is None:
        step, megabytes = last_step(place), memory(process.pid)
        if step and megabytes:
            notes.append((step, megabytes))
        time.sleep(1)


def last_step(place):
    """The last step in the record of a training, 0 if there is none."""
    try:
        with open(os.path.join(place, "train_record.jsonl"), "rb") as file:
            file.seek(-min(os.path.getsize(file.name), 1000), os.SEEK_END)
            lines = [line for line in file.read().splitlines(keepends=True) if line.startswith(b"{") and line.endswith(b"}\n")]
        return json.loads(lines[-1])["step"] if lines else 0
    except OSError:
        return 0


def compare(places, steps):
    """What differs between the two trainings in these places, as sentences."""
    import numpy as np

    from src.runs.record import read_training_log
    from src.weights.checkpoints import read_checkpoint
    from src.weights.side_file import find_checkpoints

    problems = []
    records = [read_training_log(os.path.join(place, "train_record.jsonl")) for place in places]
    for place, record in zip(places, records):
        if [line["step"] for line in record] != list(range(1, steps + 1)):
            problems.append(f"{place}: its record does not have the steps 1 to {steps} once each")
    names = ("loss", "hm_loss", "wh_loss", "off_loss", "lr")
    differing = [one["step"] for one, other in zip(*records) if any(one[name] != other[name] for name in names)]
    if differing:
        problems.append(f"{len(differing)} steps have another loss, the first is {differing[0]}")
    weights = [read_checkpoint(find_checkpoints(os.path.join(place, "ckpt_0"))[-1]) for place in places]
    unequal = [name for name in weights[0] if not np.array_equal(weights[0][name].asnumpy(), weights[1][name].asnumpy())]
    if unequal:
        problems.append(f"{len(unequal)} of {len(weights[0])} arrays of the last checkpoints differ, such as {unequal[0]}")
    print(f"final losses: {records[0][-1]['loss']!r} undisturbed, {records[1][-1]['loss']!r} killed and resumed")
    return problems


def describe_memory(notes):
    """The memory at tenths of the steps, and its growth over 1,000 of them by least squares over the last nine tenths."""
    import numpy as np

    notes = np.array([note for note in notes if note[0] < notes[-1][0]])  # not the end, when the process takes itself down
    tenths = [notes[np.searchsorted(notes[:, 0], step, "right") - 1] for step in np.linspace(notes[0, 0], notes[-1, 0], 11)]
    print("memory, undisturbed: " + ", ".join(f"{megabytes:.0f} MB at step {step:.0f}" for step, megabytes in tenths))
    late = notes[notes[:, 0] > notes[-1, 0] / 10]
    print(f"growth: {1000 * np.polyfit(late[:, 0], late[:, 1], 1)[0]:.1f} MB in 1,000 steps")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", required=True, help="an empty folder, or one with the records of an earlier call")
    parser.add_argument("--steps", type=int, default=8000, help="steps of both trainings (default: %(default)s)")
    parser.add_argument("--save_every", type=int, default=50, help="steps from one checkpoint to the next (default: %(default)s)")
    parser.add_argument("--kills", type=int, default=24, help="kills (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=110, help="mean time between them (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    options = parser.parse_args()
    folder = os.path.abspath(options.folder)
    records = make_records(folder)
    for name in ("undisturbed", "killed"):
        os.mkdir(os.path.join(folder, name))
    began = time.time()
    undisturbed, killed = os.path.join(folder, "undisturbed"), os.path.join(folder, "killed")
    process, notes = start(undisturbed, records, options.steps, options.save_every, False), []
    watch = threading.Thread(target=watch_memory, args=(process, undisturbed, notes))
    watch.start()
    try:
        kills, problems = train_with_kills(killed, records, options, random.Random(options.seed))
        print(f"{kills} kills in {(time.time() - began) / 60:.0f} minutes of training", flush=True)
        watch.join()
    finally:
        process.kill()
    if process.wait():
        problems.append(f"the undisturbed training ended with {process.returncode}")
    problems += compare((undisturbed, killed), options.steps)
    describe_memory(notes)
    if kills < options.kills:
        problems.append(f"the training was over after {kills} kills: more --steps or fewer --seconds are needed")
    print("\n".join(problems) or "the two trainings are the same")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
