"""Side-by-side timing of functions: a row for each, with median, minimum and maximum of several runs."""
import json
import resource
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from .console import show
from .tables import line

COLUMNS = ("median", "least", "most")
WIDTHS = (60, 10, 10, 10)
# Returns {name: make(name of a case, its inputs) -> function, or None} for a part of the benchmark.
Peer = Callable[[str], dict[str, Callable[[str, Any], Callable[[], object] | None]]]


def memory() -> float:
    """The peak memory of this process, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


class Case:
    """One row: a function to time, or seconds that were measured elsewhere.

    unit: "s", "ms" or "us" for one of the `count` items that a call processes, or "images/s"; other units take the
    numbers as they are. inputs: passed to peers, so that they do the same work.
    """

    def __init__(self, name: str, function: Callable[[], object] | None = None, unit: str = "ms", count: int = 1,
                 inputs: Any = None, seconds: Sequence[float] | None = None):
        self.name, self.function, self.unit, self.count = name, function, unit, count
        self.inputs, self.seconds = inputs, seconds


def time_cases(part: str, cases: Iterable[Case], path: str, runs: int, peers: Sequence[Peer]) -> None:
    """Time the cases of a benchmark part and their peers, print the rows and write them to a JSON file."""
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


def measure(part: str, case: Case, runs: int, peers: Sequence[Peer]) -> Iterator[dict[str, Any]]:
    """The rows of a case: ours, then each peer's with its ratio. A case with measured seconds has no peers."""
    times: dict[str, Sequence[float]]
    if case.seconds is not None:
        times = {"": case.seconds}
    else:
        assert case.function is not None
        functions = {"": case.function}
        for make_all in peers:
            for name, make in make_all(part).items():
                function = make(case.name, case.inputs)
                if function:
                    functions[name] = function
        times = {**time_interleaved(functions, runs)}
    ours = statistics.median(times[""])
    for name, series in times.items():
        row: dict[str, Any] = {"part": part, "name": f"{case.name}{f' ({name})' if name else ''}", "unit": case.unit}
        values = sorted(convert(seconds, case) for seconds in series)
        row.update(median=statistics.median(values), least=values[0], most=values[-1])
        if name:
            row["ours_to_it"] = ours / statistics.median(series)
        yield row


def time_interleaved(functions: Mapping[str, Callable[[], object]], runs: int) -> dict[str, list[float]]:
    """Seconds of each function, {name: [seconds]}. The functions take turns, after one warm-up call each."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for number in range(runs + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if number:
                times[name].append(time.perf_counter() - start)
    return times


def convert(seconds: float, case: Case) -> float:
    """Seconds of a call in the case's unit."""
    one = seconds / case.count
    if case.unit == "images/s":
        return 1 / one
    return one * {"ms": 1e3, "us": 1e6}.get(case.unit, 1)


def print_row(row: dict[str, Any]) -> None:
    """Print a row of the table."""
    numbers = [f"{row[column]:.{digits}g}" if column in row else "" for column, digits in zip(COLUMNS, (4, 3, 3))]
    ratio = f"  ours / it {row['ours_to_it']:.2f}" if "ours_to_it" in row else ""
    show(f"{line((row['name'], *numbers), WIDTHS)}  {row['unit']}{ratio}")
