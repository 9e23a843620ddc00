"""Dependent columns, seen through X'X."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import bigmm
from bigmm.solver.rank import independent_columns

RNG = np.random.default_rng(5)
X = np.column_stack([np.ones(50), RNG.normal(size=(50, 4))])


def kept(columns: np.ndarray) -> list[bool]:
    return independent_columns(columns.T @ columns)[0].tolist()


def test_all_independent() -> None:
    assert kept(X) == [True] * 5


def test_the_later_of_dependent_columns_goes() -> None:
    assert kept(np.column_stack([X[:, 1], X[:, 2], X[:, 1] + X[:, 2], X[:, 3]])) == [True, True, False, True]
    assert kept(np.column_stack([X[:, 1], X[:, 1] + X[:, 2], X[:, 2], X[:, 3], X[:, 3]])) == [True, True, False, True, False]


def test_zero_columns_go() -> None:
    assert kept(np.column_stack([0 * X[:, 0], X[:, 1], 0 * X[:, 0]])) == [False, True, False]


def test_no_columns() -> None:
    assert kept(np.zeros((50, 0))) == []


@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1e6, 1e12])
def test_scale_does_not_matter(scale: float) -> None:
    assert kept(X * [1, scale, 1, 1 / scale, 1]) == [True] * 5
    assert kept(np.column_stack([X, X[:, 1] * scale])) == [True] * 5 + [False]


@pytest.mark.parametrize(("noise", "expected"), [(1e-4, True), (1e-8, False)])
def test_nearly_dependent(noise: float, expected: bool) -> None:
    """X'X resolves lengths of about the square root of the rounding."""
    assert kept(np.column_stack([X, X[:, 1] + noise * RNG.normal(size=50)]))[-1] is expected


def test_model_reports_what_it_drops() -> None:
    frame = pd.DataFrame({"x": X[:, 1], "z": X[:, 2], "y": X[:, 3], "g": np.arange(50) % 5})
    frame["s"] = 2 * frame["x"] - frame["z"] + 1
    fit = bigmm.lmer("y ~ x + z + s + (1 | g)", frame, client=0)
    assert (list(fit.fixef.index), fit.dropped) == (["(Intercept)", "x", "z"], ("s",))
    without = bigmm.lmer("y ~ x + z + (1 | g)", frame, client=0)
    assert fit.objective == pytest.approx(without.objective, rel=1e-10)


def test_large_means_are_not_taken_for_dependence() -> None:
    """Years around 2000 with a spread of 1 differ from the intercept by 5e-4; 1e6 and a spread of 1 by 1e-6."""
    frame = pd.DataFrame({"x": 1e6 + X[:, 1], "y": X[:, 3], "g": np.arange(50) % 5})
    assert bigmm.lmer("y ~ x + (1 | g)", frame, client=0).dropped == ()
