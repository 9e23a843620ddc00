"""A dense matrix by tiles: LAPACK's factor and inverse, the same bits for any number of threads."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import lapack

from bigmm.solver import tiles

#: Around one panel, one tile, and the corner's tiles.
ORDERS = [1, 47, 49, 127, 128, 129, 256, 300, 385, 700]


def positive(r: int) -> np.ndarray:
    A = np.random.default_rng(r).normal(size=(r, r))
    return A @ A.T / r + np.eye(r)


def upper(S: np.ndarray) -> np.ndarray:
    """S with nonsense below the diagonal, which nothing may read."""
    out = S.copy()
    out[np.tril_indices(len(S), -1)] = np.nan
    return out


def inverted(S: np.ndarray, threads: int) -> tuple[np.ndarray, np.ndarray]:
    """Upper triangles of the factor (L') and of the inverse."""
    out = upper(S)
    assert tiles.factorize(out, threads) == 0
    factor = np.triu(out)
    tiles.invert(out, threads, np.full(tiles.work_size(len(S)), np.nan))
    return factor, np.triu(out)


@pytest.mark.parametrize("sizes", [(128, 256), (48, 80), (64, 64)], ids=str)
@pytest.mark.parametrize("r", ORDERS)
def test_the_factor_and_the_inverse(r: int, sizes: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "_SMALL", sizes)
    S = positive(r)
    factor, inverse = inverted(S, 2)
    np.testing.assert_allclose(factor, np.linalg.cholesky(S).T, rtol=0, atol=1e-13)
    np.testing.assert_allclose(inverse, np.triu(np.linalg.inv(S)), rtol=0, atol=1e-13)


@pytest.mark.parametrize("sizes", [(128, 256), (48, 80), (64, 64)], ids=str)
@pytest.mark.parametrize("r", ORDERS)
def test_the_inverse_of_the_factor(r: int, sizes: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "_SMALL", sizes)
    S = positive(r)
    one, two = (factor_inverted(S, threads) for threads in (1, 2))
    np.testing.assert_allclose(one, np.linalg.inv(np.linalg.cholesky(S)).T, rtol=0, atol=1e-13)
    np.testing.assert_array_equal(one, two)


def factor_inverted(S: np.ndarray, threads: int) -> np.ndarray:
    """Upper triangle of L^-1'."""
    out = upper(S)
    assert tiles.factorize(out, threads) == 0
    tiles.invert_factor(out, threads, np.full(tiles.work_size(len(S)), np.nan))
    return np.triu(out)


@pytest.mark.parametrize("r", [300, 700])
def test_the_same_bits_for_any_number_of_threads(r: int) -> None:
    S = positive(r)
    one = inverted(S, 1)
    for threads in (2, 3, 8):
        for expected, found in zip(one, inverted(S, threads), strict=True):
            np.testing.assert_array_equal(found, expected)


def test_a_large_order_has_large_tiles() -> None:
    assert [tiles._sizes(r) for r in (2999, 3000)] == [tiles._SMALL, tiles._LARGE]
    assert tiles.work_size(3000) == 256 * (3000 - 256)
    assert tiles.work_size(100) == 0


@pytest.mark.parametrize("bad", [0, 127, 128, 299])
def test_which_minor_is_not_positive(bad: int) -> None:
    S = positive(300)
    S[bad, bad] = -1.0
    assert tiles.factorize(S.copy(), 2) == lapack.dpotrf(S, lower=0)[1] == bad + 1


def test_what_fails_in_a_thread_is_told() -> None:
    def fail(tile: tiles.Span) -> None:
        raise IndexError(str(tile))

    with pytest.raises(IndexError, match="0, 1"):
        tiles.share(2, fail, [(0, 1), (0, 1), (0, 1)])
