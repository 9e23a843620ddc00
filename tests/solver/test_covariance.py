"""theta: its order, names and bounds, as in lme4."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

import bigmm
from bigmm.errors import ModelError
from bigmm.solver.covariance import lme4_order

RNG = np.random.default_rng(3)
FRAME = pd.DataFrame(
    {
        "y": RNG.normal(size=96),
        "x": RNG.normal(size=96),
        "f": RNG.choice(list("abc"), 96),
        "g": np.arange(96) % 12,
        "h": np.arange(96) // 24,
        "k": RNG.permutation(np.arange(96) % 12),
    }
)


def covariance(random: str) -> Any:
    return bigmm.reduce(f"y ~ x + {random}", FRAME, client=0).model().selected.covariance


@pytest.mark.parametrize(
    ("counts", "order"),
    [
        ([5], [0]),
        ([5, 3], [0, 1]),
        ([3, 5], [1, 0]),
        ([5, 5], [0, 1]),  # nothing increases: as written
        ([3, 5, 5], [2, 1, 0]),  # R: rev(order(c(3, 5, 5))) is 3 2 1
        ([5, 5, 7], [2, 1, 0]),
        ([7, 5, 5], [0, 1, 2]),
        ([5, 7, 5], [1, 2, 0]),
        ([4, 4, 4, 9, 4], [3, 4, 2, 1, 0]),
    ],
)
def test_order_of_terms(counts: list[int], order: list[int]) -> None:
    assert lme4_order(counts) == order


@pytest.mark.parametrize(
    ("random", "names"),
    [
        ("(1 | g)", ["g.(Intercept)"]),
        ("(x | g)", ["g.(Intercept)", "g.x.(Intercept)", "g.x"]),
        ("(0 + x | g)", ["g.x"]),
        ("(x || g)", ["g.(Intercept)", "g.x"]),
        ("(1 | h) + (1 | g)", ["g.(Intercept)", "h.(Intercept)"]),
        ("(1 | h) + (x | g)", ["g.(Intercept)", "g.x.(Intercept)", "g.x", "h.(Intercept)"]),
        ("(1 | g) + (0 + x | g)", ["g.(Intercept)", "g.x"]),
        ("(1 | h) + (1 | g) + (1 | k)", ["k.(Intercept)", "g.(Intercept)", "h.(Intercept)"]),
        ("(1 | h) + (1 | g) + (0 + x | g)", ["g.x", "g.(Intercept)", "h.(Intercept)"]),
        ("(0 + f | h)", ["h.fa", "h.fb.fa", "h.fc.fa", "h.fb", "h.fc.fb", "h.fc"]),
        ("(f | h)", ["h.(Intercept)", "h.fb.(Intercept)", "h.fc.(Intercept)", "h.fb", "h.fc.fb", "h.fc"]),
        ("(1 | h/f)", ["f:h.(Intercept)", "h.(Intercept)"]),
    ],
)
def test_names(random: str, names: list[str]) -> None:
    assert list(covariance(random).names) == names


def test_start_and_bounds() -> None:
    found = covariance("(x + f | h) + (1 | g)")
    np.testing.assert_array_equal(found.theta0, [1, 1, 0, 0, 0, 1, 0, 0, 1, 0, 1])
    np.testing.assert_array_equal(found.lower, np.where(found.theta0 == 1, 0.0, -np.inf))


def test_templates_are_filled_by_columns() -> None:
    found = covariance("(f | h) + (1 | g) + (0 + x | g)")
    g, h = (found.templates([7.0, 8.0, 1, 2, 3, 4, 5, 6])[position] for position in (1, 0))
    np.testing.assert_array_equal(h, [[1, 0, 0], [2, 4, 0], [3, 5, 6]])
    np.testing.assert_array_equal(np.sort(np.diag(g)), [7, 8])
    assert np.count_nonzero(g) == 2


def test_labels_number_the_terms_of_one_factor() -> None:
    assert covariance("(1 | g) + (0 + x | g) + (1 | h)").labels == ("g", "g.1", "h")


@pytest.mark.parametrize(
    ("theta", "message"),
    [
        ([1.0], r"theta of shape \(1,\): expected 3 values, g.\(Intercept\), g.x.\(Intercept\), g.x"),
        ([[1.0, 0.0, 1.0]], r"theta of shape \(1, 3\)"),
        ([1.0, np.nan, 1.0], "not finite"),
        ([1.0, np.inf, 1.0], "not finite"),
        ([1.0, 0.0, -1e-9], r"theta\[2\] = -1e-09 \(g.x\) is below its bound 0"),
        (2.0, r"theta of shape \(\)"),
    ],
)
def test_errors(theta: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        covariance("(x | g)").check(theta)


@pytest.mark.parametrize("theta", ["a", [1.0, "b", 1.0], [[1.0], [1.0, 2.0]], [1.0, 2j, 1.0]], ids=str)
def test_theta_that_is_no_numbers(theta: Any) -> None:
    with pytest.raises(ModelError, match=r"^theta is .*: expected 3 numbers, g\.\(Intercept\), "):
        covariance("(x | g)").check(theta)
