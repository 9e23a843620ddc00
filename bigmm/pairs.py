"""Which pairs of levels meet, and how often: sorting and summing of sparse rows, compiled.

Entries are gathered by their level of g, and within one level of g sorted by their level of h. There a table of bits,
which is read off in order, serves many entries, and insertion serves few.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from bigmm.codes import Codes, popcount

_INT32_MAX = 2**31 - 1
#: So few entries of a level are sorted by insertion.
_FEW = 5
#: n entries are sorted by bits if the table of words has at most so many times n words.
_WORDS_PER_ENTRY = 8
#: More are sorted beforehand.
_LONGEST_INSERTION = 48
#: Entries that are gathered at once while runs are merged: their space fits into the second cache.
_AT_ONCE = 2**16

_jit = numba.njit(cache=True, nogil=True, boundscheck=False)


def level_starts(refs: Codes, count: int) -> tuple[npt.NDArray[np.int64], bool]:
    """Where the entries of each of `count` levels begin once they are gathered, shape (count + 1,), and whether they are so already."""
    return _count(refs, count)


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
        _gather(g, h, g_starts, entries)
    out = _space(len(g), np.int32)
    return _trimmed(out, _count_rows(entries, g_starts, h_count, *out))


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
        _add_level_counts(run.g_places, run.g_refs, starts)
    np.cumsum(starts, out=starts)
    out = _space(int(starts[-1]), dtype)
    return _trimmed(out, _merge(runs, starts, _tables(h_count, out[2]), out))


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
                cursors[p], levels[p] = _take(
                    run.g_places, run.h_places, run.g_refs, run.h_refs, counts[p], cursors[p], first, after, free, h_in, counts_in
                )
        place = _sum_levels(h_in, counts_in, starts, first, after, tables, *out, place)
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


def find_pairs(g: Codes, h: Codes, g_refs: Codes, h_refs: Codes, g_count: int) -> npt.NDArray[np.int64]:
    """Place of each pair (g, h) among those of an ordered list that holds them all."""
    starts, _ = _count(g_refs, g_count)
    return _find(g, h, starts, h_refs)


@_jit
def add_rows(places: npt.NDArray[Any], part: npt.NDArray[Any], total: npt.NDArray[np.float64]) -> None:
    """Add line i of `part` to line ``places[i]`` of `total`."""
    for i in range(len(places)):
        row = total[places[i]]
        for j in range(part.shape[1]):
            row[j] += part[i, j]


@_jit
def _count(g: Codes, g_count: int) -> tuple[npt.NDArray[np.int64], bool]:
    starts = np.zeros(g_count + 1, np.int64)
    ordered = True
    last = -1
    for r in range(len(g)):
        ordered &= g[r] >= last
        last = g[r]
        starts[last + 1] += 1
    for i in range(g_count):
        starts[i + 1] += starts[i]
    return starts, ordered


@_jit
def _gather(g: Codes, h: Codes, starts: npt.NDArray[np.int64], out: Codes) -> None:
    place = starts[:-1].astype(np.int32)
    for r in range(len(g)):
        i = g[r]
        out[place[i]] = h[r]
        place[i] += 1


@_jit
def _next_bit(word: np.uint64) -> np.int64:
    return np.int64(popcount((word & (~word + np.uint64(1))) - np.uint64(1)))


@_jit
def _tables(h_count: int, out: npt.NDArray[Any]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64], npt.NDArray[Any]]:
    """A bit for every level of h, a bit for every word of those, and a sum for every level: all zero."""
    words = np.zeros((h_count >> 6) + 1, np.uint64)
    return words, np.zeros((len(words) >> 6) + 1, np.uint64), np.zeros(h_count, out.dtype)


@_jit
def _count_rows(h: Codes, starts: npt.NDArray[np.int64], h_count: int, g_out: Codes, h_out: Codes, out: Codes) -> int:
    """Distinct entries of every level and their numbers."""
    return _sum_levels(h, None, starts, 0, len(starts) - 1, _tables(h_count, out), g_out, h_out, out, 0)


@_jit
def _add_level_counts(places: Codes, refs: Codes, starts: npt.NDArray[np.int64]) -> None:
    """Add the number of entries of each level to starts[level + 1]."""
    for e in range(len(refs)):
        starts[places[refs[e]] + 1] += 1


@_jit
def _take(
    g_places: Codes,
    h_places: Codes,
    g_refs: Codes,
    h_refs: Codes,
    counts: npt.NDArray[Any],
    cursor: int,
    first: int,
    after: int,
    free: npt.NDArray[np.int64],
    h_in: Codes,
    counts_in: npt.NDArray[Any],
) -> tuple[int, int]:
    """Put a run's entries of levels [first, after) where their levels' next ones belong; the first entry not taken, and its level."""
    for e in range(cursor, len(g_refs)):
        level = g_places[g_refs[e]]
        if level >= after:
            return e, np.int64(level)
        place = free[level - first]
        free[level - first] = place + 1
        h_in[place] = h_places[h_refs[e]]
        counts_in[place] = counts[e]
    return len(g_refs), _INT32_MAX


@_jit
def _sum_levels(
    h: Codes,
    counts: Any,
    starts: npt.NDArray[np.int64],
    first: int,
    after: int,
    tables: Any,
    g_out: Codes,
    h_out: Codes,
    out: npt.NDArray[Any],
    place: int,
) -> int:
    """Write the distinct entries of levels [first, after) of g and their sums, or without counts their numbers, from `place` on.

    h[0] is the first entry of the first level. The order of the entries of a level is lost.
    """
    one, six, twelve, low_bits = np.uint64(1), np.uint64(6), np.uint64(12), np.uint64(63)
    words, top, tally = tables
    for i in range(first, after):
        start, stop = starts[i] - starts[first], starts[i + 1] - starts[first]
        e = start + 1
        while e < stop and h[e] > h[e - 1]:
            e += 1
        if e >= stop:  # in order: nothing to sum
            for e in range(start, stop):
                g_out[place] = i
                h_out[place] = h[e]
                out[place] = 1 if counts is None else counts[e]
                place += 1
        elif stop - start > _FEW and len(top) <= _WORDS_PER_ENTRY * (stop - start):
            for e in range(start, stop):
                j = np.uint64(h[e])
                words[j >> six] |= one << (j & low_bits)
                top[j >> twelve] |= one << ((j >> six) & low_bits)
                tally[j] += 1 if counts is None else counts[e]
            for t in range(len(top)):
                filled = top[t]
                top[t] = np.uint64(0)
                while filled != np.uint64(0):
                    w = (t << 6) + _next_bit(filled)
                    filled &= filled - one
                    word = words[w]
                    words[w] = np.uint64(0)
                    while word != np.uint64(0):
                        k = (w << 6) + _next_bit(word)
                        word &= word - one
                        g_out[place] = i
                        h_out[place] = k
                        out[place] = tally[k]
                        tally[k] = 0
                        place += 1
        else:
            if stop - start > _LONGEST_INSERTION:
                if counts is None:
                    h[start:stop].sort()
                else:
                    order = np.argsort(h[start:stop])
                    h[start:stop] = h[start:stop][order]
                    counts[start:stop] = counts[start:stop][order]
            begin = place
            for e in range(start, stop):
                j = h[e]
                count = 1 if counts is None else counts[e]
                f = place
                while f > begin and h_out[f - 1] > j:
                    f -= 1
                if f > begin and h_out[f - 1] == j:
                    out[f - 1] += count
                    continue
                for k in range(place, f, -1):
                    h_out[k] = h_out[k - 1]
                    out[k] = out[k - 1]
                g_out[place] = i
                h_out[f] = j
                out[f] = count
                place += 1
    return place


@_jit
def _find(g: Codes, h: Codes, starts: npt.NDArray[np.int64], h_refs: Codes) -> npt.NDArray[np.int64]:
    out = np.empty(len(g), np.int64)
    for e in range(len(g)):
        low, high = starts[g[e]], starts[g[e] + 1]
        while high - low > 1:
            middle = (low + high) >> 1
            if h_refs[middle] <= h[e]:
                low = middle
            else:
                high = middle
        out[e] = low
    return out
