"""mixedlm as a competitor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import measuring
import mixedlm
import numpy as np
import pandas as pd


def main() -> None:
    """Build the deviance function, then measure what is ordered."""
    task = measuring.task()
    base = measuring.resident()
    data = pd.read_parquet(Path(task["folder"]) / "rows.parquet")
    deviance = mixedlm.mkLmerDevfun(mixedlm.lFormula(task["formula"], data, REML=task["reml"]))
    start = deviance.get_start()
    bounded = [lower == 0.0 for lower, _ in deviance.get_bounds()]
    places = by_columns(bounded)
    diagonal = [bounded[places.index(place)] for place in range(len(places))]
    measuring.say({"diagonal": diagonal, "versions": f"mixedlm {mixedlm.__version__}", "blas": "", "base": base})

    def evaluation(order: dict[str, Any]) -> measuring.Answer:
        return measuring.evaluations(lambda theta: float(deviance(np.array(theta)[places])), order)

    def fit(order: dict[str, Any]) -> measuring.Answer:
        return measuring.fits(
            lambda: mixedlm.optimizeLmer(deviance, start=start, method="auto"), order, lambda found: (found.n_iter, found.deviance)
        )

    def lmer(order: dict[str, Any]) -> measuring.Answer:
        return measuring.fits(
            lambda: mixedlm.lmer(task["formula"], data, REML=task["reml"]), order, lambda found: (found.n_iter, found.deviance)
        )

    measuring.serve({"evaluation": evaluation, "fit": fit, "lmer": lmer})


def by_columns(bounded: list[bool]) -> list[int]:
    """mixedlm lists each lower triangle by rows, lme4 by columns: the place in lme4's theta of each entry of mixedlm's."""
    cells, term, row, column = [], -1, 0, 0
    for diagonal in bounded:
        if diagonal and column == 0:  # a row of one entry begins a triangle
            term, row = term + 1, 0
        cells.append((term, column, row))
        row, column = (row + 1, 0) if diagonal else (row, column + 1)
    order = sorted(cells)
    return [order.index(cell) for cell in cells]


if __name__ == "__main__":
    main()
