"""Bars of ratios: how many times longer the rival takes."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

import results
from matplotlib.figure import Figure
from results import Row


def draw(rows: Sequence[Row], path: Path, rival: str = "lme4", measures: Sequence[str] = ("evaluation", "lmer")) -> None:
    """Draw one run: a panel a measure, a bar a problem and setting of threads, with the range over the rounds."""
    ratios = results.ratios(rows, rival)
    if not ratios:
        return
    problems = list(dict.fromkeys(case[0] for case in ratios))
    settings = list(dict.fromkeys(case[1] for case in ratios))
    figure = Figure(figsize=(5.0 * len(measures), 3.6), layout="constrained")
    width = 0.8 / len(settings)
    for axes, measure in zip(figure.subplots(1, len(measures), squeeze=False)[0], measures, strict=True):
        for i, setting in enumerate(settings):
            found = [(place, ratios[p, setting, measure]) for place, p in enumerate(problems) if (p, setting, measure) in ratios]
            places = [place + (i - (len(settings) - 1) / 2) * width for place, _ in found]
            heights = [statistics.median(values) for _, values in found]
            below = [height - min(values) for height, (_, values) in zip(heights, found, strict=True)]
            above = [max(values) - height for height, (_, values) in zip(heights, found, strict=True)]
            label = "default threads" if setting == "default" else f"{setting} thread"
            bars = axes.bar(places, heights, width * 0.95, yerr=(below, above), label=label, error_kw={"lw": 0.8})
            axes.bar_label(bars, fmt="%.2g", fontsize=7, label_type="center", color="white")
        axes.axhline(1.0, color="black", lw=0.8)
        axes.set_yscale("log")
        axes.set_xticks(range(len(problems)), problems, rotation=20, ha="right", fontsize=8)
        axes.set_title({"evaluation": "one evaluation", "lmer": "fit from the data frame"}.get(measure, measure), fontsize=10)
        axes.set_ylabel(f"seconds {rival} / seconds bigmm", fontsize=9)
        axes.legend(fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.suptitle(f"{rows[0].cpu}, {rows[0].cores} cores; {rows[0].blas}", fontsize=9)
    figure.savefig(path, dpi=110, metadata={"Software": None})
