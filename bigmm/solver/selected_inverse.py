"""The inverse of a sparse matrix on the pattern of its Cholesky factor: Takahashi's equations, by supernodes.

A supernode J is a run of columns of L that have the same rows R below them. From the last to the first, with
Y = L_RJ L_JJ^-1,

    Z_RJ = -Z_RR Y,      Z_JJ = L_JJ^-T L_JJ^-1 - Y'Z_RJ

(Takahashi, Fagan and Chin 1973; Erisman and Tinney 1975, doi:10.1145/360680.360704). Z_RR lies on L's pattern, is
gathered a strip of columns at a time and goes through BLAS; Z takes L's place, so that a strip is all the memory it needs.
"""

from __future__ import annotations

from typing import TypeAlias

import numba
import numpy as np
import numpy.typing as npt

from bigmm.columns import Array

#: int32 or int64, as CHOLMOD has them.
Places: TypeAlias = npt.NDArray[np.signedinteger]

#: Columns of a supernode that are done at once, and of Z_RR that are gathered at once.
_PANEL = 256
#: Columns that are read side by side: more would push one another out of the processor's cache.
_LINE = 8

_jit = numba.njit(cache=True, error_model="numpy")


def invert_in_place(indptr: Places, indices: Places, L: Array) -> None:
    """Z = (L L')^-1 on the pattern of L, into `L` (nnz,) itself.

    Parameters
    ----------
    indptr, indices, L
        Cholesky factor by columns, rows ascending, the diagonal first in each column.
    """
    starts = _panels(indptr, indices, _PANEL)
    last = starts[1:] - 1
    below = int((indptr[last + 1] - indptr[last]).max(initial=1)) - 1
    rows, columns = min(below, _PANEL), min(int(np.diff(starts).max(initial=1)), _PANEL)
    strip, fronts, squares = np.empty(below * rows), np.empty((3, below * columns)), np.empty((3, columns * columns))
    _takahashi(indptr, indices, L, starts, strip, fronts, squares)


def find(indptr: Places, indices: Places, row: Places, column: Places) -> npt.NDArray[np.int64]:
    """Where entries (row, column) of the lower triangle stand in a pattern by columns, rows ascending; all are in it."""
    places = np.empty(len(row), dtype=np.int64)
    _find(indptr, indices, row, column, places)
    return places


@_jit
def _find(indptr: Places, indices: Places, row: Places, column: Places, places: Places) -> None:
    for i in range(len(row)):
        start, stop = indptr[column[i]], indptr[column[i] + 1]
        places[i] = start + np.searchsorted(indices[start:stop], row[i])


@_jit
def _panels(indptr: Places, indices: Places, most: int) -> Places:
    """First columns of the supernodes, wide ones cut into pieces, and the number of columns."""
    n = len(indptr) - 1
    starts = np.empty(n + 1, dtype=np.int64)
    count = 0
    for j in range(n):
        size = indptr[j + 1] - indptr[j]
        grows = j > 0 and indptr[j] - indptr[j - 1] == size + 1 and indices[indptr[j - 1] + 1] == j
        if not grows or j - starts[count - 1] >= most:
            starts[count] = j
            count += 1
    starts[count] = n
    return starts[: count + 1]


@_jit
def _takahashi(indptr: Places, indices: Places, Z: Array, starts: Places, strip: Array, fronts: Array, squares: Array) -> None:
    """Panels from the last to the first; `strip`, `fronts` and `squares` are room to work in."""
    n = len(indptr) - 1
    panel_of = np.empty(n, dtype=np.int32)
    for s in range(len(starts) - 1):
        panel_of[starts[s] : starts[s + 1]] = s
    inside = np.empty(n, dtype=np.int64)
    for s in range(len(starts) - 2, -1, -1):
        first, stop = starts[s], starts[s + 1]
        R = indices[indptr[stop - 1] + 1 : indptr[stop]]
        m, w = len(R), stop - first
        if w == 1:
            _single(indptr, indices, Z, starts, panel_of, inside, first, R, fronts[0][:m], fronts[1][:m])
            continue
        Y, front = fronts[0][: m * w].reshape(m, w), fronts[1][: m * w].reshape(m, w)
        inverse, square = squares[0][: w * w].reshape(w, w), squares[1][: w * w].reshape(w, w)
        L_R = fronts[2][: m * w].reshape(w, m)
        _invert_triangle(indptr, Z, first, inverse)
        for i in range(w):
            at = indptr[first + i] + w - i
            L_R[i] = Z[at : at + m]
        if m > 0:
            np.dot(L_R.T, inverse, Y)
        front[:] = 0.0
        _multiply(indptr, indices, Z, starts, panel_of, inside, R, strip, Y, front, fronts[2])
        np.dot(inverse.T, inverse, square)
        if m > 0:
            other = squares[2][: w * w].reshape(w, w)
            np.dot(Y.T, front, other)
            square += other
        for i in range(w):
            at = indptr[first + i]
            for j in range(i, w):
                Z[at + j - i] = square[j, i]
            for p in range(m):
                Z[at + w - i + p] = -front[p, i]


@_jit
def _single(
    indptr: Places, indices: Places, Z: Array, starts: Places, panel_of: Places, inside: Places, j: int, R: Places, y: Array, sums: Array
) -> None:
    """A panel of one column: Z_RR y without gathering Z_RR."""
    start, m = indptr[j], len(R)
    diagonal = Z[start]
    for p in range(m):
        y[p] = Z[start + 1 + p] / diagonal
        sums[p] = 0.0
    p = 0
    while p < m:
        stop = _offsets(indptr, indices, starts, panel_of, R, p, inside)
        for c in range(p, stop):
            at, value, total = indptr[R[c]] - R[c], y[c], 0.0
            sums[c] += Z[at + inside[c]] * value
            for q in range(c + 1, m):
                entry = Z[at + inside[q]]
                sums[q] += entry * value
                total += entry * y[q]
            sums[c] += total
        p = stop
    total = 1.0 / diagonal**2
    for p in range(m):
        total += y[p] * sums[p]
        Z[start + 1 + p] = -sums[p]
    Z[start] = total


@_jit
def _offsets(indptr: Places, indices: Places, starts: Places, panel_of: Places, R: Places, p: int, inside: Places) -> int:
    """The run of rows in R from `p` on that are columns of one panel K ends before the number that is returned.

    Row R[q], q >= p, stands at ``indptr[c] - c + inside[q]`` in every column c of the run.
    """
    panel = panel_of[R[p]]
    end = starts[panel + 1]
    stop = p
    while stop < len(R) and R[stop] < end:
        inside[stop] = R[stop]
        stop += 1
    at, last = indptr[end - 1] + 1, indptr[end]
    shift = end - at
    if (len(R) - stop) * 16 < last - at:
        for q in range(stop, len(R)):
            at += np.searchsorted(indices[at:last], R[q])
            inside[q] = at + shift
        return stop
    for q in range(stop, len(R)):
        while indices[at] < R[q]:
            at += 1
        inside[q] = at + shift
    return stop


@_jit
def _multiply(
    indptr: Places,
    indices: Places,
    Z: Array,
    starts: Places,
    panel_of: Places,
    inside: Places,
    R: Places,
    strip: Array,
    Y: Array,
    front: Array,
    product: Array,
) -> None:
    """Front (m, w) += Z_RR Y, a strip of columns of the lower triangle of Z_RR at a time."""
    m, w = Y.shape
    p, run = 0, 0
    while p < m:
        count = min(m - p, len(strip) // m)
        block = strip[: (m - p) * count].reshape(m - p, count)
        c = p
        while c < p + count:
            if c >= run:
                run = _offsets(indptr, indices, starts, panel_of, R, c, inside)
            stop = min(run, p + count)
            for left in range(c, stop, _LINE):
                right = min(left + _LINE, stop)
                for q in range(left, m):
                    at = inside[q]
                    for d in range(left, min(right, q + 1)):
                        block[q - p, d - p] = Z[indptr[R[d]] - R[d] + at]
            c = stop
        for q in range(count):
            for d in range(q + 1, count):
                block[q, d] = block[d, q]
        below = product[: (m - p) * w].reshape(m - p, w)
        np.dot(block, Y[p : p + count], below)
        front[p:] += below
        if p + count < m:
            beside = product[: count * w].reshape(count, w)
            np.dot(block[count:].T, Y[p + count :], beside)
            front[p : p + count] += beside
        p += count


@_jit
def _invert_triangle(indptr: Places, L: Array, first: int, out: Array) -> None:
    """L_JJ^-1 (w, w), lower triangular, row by row."""
    w = len(out)
    for i in range(w):
        out[i] = 0.0
        for c in range(i):
            x = L[indptr[first + c] + i - c]
            for d in range(c + 1):
                out[i, d] -= x * out[c, d]
        scale = 1.0 / L[indptr[first + i]]
        for d in range(i):
            out[i, d] *= scale
        out[i, i] = scale
