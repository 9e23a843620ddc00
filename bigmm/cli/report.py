"""The page of ``--report``: a job as its journal tells it, in one file of HTML that loads nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from bigmm.cli.charts import MOST_LANES, MOST_LINES, Span, lines, timeline
from bigmm.cli.figures import duration, short, size
from bigmm.columns import Array

Record = Mapping[str, Any]

_TEMPLATE = Path(__file__).with_suffix(".html")
#: Points of the chart of throughput.
_BINS = 80
_ENDS = {
    0: "done",
    2: "stopped by a mistake in the arguments, the formula or the data",
    3: "done, but the search did not converge",
    75: "not done: run again with --resume",
    130: "interrupted",
    143: "terminated",
}


def report_html(records: Sequence[Record]) -> str:
    """The page.

    Parameters
    ----------
    records : sequence of records
        Those of one job, from `started` to `finished`; see `bigmm.cli.journal`.
    """
    of: dict[str, list[Record]] = {}
    for record in records:
        of.setdefault(record["event"], []).append(record)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(size=size, duration=duration, short=short)
    finished = of["finished"][-1]
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        started=of["started"][0],
        finished=finished,
        end=_ENDS.get(finished["exit_code"], "ended by an unexpected error"),
        planned=of.get("planned", []),
        chunks=of.get("chunk", []),
        passed=of.get("reduced", []),
        fits=of.get("fitted", []),
        messages=[*of.get("error", []), *of.get("warning", [])],
        throughput=_throughput(of.get("chunk", [])),
        timeline=_timeline(of.get("chunk", [])),
        searches=[_search(search, of.get("fitted", []), number) for number, search in enumerate(_searches(of.get("evaluation", [])))],
        most_lanes=MOST_LANES,
        most_lines=MOST_LINES,
    )


def _throughput(chunks: Sequence[Record]) -> Markup | None:
    """Bytes or, where they are unknown, rows a second: what a chunk has is spread over its time."""
    if not chunks:
        return None
    start, stop = (np.array([chunk[name] for chunk in chunks]) for name in ("started", "stopped"))
    in_bytes = any(chunk["bytes"] for chunk in chunks)
    amount = np.array([chunk["bytes" if in_bytes else "rows"] for chunk in chunks]) / (1e6 if in_bytes else 1.0)
    edges = np.linspace(start.min(), max(stop.max(), start.min() + 1e-3), _BINS + 1)
    length = np.maximum(stop - start, 1e-6)
    done = np.array([amount @ np.clip((edge - start) / length, 0.0, 1.0) for edge in edges])
    middle = (edges[1:] + edges[:-1]) / 2 - edges[0]
    name = "MB/s" if in_bytes else "rows/s"
    return lines({name: (middle, np.diff(done) / np.diff(edges))}, "seconds since the first chunk began", name)


def _timeline(chunks: Sequence[Record]) -> Markup | None:
    if not chunks:
        return None
    first = min(chunk["started"] for chunk in chunks)
    threads: dict[tuple[str, int], list[Span]] = {}
    for chunk in sorted(chunks, key=lambda chunk: chunk["started"]):
        span = (chunk["started"] - first, chunk["stopped"] - first, chunk["skipped"])
        threads.setdefault((chunk["worker"], chunk["thread"]), []).append(span)
    lanes = {f"{worker.partition('://')[2] or 'this process'} {thread}": spans for (worker, thread), spans in sorted(threads.items())}
    return timeline(lanes, "seconds since the first chunk began")


def _searches(evaluations: Sequence[Record]) -> list[list[Record]]:
    """The evaluations of each search: their numbers begin again at 1."""
    searches: list[list[Record]] = []
    for evaluation in evaluations:
        if evaluation["number"] == 1 or not searches:
            searches.append([])
        searches[-1].append(evaluation)
    return searches


def _search(evaluations: Sequence[Record], fits: Sequence[Record], number: int) -> dict[str, Markup]:
    """How far above its minimum the objective was, and where theta was."""
    seen = [evaluation for evaluation in evaluations if evaluation["objective"] is not None]
    x: Array = np.array([float(evaluation["number"]) for evaluation in seen])
    objective: Array = np.array([evaluation["objective"] for evaluation in seen])
    above = objective - objective.min(initial=np.inf)
    thetas: Array = np.array([evaluation["theta"] for evaluation in seen])
    names = list(fits[number]["theta"]) if number < len(fits) else [f"theta {i + 1}" for i in range(thetas.shape[-1] if seen else 0)]
    return {
        "objective": lines({"objective": (x, above)}, "evaluation", "objective - minimum", log=True),
        "theta": lines({name: (x, thetas[:, i]) for i, name in enumerate(names)}, "evaluation", "theta"),
    }
