"""Train repeatedly on a disk that fills up.

Each time train.py must end with a one-sentence error, leave the last checkpoint intact, and resume when there is space
again.

python tests/soak/full_disk.py --folder DIR [--trials 20] [--seed 0]. DIR is the root of an empty file system of about
300 MB, such as mount -t tmpfs -o size=300m tmpfs DIR. Not part of CI.
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


def train(folder, records, steps):
    """Train up to a step, from the newest checkpoint; return (exit code, output of train.py)."""
    resume = os.path.isdir(os.path.join(folder, "ckpt_0"))
    command = [sys.executable, os.path.join(ROOT, "train.py"), *SMALL, "--mindrecord_dir", records,
               "--save_checkpoint_path", folder, "--save_result_dir", folder,
               "--save_checkpoint_steps", str(SAVE_EVERY), "--save_checkpoint_num", "1", "--epoch_size", "10000",
               "--train_steps", str(steps), "--resume", str(resume).lower()]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.returncode, done.stdout


def fill(folder, free):
    """Fill a file system up to `free` bytes; return the path of the file."""
    path = os.path.join(folder, "ballast")
    disk = os.statvfs(folder)
    with open(path, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(disk.f_bavail * disk.f_frsize - free, 1))
    return path


def find_problems(run, code, output, step):
    """The problems after a training on a full disk, as sentences; step: that of the last checkpoint before it."""
    from src.runs.record import read_training_log
    from src.weights.checkpoints import read_checkpoint
    from src.weights.run_folder import find_checkpoints

    problems = []
    last = output.strip().splitlines()[-1]
    if code != 2 or "Traceback" in output or "could not be written" not in last:
        problems.append(f"exit code {code}: {last}")
    found = find_checkpoints(os.path.join(run, "ckpt_0"))
    if not found or int(read_checkpoint(found[-1])["step"].asnumpy()) < step:
        problems.append(f"no checkpoint of step {step} or later: {found}")
    names = sorted(name for folder in (run, os.path.join(run, "ckpt_0")) for name in os.listdir(folder))
    if any("partial" in name for name in names):
        problems.append(f"left behind: {names}")
    read_training_log(os.path.join(run, "train_record.jsonl"))
    return problems


def main():
    from tests.soak.kills import make_records

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", required=True, help="root of a small, empty file system")
    parser.add_argument("--trials", type=int, default=20,
                        help="number of times to fill the disk (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the free space (default: %(default)s)")
    options = parser.parse_args()
    rng, problems = random.Random(options.seed), []
    run = os.path.join(options.folder, "run")
    os.mkdir(run)
    with tempfile.TemporaryDirectory() as folder:
        records = make_records(folder)
        for trial in range(options.trials):
            step = trial * SAVE_EVERY + SAVE_EVERY
            code, output = train(run, records, step)
            if code:
                raise SystemExit(output)
            size = max(entry.stat().st_size for entry in os.scandir(os.path.join(run, "ckpt_0")))
            free = rng.choice((rng.randrange(20_000), rng.randrange(size)))
            ballast = fill(options.folder, free)
            code, output = train(run, records, step + 10 * SAVE_EVERY)
            os.remove(ballast)
            found = find_problems(run, code, output, step)
            problems += found
            outcome = "; ".join(found) or output.strip().splitlines()[-1]
            print(f"{free:12} bytes free, checkpoint of {size}: {outcome}", flush=True)
    print(f"{options.trials} trials, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
