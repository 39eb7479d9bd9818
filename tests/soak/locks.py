"""Start trainings in one folder again and again, two or three at once, kill the one at work, and look at what they leave.

python tests/soak/locks.py --folder DIR [--rounds 20] [--seconds 30] [--seed 0]. Not part of CI: a round takes a minute.

What must hold: of those that start at once one trains, and the others end with exit code 2 and a sentence that names it; none touches what
the one at work has written; after a kill -9, at whatever moment, the next resumes from the last step that was saved, or starts where there
is none; the record has each step once; in the end no lock is left.
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


def start(place, records, resume, steps=STEPS):
    """Start train.py in a process of its own, what it prints in a pipe."""
    words = ["--device_target", "CPU", "--mindrecord_dir", records, "--save_checkpoint_path", place, "--save_result_dir", place,
             "--train_config.batch_size", 2, "--dataset_config.input_res_train", [64, 64], "--net_config.num_stacks", [1, 1, 1, 1],
             "--net_config.head_conv", 16, "--save_checkpoint_steps", SAVE_EVERY, "--save_checkpoint_num", 2, "--epoch_size", STEPS,
             "--train_steps", steps, "--resume", str(resume).lower()]
    with open(f"{place}.txt", "ab") as output:
        return subprocess.Popen([sys.executable, os.path.join(ROOT, "train.py"), *map(str, words)], stdout=output, stderr=subprocess.PIPE,
                                text=True)


def ended(processes, seconds):
    """Those of the processes that have ended, once all but one have, or the seconds are over."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and sum(process.poll() is None for process in processes) > 1:
        time.sleep(0.1)
    return [process for process in processes if process.poll() is not None]


def one_round(place, records, chance, seconds):
    """Start some at once, and kill the one at work, after up to twice the seconds, or when it has saved again.

    Returns (step that is saved, what went wrong as sentences).
    """
    from tests.soak.kills import saved_step

    before = saved_step(place)
    processes = [start(place, records, before > 0) for _ in range(chance.choice((2, 3)))]
    problems, refused = [], ended(processes, 120)
    working = [process for process in processes if process not in refused]
    for process in refused:
        said = process.stderr.read().strip().splitlines()
        if process.returncode != 2 or not said or "another training is at work there" not in said[-1]:
            problems.append(f"exit code {process.returncode}: {said[-1:]}")
    if len(working) != 1:
        problems.append(f"{len(working)} of {len(processes)} train")
    at_least = before + chance.choice((0, 1, SAVE_EVERY + 1))  # not only starts are to be killed
    end = time.monotonic() + chance.uniform(0, 2 * seconds)
    while (time.monotonic() < end or saved_step(place) < at_least) and all(process.poll() is None for process in working):
        time.sleep(0.1)
    for process in working:
        process.send_signal(signal.SIGKILL)
        process.wait()
        problems += [f"the one at work ended with {process.returncode}"] if process.returncode != -signal.SIGKILL else []
    after = saved_step(place)
    return after, problems + ([f"step {before} was saved, and {after} is the last one now"] if after < before else [])


def main():
    from src.runs.record import read_training_log
    from tests.soak.kills import make_records, saved_step

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", required=True, help="an empty folder, or one with the records of an earlier call")
    parser.add_argument("--rounds", type=int, default=20, help="rounds, each with a kill (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=30, help="mean time from the last refusal to the kill (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of numbers and moments (default: %(default)s)")
    options = parser.parse_args()
    folder = os.path.abspath(options.folder)
    records, place = make_records(folder), os.path.join(folder, "run")
    os.mkdir(place)
    chance, problems = random.Random(options.seed), []
    for number in range(1, options.rounds + 1):
        saved, found = one_round(place, records, chance, options.seconds)
        problems += found
        print(f"round {number}: step {saved} is saved; {'; '.join(found) or 'as it should be'}", flush=True)
    last = start(place, records, saved_step(place) > 0, saved_step(place) + 2 * SAVE_EVERY)
    if last.wait():
        problems.append(f"the last one ended with {last.returncode}: {last.stderr.read()[-500:]}")
    steps = [line["step"] for line in read_training_log(os.path.join(place, "train_record.jsonl"))]
    if steps != list(range(1, len(steps) + 1)):
        problems.append("the record does not have each step once")
    left = [name for name in os.listdir(place) if name.endswith(".lock")]
    problems += [f"left behind: {left}"] if left else []
    print(f"{options.rounds} rounds, {len(problems)} problems: {problems}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
