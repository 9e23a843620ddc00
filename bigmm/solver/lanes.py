"""Small matrices of many leaves, side by side: entry (a, b) of all of them is ``x[a, b, :]``.

The innermost loop runs over leaves, the lanes, of which a processor takes several at a time; loops over the few rows and columns of
one leaf are too short for that. The last of a run of leaves may be fewer than there are lanes: `n` are taken.
"""

from __future__ import annotations

import numpy as np

from bigmm.columns import Array
from bigmm.solver.elimination import loop_part

#: Numbers that fit into a processor's second cache beside others.
_ROOM = 2**14
#: More lanes than this gain nothing, fewer leave nothing to take at a time.
_MOST, _LEAST = 64, 8


def lanes(numbers: int) -> int:
    """How many leaves to put side by side that take so many numbers each."""
    return max(_LEAST, min(_MOST, _ROOM // max(numbers, 1)))


@loop_part
def spread(blocks: Array, first: int, n: int, out: Array) -> None:
    """Blocks (rows, columns) of n leaves, from `first` on, into `out` (rows, columns, lanes)."""
    for a in range(blocks.shape[1]):
        for b in range(blocks.shape[2]):
            for lane in range(n):
                out[a, b, lane] = blocks[first + lane, a, b]


@loop_part
def collect(x: Array, first: int, n: int, out: Array) -> None:
    """The way back: `x` (rows, columns, lanes) into `out` (leaves, rows, columns)."""
    for a in range(x.shape[0]):
        for b in range(x.shape[1]):
            for lane in range(n):
                out[first + lane, a, b] = x[a, b, lane]


@loop_part
def product(x: Array, y: Array, n: int, out: Array) -> None:
    """Write x y into `out`."""
    for a in range(x.shape[0]):
        for b in range(y.shape[1]):
            for lane in range(n):
                out[a, b, lane] = x[a, 0, lane] * y[0, b, lane]
            for c in range(1, x.shape[1]):
                for lane in range(n):
                    out[a, b, lane] += x[a, c, lane] * y[c, b, lane]


@loop_part
def upper_product(x: Array, y: Array, n: int, out: Array) -> None:
    """Write x y with upper triangular x into `out`."""
    for a in range(x.shape[0]):
        for b in range(y.shape[1]):
            for lane in range(n):
                out[a, b, lane] = x[a, a, lane] * y[a, b, lane]
            for c in range(a + 1, x.shape[1]):
                for lane in range(n):
                    out[a, b, lane] += x[a, c, lane] * y[c, b, lane]


@loop_part
def times(x: Array, matrix: Array, n: int, out: Array) -> None:
    """Write x times one matrix for all into `out`."""
    for a in range(x.shape[0]):
        for b in range(matrix.shape[1]):
            for lane in range(n):
                out[a, b, lane] = x[a, 0, lane] * matrix[0, b]
            for c in range(1, matrix.shape[0]):
                for lane in range(n):
                    out[a, b, lane] += x[a, c, lane] * matrix[c, b]


@loop_part
def lower_times_transposed(matrix: Array, x: Array, n: int, out: Array) -> None:
    """One lower triangular matrix times x', into `out`."""
    for a in range(matrix.shape[0]):
        for b in range(x.shape[0]):
            for lane in range(n):
                out[a, b, lane] = matrix[a, 0] * x[b, 0, lane]
            for c in range(1, a + 1):
                for lane in range(n):
                    out[a, b, lane] += matrix[a, c] * x[b, c, lane]


@loop_part
def dot(x: Array, y: Array, n: int) -> float:
    """Sum of products of two entries over leaves."""
    total = 0.0
    for lane in range(n):
        total += x[lane] * y[lane]
    return total


@loop_part
def penalized(A: Array, T: Array, n: int, work: Array, out: Array) -> None:
    """T'A T + I with lower triangular T, its lower triangle, into `out`."""
    k = len(T)
    times(A, T, n, work)
    for a in range(k):
        for b in range(a + 1):
            for lane in range(n):
                out[a, b, lane] = 1.0 if a == b else 0.0
            for c in range(a, k):
                for lane in range(n):
                    out[a, b, lane] += T[c, a] * work[c, b, lane]


@loop_part
def cholesky(D: Array, n: int) -> None:
    """L with L L' = D in place, lower triangle; what is not positive becomes nan."""
    for a in range(len(D)):
        for b in range(a + 1):
            for c in range(b):
                for lane in range(n):
                    D[a, b, lane] -= D[a, c, lane] * D[b, c, lane]
            if a == b:
                for lane in range(n):
                    D[a, a, lane] = np.sqrt(D[a, a, lane])
            else:
                for lane in range(n):
                    D[a, b, lane] /= D[b, b, lane]


@loop_part
def solve_transposed(L: Array, T: Array, n: int, out: Array) -> None:
    """L^-1 T', into `out`."""
    k = len(T)
    for b in range(k):
        for a in range(k):
            for lane in range(n):
                out[a, b, lane] = T[b, a]
            for c in range(a):
                for lane in range(n):
                    out[a, b, lane] -= L[a, c, lane] * out[c, b, lane]
            for lane in range(n):
                out[a, b, lane] /= L[a, a, lane]
