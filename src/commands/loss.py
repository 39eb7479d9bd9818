"""Compare the loss curve of a run with a reference run: the acceptance test of the Pascal VOC recipe.

Log formats: train.py's output or train_record.jsonl, the paper authors' log.txt, and the logs of the vendor of the
Pascal VOC document (`rank : 0 train.loss : 2.3`), whose file names, sdaa.log and cuda.log, are the defaults. With the
losses c and r at the common steps, the mean relative error is |mean((c - r) / r)| and the mean absolute error is
|mean(c - r)|: signed differences cancel, so noise around the reference passes and a drift fails. The means of the
unsigned differences are printed, too.
"""
import argparse
import json
import math
import re
from collections.abc import Mapping, Sequence

from ..core import errors
from ..core.errors import UserError
from ..inference.options import OptionParser

RELATIVE_LIMIT = 0.05
ABSOLUTE_LIMIT = 0.0002
LOSS = re.compile(r"(?:\|\s*loss\s+|\brank\s*:\s*0\s+train\.loss\s*:\s*)(\S+)")
STEP = re.compile(r"\|\s*step:\s*(\d+)")


def main(argv: Sequence[str] | None = None) -> int:
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidate-log", "--sdaa-log", default="sdaa.log", metavar="A",
                        help="log of the run to test (default: %(default)s)")
    parser.add_argument("--reference-log", "--cuda-log", default="cuda.log", metavar="B",
                        help="log of the reference run (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=100,
                        help="number of common steps to compare, from the first (default: %(default)s)")
    parser.add_argument("--output", default="loss.png", help="plot of both curves (default: %(default)s)")
    options = parser.parse_args(argv)
    if options.steps < 1:
        raise UserError(f"--steps is {options.steps}; expected at least 1")
    candidate = read_losses(options.candidate_log, "candidate log (--candidate-log)")
    reference = read_losses(options.reference_log, "reference log (--reference-log)")
    common = sorted(set(candidate) & set(reference))
    if not common:
        raise UserError(f"the logs have no step in common: {options.candidate_log} has {span(candidate)}, "
                        f"{options.reference_log} has {span(reference)}")
    compared = common[: options.steps]
    if len(compared) < options.steps:
        print(f"the logs have only {len(compared)} common steps ({span(candidate)}, {span(reference)})")
    for step in compared:
        if not math.isfinite(reference[step]) or reference[step] == 0:
            raise UserError(f"{options.reference_log}: the loss at step {step} is {reference[step]}; "
                            "it cannot serve as a reference")

    plot(candidate, reference, compared[-1], options.output)
    broken = [step for step in compared if not math.isfinite(candidate[step])]
    if broken:
        print(f"fail the loss is {candidate[broken[0]]} at step {broken[0]} of {options.candidate_log}")
        return 1
    return judge([candidate[step] for step in compared], [reference[step] for step in compared])


def read_losses(path: str, what: str) -> dict[int, float]:
    """Return {step: loss} of a log. Lines without a step are numbered from 1. Raises UserError, which calls the file
    `what`, if it contains no losses."""
    losses: dict[int, float] = {}
    with open(errors.require_file(path, what), encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            found = read_line(line)
            if found is None:
                continue
            step, text = found
            try:
                losses[len(losses) + 1 if step is None else int(step)] = float(text)
            except ValueError:
                raise UserError(f"{path}, line {number}: the loss is {text!r}, not a number") from None
    if not losses:
        raise UserError(f"{path} contains no losses; expected output of train.py (`... | step: 7 | loss 2.3 | ...`), "
                        "train_record.jsonl, or the paper authors' log.txt (`epoch: 1 |loss 2.3 | ...`)")
    return losses


def read_line(line: str) -> tuple[int | str | None, str] | None:
    """Return (step or None, loss as a string) of a log line, or None if it has no loss."""
    if line.lstrip().startswith("{"):
        try:
            record = json.loads(line)
            return record["step"], str(record["loss"])
        except (ValueError, KeyError, TypeError, RecursionError):
            return None  # a truncated last line, or another program's
    loss = LOSS.search(line)
    step = STEP.search(line)
    return (step and step[1], loss[1]) if loss else None


def span(losses: Mapping[int, float]) -> str:
    """Describe the steps of a log."""
    return f"{len(losses)} steps from {min(losses)} to {max(losses)}"


def mean_errors(candidate: Sequence[float], reference: Sequence[float]) -> tuple[float, float, float, float]:
    """Return (relative, absolute, unsigned relative, unsigned absolute) mean errors; the first two as magnitudes."""
    relative = [(c - r) / r for c, r in zip(candidate, reference)]
    absolute = [c - r for c, r in zip(candidate, reference)]
    count = len(absolute)
    return (abs(sum(relative) / count), abs(sum(absolute) / count),
            sum(map(abs, relative)) / count, sum(map(abs, absolute)) / count)


def judge(candidate: Sequence[float], reference: Sequence[float]) -> int:
    """Print the errors and the verdict; return the exit code."""
    relative, absolute, unsigned_relative, unsigned_absolute = mean_errors(candidate, reference)
    print(f"MeanRelativeError: {relative}")
    print(f"MeanAbsoluteError: {absolute}")
    print(f"mean unsigned differences: relative {unsigned_relative}, absolute {unsigned_absolute}")
    rule, value = ("mean_relative_error", relative) if relative <= absolute else ("mean_absolute_error", absolute)
    print(f"Rule,{rule} {value}")
    passed = relative <= RELATIVE_LIMIT or absolute <= ABSOLUTE_LIMIT
    print(f"{'pass' if passed else 'fail'} mean_relative_error={relative} <= {RELATIVE_LIMIT} or "
          f"mean_absolute_error={absolute} <= {ABSOLUTE_LIMIT}")
    return 0 if passed else 1


def plot(candidate: Mapping[int, float], reference: Mapping[int, float], last: int, path: str) -> None:
    """Plot both curves up to step `last`: pale for single steps, dark for their running mean."""
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
