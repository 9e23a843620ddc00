"""bigmm as a competitor: starts from crossproducts, and reads the rows only when a measure begins with them."""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import measuring
import numba
import numpy as np
import pandas as pd
import sksparse
import threadpoolctl

import bigmm
from bigmm.crossproducts import CrossProducts

#: The command reads the rows from so many files with so many workers.
_FILES, _WORKERS = 8, 2


def main() -> None:
    """Load the crossproducts, then measure what is ordered."""
    task = measuring.task()
    warm_up()
    base = measuring.resident()
    work = Work(task)
    measuring.say(
        {
            "diagonal": (work.cp.model(reml=task["reml"]).lower == 0.0).tolist(),
            "versions": versions(),
            "blas": blas(),
            "base": base,
            "products": work.cp.nbytes,
            "factor": factor_bytes(work.cp, reml=task["reml"]),
        }
    )
    measuring.serve({"evaluation": work.evaluation, "gradient": work.gradient, "fit": work.fit, "lmer": work.lmer, "command": work.command})


class Work:
    """One problem; nothing is kept from one measure to the next but the crossproducts, for the sake of the peak."""

    def __init__(self, task: dict[str, Any]) -> None:
        self.task = task
        self.folder = Path(task["folder"])
        self.cp = bigmm.load(self.folder / "crossproducts")

    def evaluation(self, order: dict[str, Any]) -> measuring.Answer:
        """One objective."""
        model = self.cp.model(reml=self.task["reml"])
        model.objective(order["thetas"][0])
        return measuring.evaluations(model.objective, order)

    def gradient(self, order: dict[str, Any]) -> measuring.Answer:
        """One objective with its derivatives."""
        model = self.cp.model(reml=self.task["reml"])
        model.objective(order["thetas"][0])

        def run(theta: list[float]) -> float:
            value, evaluation = model.evaluate(np.array(theta))
            model.differentiate(evaluation)
            return value

        return measuring.evaluations(run, order)

    def fit(self, order: dict[str, Any]) -> measuring.Answer:
        """The fit from crossproducts."""
        return measuring.fits(lambda: self.cp.fit(reml=self.task["reml"], optimizer=self.task["optimizer"]), order, outcome)

    def lmer(self, order: dict[str, Any]) -> measuring.Answer:
        """The fit from the data frame."""
        data = pd.read_parquet(self.folder / "rows.parquet")
        return measuring.fits(partial(bigmm.lmer, self.task["formula"], data, reml=self.task["reml"], client=0), order, outcome)

    def command(self, order: dict[str, Any]) -> measuring.Answer:
        """The command ``bigmm fit`` on Parquet files, from the start of its process to the summary."""
        files = self.folder / "files"
        if not files.exists():
            cut(pd.read_parquet(self.folder / "rows.parquet"), files)
        method = [] if self.task["reml"] else ["--ml"]
        entry = [sys.executable, "-c", "import bigmm.cli; bigmm.cli.main()", "fit", self.task["formula"], str(files / "*.parquet")]
        program = [*entry, *method, "--workers", str(_WORKERS)]
        seconds, repeats, _ = measuring.repeat(lambda: subprocess.run(program, capture_output=True, check=True), order["budget"])
        return {"seconds": seconds, "repeats": repeats, "evaluations": 0, "objective": math.nan}


def outcome(fit: bigmm.LinearMixedModelFit) -> tuple[int, float]:
    """Evaluations and objective."""
    return fit.nevals, fit.objective


def warm_up() -> None:
    """Load every compiled loop and library: scalar and vector terms, dense and sparse roots, large enough for threads; files.

    What is compiled while it is measured would count as seconds and as peak memory.
    """
    rng = np.random.default_rng(0)
    refs = rng.integers(10, size=(400, 3))
    data = pd.DataFrame({"y": rng.standard_normal(400), "x": rng.standard_normal(400), "g": refs[:, 0], "h": refs[:, 1], "i": refs[:, 2]})
    data["j"] = np.arange(400) // 4
    data["k"] = data["j"] // 2
    for formula in ("y ~ x + (1|g) + (1|h)", "y ~ x + (x|g) + (x|h)", "y ~ x + (x|g)", "y ~ x + (1|j) + (1|k)", "y ~ x + (x|j) + (1|k)"):
        bigmm.lmer(formula, data, client=0)
    refs = rng.integers(600, size=(6000, 2))
    data = pd.DataFrame({"y": rng.standard_normal(6000), "x": rng.standard_normal(6000), "g": refs[:, 0], "h": refs[:, 1]})
    data["f"] = pd.Categorical.from_codes(refs[:, 0] % 4, list("abcd"))
    with tempfile.TemporaryDirectory() as folder:
        bigmm.reduce("y ~ x + f + (x|g) + (f|h)", data, client=0).save(f"{folder}/crossproducts")
        bigmm.load(f"{folder}/crossproducts").fit()
    popular = (300 * rng.random(30_000) ** 3).astype(int)  # a dense root in an order of its own
    data = pd.DataFrame({"y": rng.standard_normal(30_000), "g": rng.integers(600, size=30_000), "h": popular})
    bigmm.lmer("y ~ 1 + (1|g) + (1|h)", data, client=0)
    nested = np.arange(6000)
    data = pd.DataFrame({"y": rng.standard_normal(6000), "g": nested // 4, "h": nested // 12, "i": nested // 36})
    bigmm.lmer("y ~ 1 + (1|g) + (1|h) + (1|i)", data, client=0)  # a root that stays sparse


def factor_bytes(cp: CrossProducts, *, reml: bool) -> float:
    """Bytes of L by structure, as the plan has it; a dense root counts as the square that holds it."""
    chosen = cp.plan(reml=reml).chosen
    if chosen.nnz_L is None:
        return math.nan
    upper = chosen.root * (chosen.root - 1) // 2 if chosen.name == "leaves + dense root" else 0
    return 8.0 * (chosen.nnz_L + upper)


def cut(data: pd.DataFrame, folder: Path) -> None:
    """Write rows as Parquet files of consecutive rows."""
    folder.mkdir()
    edges = np.linspace(0, len(data), _FILES + 1).astype(int)
    for i, (start, stop) in enumerate(itertools.pairwise(edges)):
        data.iloc[start:stop].to_parquet(folder / f"part-{i}.parquet", index=False)


def versions() -> str:
    """The package and what its evaluations rest on."""
    rest = f"scikit-sparse {sksparse.__version__}, numba {numba.__version__}, numpy {np.__version__}, Python {sys.version.split()[0]}"
    return f"bigmm {bigmm.__version__}, {rest}"


def blas() -> str:
    """The BLAS libraries in this process; CHOLMOD's is the one that is in nobody's wheel."""
    libraries = [library for library in threadpoolctl.threadpool_info() if library["user_api"] == "blas"]
    return ", ".join(sorted({f"{library['internal_api']} {library['version']} ({owner(library['filepath'])})" for library in libraries}))


def owner(path: str) -> str:
    """The wheel that a library came with, or the system."""
    folder = os.path.basename(os.path.dirname(path))
    return folder.removesuffix(".libs") if folder.endswith(".libs") else "system"


if __name__ == "__main__":
    main()
