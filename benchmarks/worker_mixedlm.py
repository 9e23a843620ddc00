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
    diagonal = [lower == 0.0 for lower, _ in deviance.get_bounds()]
    measuring.say({"diagonal": diagonal, "versions": f"mixedlm {mixedlm.__version__}", "blas": "", "base": base})

    def evaluation(order: dict[str, Any]) -> measuring.Answer:
        return measuring.evaluations(lambda theta: float(deviance(np.array(theta))), order)

    def fit(order: dict[str, Any]) -> measuring.Answer:
        return measuring.fits(
            lambda: mixedlm.optimizeLmer(deviance, start=start, method="auto"), order, lambda found: (found.n_iter, found.deviance)
        )

    def lmer(order: dict[str, Any]) -> measuring.Answer:
        return measuring.fits(
            lambda: mixedlm.lmer(task["formula"], data, REML=task["reml"]), order, lambda found: (found.n_iter, found.deviance)
        )

    measuring.serve({"evaluation": evaluation, "fit": fit, "lmer": lmer})


if __name__ == "__main__":
    main()
