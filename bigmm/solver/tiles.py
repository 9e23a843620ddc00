"""A dense matrix by tiles: its Cholesky factor and the inverse of either, in place, the same bits for any number of threads.

With J a run of columns and R all that follow,

    factor:   L_JJ L_JJ' = A_JJ,   L_RJ = A_RJ L_JJ'^-1,   A_RR -= L_RJ L_RJ'              from the first J to the last
    inverse:  Y = L_RJ L_JJ^-1,    Z_RJ = -Z_RR Y,         Z_JJ = L_JJ'^-1 L_JJ^-1 - Y'Z_RJ     from the last to the first
    of L:     Y = L_RJ L_JJ^-1,    Z_RJ = -Z_RR Y,         Z_JJ = L_JJ^-1                       from the last to the first

The inverses begin with all L_JJ^-1: products with them are twice as fast as solutions with L_JJ.

BLAS has one thread in each tile. Its own threads share out every product instead, and wait for one another in loops that
keep the processor busy: where others want the cores, too, an inversion of order 1142 was measured to take six times as long
as with one thread, and up to fifty times; these threads wait asleep.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import TypeAlias

import numpy as np

from bigmm.columns import Array
from bigmm.solver import blas

#: Columns of J, and rows or columns of a tile, up to an order and beyond it; as measured at orders 600 to 8017.
_SMALL, _LARGE = (128, 256), (256, 512)
_LARGE_ORDER = 3000
#: Columns of Z_JJ that are one tile.
_CORNER = 48

#: Where a tile begins, and where it ends.
Span: TypeAlias = tuple[int, int]


def factorize(S: Array, threads: int) -> int:
    """The Cholesky factor, in place.

    Parameters
    ----------
    S : (r, r)
        In C order; its upper triangle is used (Fortran's lower one), what is below it is not.
    threads : int

    Returns
    -------
    int
        0, or the leading minor that is not positive.

    References
    ----------
    The right-looking algorithm of LAPACK's dpotrf (https://www.netlib.org/lapack/explore-html/).
    """
    matrix = _Matrix(S)
    for j in spans(0, len(S), matrix.panel):
        failed = blas.factorize(j[1] - j[0], matrix.at(j[0], j[0]), matrix.r)
        if failed:
            return j[0] + failed
        below = spans(j[1], matrix.r, matrix.tile)
        share(threads, partial(matrix.divide, j), below)
        share(threads, partial(matrix.update, j), below)
    return 0


def invert(S: Array, threads: int, work: Array) -> None:
    """The inverse of the matrix that was factored, in place.

    Parameters
    ----------
    S : (r, r)
        What `factorize` left.
    threads : int
    work : array
        Room for `work_size` numbers.

    References
    ----------
    Takahashi's equations for blocks of columns; Erisman and Tinney (1975), doi:10.1145/360680.360704.
    """
    matrix = _Matrix(S)
    panels = spans(0, len(S), matrix.panel)
    share(threads, matrix.invert_corner, panels)
    for j in reversed(panels):
        below = spans(j[1], matrix.r, matrix.tile)
        Y = work[: (j[1] - j[0]) * (matrix.r - j[1])].reshape(j[1] - j[0], matrix.r - j[1])
        share(threads, partial(matrix.quotient, j, Y), below)
        share(threads, partial(matrix.product, j, Y), [*below, j])
        if below:
            share(threads, partial(matrix.add_to_corner, j, Y), spans(0, j[1] - j[0], _CORNER))


def invert_factor(S: Array, threads: int, work: Array) -> None:
    """The inverse of the Cholesky factor, in place, with half the multiplications of `invert`.

    Parameters
    ----------
    S : (r, r)
        What `factorize` left.
    threads : int
    work : array
        Room for `work_size` numbers.

    References
    ----------
    LAPACK's dtrtri (https://www.netlib.org/lapack/explore-html/).
    """
    matrix = _Matrix(S)
    panels = spans(0, len(S), matrix.panel)
    share(threads, matrix.invert_corner, panels)
    for j in reversed(panels):
        below = spans(j[1], matrix.r, matrix.tile)
        Y = work[: (j[1] - j[0]) * (matrix.r - j[1])].reshape(j[1] - j[0], matrix.r - j[1])
        share(threads, partial(matrix.quotient, j, Y), below)
        share(threads, partial(matrix.triangular_product, j, Y), below[::-1])  # the last rows have the most to do


def work_size(r: int) -> int:
    """Numbers that `invert` or `invert_factor` needs beside a matrix of order r."""
    panel, _ = _sizes(r)
    return panel * max(r - panel, 0)


def _sizes(r: int) -> tuple[int, int]:
    return _SMALL if r < _LARGE_ORDER else _LARGE


def spans(start: int, stop: int, size: int) -> list[Span]:
    """Tiles of a range."""
    return [(i, min(i + size, stop)) for i in range(start, stop, size)]


class _Matrix:
    """The steps on tiles of one matrix; in Fortran's order, so its lower triangle."""

    def __init__(self, S: Array) -> None:
        self.S, self.r, self.base = S, len(S), S.ctypes.data
        self.panel, self.tile = _sizes(self.r)

    def at(self, row: int, column: int) -> int:
        """Address of an entry."""
        return self.base + 8 * (row + column * self.r)

    def divide(self, j: Span, rows: Span) -> None:
        """L_RJ = A_RJ L_JJ'^-1."""
        blas.divide_by_factor(rows[1] - rows[0], j[1] - j[0], self.at(j[0], j[0]), self.r, self.at(rows[0], j[0]), self.r)

    def update(self, j: Span, columns: Span) -> None:
        """A_RR -= L_RJ L_RJ', some columns."""
        (start, stop), width, r = columns, j[1] - j[0], self.r
        blas.subtract_square(stop - start, width, self.at(start, j[0]), r, self.at(start, start), r)
        if stop < r:
            own, rest = self.at(start, j[0]), self.at(stop, j[0])
            blas.subtract_product("NT", r - stop, stop - start, width, rest, r, own, r, self.at(stop, start), r)

    def invert_corner(self, j: Span) -> None:
        """L_JJ^-1 in place of L_JJ."""
        blas.invert_triangle(j[1] - j[0], self.at(j[0], j[0]), self.r)

    def quotient(self, j: Span, Y: Array, rows: Span) -> None:
        """Y = L_RJ L_JJ^-1, some rows; Y is (J, R) in C order."""
        part = slice(rows[0] - j[1], rows[1] - j[1])
        Y[:, part] = self.S[j[0] : j[1], rows[0] : rows[1]]
        blas.multiply_by_triangle("R", rows[1] - rows[0], j[1] - j[0], self.at(j[0], j[0]), self.r, Y[:, part].ctypes.data, Y.shape[1])

    def product(self, j: Span, Y: Array, rows: Span) -> None:
        """Z_RJ = -Z_RR Y, some rows: of Z_RR what is left of the diagonal tile, that tile, and what is below it, transposed.

        The rows of J itself begin as L_JJ'^-1 L_JJ^-1.
        """
        if rows == j:
            blas.square_triangle(j[1] - j[0], self.at(j[0], j[0]), self.r)
            return
        (start, stop), width, n, r = rows, j[1] - j[0], Y.shape[1], self.r
        size, y, z = stop - start, Y.ctypes.data - 8 * j[1], self.at(start, j[0])
        blas.minus_symmetric_product(size, width, self.at(start, start), r, y + 8 * start, n, z, r)
        if start > j[1]:
            blas.subtract_product("NN", size, width, start - j[1], self.at(start, j[1]), r, y + 8 * j[1], n, z, r)
        if stop < r:
            blas.subtract_product("TN", size, width, r - stop, self.at(stop, start), r, y + 8 * stop, n, z, r)

    def triangular_product(self, j: Span, Y: Array, rows: Span) -> None:
        """Z_RJ = -Z_RR Y with lower triangular Z_RR, some rows."""
        (start, stop), width, n, r = rows, j[1] - j[0], Y.shape[1], self.r
        z = self.at(start, j[0])
        np.negative(Y[:, start - j[1] : stop - j[1]], out=self.S[j[0] : j[1], start:stop])
        blas.multiply_by_triangle("L", stop - start, width, self.at(start, start), r, z, r)
        if start > j[1]:
            blas.subtract_product("NN", stop - start, width, start - j[1], self.at(start, j[1]), r, Y.ctypes.data, n, z, r)

    def add_to_corner(self, j: Span, Y: Array, columns: Span) -> None:
        """Z_JJ -= Y'Z_RJ, some columns from the diagonal down."""
        (start, stop), n = columns, Y.shape[1]
        rows, y, z = j[1] - j[0] - start, Y.ctypes.data + 8 * n * start, self.at(j[1], j[0] + start)
        blas.subtract_product("TN", rows, stop - start, n, y, n, z, self.r, self.at(j[0] + start, j[0] + start), self.r)


def share(threads: int, task: Callable[[Span], None], tiles: Sequence[Span]) -> None:
    """Do a task on every tile; each thread takes the next one that nobody has."""
    left = deque(tiles)

    def work() -> None:
        while True:
            try:
                tile = left.popleft()
            except IndexError:
                return
            task(tile)

    running = [_pool().submit(work) for _ in range(min(threads, len(tiles)) - 1)]
    work()
    for other in running:
        other.result()


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=64, thread_name_prefix="bigmm-tiles")
