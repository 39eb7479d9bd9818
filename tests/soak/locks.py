"""Repeatedly start two or three trainings in one folder at the same time, kill the one that trains, and check their
files.

python tests/soak/locks.py --folder DIR [--rounds 20] [--seconds 30] [--seed 0]. Not part of CI: a round takes a minute.

Checks that exactly one trains, and the others exit with code 2 and an error that names it; that none modifies the files
of the active training; that after a kill -9 at any time the next one resumes from the last saved step, or starts over
if there is none; that the record has each step once; and that no lock is left at the end.
"""
import argparse
import os
import random
import signal
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path[0] = ROOT

STEPS, SAVE_EVERY = 100_000, 5


def start(run, records, resume, steps=STEPS):
    """Start train.py, with standard output in a file and standard error in a pipe."""
    args = ["--device_target", "CPU", "--mindrecord_dir", records, "--save_checkpoint_path", run,
            "--save_result_dir", run, "--train_config.batch_size", 2, "--dataset_config.input_res_train", [64, 64],
            "--net_config.num_stacks", [1, 1, 1, 1], "--net_config.head_conv", 16,
            "--save_checkpoint_steps", SAVE_EVERY, "--save_checkpoint_num", 2, "--epoch_size", STEPS,
            "--train_steps", steps, "--resume", str(resume).lower()]
    command = [sys.executable, os.path.join(ROOT, "train.py"), *map(str, args)]
    with open(f"{run}.txt", "ab") as output:
        return subprocess.Popen(command, stdout=output, stderr=subprocess.PIPE, text=True)


def wait_for_all_but_one(processes, seconds):
    """Wait until at most one process is running, or for `seconds`; return those that have ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and sum(process.poll() is None for process in processes) > 1:
        time.sleep(0.1)
    return [process for process in processes if process.poll() is not None]


def one_round(run, records, rng, seconds):
    """Start several trainings and kill the active one after at most 2 * seconds, or later if it has not saved yet.

    Returns (last saved step, problems as sentences).
    """
    from tests.soak.kills import saved_step

    before = saved_step(run)
    processes = [start(run, records, before > 0) for _ in range(rng.choice((2, 3)))]
    problems, refused = [], wait_for_all_but_one(processes, 120)
    active = [process for process in processes if process not in refused]
    for process in refused:
        lines = process.stderr.read().strip().splitlines()
        if process.returncode != 2 or not lines or "another training " not in lines[-1]:
            problems.append(f"exit code {process.returncode}: {lines[-1:]}")
    if len(active) != 1:
        problems.append(f"{len(active)} of {len(processes)} are training")
    at_least = before + rng.choice((0, 1, SAVE_EVERY + 1))  # so that not only startup is killed
    end = time.monotonic() + rng.uniform(0, 2 * seconds)
    while (time.monotonic() < end or saved_step(run) < at_least) and all(process.poll() is None for process in active):
        time.sleep(0.1)
    for process in active:
        process.send_signal(signal.SIGKILL)
        process.wait()
        if process.returncode != -signal.SIGKILL:
            problems.append(f"exit code {process.returncode} of the active training")
    after = saved_step(run)
    return after, problems + ([f"step {before} was saved, but the last one is now {after}"] if after < before else [])


def main():
    from src.runs.record import read_training_log
    from tests.soak.kills import make_records, saved_step

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", required=True,
                        help="an empty folder, or one with the MindRecord files of an earlier run")
    parser.add_argument("--rounds", type=int, default=20,
                        help="number of rounds, each with a kill (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=30,
                        help="mean seconds from the last refusal to the kill (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="random seed of numbers and times (default: %(default)s)")
    options = parser.parse_args()
    folder = os.path.abspath(options.folder)
    records, run = make_records(folder), os.path.join(folder, "run")
    os.mkdir(run)
    rng, problems = random.Random(options.seed), []
    for number in range(1, options.rounds + 1):
        saved, found = one_round(run, records, rng, options.seconds)
        problems += found
        print(f"round {number}: step {saved} is saved; {'; '.join(found) or 'no problems'}", flush=True)
    last = start(run, records, saved_step(run) > 0, saved_step(run) + 2 * SAVE_EVERY)
    if last.wait():
        problems.append(f"exit code {last.returncode} of the last training: {last.stderr.read()[-500:]}")
    steps = [line["step"] for line in read_training_log(os.path.join(run, "train_record.jsonl"))]
    if steps != list(range(1, len(steps) + 1)):
        problems.append("the record does not have each step once")
    left = [name for name in os.listdir(run) if name.endswith(".lock")]
    problems += [f"left behind: {left}"] if left else []
    print(f"{options.rounds} rounds, {len(problems)} problems: {problems}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
