"""Which pairs of levels meet, and how often."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bigmm.codes import Codes
from bigmm.sparse_rows import add_row_lengths, count_rows, find, gather, row_starts, sum_rows, take_rows, zero_tables

_INT32_MAX = 2**31 - 1
#: Entries that are gathered at once while runs are merged: their space fits into the second cache.
_AT_ONCE = 2**16


def level_starts(refs: Codes, count: int) -> tuple[npt.NDArray[np.int64], bool]:
    """Where the entries of each of `count` levels begin once they are gathered, shape (count + 1,), and whether they are so already."""
    starts, gathered = row_starts(refs, count)
    return starts, bool(gathered)


def count_pairs(g: Codes, h: Codes, g_starts: npt.NDArray[np.int64], gathered: bool, h_count: int) -> tuple[Codes, Codes, Codes]:
    """Pairs of codes that occur, ordered by (g, h), and their numbers of rows.

    Parameters
    ----------
    g, h : (n,) int32
    g_starts, gathered
        Of `level_starts`.
    h_count : int
        The codes `h` are below it.

    Returns
    -------
    g, h, counts : (nnz,) int32
    """
    entries = h.copy() if gathered else np.empty_like(h)
    if not gathered:
        gather(g, h, g_starts, entries)
    out = _space(len(g), np.int32)
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


def merge_counts(runs: Sequence[Run], g_count: int, h_count: int) -> tuple[Codes, Codes, npt.NDArray[Any]]:
    """Sum the counts of pairs of several runs.

    Parameters
    ----------
    runs : sequence of Run
    g_count, h_count : int
        Levels in all.

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
    return _trimmed(out, _merge(runs, starts, zero_tables(h_count, out[2]), out))


def _merge(runs: Sequence[Run], starts: npt.NDArray[np.int64], tables: Any, out: tuple[Codes, Codes, npt.NDArray[Any]]) -> int:
    """Take the entries of a few levels of g from all runs, in their order, sum them, and go on with the next levels."""
    dtype = out[2].dtype
    counts = [run.counts.astype(dtype, copy=False) for run in runs]
    cursors, levels = [0] * len(runs), [int(run.g_places[run.g_refs[0]]) for run in runs]
    h_in, counts_in = np.empty(0, dtype=np.int32), np.empty(0, dtype=dtype)
    place, first = 0, 0
    while first < len(starts) - 1:
        after = max(int(np.searchsorted(starts, starts[first] + _AT_ONCE, side="right")) - 1, first + 1)
        size = int(starts[after] - starts[first])
        if size > len(h_in):
            h_in, counts_in = np.empty(max(size, _AT_ONCE), dtype=np.int32), np.empty(max(size, _AT_ONCE), dtype=dtype)
        free = starts[first:after] - starts[first]
        for p, run in enumerate(runs):
            if levels[p] < after:
                cursors[p], levels[p] = take_rows(
                    run.g_places, run.h_places, run.g_refs, run.h_refs, counts[p], cursors[p], first, after, free, h_in, counts_in
                )
        place = sum_rows(h_in, counts_in, starts, first, after, tables, *out, place)
        first = after
    return place


def _space(n: int, dtype: Any) -> tuple[Codes, Codes, npt.NDArray[Any]]:
    """Allocated by numpy, which asks for huge pages."""
    return np.empty(n, np.int32), np.empty(n, np.int32), np.empty(n, dtype)


def _trimmed(arrays: tuple[Codes, Codes, npt.NDArray[Any]], size: int) -> tuple[Codes, Codes, npt.NDArray[Any]]:
    """Give the rest of the space back."""
    for array in arrays:
        array.resize(size, refcheck=False)
    return arrays
