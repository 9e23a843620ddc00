"""The constants taken from the first rows, and the digits they save."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import bigmm
from bigmm.design import Design
from bigmm.formula import parse_formula
from bigmm.reduction.shift import with_shift
from bigmm.reduction.sources import plan_data

KINDS: dict[str, Any] = {"y": "number", "x": "number", "z": "number", "a": "category", "g": "category"}


def shifted(formula: str = "y ~ x + (1 | g)", **columns: Any) -> Design:
    base = {"y": np.zeros(8), "x": np.zeros(8), "z": np.ones(8), "a": list("pq" * 4), "g": list("uv" * 4)}
    design = Design(parse_formula(formula), KINDS)
    return with_shift(design, plan_data(pa.table({**base, **columns}), design.names).chunks)


SPREAD = np.array([-1.0, 1.0] * 4)


@pytest.mark.parametrize("mean", [5.0, -1e3, 1e6, 1e9, 1e15])
def test_near_the_mean(mean: float) -> None:
    found = shifted(y=mean + SPREAD, x=2 * mean + SPREAD)
    assert abs(found.y_shift["y"] - mean) <= 1.0
    assert abs(found.shift["x"] - 2 * mean) <= 1.0


@pytest.mark.parametrize("values", [np.zeros(8), SPREAD, SPREAD + 0.5])
def test_no_shift_where_it_gains_nothing(values: np.ndarray) -> None:
    found = shifted(y=values, x=values)
    assert (found.y_shift["y"], found.shift["x"]) == (0.0, 0.0)


@pytest.mark.parametrize("mean", [3.3, 1e6 + 0.1, 123456789.123])
def test_few_bits(mean: float) -> None:
    """Differences from a constant of few bits are exact."""
    found = shifted(y=mean + 0.7 * SPREAD)
    mantissa, _ = np.frexp(found.y_shift["y"])
    assert float(mantissa * 2.0**40).is_integer()


def test_constant_columns() -> None:
    found = shifted(y=np.full(8, 7.25), x=np.full(8, -1e8))
    assert found.y_shift["y"] == pytest.approx(7.25, rel=1e-9)
    assert found.shift["x"] == pytest.approx(-1e8, rel=1e-9)


def test_products_and_expressions_have_shifts_of_their_own() -> None:
    found = shifted("y ~ x * z + I(x^2) + a:x + (z | g)", x=100 + SPREAD, z=50 + SPREAD)
    assert set(found.shift) == {"x", "z", "x:z", "I(x^2)"}
    assert found.shift["x:z"] == pytest.approx(5000, rel=0.1)
    assert found.shift["I(x^2)"] == pytest.approx(10000, rel=0.1)


def test_offset_comes_first() -> None:
    found = shifted("y ~ offset(z) + (1 | g)", y=1000 + SPREAD, z=np.full(8, 400.0))
    assert abs(found.y_shift["y"] - 600) <= 1


def test_one_wild_value_does_not_count() -> None:
    assert shifted(y=pa.array([None, 1e9, 5, 6, 5, 4, 5, 5])).y_shift["y"] == pytest.approx(5, abs=1)


def test_a_column_without_values() -> None:
    assert shifted(y=pa.array([None] * 8, pa.float64())).y_shift["y"] == 0.0


@pytest.mark.parametrize("mean", [1e6, 1e8])
def test_columns_that_begin_late(mean: float) -> None:
    """No row among the first is complete; every column has its constant all the same."""
    rng = np.random.default_rng(0)
    n = 6000
    frame = pd.DataFrame({"x": rng.normal(size=n), "z": rng.normal(size=n), "g": rng.integers(0, 50, n)})
    frame["y"] = frame["x"] + rng.normal(size=50)[frame["g"]] + rng.normal(size=n)
    late = frame.assign(z=frame["z"].where(frame.index >= 4500))
    formula = "y ~ x + z + (1 | g)"
    expected = bigmm.reduce(formula, late, client=0).model(reml=False).objective([0.8])
    found = bigmm.reduce(formula, late.assign(y=late["y"] + mean, x=late["x"] + mean), client=0).model(reml=False).objective([0.8])
    assert found == pytest.approx(expected, rel=1e-9 * mean / 1e6)


def smls(offset: float, groups: int, replicates: int) -> pd.DataFrame:
    """NIST's SmLs family (design, section 7) at any size: MSW = 0.01, MSB = n/100, sigma_a^2 = 0.01 (1 - 1/n), exactly."""
    centre = np.full(groups, 0.5)
    centre[1::2] = 0.3
    centre[0] = 0.4
    inside = np.zeros(replicates)
    inside[1::2], inside[2::2] = -0.1, 0.1
    return pd.DataFrame({"g": np.repeat(np.arange(groups), replicates), "y": offset + np.add.outer(centre, inside).ravel()})


@pytest.mark.parametrize("offset", [0.0, 1e6, 1e9])
@pytest.mark.parametrize(("groups", "replicates"), [(9, 21), (9, 201)])
def test_digits_of_the_variances(offset: float, groups: int, replicates: int) -> None:
    """y itself is rounded to offset * 1e-16, so 0.1 of spread keeps -log10(offset * 1e-15) digits, and its square as many."""
    fit = bigmm.lmer("y ~ 1 + (1 | g)", smls(offset, groups, replicates), client=0)
    rounding = 40 * np.spacing(offset) / 0.1
    assert fit.sigma**2 == pytest.approx(0.01, rel=max(1e-7, rounding))
    assert fit.theta[0] ** 2 * fit.sigma**2 == pytest.approx(0.01 * (1 - 1 / replicates), rel=max(1e-6, rounding))
    assert fit.fixef["(Intercept)"] == pytest.approx(offset + smls(0.0, groups, replicates)["y"].mean(), rel=1e-12)


@pytest.mark.parametrize("offset", [1e6, 1e9])
def test_data_that_begin_elsewhere(offset: float) -> None:
    """The first rows decide; rows far from them lose digits in proportion to the distance, not to the offset."""
    near, far = smls(offset, 9, 1001), smls(offset + 10.0, 9, 1001).assign(g=lambda d: d["g"] + 9)
    fit = bigmm.lmer("y ~ factor(s) + (1 | g)", pd.concat([near.assign(s=0), far.assign(s=1)]), client=0)
    assert fit.fixef["factor(s)1"] == pytest.approx(10.0, rel=1e-6)
    assert fit.sigma**2 == pytest.approx(0.01, rel=1e-5)
