"""Rows of measurements: a CSV file that runs are appended to."""

from __future__ import annotations

import csv
import os
import platform
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TypeAlias

#: Problem, threads, measure: what two competitors are compared on.
Case: TypeAlias = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement.

    Attributes
    ----------
    run : str
        Rows are compared within one run only.
    problem, threads, competitor, measure : str
        ``threads`` is "1", or "default" when no environment variable limits them.
    round : int
        Counts from 1; competitors take turns within a round.
    seconds : float
        Median of the repetitions that fit into the time budget of a measurement.
    repeats : int
    evaluations : int
        Objectives computed in one repetition.
    objective : float
        At the optimum, or at the first of the fixed thetas.
    versions, blas, cpu : str
    cores : int
    """

    run: str
    problem: str
    threads: str
    competitor: str
    measure: str
    round: int
    seconds: float
    repeats: int
    evaluations: int
    objective: float
    versions: str
    blas: str
    cpu: str
    cores: int

    @property
    def key(self) -> tuple[str, ...]:
        """What is measured once in a run."""
        return (self.run, self.problem, self.threads, self.competitor, self.measure, str(self.round))

    @property
    def case(self) -> Case:
        """What competitors share."""
        return (self.problem, self.threads, self.measure)


def read(path: Path) -> list[Row]:
    """All rows of a file; none when there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [_typed(record) for record in csv.DictReader(file)]


def _typed(record: dict[str, str]) -> Row:
    whole = {name: int(record[name]) for name in ("round", "repeats", "evaluations", "cores")}
    real = {name: float(record[name]) for name in ("seconds", "objective")}
    return Row(**{**record, **whole, **real})  # type: ignore[arg-type]


def append(path: Path, row: Row) -> None:
    """Write one row at the end of a file, with a header when it is new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow({**asdict(row), "seconds": f"{row.seconds:.6g}", "objective": f"{row.objective:.14g}"})


def machine() -> tuple[str, int]:
    """CPU model and usable cores."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        model = names[0] if names else model
    return model, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def medians(rows: Iterable[Row]) -> dict[tuple[Case, str], float]:
    """Median seconds by (case, competitor), over the rounds."""
    found: dict[tuple[Case, str], list[float]] = {}
    for row in rows:
        found.setdefault((row.case, row.competitor), []).append(row.seconds)
    return {key: statistics.median(values) for key, values in found.items()}


def ratios(rows: Iterable[Row], rival: str, own: str = "bigmm") -> dict[Case, list[float]]:
    """Seconds of `rival` over seconds of `own`, one value a round that has both; above 1 `own` is faster."""
    found: dict[Case, dict[int, dict[str, float]]] = {}
    for row in rows:
        found.setdefault(row.case, {}).setdefault(row.round, {})[row.competitor] = row.seconds
    both = {case: [turn[rival] / turn[own] for turn in turns.values() if {rival, own} <= turn.keys()] for case, turns in found.items()}
    return {case: values for case, values in both.items() if values}
