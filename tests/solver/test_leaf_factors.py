"""Leaves side by side against NumPy, one leaf at a time."""

from __future__ import annotations

import numpy as np
import pytest

from bigmm.columns import Array
from bigmm.solver.lanes import lanes
from bigmm.solver.leaf_factors import factor_leaves, gram_of_leaves


def leaves(q: int, k: int, scale: float = 1.0) -> tuple[Array, Array]:
    """Z'Z of leaves with at least as many rows as columns, and a lower triangular T."""
    rng = np.random.default_rng([q, k])
    Z, T = rng.normal(size=(q, k + 2, k)), np.tril(rng.normal(size=(k, k)))
    return scale * np.asarray(Z.transpose(0, 2, 1) @ Z), T


@pytest.mark.parametrize("k", [1, 2, 3, 7, 50])
@pytest.mark.parametrize("q", [1, 7, 63, 64, 65, 4097])
def test_factors_and_determinant(q: int, k: int) -> None:
    ZtZ, T = leaves(min(q, 200) if k == 50 else q, k)
    D = T.T @ ZtZ @ T + np.eye(k)
    V = np.full_like(ZtZ, np.nan)
    logdet = factor_leaves(ZtZ, T, V)
    np.testing.assert_allclose(V.transpose(0, 2, 1) @ V, T @ np.linalg.inv(D) @ T.T, rtol=1e-9, atol=1e-12)
    assert logdet == pytest.approx(np.linalg.slogdet(D).logabsdet.sum(), rel=1e-13)


@pytest.mark.parametrize("scale", [1e-12, 1e30, 1e150, 1e300])
def test_determinants_neither_overflow_nor_vanish(scale: float) -> None:
    ZtZ, _ = leaves(1000, 1, scale)
    logdet = factor_leaves(ZtZ, np.eye(1), np.empty_like(ZtZ))
    assert logdet == pytest.approx(np.log1p(ZtZ).sum(), rel=1e-13, abs=1e-12)


def test_determinants_that_rounding_made_small() -> None:
    ZtZ = np.full((5000, 1, 1), -0.999)  # as a subtraction of crossproducts may leave, beside variances far too large
    logdet = factor_leaves(ZtZ, np.eye(1), np.empty_like(ZtZ))
    assert logdet == pytest.approx(5000 * np.log1p(-0.999), rel=1e-13)


def test_what_is_not_positive_definite_is_not_a_number() -> None:
    ZtZ = np.tile(np.eye(2), (200, 1, 1))
    ZtZ[100] = -2.0 * np.eye(2)
    assert np.isnan(factor_leaves(ZtZ, np.eye(2), np.empty_like(ZtZ)))


@pytest.mark.parametrize("q", [1, 64, 100, 9000])
def test_gram(q: int) -> None:
    rng = np.random.default_rng(q)
    V, C = rng.normal(size=(q, 3, 3)), rng.normal(size=(q, 3, 4))
    columns = (V @ C).reshape(-1, 4)
    np.testing.assert_allclose(gram_of_leaves(V, C), columns.T @ columns, rtol=1e-12)


def test_lanes_are_as_many_as_fit_into_cache() -> None:
    assert [lanes(numbers) for numbers in (0, 40, 1000, 10**6)] == [64, 64, 16, 8]
