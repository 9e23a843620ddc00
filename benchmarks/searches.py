"""Evaluations of the search on random models, and whether every start ends at the same minimum.

python benchmarks/searches.py              # 300 models, a few minutes; writes results/searches.csv
python benchmarks/searches.py 0 60 --bobyqa
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

import bigmm
from bigmm.solver.model import LinearMixedModel
from bigmm.solver.optimize import Optimizer

RESULTS = Path(__file__).parent / "results"
FIXED = ["1", "x", "x + z", "x * f", "f", "0 + f"]
RANDOM = ["1 |", "1 |", "x |", "x |", "z |", "x ||", "x + z |", "x * z |", "f |", "0 + f |", "f * x |"]
#: Starts far from the default one, and evaluations after which a search is given up.
STARTS, MOST = 2, 250


@dataclass(frozen=True, slots=True)
class Searched:
    """One model: evaluations from the default start and from others at most, the largest gap between their minima."""

    seed: int
    formula: str
    reml: bool
    rows: int
    thetas: int
    evaluations: int
    from_others: int
    converged: bool
    gap: float
    bobyqa: float


def simulate(seed: int) -> tuple[str, pd.DataFrame]:
    """One to three factors of 3 to 60 levels, crossed or nested, of any terms; covariances that may be singular, or zero, or large."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(60, 1500))
    frame = pd.DataFrame({"x": rng.choice([0.0, 5.0, 100.0]) + rng.choice([0.1, 1.0, 30.0]) * rng.normal(size=n), "z": rng.normal(size=n)})
    frame["f"] = rng.choice(list("abcd")[: rng.integers(2, 5)], n)
    frame["g"] = rng.integers(0, rng.integers(3, 60), n)
    frame["h"] = frame["g"] // 3 if rng.random() < 0.3 else rng.integers(0, rng.integers(3, 40), n)
    frame["k"] = rng.integers(0, 6, n)
    y, terms = rng.normal(size=n), []
    columns = np.column_stack([np.ones(n), (frame["x"] - frame["x"].mean()) / frame["x"].std(), frame["z"], frame["f"] == "b"])
    for name in rng.permutation(["g", "h", "k"])[: rng.integers(1, 4)]:
        terms.append(f"({rng.choice(RANDOM)} {name})")
        b = rng.normal(size=(frame[name].max() + 1, 4)) * rng.choice([0.0, 0.3, 1.0, 3.0, 30.0])
        if rng.random() < 0.4:
            b[:, 1] = b[:, 0] * rng.normal()
        if rng.random() < 0.3:
            b[:, 2] = 0.0
        y = y + (b[frame[name]] * columns).sum(axis=1)
    return f"y ~ {rng.choice(FIXED)} + {' + '.join(terms)}", frame.assign(y=y * rng.choice([1e-3, 1.0, 1e4]))


def searched(seed: int, *, bobyqa: bool) -> Searched | None:
    """None for a model that is refused, as one with as many random effects as rows."""
    formula, frame = simulate(seed)
    reml = bool(seed % 2)
    try:
        model = bigmm.reduce(formula, frame, client=0).model(reml=reml)
        first, *others = [model.fit(start=start, optimizer=Optimizer("newton", maxeval=MOST)) for start in starts(seed, model)]
    except bigmm.BigmmError:
        return None
    objectives = [fit.objective for fit in (first, *others)]
    oracle = model.fit(optimizer="bobyqa").objective - first.objective if bobyqa else np.nan
    most, converged = max(fit.nevals for fit in others), all(fit.converged for fit in (first, *others))
    gap = max(objectives) - min(objectives)
    return Searched(seed, formula, reml, len(frame), len(first.theta), first.nevals, most, converged, gap, oracle)


def starts(seed: int, model: LinearMixedModel) -> Iterator[np.ndarray | None]:
    """The default one, and some whose variances are off by factors of hundreds."""
    yield None
    rng = np.random.default_rng(10**6 + seed)
    for _ in range(STARTS):
        far = np.exp(2.0 * rng.normal(size=len(model.lower))) * model.theta0
        yield np.where(model.lower == 0.0, far, rng.normal(size=len(far)))


def main() -> None:
    """Measure, write, and print quantiles."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("first", type=int, nargs="?", default=0)
    parser.add_argument("last", type=int, nargs="?", default=300)
    parser.add_argument("--bobyqa", action="store_true", help="also how far above bigmm's minimum BOBYQA ends")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = [searched(seed, bobyqa=arguments.bobyqa) for seed in range(arguments.first, arguments.last)]
    table = pd.DataFrame([asdict(row) for row in rows if row is not None])
    table.to_csv(RESULTS / "searches.csv", index=False, float_format="%.3g")
    sizes = pd.cut(table["thetas"], [0, 5, 20, 100], labels=["1 to 5", "6 to 20", "more"])
    by_size = table.groupby(sizes, observed=True)
    print(by_size["evaluations"].describe(percentiles=[0.5, 0.9]).round(1).to_string())
    print(f"not converged from some start: {(~table['converged']).sum()} of {len(table)}")
    print(f"minima more than 1e-4 apart: {(table['gap'] > 1e-4).sum()}")


if __name__ == "__main__":
    main()
