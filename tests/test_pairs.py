"""Pairs of levels and their counts: every way in which a row of them is sorted."""

from __future__ import annotations

import numpy as np
import pytest

from bigmm.pairs import Run, count_pairs, find_pairs, level_starts, merge_counts

#: Rows, levels of g and of h: rows of a few entries, of many, and of some among very many levels.
SHAPES = [(0, 3, 4), (1, 1, 1), (5_000, 4_000, 300), (20_000, 40, 7_000), (20_000, 150, 5_000_000), (30_000, 2, 3), (70_000, 1, 80_000)]


def counted(g: np.ndarray, h: np.ndarray, q: tuple[int, int]) -> tuple[np.ndarray, ...]:
    starts, gathered = level_starts(g, q[0])
    return count_pairs(g, h, starts, gathered, level_starts(h, q[1])[0])


def expected(g: np.ndarray, h: np.ndarray, counts: np.ndarray, h_count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    keys, places = np.unique(g.astype(np.int64) * h_count + h, return_inverse=True)
    sums = np.zeros(len(keys), dtype=np.int64)
    np.add.at(sums, places, counts)
    return keys // h_count, keys % h_count, sums


def codes(n: int, q: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, q, n).astype(np.int32)


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_counts(shape: tuple[int, int, int], ordered: bool) -> None:
    n, *q = shape
    g, h = codes(n, q[0], 1), codes(n, q[1], 2)
    g = np.sort(g) if ordered else g
    kept = g.copy(), h.copy()
    found = counted(g, h, (q[0], q[1]))
    for mine, right in zip(found, expected(g, h, np.ones(n, dtype=int), q[1]), strict=True):
        assert mine.dtype == np.int32
        np.testing.assert_array_equal(mine, right)
    np.testing.assert_array_equal([g, h], kept)
    places = find_pairs(g, h, *found[:2], q[0])
    np.testing.assert_array_equal(found[0][places], g)
    np.testing.assert_array_equal(found[1][places], h)


@pytest.mark.parametrize("parts", [1, 2, 9])
@pytest.mark.parametrize("shape", SHAPES)
def test_merges_with_levels_of_their_own(shape: tuple[int, int, int], parts: int) -> None:
    n, *q = shape
    runs, rows = [], []
    for part in range(parts):
        g, h = codes(n, q[0], 3 * part), codes(n, q[1], 3 * part + 1)
        g_places, g_own = np.unique(g, return_inverse=True)
        h_places, h_own = np.unique(h, return_inverse=True)
        found = counted(g_own.astype(np.int32), h_own.astype(np.int32), (len(g_places), len(h_places)))
        runs.append(Run(g_places, h_places, *found))
        rows.append((g, h))
    g, h = (np.concatenate(side) for side in zip(*rows, strict=True))
    for mine, right in zip(merge_counts(runs, *q), expected(g, h, np.ones(len(g), dtype=int), q[1]), strict=True):
        assert mine.dtype == np.int32
        np.testing.assert_array_equal(mine, right)


@pytest.mark.parametrize("threads", [2, 3, 7])
@pytest.mark.parametrize(("n", "g_count", "h_count"), [(0, 5, 5), (300_000, 2, 50_000), (300_000, 9_000, 40), (300_000, 200_000, 900)])
def test_threads_give_the_same_sums(n: int, g_count: int, h_count: int, threads: int) -> None:
    """Ranges of levels that hold few pairs twice and many, and gaps between what the threads write."""
    runs = []
    for part in range(3):
        g, h = codes(n, g_count, 2 * part), codes(n, h_count, 2 * part + 1)
        places = np.arange(g_count, dtype=np.int32), np.arange(h_count, dtype=np.int32)
        runs.append(Run(*places, *counted(g, h, (g_count, h_count))))
    alone = merge_counts(runs, g_count, h_count)
    assert len(alone[0]) < sum(len(run.counts) for run in runs) or n == 0
    for mine, right in zip(merge_counts(runs, g_count, h_count, threads), alone, strict=True):
        np.testing.assert_array_equal(mine, right, strict=True)


def test_counts_that_cancel_stay_and_large_ones_are_wide() -> None:
    same = np.arange(3, dtype=np.int32)
    pair = np.array([0, 2], dtype=np.int32), np.array([1, 0], dtype=np.int32)
    small, large = np.array([5, -7], dtype=np.int32), np.array([-5, 2**31 - 1], dtype=np.int32)
    g, h, counts = merge_counts([Run(same, same, *pair, small), Run(same, same, *pair, -small)], 3, 3)
    assert (g.tolist(), h.tolist(), counts.tolist(), counts.dtype) == ([0, 2], [1, 0], [0, 0], np.int32)
    *_, counts = merge_counts([Run(same, same, *pair, large)] * 2, 3, 3)
    assert (counts.tolist(), counts.dtype) == ([-10, 2**32 - 2], np.int64)
