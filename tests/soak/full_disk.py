"""Train on a disk that runs full, again and again.

Each time train.py must end with one sentence and leave the last checkpoint whole, and go on when there is room again.

python tests/soak/full_disk.py --folder DIR [--trials 20] [--seed 0]. DIR is an empty file system of its own with some 300 MB, such as
one made by mount -t tmpfs -o size=300m tmpfs DIR. Not part of CI.
"""
import argparse
import os
import random
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path[0] = ROOT

SMALL = ("--device_target", "CPU", "--dataset_config.input_res_train", "[64, 64]", "--train_config.batch_size", "4",
         "--net_config.num_stacks", "[1, 1, 1, 1]", "--net_config.head_conv", "16")
SAVE_EVERY = 5


def train(place, records, steps):
    """Train up to a step, from the newest checkpoint on; returns (exit code, what train.py printed)."""
    words = [*SMALL, "--mindrecord_dir", records, "--save_checkpoint_path", place, "--save_result_dir", place,
             "--save_checkpoint_steps", str(SAVE_EVERY), "--save_checkpoint_num", "1", "--epoch_size", "10000",
             "--train_steps", str(steps), "--resume", str(os.path.isdir(os.path.join(place, "ckpt_0"))).lower()]
    command = [sys.executable, os.path.join(ROOT, "train.py"), *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.returncode, done.stdout


def fill(folder, room):
    """Fill a file system but for `room` bytes; returns the file that does."""
    path = os.path.join(folder, "ballast")
    disk = os.statvfs(folder)
    with open(path, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(disk.f_bavail * disk.f_frsize - room, 1))
    return path


def look(place, code, output, step):
    """What is wrong after a training met a full disk, as sentences; step: the one whose checkpoint there was before."""
    from src.runs.record import read_training_log
    from src.weights.checkpoints import read_checkpoint
    from src.weights.side_file import find_checkpoints

    problems = []
    last = output.strip().splitlines()[-1]
    if code != 2 or "Traceback" in output or "could not be written" not in last:
        problems.append(f"exit code {code}: {last}")
    found = find_checkpoints(os.path.join(place, "ckpt_0"))
    if not found or int(read_checkpoint(found[-1])["step"].asnumpy()) < step:
        problems.append(f"no checkpoint of step {step} or later: {found}")
    names = sorted(name for folder in (place, os.path.join(place, "ckpt_0")) for name in os.listdir(folder))
    if any("partial" in name for name in names):
        problems.append(f"left behind: {names}")
    read_training_log(os.path.join(place, "train_record.jsonl"))
    return problems


def main():
    from tests.soak.kills import make_records

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", required=True)
    parser.add_argument("--trials", type=int, default=20, help="times the disk is full (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the room that is left (default: %(default)s)")
    options = parser.parse_args()
    chance, problems = random.Random(options.seed), []
    place = os.path.join(options.folder, "run")
    os.mkdir(place)
    with tempfile.TemporaryDirectory() as elsewhere:
        records = make_records(elsewhere)
        for trial in range(options.trials):
            step = trial * SAVE_EVERY + SAVE_EVERY
            code, output = train(place, records, step)
            if code:
                raise SystemExit(output)
            size = max(entry.stat().st_size for entry in os.scandir(os.path.join(place, "ckpt_0")))
            room = chance.choice((chance.randrange(20_000), chance.randrange(size)))
            ballast = fill(options.folder, room)
            code, output = train(place, records, step + 10 * SAVE_EVERY)
            os.remove(ballast)
            found = look(place, code, output, step)
            problems += found
            print(f"{room:12} of {size} bytes of room: {'; '.join(found) or output.strip().splitlines()[-1]}", flush=True)
    print(f"{options.trials} trials, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
