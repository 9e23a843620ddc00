"""Sorting and summing of sparse rows, compiled.

A row is a level of one factor, its entries are levels of another, at first in any order and more than once. A table of
bits, which is read off in order, serves many entries, and insertion serves few.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from bigmm.codes import Codes, popcount

#: What no level reaches.
NO_LEVEL = 2**31 - 1
#: So few entries of a row are sorted by insertion.
_FEW = 5
#: n entries are sorted by bits if the table of words has at most so many times n words.
_WORDS_PER_ENTRY = 8
#: More are sorted before they are inserted.
_LONGEST_INSERTION = 48

_jit = numba.njit(cache=True, nogil=True, boundscheck=False)


@_jit
def row_starts(g: Codes, g_count: int) -> tuple[npt.NDArray[np.int64], bool]:
    """Where each row begins once its entries are gathered, and whether they are so already."""
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
def gather(g: Codes, h: Codes, starts: npt.NDArray[np.int64], out: Codes) -> None:
    """Put the entries of each row together."""
    place = starts[:-1].astype(np.int32)
    for r in range(len(g)):
        i = g[r]
        out[place[i]] = h[r]
        place[i] += 1


@_jit
def gather_in_order(g_by_h: Codes, h_starts: npt.NDArray[np.int64], starts: npt.NDArray[np.int64], out: Codes) -> None:
    """As `gather`, of entries that were gathered by their level of h before: those of each row come in order."""
    place = starts[:-1].astype(np.int32)
    for j in range(len(h_starts) - 1):
        for e in range(h_starts[j], h_starts[j + 1]):
            i = g_by_h[e]
            out[place[i]] = j
            place[i] += 1


@_jit
def count_ordered(starts: npt.NDArray[np.int64], g_out: Codes, h: Codes, out: Codes) -> int:
    """Distinct entries of every level and their numbers, of rows that are in order; the former take the place of all in `h`."""
    place = -1
    for i in range(len(starts) - 1):
        last = -1
        for e in range(starts[i], starts[i + 1]):
            if h[e] == last:
                out[place] += 1
                continue
            last = h[e]
            place += 1
            g_out[place] = i
            h[place] = last
            out[place] = 1
    return place + 1


@_jit
def count_in_table(g: Codes, h: Codes, table: Codes, g_out: Codes, h_out: Codes, out: Codes) -> int:
    """Distinct entries of every level and their numbers, in any order, by a count for every pair that there might be: `table` is zero."""
    for r in range(len(g)):
        table[g[r], h[r]] += 1
    place = 0
    for i in range(table.shape[0]):
        for j in range(table.shape[1]):
            if table[i, j] != 0:
                g_out[place] = i
                h_out[place] = j
                out[place] = table[i, j]
                place += 1
    return place


@_jit
def _next_bit(word: np.uint64) -> Any:
    """Number of the lowest bit that is set."""
    return np.int64(popcount((word & (~word + np.uint64(1))) - np.uint64(1)))


@_jit
def zero_tables(h_count: int, out: npt.NDArray[Any]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64], npt.NDArray[Any]]:
    """A bit for every level of h, a bit for every word of those, and a sum for every level: all zero."""
    words = np.zeros((h_count >> 6) + 1, np.uint64)
    return words, np.zeros((len(words) >> 6) + 1, np.uint64), np.zeros(h_count, out.dtype)


@_jit
def count_rows(h: Codes, starts: npt.NDArray[np.int64], h_count: int, g_out: Codes, h_out: Codes, out: Codes) -> int:
    """Distinct entries of every level and their numbers."""
    return sum_rows(h, None, starts, 0, len(starts) - 1, zero_tables(h_count, out), g_out, h_out, out, 0)


@_jit
def add_row_lengths(places: Codes, refs: Codes, starts: npt.NDArray[np.int64]) -> None:
    """Add the number of entries of each level to starts[level + 1]."""
    for e in range(len(refs)):
        starts[places[refs[e]] + 1] += 1


@_jit
def take_rows(
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
    last, place = first, free[0]
    for e in range(cursor, len(g_refs)):
        level = g_places[g_refs[e]]
        if level != last:
            free[last - first] = place
            if level >= after:
                return e, int(level)
            last, place = level, free[level - first]
        h_in[place] = h_places[h_refs[e]]
        counts_in[place] = counts[e]
        place += 1
    free[last - first] = place
    return len(g_refs), NO_LEVEL


@_jit
def sum_rows(
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
                _sort(h, counts, start, stop)
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
def _sort(h: Codes, counts: Any, start: int, stop: int) -> None:
    if counts is None:
        h[start:stop].sort()
    else:
        order = np.argsort(h[start:stop])
        h[start:stop] = h[start:stop][order]
        counts[start:stop] = counts[start:stop][order]


@_jit
def find(g: Codes, h: Codes, starts: npt.NDArray[np.int64], h_refs: Codes) -> npt.NDArray[np.int64]:
    """Places of entries (g, h) in sorted rows that begin at `starts`, by bisection."""
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
