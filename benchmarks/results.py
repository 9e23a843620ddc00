"""Rows of measurements: a CSV file a run."""

from __future__ import annotations

import csv
import math
import os
import platform
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

#: Objectives at one theta agree to this part.
_AGREE = 1e-8
#: A minimum of -2 log-likelihood that is lower by more than this is another minimum ...
_LOWER = 1e-6
#: ... but of who estimates log-determinants from random vectors, as gpboost's default does since its release 1.6.1.
_ESTIMATED = ("gpboost",)


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement, or why there is none.

    Attributes
    ----------
    problem, threads, competitor, measure : str
        ``threads`` is "1", or "default" when no environment variable limits them.
    thetas : int
    round : int
        Counts from 1; competitors take turns within a round. 0: nothing was measured.
    state : str
        "measured"; "stopped" at the limit of seconds; or what stood in the way.
    seconds : float
        Median of the repetitions that fit into the time budget of a measurement; the limit when stopped.
    repeats : int
    evaluations : int
        Objectives computed in one repetition.
    objective : float
        At the optimum, or at the first of the fixed thetas.
    peak, base, products, factor : float
        Bytes: the process at its highest when it had done the measure for the first time, the process before it loaded the
        problem, the crossproducts, L with its dense root.
    versions, blas, cpu : str
    cores : int
    """

    problem: str
    thetas: int
    threads: str
    competitor: str
    measure: str
    round: int
    state: str
    seconds: float
    repeats: int
    evaluations: int
    objective: float
    peak: float
    base: float
    products: float
    factor: float
    versions: str
    blas: str
    cpu: str
    cores: int

    @property
    def case(self) -> tuple[str, str]:
        """What rows must share to be compared."""
        return (self.problem, self.threads)


_WHOLE = ("thetas", "round", "repeats", "evaluations", "cores")
_REAL = ("seconds", "objective", "peak", "base", "products", "factor")


def read(path: Path) -> list[Row]:
    """All rows of a file; none when there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [_typed(record) for record in csv.DictReader(file)]


def _typed(record: dict[str, str]) -> Row:
    whole = {name: int(record[name]) for name in _WHOLE}
    real = {name: float(record[name] or "nan") for name in _REAL}
    return Row(**{**record, **whole, **real})  # type: ignore[arg-type]


def append(path: Path, rows: Iterable[Row]) -> None:
    """Write rows at the end of a file, with a header when it is new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(_text(row) for row in rows)


def _text(row: Row) -> dict[str, object]:
    digits = {"seconds": ".6g", "objective": ".14g"}
    real = {name: getattr(row, name) for name in _REAL}
    return {**asdict(row), **{name: "" if math.isnan(value) else format(value, digits.get(name, ".0f")) for name, value in real.items()}}


def latest(folder: Path) -> Path:
    """The last run's file, by name; files of other benchmarks have other columns."""
    header = ",".join(field.name for field in fields(Row))
    return max(path for path in folder.glob("*.csv") if path.read_text().partition("\n")[0] == header)


def machine() -> tuple[str, int]:
    """CPU model and usable cores."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        model = names[0] if names else model
    return model, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def of(rows: Iterable[Row], competitor: str, measure: str) -> list[Row]:
    """Rows of one competitor's measure, by round."""
    return sorted((row for row in rows if (row.competitor, row.measure) == (competitor, measure)), key=lambda row: row.round)


def seconds(rows: Sequence[Row], competitor: str, measure: str) -> float:
    """Median over the rounds; NaN when it was not measured."""
    found = [row.seconds for row in of(rows, competitor, measure) if row.state == "measured"]
    return statistics.median(found) if found else math.nan


def ratios(rows: Sequence[Row], rival: str, measure: str, own: str = "") -> list[float]:
    """Seconds of a rival's measure over bigmm's seconds of the same or of the measure `own`, one value a round that has both.

    A rival that was stopped has its limit for seconds, so that its ratio is a lower bound.
    """
    mine = {row.round: row.seconds for row in of(rows, "bigmm", own or measure) if row.state == "measured"}
    return [row.seconds / mine[row.round] for row in of(rows, rival, measure) if row.round in mine]


def complaints(rows: Sequence[Row]) -> list[str]:
    """Where competitors disagree: other objectives at one theta, or a lower minimum than bigmm's."""
    found = []
    for case in dict.fromkeys(row.case for row in rows):
        here = [row for row in rows if row.case == case and row.state == "measured"]
        for row in here:
            same = [own.objective for own in of(here, "bigmm", row.measure)]
            if not same or math.isnan(row.objective):
                continue
            where = f"{row.problem}, {row.measure}: {row.competitor} has {row.objective:.12g}, bigmm {same[0]:.12g}"
            if row.measure in ("evaluation", "gradient") and not math.isclose(row.objective, same[0], rel_tol=_AGREE):
                found.append(f"{where} at the same theta")
            exact = row.competitor not in _ESTIMATED
            if exact and row.measure in ("fit", "lmer") and row.objective < same[0] - _LOWER - 1e-10 * abs(same[0]):
                found.append(f"{where}, which is not the minimum")
    return list(dict.fromkeys(found))
