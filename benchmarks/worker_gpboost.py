"""gpboost as a competitor: maximum likelihood, scalar random effects; its own parameters, so that it has no objective at a theta."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gpboost
import measuring
import numpy as np
import pandas as pd


def main() -> None:
    """Say whether it can, then measure whole fits."""
    task = measuring.task()
    base = measuring.resident()
    groups = re.findall(r"\(1\|(\w+)\)", task["formula"])
    if task["reml"] or len(groups) != task["formula"].count("|"):
        measuring.say({"unable": "no REML" if task["reml"] else "no correlated intercepts and slopes"})
        return
    data = pd.read_parquet(Path(task["folder"]) / "rows.parquet")
    response, fixed = (part.strip() for part in task["formula"].split("~"))
    names = [name for name in re.sub(r"\(.*?\)", "", fixed).replace(" ", "").split("+") if name not in ("", "1")]
    X = pd.DataFrame({"one": np.ones(len(data))})
    if names:
        X = X.join(pd.get_dummies(data[names], drop_first=True, dtype="float64"))
    measuring.say({"diagonal": None, "versions": f"gpboost {version('gpboost')}", "blas": "", "base": base})

    def run() -> gpboost.GPModel:
        model = gpboost.GPModel(group_data=data[groups], likelihood="gaussian")
        model.fit(y=data[response].to_numpy(np.float64), X=X.to_numpy())
        return model

    def lmer(order: dict[str, Any]) -> measuring.Answer:
        return measuring.fits(run, order, lambda model: (model._get_num_optim_iter(), 2.0 * model.get_current_neg_log_likelihood()))

    measuring.serve({"lmer": lmer})


if __name__ == "__main__":
    main()
