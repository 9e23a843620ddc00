"""Which pairs of levels meet, and how often: sorting and summing of sparse rows, compiled.

Entries are gathered by their level of g, and within one level of g sorted by their level of h. There a table of bits,
which is read off in order, serves many entries; insertion serves few.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from bigmm.codes import Codes, popcount

_INT32_MAX = np.iinfo(np.int32).max
#: A row with n entries is sorted by bits if the table has at most so many times n words.
_WORDS_PER_ENTRY = 8
#: Longer rows are not sorted by insertion.
_LONGEST_INSERTION = 48
#: Entries that are gathered at once while runs are merged: their space fits into the second cache.
_AT_ONCE = 2**15

_jit = numba.njit(cache=True, nogil=True, boundscheck=False)


def count_pairs(g: Codes, h: Codes, g_count: int, h_count: int) -> tuple[Codes, Codes, Codes]:
    """Pairs of codes that occur, ordered by (g, h), and their numbers of rows.

    Parameters
    ----------
    g, h : (n,) int32
        Codes below `g_count` and `h_count`.

    Returns
    -------
    g, h, counts : (nnz,) int32
    """
    starts, ordered = _count(g, g_count)
    entries = h.copy() if ordered else np.empty_like(h)
    if not ordered:
        _gather(g, h, starts, entries)
    out = _space(len(g), np.int32)
    return _trimmed(out, _count_rows(entries, starts, h_count, *out))


def merge_counts(g: Codes, h: Codes, counts: npt.NDArray[Any], runs: npt.NDArray[np.int64], g_count: int, h_count: int) -> Any:
    """Sum the counts of pairs in several runs, each of which is ordered by g.

    Parameters
    ----------
    g, h : (entries,) int32
    counts : (entries,) int32 or int64
    runs : (number of runs + 1,) int64
        Where each run begins and the last one ends.

    Returns
    -------
    g, h : (nnz,) int32
        Ordered by (g, h), every pair once.
    counts : (nnz,) int32 or int64
        int64 if int32 might overflow.
    """
    edges = zip(runs[:-1], runs[1:], strict=True)
    largest = sum(max(int(counts[a:b].max()), -int(counts[a:b].min())) for a, b in edges if b > a)
    wide = counts.astype(np.int64 if largest > _INT32_MAX else np.int32, copy=False)
    out = _space(len(g), wide.dtype)
    return _trimmed(out, _merge_runs(g, h, wide, runs, g_count, h_count, *out))


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
    """Where the entries of each level begin once they are gathered, and whether they are so already."""
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
def _count_rows(entries: Codes, starts: npt.NDArray[np.int64], h_count: int, g_out: Codes, h_out: Codes, out: Codes) -> int:
    """Distinct entries of each row and their numbers."""
    one, six, low_bits = np.uint64(1), np.uint64(6), np.uint64(63)
    words = np.zeros((h_count >> 6) + 1, np.uint64)
    tally = np.zeros(h_count, np.int32)
    place = 0
    for i in range(len(starts) - 1):
        start, stop = starts[i], starts[i + 1]
        size = stop - start
        if len(words) <= _WORDS_PER_ENTRY * size:
            for e in range(start, stop):
                h = np.uint64(entries[e])
                words[h >> six] |= one << (h & low_bits)
                tally[h] += 1
            for w in range(len(words)):
                word = words[w]
                words[w] = np.uint64(0)
                while word != np.uint64(0):
                    h = (w << 6) + _next_bit(word)
                    word &= word - one
                    g_out[place] = i
                    h_out[place] = h
                    out[place] = tally[h]
                    tally[h] = 0
                    place += 1
            continue
        if size > _LONGEST_INSERTION:
            entries[start:stop].sort()
        else:
            for e in range(start + 1, stop):
                h = entries[e]
                f = e - 1
                while f >= start and entries[f] > h:
                    entries[f + 1] = entries[f]
                    f -= 1
                entries[f + 1] = h
        last = -1
        for e in range(start, stop):
            if entries[e] == last:
                out[place - 1] += 1
            else:
                last = entries[e]
                g_out[place] = i
                h_out[place] = last
                out[place] = 1
                place += 1
    return place


@_jit
def _merge_runs(
    g: Codes,
    h: Codes,
    counts: npt.NDArray[Any],
    runs: npt.NDArray[np.int64],
    g_count: int,
    h_count: int,
    g_out: Codes,
    h_out: Codes,
    out: npt.NDArray[Any],
) -> int:
    one, six, low_bits = np.uint64(1), np.uint64(6), np.uint64(63)
    starts, _ = _count(g, g_count)
    words = np.zeros((h_count >> 6) + 1, np.uint64)
    tally = np.zeros(h_count, counts.dtype)
    size = _AT_ONCE
    h_in, in_ = np.empty(size, np.int32), np.empty(size, counts.dtype)
    cursor = runs[:-1].copy()
    place = first = 0
    while first < g_count:
        after = first + 1  # levels [first, after) are merged at once
        while after < g_count and starts[after + 1] - starts[first] <= _AT_ONCE:
            after += 1
        base = starts[first]
        if starts[after] - base > size:
            size = starts[after] - base
            h_in, in_ = np.empty(size, np.int32), np.empty(size, counts.dtype)
        free = starts[first:after] - base
        for p in range(len(cursor)):
            e, end = cursor[p], runs[p + 1]
            while e < end and g[e] < after:
                i = g[e] - first
                h_in[free[i]] = h[e]
                in_[free[i]] = counts[e]
                free[i] += 1
                e += 1
            cursor[p] = e
        for i in range(first, after):
            start, stop = starts[i] - base, starts[i + 1] - base
            ordered = True
            for e in range(start + 1, stop):
                ordered &= h_in[e] > h_in[e - 1]
            if ordered:
                for e in range(start, stop):
                    g_out[place] = i
                    h_out[place] = h_in[e]
                    out[place] = in_[e]
                    place += 1
                continue
            if len(words) <= _WORDS_PER_ENTRY * (stop - start):
                for e in range(start, stop):
                    j = np.uint64(h_in[e])
                    words[j >> six] |= one << (j & low_bits)
                    tally[j] += in_[e]
                for w in range(len(words)):
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
                continue
            if stop - start > _LONGEST_INSERTION:
                order = np.argsort(h_in[start:stop])
                h_in[start:stop] = h_in[start:stop][order]
                in_[start:stop] = in_[start:stop][order]
            else:
                for e in range(start + 1, stop):
                    j, c = h_in[e], in_[e]
                    f = e - 1
                    while f >= start and h_in[f] > j:
                        h_in[f + 1] = h_in[f]
                        in_[f + 1] = in_[f]
                        f -= 1
                    h_in[f + 1] = j
                    in_[f + 1] = c
            last = -1
            for e in range(start, stop):
                if h_in[e] == last:
                    out[place - 1] += in_[e]
                else:
                    last = h_in[e]
                    g_out[place] = i
                    h_out[place] = last
                    out[place] = in_[e]
                    place += 1
        first = after
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
