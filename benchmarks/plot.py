"""Bars of ratios: how many times longer the rivals take."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

import results
from matplotlib.figure import Figure
from results import Row

_TITLES = {"evaluation": "one evaluation", "fit": "search alone", "lmer": "fit from the data frame"}


def draw(rows: Sequence[Row], path: Path, threads: str = "default") -> None:
    """Draw one run: a panel a measure, a bar a problem and rival with the range over the rounds; hatched: stopped, so longer."""
    rows = [row for row in rows if row.threads == threads]
    problems = list(dict.fromkeys(row.problem for row in rows))
    rivals = [name for name in dict.fromkeys(row.competitor for row in rows) if name != "bigmm"]
    if not rivals:
        return
    figure = Figure(figsize=(10.0, 2.8 * len(_TITLES)), layout="constrained")
    width = 0.8 / len(rivals)
    for axes, measure in zip(figure.subplots(len(_TITLES), 1, sharex=True, squeeze=False)[:, 0], _TITLES, strict=True):
        axes.axhline(1.0, color="black", lw=0.8)
        for i, rival in enumerate(rivals):
            for place, problem in enumerate(problems):
                here = [row for row in rows if row.problem == problem]
                values = results.ratios(here, rival, measure)
                if not values:
                    continue
                middle = statistics.median(values)
                stopped = results.of(here, rival, measure)[0].state == "stopped"
                bars = axes.bar(
                    place + (i - (len(rivals) - 1) / 2) * width,
                    middle,
                    width * 0.95,
                    yerr=([middle - min(values)], [max(values) - middle]),
                    color=f"C{i}",
                    alpha=0.5 if stopped else 1.0,
                    hatch="//" if stopped else None,
                    error_kw={"lw": 0.8},
                )
                axes.bar_label(bars, labels=[f"{'>' if stopped else ''}{middle:.2g}"], fontsize=6)
            axes.bar(0, 0, color=f"C{i}", label=rival)
        axes.set_yscale("log")
        axes.set_ylabel("seconds / bigmm's", fontsize=8)
        axes.set_title(_TITLES[measure], fontsize=9)
        axes.set_xticks(range(len(problems)), problems, rotation=20, ha="right", fontsize=8)
    figure.axes[0].legend(fontsize=7, ncols=len(rivals))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.suptitle(f"{rows[0].cpu}, {rows[0].cores} cores", fontsize=9)
    figure.savefig(path, dpi=110, metadata={"Software": None})
