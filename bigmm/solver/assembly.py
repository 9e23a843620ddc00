"""Compiled loops that write Lambda'Z'Z Lambda of the root's factors, in place."""

from __future__ import annotations

import numba

from bigmm.columns import Array
from bigmm.solver.layout import Index


@numba.njit(cache=True)
def add_to_dense(columns: Index, rows: Index, diagonal: bool, ZtZ: Array, T_columns: Array, T_rows: Array, S: Array) -> None:
    """T'Z_g'Z_h T of two factors, into the part of S (columns of g, columns of h) that is theirs; upper triangles of diagonal blocks."""
    k_column, k_row = len(T_columns), len(T_rows)
    for t in range(len(columns)):
        for a in range(k_column):
            for b in range(a if diagonal else 0, k_row):
                S[columns[t] * k_column + a, rows[t] * k_row + b] += _sandwich(ZtZ[t], T_columns, T_rows, a, b)


@numba.njit(cache=True)
def add_to_sparse(places: Index, diagonal: bool, ZtZ: Array, T_columns: Array, T_rows: Array, S: Array) -> None:
    """The same on S's pattern; column a of block t begins at ``places[t, a]``, diagonal blocks with their diagonal."""
    for t in range(len(ZtZ)):
        for a in range(len(T_columns)):
            first = a if diagonal else 0
            for b in range(first, len(T_rows)):
                S[places[t, a] + b - first] += _sandwich(ZtZ[t], T_columns, T_rows, a, b)


@numba.njit(inline="always")
def _sandwich(C: Array, T_left: Array, T_right: Array, a: int, b: int) -> float:
    """T'C T, one entry; the templates are lower triangular."""
    total = 0.0
    for c in range(a, len(T_left)):
        inner = 0.0
        for d in range(b, len(T_right)):
            inner += C[c, d] * T_right[d, b]
        total += T_left[c, a] * inner
    return total
