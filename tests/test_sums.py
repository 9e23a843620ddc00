"""Sums over rows: against exact arithmetic."""

from __future__ import annotations

import math
import threading

import numpy as np
import pytest

from bigmm.sums import add_rows, all_finite, gram, level_products, level_sums


@pytest.mark.parametrize("n", [0, 1, 7, 100, 50_001])
def test_gram(n: int) -> None:
    rng = np.random.default_rng(n)
    V, w = rng.normal(size=(3, n)), rng.uniform(size=n)
    np.testing.assert_allclose(gram(V * w, V), (V * w) @ V.T, rtol=1e-13, atol=1e-13 * max(n, 1))
    np.testing.assert_array_equal(gram(V, V), gram(V, V).T)


def test_gram_of_many_rows_is_nearly_exact() -> None:
    V = np.full((1, 3_000_000), 0.1)
    exact = 3_000_000 * math.pow(0.1, 2)
    assert abs(gram(V, V)[0, 0] - exact) < 1e-12 * exact
    assert abs(np.cumsum(V * V)[-1] - exact) > 1e-12 * exact  # what a running sum loses


@pytest.mark.parametrize("most", [1, 1000])
@pytest.mark.parametrize(("n", "q"), [(0, 2), (5, 1), (1000, 30), (1000, 900)])
def test_sums_and_products_of_levels(n: int, q: int, most: int) -> None:
    rng = np.random.default_rng(q)
    refs = rng.integers(0, q, n).astype(np.int32)
    left, right = rng.normal(size=(2, n)), rng.normal(size=(3, n))
    sums, products = np.zeros((q, 5)), np.zeros((q, 3, 5))
    level_sums(refs, right, np.array([4, 0, 2]), sums, most)
    level_products(refs, left, right, np.array([2, 0]), np.array([4, 0, 2]), products, most)
    member = refs == np.arange(q)[:, None]
    np.testing.assert_allclose(sums[:, [4, 0, 2]], member @ right.T, atol=1e-12)
    np.testing.assert_allclose(products[:, [2, 0]][:, :, [4, 0, 2]], np.einsum("jr,ar,br->jab", member, left, right), atol=1e-12)
    assert not sums[:, [1, 3]].any()
    assert not products[:, 1].any()


def test_sums_of_large_levels_are_rounded_once() -> None:
    """One level of nearly all rows, and a few small ones; exact sums by Shewchuk's algorithm."""
    rng = np.random.default_rng(3)
    n, q = 200_000, 50
    refs = np.where(rng.uniform(size=n) < 0.99, 7, rng.integers(0, q, n)).astype(np.int32)
    left, right = rng.normal(size=(1, n)), rng.normal(size=(1, n)) + 0.5
    sums, products, place = np.zeros((q, 1)), np.zeros((q, 1, 1)), np.array([0])
    level_sums(refs, right, place, sums, n)
    level_products(refs, left, right, place, place, products, n)
    for level in range(q):
        one, other = left[0, refs == level], right[0, refs == level]
        assert sums[level, 0] == math.fsum(other)
        assert products[level, 0, 0] == math.fsum(one * other)


def test_rows_are_added_in_order() -> None:
    total = np.full((3, 2), 1e16)
    add_rows(np.array([0, 2], dtype=np.int32), np.ones((2, 2)), total)
    add_rows(np.array([0, 1], dtype=np.int32), np.full((2, 2), -1e16), total)
    assert total.tolist() == [[0, 0], [0, 0], [1e16, 1e16]]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_finite(bad: float) -> None:
    values = np.linspace(-8e307, 8e307, 1001)
    assert all_finite(values)
    assert all_finite(values[:0])
    assert all_finite(np.broadcast_to(1.0, 5))
    for place in (0, 500, 1000):
        changed = values.copy()
        changed[place] = bad
        assert not all_finite(changed)


def test_threads_get_the_same_bits() -> None:
    rng = np.random.default_rng(0)
    V, refs = rng.normal(size=(4, 200_000)), rng.integers(0, 500, 200_000).astype(np.int32)
    results: list[bytes] = []

    def work() -> None:
        out = np.zeros((500, 4))
        level_sums(refs, V, np.arange(4), out, 400)
        results.append(out.tobytes() + gram(V, V).tobytes())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(results)) == 1
    assert len(results) == 4
