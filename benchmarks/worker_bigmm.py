"""bigmm as a competitor: loads one problem, then measures what it is told to, a line of JSON at a time."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import sksparse
import threadpoolctl

import bigmm


def main() -> None:
    """Answer each line of standard input with a line on standard output."""
    task = json.loads(sys.argv[1])
    data = pd.read_csv(task["path"], dtype=dict.fromkeys(task["categories"], "str"))
    cp = bigmm.reduce(task["formula"], data)
    model = cp.model(reml=task["reml"])
    reply({"diagonal": (model.lower == 0.0).tolist(), "versions": versions(), "blas": blas()})
    for line in sys.stdin:
        order = json.loads(line)
        if order["measure"] == "evaluation":
            reply(evaluation(model, order["thetas"], order["budget"]))
        elif order["measure"] == "fit":
            reply(fit(lambda: cp.fit(reml=task["reml"]), order["budget"]))
        else:
            reply(fit(lambda: bigmm.lmer(task["formula"], data, reml=task["reml"]), order["budget"]))


def evaluation(model: bigmm.LinearMixedModel, thetas: list[list[float]], budget: float) -> dict[str, Any]:
    """Seconds of one objective, over passes through the thetas."""
    points = [np.array(theta) for theta in thetas]
    objectives = [model.objective(point) for point in points]
    seconds, repeats = repeat(lambda: [model.objective(point) for point in points], budget)
    return {"seconds": seconds / len(points), "repeats": repeats * len(points), "evaluations": 1, "objectives": objectives}


def fit(run: Callable[[], bigmm.LinearMixedModelFit], budget: float) -> dict[str, Any]:
    """Seconds of a whole fit."""
    found: list[bigmm.LinearMixedModelFit] = []
    seconds, repeats = repeat(lambda: found.append(run()), budget)
    return {"seconds": seconds, "repeats": repeats, "evaluations": found[-1].nevals, "objectives": [found[-1].objective]}


def repeat(function: Callable[[], object], budget: float) -> tuple[float, int]:
    """Median seconds of a call, over as many calls as begin within the budget."""
    seconds: list[float] = []
    while not seconds or sum(seconds) < budget:
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), len(seconds)


def versions() -> str:
    """The package and what its evaluations rest on."""
    return f"bigmm {bigmm.__version__}, scikit-sparse {sksparse.__version__}, numpy {np.__version__}, Python {sys.version.split()[0]}"


def blas() -> str:
    """CHOLMOD's BLAS: the one that is not inside numpy's or scipy's wheel, where there is such a one."""
    libraries = [library for library in threadpoolctl.threadpool_info() if library["user_api"] == "blas"]
    own = [library for library in libraries if not library["prefix"].startswith("libscipy_")] or libraries
    return ", ".join(sorted({f"{library['internal_api']} {library['version']}" for library in own}))


def reply(answer: dict[str, Any]) -> None:
    """One line for the runner."""
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
