"""What must not matter: the objective is the same to 1e-9 of itself, or changes by a known amount.

More examples by hand: ``pytest tests/test_invariances.py --hypothesis-profile=long`` (see tests/conftest.py).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bigmm
from bigmm.reduction.partial import partial_crossproducts
from bigmm.solver.model import LinearMixedModel

FORMULA = "y ~ x + f + (1 + x | g) + (1 | h)"
#: Of a random slope of x on g and an intercept on h.
THETA = np.array([0.8, -0.3, 0.5, 0.6])
RTOL = 1e-9

frames = st.integers(0, 2**32 - 1).map(lambda seed: make(np.random.default_rng(seed)))
remls = st.booleans()


def make(rng: np.random.Generator) -> pd.DataFrame:
    """A small unbalanced design; every level of f, g and h is there."""
    n = int(rng.integers(40, 120))
    frame = pd.DataFrame(
        {
            "g": np.append(np.arange(8), rng.integers(0, 8, n - 8)),
            "h": np.append(np.arange(5), rng.integers(0, 5, n - 5)),
            "f": rng.choice(["a", "b", "c"], n),
            "x": rng.normal(size=n),
            "w": rng.uniform(0.2, 5.0, n),
        }
    )
    effects = rng.normal(size=8)[frame["g"]] + rng.normal(size=5)[frame["h"]]
    return frame.assign(y=0.3 * frame["x"] + effects + rng.normal(size=n))


def objective(frame: pd.DataFrame, reml: bool, formula: str = FORMULA, theta: Any = THETA, **options: Any) -> float:
    return bigmm.reduce(formula, frame, client=0, **options).model(reml=reml).objective(theta)


def close(found: float, expected: float) -> None:
    assert found == pytest.approx(expected, rel=RTOL, abs=RTOL)


@given(frames, remls, st.randoms(use_true_random=False))
def test_rows_permuted(frame: pd.DataFrame, reml: bool, random: Any) -> None:
    order = list(range(len(frame)))
    random.shuffle(order)
    close(objective(frame.iloc[order], reml), objective(frame, reml))


@given(frames, remls, st.data())
def test_chunks_cut_anywhere(frame: pd.DataFrame, reml: bool, data: st.DataObject) -> None:
    """Empty chunks, too: a place can be cut twice."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(frame)), max_size=6)))
    table = pa.Table.from_pandas(frame, preserve_index=False)
    whole = bigmm.reduce(FORMULA, frame, client=0)
    bounds = [0, *cuts, len(frame)]
    parts = [partial_crossproducts(table.slice(a, b - a), whole.design) for a, b in itertools.pairwise(bounds)]
    total = bigmm.merge(parts)
    close(total.model(reml=reml).objective(THETA), whole.model(reml=reml).objective(THETA))


@given(frames, remls, st.permutations(range(8)), st.permutations(range(5)))
def test_levels_relabelled(frame: pd.DataFrame, reml: bool, g: list[int], h: list[int]) -> None:
    other = frame.assign(g=[f"level {g[code]}" for code in frame["g"]], h=[2**60 - h[code] for code in frame["h"]])
    close(objective(other, reml), objective(frame, reml))


@given(frames, remls)
def test_factors_reordered(frame: pd.DataFrame, reml: bool) -> None:
    """Theta is in the order of the numbers of levels where they differ, so that it stays."""
    close(objective(frame, reml, "y ~ f + x + (1 | h) + (x + 1 | g)"), objective(frame, reml))


@given(frames, remls, st.floats(-1e6, 1e6))
def test_y_shifted(frame: pd.DataFrame, reml: bool, shift: float) -> None:
    """By whole numbers, so that the data are the same but for the shift to 1e-10."""
    close(objective(frame.assign(y=frame["y"].round(6) + np.round(shift)), reml), objective(frame.assign(y=frame["y"].round(6)), reml))


@given(frames, remls, st.floats(-6.0, 6.0))
def test_y_scaled(frame: pd.DataFrame, reml: bool, power: float) -> None:
    nu = len(frame) - (4 if reml else 0)
    close(objective(frame.assign(y=frame["y"] * 10.0**power), reml), objective(frame, reml) + 2 * nu * power * np.log(10.0))


@given(frames, remls, st.floats(-6.0, 6.0))
def test_x_scaled(frame: pd.DataFrame, reml: bool, power: float) -> None:
    """With the slope's rows of theta; REML's log|R_X| changes by the scale."""
    scale = 10.0**power
    theta = THETA * [1.0, 1.0 / scale, 1.0 / scale, 1.0]
    extra = 2 * np.log(scale) if reml else 0.0
    close(objective(frame.assign(x=frame["x"] * scale), reml, theta=theta), objective(frame, reml) + extra)


@given(frames, st.floats(-1e4, 1e4))
def test_x_shifted(frame: pd.DataFrame, shift: float) -> None:
    """Without a random slope, which depends on where x is zero."""
    formula, theta = "y ~ x + f + (1 | g) + (1 | h)", THETA[[0, 3]]
    moved = frame.assign(x=frame["x"].round(6) + np.round(shift))
    close(objective(moved, True, formula, theta), objective(frame.assign(x=frame["x"].round(6)), True, formula, theta))


@given(frames, remls)
def test_units_changed_by_a_million(frame: pd.DataFrame, reml: bool) -> None:
    """The estimates follow, whatever theta the search takes on its way."""
    one = bigmm.lmer(FORMULA, frame, reml=reml, client=0)
    other = bigmm.lmer(FORMULA, frame.assign(x=frame["x"] * 1e6, y=frame["y"] * 1e6), reml=reml, client=0)
    nu = len(frame) - (4 if reml else 0)
    expected = one.objective + 2 * nu * np.log(1e6) + (2 * np.log(1e6) if reml else 0.0)
    assert other.objective == pytest.approx(expected, rel=RTOL, abs=1e-7)


@given(frames, remls)
def test_weights_doubled(frame: pd.DataFrame, reml: bool) -> None:
    """sigma^2 and V double: with theta / sqrt(2), everything else is the same."""
    heavy = frame.assign(w=2.0 * frame["w"])
    nu, n = len(frame) - (4 if reml else 0), len(frame)
    extra = nu * np.log(2.0) - n * np.log(2.0) + (4 * np.log(2.0) if reml else 0.0)
    close(objective(heavy, reml, theta=THETA / np.sqrt(2.0), weights="w"), objective(frame, reml, weights="w") + extra)


@given(frames)
def test_duplicated_data_with_half_the_weights(frame: pd.DataFrame) -> None:
    """The crossproducts are the same; nu and the weights' logarithms are not."""
    half = pd.concat([frame, frame]).assign(w=lambda d: d["w"] / 2.0)
    one, two = (bigmm.reduce(FORMULA, data, weights="w", client=0).model(reml=False) for data in (frame, half))
    close(two.evaluate(THETA)[1].pwrss, one.evaluate(THETA)[1].pwrss)
    close(two.evaluate(THETA)[1].logdet, one.evaluate(THETA)[1].logdet)
    n, pwrss = len(frame), one.evaluate(THETA)[1].pwrss
    expected = one.evaluate(THETA)[1].logdet + 2 * n * (1 + np.log(2 * np.pi * pwrss / (2 * n))) - 2 * np.log(frame["w"] / 2.0).sum()
    close(two.objective(THETA), expected)


@pytest.mark.parametrize("theta", [THETA, np.zeros(4)])
@given(frame=frames)
def test_sub_models_of_more_columns(theta: np.ndarray, frame: pd.DataFrame) -> None:
    """Columns and factors that were collected for nothing do not matter."""
    models: Callable[[str], LinearMixedModel] = lambda text: bigmm.reduce(text, frame, client=0).model(FORMULA)  # noqa: E731
    close(models("y ~ x * f + (x + f | g) + (1 | h) + (1 | g:h)").objective(theta), models(FORMULA).objective(theta))
