"""Which pairs of levels meet, and how often."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from bigmm.codes import Codes
from bigmm.sparse_rows import (
    NO_LEVEL,
    add_row_lengths,
    count_in_table,
    count_ordered,
    count_rows,
    find,
    gather,
    gather_in_order,
    row_starts,
    sum_rows,
    take_rows,
    zero_tables,
)

_INT32_MAX = 2**31 - 1
#: Entries that are gathered at once while runs are merged: their space fits into the second cache.
_AT_ONCE = 2**16


def level_starts(refs: Codes, count: int) -> tuple[npt.NDArray[np.int64], bool]:
    """Where the entries of each of `count` levels begin once they are gathered, shape (count + 1,), and whether they are so already."""
    starts, gathered = row_starts(refs, count)
    return starts, bool(gathered)


def count_pairs(
    g: Codes, h: Codes, g_starts: npt.NDArray[np.int64], gathered: bool, h_starts: npt.NDArray[np.int64]
) -> tuple[Codes, Codes, Codes]:
    """Pairs of codes that occur, ordered by (g, h), and their numbers of rows.

    Parameters
    ----------
    g, h : (n,) int32
    g_starts, gathered
        Of `level_starts` of g.
    h_starts
        The same of h.

    Returns
    -------
    g, h, counts : (nnz,) int32
    """
    n, g_count, h_count = len(g), len(g_starts) - 1, len(h_starts) - 1
    out = _space(n, np.int32)
    if g_count * h_count <= n:
        return _trimmed(out, count_in_table(g, h, np.zeros((g_count, h_count), dtype=np.int32), *out))
    if gathered:
        return _trimmed(out, count_rows(h.copy(), g_starts, h_count, *out))
    if h_count <= n:  # two passes put the rows in order, sooner than sorting each; in the result's own space
        _, entries, by_h = out
        gather(h, g, h_starts, by_h)
        gather_in_order(by_h, h_starts, g_starts, entries)
        return _trimmed(out, count_ordered(g_starts, *out))
    gather(g, h, g_starts, entries := np.empty_like(h))
    return _trimmed(out, count_rows(entries, g_starts, h_count, *out))


def find_pairs(g: Codes, h: Codes, g_refs: Codes, h_refs: Codes, g_count: int) -> npt.NDArray[np.int64]:
    """Place of each pair (g, h) among those of an ordered list that holds them all."""
    starts, _ = row_starts(g_refs, g_count)
    return find(g, h, starts, h_refs)


@dataclass(frozen=True, slots=True)
class Run:
    """Counts of pairs, ordered by (g, h), with levels of their own.

    Attributes
    ----------
    g_places, h_places : (levels,) int32
        Places of its levels among all; ascending.
    g_refs, h_refs : (entries,) int32
        Its own levels.
    counts : (entries,) int32 or int64
    """

    g_places: Codes
    h_places: Codes
    g_refs: Codes
    h_refs: Codes
    counts: npt.NDArray[Any]


def merge_counts(runs: Sequence[Run], g_count: int, h_count: int, threads: int = 1) -> tuple[Codes, Codes, npt.NDArray[Any]]:
    """Sum the counts of pairs of several runs.

    Parameters
    ----------
    runs : sequence of Run
    g_count, h_count : int
        Levels in all.
    threads : int
        Each sums a range of the levels of g; integers have the same sums in any number of them.

    Returns
    -------
    g, h : (nnz,) int32
        Places of levels, ordered by (g, h), every pair once.
    counts : (nnz,) int32 or int64
        int64 if int32 might overflow.
    """
    runs = [run for run in runs if len(run.counts)]
    largest = sum(max(int(run.counts.max()), -int(run.counts.min())) for run in runs)
    dtype = np.int64 if largest > _INT32_MAX else np.int32
    starts = np.zeros(g_count + 1, dtype=np.int64)
    for run in runs:
        add_row_lengths(run.g_places, run.g_refs, starts)
    np.cumsum(starts, out=starts)
    out = _space(int(starts[-1]), dtype)
    edges = _edges(starts, threads)

    def merge_between(levels: tuple[int, int]) -> int:
        return _merge(runs, starts, levels, zero_tables(h_count, out[2]), out)

    if len(edges) == 2:
        return _trimmed(out, merge_between((edges[0], edges[1])))
    with ThreadPoolExecutor(len(edges) - 1) as pool:
        ends = list(pool.map(merge_between, pairwise(edges)))
    return _trimmed(out, _close_gaps(out, [int(starts[edge]) for edge in edges], ends))


def _edges(starts: npt.NDArray[np.int64], threads: int) -> list[int]:
    """Cut the levels into at most so many ranges of about as many entries each, none of them too small to be worth a thread."""
    parts = max(min(threads, int(starts[-1]) // _AT_ONCE), 1)
    inner = np.searchsorted(starts, starts[-1] * np.arange(1, parts) // parts)
    return [0, *inner.tolist(), len(starts) - 1]


def _merge(
    runs: Sequence[Run],
    starts: npt.NDArray[np.int64],
    levels: tuple[int, int],
    tables: Any,
    out: tuple[Codes, Codes, npt.NDArray[Any]],
) -> int:
    """Take the entries of a few levels of g from all runs, in their order, sum them, and go on with the next levels; where they end."""
    dtype, (first, stop) = out[2].dtype, levels
    counts = [run.counts.astype(dtype, copy=False) for run in runs]
    cursors, upcoming = (list(each) for each in zip(*(_cursor(run, first) for run in runs), strict=True)) if runs else ([], [])
    h_in, counts_in = np.empty(0, dtype=np.int32), np.empty(0, dtype=dtype)
    place = int(starts[first])
    while first < stop:
        after = max(int(np.searchsorted(starts, starts[first] + _AT_ONCE, side="right")) - 1, first + 1)
        after = min(after, stop)
        size = int(starts[after] - starts[first])
        if size > len(h_in):
            h_in, counts_in = np.empty(max(size, _AT_ONCE), dtype=np.int32), np.empty(max(size, _AT_ONCE), dtype=dtype)
        free = starts[first:after] - starts[first]
        for p, run in enumerate(runs):
            if upcoming[p] < after:
                cursors[p], upcoming[p] = take_rows(
                    run.g_places, run.h_places, run.g_refs, run.h_refs, counts[p], cursors[p], first, after, free, h_in, counts_in
                )
        place = sum_rows(h_in, counts_in, starts, first, after, tables, *out, place)
        first = after
    return place


def _cursor(run: Run, level: int) -> tuple[int, int]:
    """A run's first entry of a level of g or of a later one, and that entry's level."""
    own = int(np.searchsorted(run.g_places, run.g_places.dtype.type(level)))  # of its type: of another, the array would be copied
    entry = int(np.searchsorted(run.g_refs, np.int32(own)))
    return entry, int(run.g_places[run.g_refs[entry]]) if entry < len(run.g_refs) else NO_LEVEL


def _close_gaps(out: tuple[Codes, Codes, npt.NDArray[Any]], starts: Sequence[int], ends: Sequence[int]) -> int:
    """Move what each thread has written up to what the one before has; where it all ends."""
    place = ends[0]
    for start, end in zip(starts[1:], ends[1:], strict=False):
        if place != start:
            for array in out:
                array[place : place + end - start] = array[start:end]
        place += end - start
    return place


def _space(n: int, dtype: Any) -> tuple[Codes, Codes, npt.NDArray[Any]]:
    """Allocated by numpy, which asks for huge pages."""
    return np.empty(n, np.int32), np.empty(n, np.int32), np.empty(n, dtype)


def _trimmed(arrays: tuple[Codes, Codes, npt.NDArray[Any]], size: int) -> tuple[Codes, Codes, npt.NDArray[Any]]:
    """Give the rest of the space back."""
    for array in arrays:
        array.resize(size, refcheck=False)
    return arrays
