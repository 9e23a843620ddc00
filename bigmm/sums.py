"""Sums over rows, in the rows' order; compiled.

No sum depends on the number of threads or on the width of the processor's vectors.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from bigmm.columns import Array
from bigmm.levels import Refs
from bigmm.prefetch import prefetch

#: Rows whose products are summed before they are added to the rows before them.
_BLOCK = 2**8
#: A level of more rows than this has its sums compensated; with fewer, rounding takes a digit at the most.
_MANY = 2**6
#: Rows between the fetching of a level's sums into the cache and their use.
_AHEAD = 16

_jit = numba.njit(cache=True, nogil=True, boundscheck=False)


def gram(left: Array, right: Array) -> Array:
    """Sum of left x right over all rows, shape (k, k); symmetric.

    Blocks of rows are summed first, and their sums are added with the rounding of each addition carried along
    (Neumaier 1974), so that the error hardly grows with the number of rows.

    Parameters
    ----------
    left, right : (k, n) float64
        The same columns, one a line; `left` may be weighted.
    """
    total, lost = np.zeros((2, len(left), len(left)))  # the second: what rounding took from the first
    _add_blocks(left, right, total, lost)
    return total + lost


def level_sums(refs: Refs, values: Array, places: npt.NDArray[np.intp], out: Array, most: int) -> None:
    """Add ``values[c, r]`` to ``out[refs[r], places[c]]`` for every row r.

    Parameters
    ----------
    refs : (n,) int
    values : (columns, n) float64
    places : (columns,) int
    out : (levels, width) float64
    most : int
        Rows of the largest level. When they are many, what rounding takes from each sum is summed beside it and added at the end.
    """
    if most <= _MANY:
        _level_sums(refs, values, places, out)
        return
    sums = np.zeros((len(out), len(values), 2))
    _exact_level_sums(refs, values, sums)
    _fold(sums, places, out)


def level_products(
    refs: Refs, left: Array, right: Array, rows: npt.NDArray[np.intp], columns: npt.NDArray[np.intp], out: Array, most: int
) -> None:
    """Add ``left[a, r] * right[b, r]`` to ``out[refs[r], rows[a], columns[b]]`` for every row r; `most` as in `level_sums`."""
    if most <= _MANY:
        _level_products(refs, left, right, rows, columns, out)
        return
    sums = np.zeros((len(out), len(left), len(right), 2))
    _exact_level_products(refs, left, right, sums)
    for a, row in enumerate(rows):
        _fold(sums[:, a], columns, out[:, row])


def all_finite(values: Array) -> bool:
    """Whether there is no NaN and no infinity among some numbers."""
    return bool(_all_finite(np.ascontiguousarray(values)))


@_jit
def add_rows(places: npt.NDArray[Any], part: npt.NDArray[Any], total: npt.NDArray[np.float64]) -> None:
    """Add line i of `part` to line ``places[i]`` of `total`."""
    for i in range(len(places)):
        row = total[places[i]]
        for j in range(part.shape[1]):
            row[j] += part[i, j]


@_jit
def _all_finite(values: Array) -> bool:
    bad = False
    for r in range(len(values)):
        bad |= not abs(values[r]) < np.inf
    return not bad


@_jit
def _add_blocks(left: Array, right: Array, total: Array, lost: Array) -> None:
    block = np.empty_like(total)
    for start in range(0, left.shape[1], _BLOCK):
        _gram(left[:, start : start + _BLOCK], right[:, start : start + _BLOCK], block)
        for a in range(len(left)):
            for b in range(len(left)):
                before, part = total[a, b], block[a, b]
                after = before + part
                lost[a, b] += (before - after) + part if abs(before) >= abs(part) else (part - after) + before
                total[a, b] = after


@_jit
def _gram(left: Array, right: Array, out: Array) -> None:
    """Eight running sums for each entry, which any processor can keep in its vectors."""
    n = left.shape[1]
    whole = n - n % 8
    for a in range(len(left)):
        x = left[a]
        for b in range(a + 1):
            y = right[b]
            s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = 0.0
            for r in range(0, whole, 8):
                s0 += x[r] * y[r]
                s1 += x[r + 1] * y[r + 1]
                s2 += x[r + 2] * y[r + 2]
                s3 += x[r + 3] * y[r + 3]
                s4 += x[r + 4] * y[r + 4]
                s5 += x[r + 5] * y[r + 5]
                s6 += x[r + 6] * y[r + 6]
                s7 += x[r + 7] * y[r + 7]
            for r in range(whole, n):
                s0 += x[r] * y[r]
            out[a, b] = out[b, a] = ((s0 + s4) + (s2 + s6)) + ((s1 + s5) + (s3 + s7))


@_jit
def _level_sums(refs: Any, values: Array, places: npt.NDArray[np.intp], out: Array) -> None:
    for r in range(len(refs)):
        if r + _AHEAD < len(refs):
            prefetch(out, refs[r + _AHEAD])
        level = out[refs[r]]
        for c in range(len(values)):
            level[places[c]] += values[c, r]


@_jit
def _level_products(refs: Any, left: Array, right: Array, rows: npt.NDArray[np.intp], columns: npt.NDArray[np.intp], out: Array) -> None:
    for r in range(len(refs)):
        if r + _AHEAD < len(refs):
            prefetch(out, refs[r + _AHEAD])
        block = out[refs[r]]
        for a in range(len(left)):
            factor, row = left[a, r], block[rows[a]]
            for b in range(len(right)):
                row[columns[b]] += factor * right[b, r]


@_jit
def _add(sums: Array, place: int, value: float) -> None:
    """Add to ``sums[place, 0]``, and what rounding took from it to ``sums[place, 1]`` (Knuth's two-sum)."""
    before = sums[place, 0]
    after = before + value
    added = after - before
    sums[place, 0] = after
    sums[place, 1] += (before - (after - added)) + (value - added)


@_jit
def _exact_level_sums(refs: Any, values: Array, sums: Array) -> None:
    for r in range(len(refs)):
        if r + _AHEAD < len(refs):
            prefetch(sums, refs[r + _AHEAD])
        level = sums[refs[r]]
        for c in range(len(values)):
            _add(level, c, values[c, r])


@_jit
def _exact_level_products(refs: Any, left: Array, right: Array, sums: Array) -> None:
    for r in range(len(refs)):
        if r + _AHEAD < len(refs):
            prefetch(sums, refs[r + _AHEAD])
        block = sums[refs[r]]
        for a in range(len(left)):
            factor, row = left[a, r], block[a]
            for b in range(len(right)):
                _add(row, b, factor * right[b, r])


@_jit
def _fold(sums: Array, places: npt.NDArray[np.intp], out: Array) -> None:
    """Add sums, and what rounding took from them, to their places."""
    for j in range(len(sums)):
        for c in range(len(places)):
            out[j, places[c]] += sums[j, c, 0] + sums[j, c, 1]
