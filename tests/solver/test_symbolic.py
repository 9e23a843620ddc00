"""Column counts against elimination of a boolean matrix."""

from __future__ import annotations

import numpy as np
import pytest

from bigmm.solver.symbolic import column_counts


def eliminate(pattern: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Counts and parents, by filling in a symmetric boolean matrix."""
    A, n = pattern.copy(), len(pattern)
    parent = np.full(n, -1)
    counts = np.empty(n, dtype=int)
    for j in range(n):
        below = j + 1 + np.flatnonzero(A[j + 1 :, j])
        counts[j] = 1 + len(below)
        if len(below):
            parent[j] = below[0]
        A[np.ix_(below, below)] = True
    return counts, parent


@pytest.mark.parametrize("density", [0.0, 0.02, 0.05, 0.2, 1.0])
@pytest.mark.parametrize("n", [1, 2, 7, 60])
def test_counts(n: int, density: float) -> None:
    rng = np.random.default_rng(int(100 * density) + n)
    lower = np.tril(rng.random((n, n)) < density, -1) | np.eye(n, dtype=bool)
    columns, rows = np.nonzero(lower.T)
    indptr = np.searchsorted(columns, np.arange(n + 1))
    permutation = rng.permutation(n)
    full = (lower | lower.T)[np.ix_(permutation, permutation)]
    counts, parent, flops = column_counts(indptr, rows.astype(np.int32), permutation)
    expected, parents = eliminate(full)
    np.testing.assert_array_equal(counts, expected)
    np.testing.assert_array_equal(parent, parents)
    assert flops == (expected.astype(float) ** 2).sum()
    assert column_counts(indptr, rows.astype(np.int32), permutation, flops - 1.0)[2] > flops - 1.0


def test_a_limit_stops_early() -> None:
    n = 200
    indptr = np.concatenate([[0], np.cumsum(np.arange(n, 0, -1))])
    rows = np.concatenate([np.arange(j, n) for j in range(n)]).astype(np.int32)
    assert 1000.0 < column_counts(indptr, rows, np.arange(n), 1000.0)[2] < n**3 / 30
