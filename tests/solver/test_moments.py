"""The start by moments: near the optimum where the data say something, never at zero, whatever the units."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import bigmm
from bigmm.solver.model import LinearMixedModel
from bigmm.solver.moments import moment_starts
from bigmm.solver.units import FLOOR, floors, own_sizes


def start(model: LinearMixedModel) -> np.ndarray:
    selected = model.selected
    theta, _ = moment_starts(
        selected.blocks, selected.covariance, own_sizes(selected.blocks, selected.covariance), floors(model.units) / FLOOR
    )
    return theta


def crossed(seed: int = 1, x_scale: float = 1.0, n: int = 20_000) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({"g": rng.integers(0, 800, n), "h": rng.integers(0, 60, n), "x": rng.normal(size=n)})
    b, c, d = rng.normal(0.0, 0.8, 800), rng.normal(0.0, 0.5, 60), rng.normal(0.0, 0.4, 800)
    frame["y"] = 2.0 + b[frame["g"]] + c[frame["h"]] + d[frame["g"]] * frame["x"] + rng.normal(size=n)
    return frame.assign(x=frame["x"] * x_scale)


@pytest.mark.parametrize("x_scale", [1.0, 1e-5, 1e6])
def test_near_the_truth(x_scale: float) -> None:
    cp = bigmm.reduce("y ~ x + (1 + x | g) + (1 | h)", crossed(x_scale=x_scale), client=0)
    theta = start(cp.model())
    np.testing.assert_allclose(theta * [1.0, 1.0, x_scale, 1.0], [0.8, 0.0, 0.4, 0.5], rtol=0.3)


def test_the_search_is_short_from_there() -> None:
    cp = bigmm.reduce("y ~ x + (1 + x | g) + (1 | h)", crossed(), client=0)
    fit = cp.fit("y ~ x + (1 | g) + (1 | h)")
    np.testing.assert_array_equal(fit.optimization.start, start(cp.model("y ~ x + (1 | g) + (1 | h)")))
    assert fit.nevals <= 7


def test_balanced_one_way_layout_is_solved() -> None:
    """There the equations are those of the analysis of variance, but for the degree of freedom of the mean."""
    groups, replicates = 400, 5
    means, inside = np.linspace(-1.0, 1.0, groups), np.linspace(-1.0, 1.0, replicates)
    frame = pd.DataFrame({"g": np.repeat(np.arange(groups), replicates), "y": np.add.outer(3.0 * means, inside).ravel()})
    fit = bigmm.lmer("y ~ 1 + (1 | g)", frame, reml=False, client=0)
    assert fit.optimization.start[0] == pytest.approx(fit.theta[0], rel=0.2)


@pytest.mark.filterwarnings("ignore::bigmm.IdentificationWarning")  # a column of zeros
def test_never_at_zero_nor_beyond_reason() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"g": np.repeat(np.arange(50), 8), "y": np.tile(rng.normal(size=8), 50), "x": 0.0})
    model = bigmm.reduce("y ~ 1 + (1 | g) + (0 + x | g)", frame, client=0).model()
    theta = start(model)
    assert np.isfinite(theta).all()
    assert (theta > 0.0).all()
    exact = frame.assign(y=frame["g"] * 1.0 + 1e-7 * rng.normal(size=400))
    assert np.isfinite(start(bigmm.reduce("y ~ 1 + (1 | g)", exact, client=0).model())).all()


@pytest.mark.parametrize("seed", [1, 5, 11])
def test_a_level_without_a_column_after_a_subtraction(seed: int) -> None:
    """What is left of its pairs is rounding: it was divided by zero."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {"x": rng.normal(size=400), "g": rng.integers(0, 25, 400), "h": rng.integers(0, 12, 400), "w": rng.uniform(0.01, 5.0, 400)}
    )
    frame["y"] = rng.normal(size=400) + rng.normal(size=25)[frame["g"]]
    gone = rng.random(400) < 0.3
    frame.loc[~gone & frame["g"].isin(range(10)), "x"] = 0.0
    formula = "y ~ x + (x || g) + (x | h)"
    whole, taken, left = (
        bigmm.reduce(formula, rows, weights="w", client=0)
        for rows in (frame.sample(frac=1.0, random_state=seed), frame[gone], frame[~gone])
    )
    assert (whole - taken).fit().objective == pytest.approx(left.fit().objective, abs=1e-6)


def test_two_evaluations_are_enough_for_an_answer() -> None:
    """The second start took the last one, and the first was forgotten."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"g": np.repeat(np.arange(20), 10)})
    frame["y"] = 100.0 * rng.normal(size=20)[frame["g"]] + rng.normal(size=200)
    model = bigmm.reduce("y ~ 1 + (1 | g)", frame, client=0).model()
    assert [model.fit(optimizer=bigmm.Optimizer("newton", maxeval=most)).nevals for most in (1, 2, 3)] == [1, 2, 3]
