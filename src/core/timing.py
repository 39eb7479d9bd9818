"""Timing functions side by side: a row for each, with the median, the least and the most of several runs."""
import json
import resource
import statistics
import time

from .console import show
from .tables import line

COLUMNS = ("median", "least", "most")  # of a row's numbers
WIDTHS = (60, 10, 10, 10)


def memory():
    """The most memory this process has had, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


class Case:
    """One row: a function to time, or seconds that were measured elsewhere.

    unit: "s", "ms" or "us" of one of the `count` things that a call does, or "images/s"; any other takes the numbers as they are.
    inputs: what a peer gets to do the same.
    """

    def __init__(self, name, function=None, unit="ms", count=1, inputs=None, seconds=None):
        self.name, self.function, self.unit, self.count, self.inputs, self.seconds = name, function, unit, count, inputs, seconds


def time_cases(part, cases, path, runs, peers):
    """Time a part's Cases beside the peers', print rows and write them to a JSON file."""
    show(f"\n{part}\n{line(('', *COLUMNS), WIDTHS)}  unit")
    rows = []
    for case in cases:
        for row in measure(part, case, runs, peers):
            rows.append(row)
            print_row(row)
    rows.append({"part": part, "name": "peak memory of this part", "unit": "GB", "median": memory()})
    print_row(rows[-1])
    with open(path, "w", encoding="utf-8") as file:
        json.dump(rows, file)


def measure(part, case, runs, peers):
    """The rows of a case: ours, then each peer's with its ratio; a case that comes with its seconds has no peer."""
    if case.seconds is not None:
        times = {"": case.seconds}
    else:
        functions = {"": case.function}
        for make_all in peers:
            for name, make in make_all(part).items():
                function = make(case.name, case.inputs)
                if function:
                    functions[name] = function
        times = time_interleaved(functions, runs)
    ours = statistics.median(times[""])
    for name, series in times.items():
        row = {"part": part, "name": f"{case.name}{f' ({name})' if name else ''}", "unit": case.unit}
        values = sorted(convert(seconds, case) for seconds in series)
        row.update(median=statistics.median(values), least=values[0], most=values[-1])
        if name:
            row["ours_to_it"] = ours / statistics.median(series)
        yield row


def time_interleaved(functions, runs):
    """Seconds of each function, called in turns after one call that does not count: {name: [seconds]}."""
    times = {name: [] for name in functions}
    for number in range(runs + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if number:
                times[name].append(time.perf_counter() - start)
    return times


def convert(seconds, case):
    """Seconds of a call in the case's unit."""
    one = seconds / case.count
    if case.unit == "images/s":
        return 1 / one
    return one * {"ms": 1e3, "us": 1e6}.get(case.unit, 1)


def print_row(row):
    """A row as a line of the table."""
    numbers = [f"{row[column]:.{digits}g}" if column in row else "" for column, digits in zip(COLUMNS, (4, 3, 3))]
    ratio = f"  ours / it {row['ours_to_it']:.2f}" if "ours_to_it" in row else ""
    show(f"{line((row['name'], *numbers), WIDTHS)}  {row['unit']}{ratio}")
