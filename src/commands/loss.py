"""Compare the loss curve of a run with that of a reference run: the acceptance check of the Pascal VOC recipe.

Reads this project's logs (the lines of train.py, or train_record.jsonl), the original's log.txt, and those of the Pascal VOC document's
vendor (`rank : 0 train.loss : 2.3`), whose names for the two, sdaa.log and cuda.log, are the defaults. With c and r the losses at the
common steps, mean relative error is |mean((c - r) / r)| and mean absolute error |mean(c - r)|: signed differences cancel, so noise
around the reference passes and a drift does not. The means of the unsigned differences are printed, too.
"""
import argparse
import json
import math
import re

from ..core import errors
from ..core.errors import UserError
from ..inference.options import OptionParser

RELATIVE_LIMIT = 0.05
ABSOLUTE_LIMIT = 0.0002
LOSS = re.compile(r"(?:\|\s*loss\s+|\brank\s*:\s*0\s+train\.loss\s*:\s*)(\S+)")
STEP = re.compile(r"\|\s*step:\s*(\d+)")


def main(argv=None):
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidate-log", "--sdaa-log", default="sdaa.log", metavar="A",
                        help="log of the run to judge (default: %(default)s)")
    parser.add_argument("--reference-log", "--cuda-log", default="cuda.log", metavar="B",
                        help="log of the run to compare with (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=100, help="compare the first so many common steps (default: %(default)s)")
    parser.add_argument("--output", default="loss.png", help="image of both curves (default: %(default)s)")
    options = parser.parse_args(argv)
    if options.steps < 1:
        raise UserError(f"--steps is {options.steps}; expected at least 1")
    candidate = read_losses(options.candidate_log, "log to judge (--candidate-log)")
    reference = read_losses(options.reference_log, "log to compare with (--reference-log)")
    common = sorted(set(candidate) & set(reference))
    if not common:
        raise UserError(f"the logs have no step in common: {options.candidate_log} has {span(candidate)}, "
                        f"{options.reference_log} has {span(reference)}")
    compared = common[: options.steps]
    if len(compared) < options.steps:
        print(f"only {len(compared)} of {options.steps} steps are in both logs ({span(candidate)}, and {span(reference)})")
    for step in compared:
        if not math.isfinite(reference[step]) or reference[step] == 0:
            raise UserError(f"{options.reference_log}: the loss is {reference[step]} at step {step}; it cannot be a reference")

    plot(candidate, reference, compared[-1], options.output)
    broken = [step for step in compared if not math.isfinite(candidate[step])]
    if broken:
        print(f"fail the loss is {candidate[broken[0]]} at step {broken[0]} of {options.candidate_log}")
        return 1
    return judge([candidate[step] for step in compared], [reference[step] for step in compared])


def read_losses(path, what):
    """{step: loss} of a log, `what` in words; where lines name no step, they are numbered from 1. Raises UserError if it holds no loss."""
    losses = {}
    with open(errors.require_file(path, what), encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            found = read_line(line)
            if found is None:
                continue
            step, text = found
            try:
                losses[len(losses) + 1 if step is None else int(step)] = float(text)
            except ValueError:
                raise UserError(f"{path}, line {number}: the loss is {text!r}, no number") from None
    if not losses:
        raise UserError(f"{path} holds no losses; expected lines of train.py (`... | step: 7 | loss 2.3 | ...`), train_record.jsonl, or "
                        "the original's log.txt (`epoch: 1 |loss 2.3 | ...`)")
    return losses


def read_line(line):
    """(step or None, the loss as text) of a line of a log, None if it has none."""
    if line.lstrip().startswith("{"):
        try:
            record = json.loads(line)
            return record["step"], str(record["loss"])
        except (ValueError, KeyError, TypeError, RecursionError):
            return None  # a last line cut off, or another program's
    loss = LOSS.search(line)
    step = STEP.search(line)
    return (step and step[1], loss[1]) if loss else None


def span(losses):
    """The steps of a log in words."""
    return f"{len(losses)} steps from {min(losses)} to {max(losses)}"


def mean_errors(candidate, reference):
    """(relative, absolute) error: magnitudes of the mean signed differences, then of the mean unsigned ones."""
    relative = [(c - r) / r for c, r in zip(candidate, reference)]
    absolute = [c - r for c, r in zip(candidate, reference)]
    count = len(absolute)
    unsigned = (sum(map(abs, relative)) / count, sum(map(abs, absolute)) / count)
    return abs(sum(relative) / count), abs(sum(absolute) / count), *unsigned


def judge(candidate, reference):
    """Print the errors and the verdict; returns the exit code."""
    relative, absolute, unsigned_relative, unsigned_absolute = mean_errors(candidate, reference)
    print(f"MeanRelativeError: {relative}")
    print(f"MeanAbsoluteError: {absolute}")
    print(f"mean of the unsigned differences: relative {unsigned_relative}, absolute {unsigned_absolute}")
    rule, value = ("mean_relative_error", relative) if relative <= absolute else ("mean_absolute_error", absolute)
    print(f"Rule,{rule} {value}")
    passed = relative <= RELATIVE_LIMIT or absolute <= ABSOLUTE_LIMIT
    print(f"{'pass' if passed else 'fail'} mean_relative_error={relative} <= {RELATIVE_LIMIT} or "
          f"mean_absolute_error={absolute} <= {ABSOLUTE_LIMIT}")
    return 0 if passed else 1


def plot(candidate, reference, last, path):
    """Draw both curves up to a step: single steps pale, their running mean dark."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    from ..core.backups import contains_mark
    from ..runs.curves import draw_curve, save_figure

    figure, axes = pyplot.subplots(figsize=(9, 5), dpi=110, layout="constrained")
    for losses, label, color in ((reference, "reference", "tab:blue"), (candidate, "candidate", "tab:orange")):
        steps = [step for step in sorted(losses) if step <= last and math.isfinite(losses[step])]
        draw_curve(axes, steps, [losses[step] for step in steps], color, label, parts=20)
    axes.set(xlabel="step", ylabel="loss")
    axes.grid(alpha=0.3)
    axes.legend()
    save_figure(path, figure, contains_mark())
