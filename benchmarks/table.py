"""The table of a run, as Markdown: ratios first.

python benchmarks/table.py [FILE]
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import results
from problems import find
from results import Row

#: These tell how many iterations they made, not how many evaluations.
_ITERATIONS = ("mixedlm", "gpboost")
#: Bytes; beside less than this the peak is that of libraries.
_LARGE = 2**26
_HEADER = (
    "problem (thetas)",
    "",
    "one evaluation",
    "search alone",
    "fit from a data frame",
    "the same / bigmm's fit from crossproducts",
    "evaluations",
    "minimum",
    "peak memory",
)


def markdown(rows: Sequence[Row]) -> str:
    """One run: the machine, a line a problem and competitor, and what the problems are."""
    if not rows:
        return "no rows"
    lines = [_line(_HEADER), _line(["---"] * len(_HEADER))]
    cases = list(dict.fromkeys(row.case for row in rows))
    for problem, threads in cases:
        here = [row for row in rows if row.case == (problem, threads)]
        label = f"{problem} ({here[0].thetas})" + ("" if threads == "default" else f", {threads} thread")
        for name in dict.fromkeys(row.competitor for row in here):
            lines.append(_line([label, f"**{name}**", *_own(here)] if name == "bigmm" else ["", name, *_rival(here, name)]))
    about = sorted({f"{row.cpu}, {row.cores} cores" for row in rows})
    about += sorted({row.versions + (f"; {row.blas}" if row.blas else "") for row in rows if row.versions})
    described = [f"- {problem}: `{find(problem).formula}`. {find(problem).description}" for problem in dict.fromkeys(p for p, _ in cases)]
    return "\n".join([*(f"{line}  " for line in about), "", *lines, "", *described])


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _own(rows: Sequence[Row]) -> list[str]:
    """bigmm's line: seconds, and the ratio of an evaluation with derivatives to one without."""
    evaluation, gradient = (results.seconds(rows, "bigmm", measure) for measure in ("evaluation", "gradient"))
    command = results.seconds(rows, "bigmm", "command")
    whole = _seconds(results.seconds(rows, "bigmm", "lmer"))
    return [
        f"{_seconds(evaluation)}; with gradient {gradient / evaluation:.1f} x",
        _seconds(results.seconds(rows, "bigmm", "fit")),
        whole + ("" if math.isnan(command) else f"; the command {_seconds(command)}"),
        "",
        _evaluations(rows, "bigmm"),
        _objective(rows, "bigmm", ".12g"),
        _memory(rows, "bigmm"),
    ]


def _rival(rows: Sequence[Row], name: str) -> list[str]:
    """A rival's line: how many times longer it takes."""
    broken = [row.state for row in rows if row.competitor == name and row.state not in ("measured", "stopped")]
    if not any(row.competitor == name and row.measure for row in rows):
        return [broken[0], *[""] * 6]
    own = results.of(rows, "bigmm", "fit")
    minima = [row for measure in ("fit", "lmer") for row in results.of(rows, name, measure) if row.state == "measured"]
    return [
        _ratio(rows, name, "evaluation"),
        _ratio(rows, name, "fit"),
        _ratio(rows, name, "lmer"),
        _ratio(rows, name, "lmer", "fit"),
        _evaluations(rows, name),
        f"{minima[-1].objective - own[0].objective:+.1g}" if minima and own else broken[0] if broken else "",
        _memory(rows, name),
    ]


def _ratio(rows: Sequence[Row], name: str, measure: str, own: str = "") -> str:
    values, theirs = results.ratios(rows, name, measure, own), results.of(rows, name, measure)
    if not values:
        return ""
    if theirs[0].state == "stopped":
        return f"> {statistics.median(values):.2g} (stopped at {theirs[0].seconds:.0f} s)"
    return f"{statistics.median(values):.2g}" + ("" if own else f" ({_seconds(results.seconds(rows, name, measure))})")


def _seconds(value: float) -> str:
    if math.isnan(value):
        return ""
    scaled, unit = (value, "s") if value >= 1 else (value * 1e3, "ms")
    return f"{scaled:.0f} {unit}" if scaled >= 10 else f"{scaled:.2g} {unit}"


def _evaluations(rows: Sequence[Row], name: str) -> str:
    found = [row.evaluations for measure in ("fit", "lmer") for row in results.of(rows, name, measure) if row.state == "measured"]
    return f"{found[0]}{' iterations' if name in _ITERATIONS else ''}" if found else ""


def _objective(rows: Sequence[Row], name: str, digits: str) -> str:
    found = [row.objective for row in results.of(rows, name, "fit") if row.state == "measured"]
    return format(found[0], digits) if found else ""


def _memory(rows: Sequence[Row], name: str) -> str:
    """Peak of the process; bigmm: what loading and fitting added, by crossproducts and L."""
    found = [row for measure in ("fit", "lmer") for row in results.of(rows, name, measure) if row.state == "measured"]
    if not found or math.isnan(found[0].peak):
        return ""
    row = found[0]
    held = row.products + row.factor
    return f"{row.peak / 2**20:.0f} MiB" + ("" if not held >= _LARGE else f"; {(row.peak - row.base) / held:.2f} x (crossproducts + L)")


if __name__ == "__main__":
    folder = Path(__file__).resolve().parent / "results"
    print(markdown(results.read(Path(sys.argv[1]) if len(sys.argv) > 1 else results.latest(folder))))
