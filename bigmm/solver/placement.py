"""Compiled loops that find where entries stand, once for each model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numba
import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from bigmm.solver.layout import Index

_jit = numba.njit(cache=True)


@_jit
def count(refs: Index, size: int) -> npt.NDArray[np.int64]:
    """How often each of ``range(size)`` occurs."""
    counts = np.zeros(size, dtype=np.int64)
    for ref in refs:
        counts[ref] += 1
    return counts


@_jit
def fill_by_leaf(blocks_indptr: Index, starts: Index, levels: Index, first: int, k: int, indices: Index) -> None:
    """Root columns of one factor's entries, from blocks that are ordered by leaf."""
    for j in range(len(starts)):
        e = starts[j]
        for t in range(blocks_indptr[j], blocks_indptr[j + 1]):
            for b in range(k):
                indices[e] = first + levels[t] * k + b
                e += 1


@_jit
def fill_by_root(levels: Index, leaves: Index, cursor: Index, first: int, k: int, indices: Index) -> None:
    """The same from blocks that are ordered by level; `cursor` (q,) begins with every leaf's first entry."""
    for t in range(len(levels)):
        e = cursor[leaves[t]]
        for b in range(k):
            indices[e + b] = first + levels[t] * k + b
        cursor[leaves[t]] = e + k


@_jit
def transpose(indptr: Index, indices: Index, cursor: Index, entries: Index) -> npt.NDArray[np.float64]:
    """Places in `indices` by root column, and how many products elimination adds to each column."""
    work = np.zeros(len(cursor))
    for j in range(len(indptr) - 1):
        for e in range(indptr[j], indptr[j + 1]):
            column = indices[e]
            entries[cursor[column]] = e
            cursor[column] += 1
            work[column] += indptr[j + 1] - e
    return work


@_jit
def leaves_by_root(indptr: Index, indices: Index, cursor: Index, leaves: Index) -> None:
    """Leaves of the entries by root column."""
    for j in range(len(indptr) - 1):
        for e in range(indptr[j], indptr[j + 1]):
            leaves[cursor[indices[e]]] = j
            cursor[indices[e]] += 1


@_jit
def own_counts(columns: Index, k_column: int, k_row: int, diagonal: bool, counts: Index) -> None:
    """Add to `counts` (columns of the factor,) the rows that some blocks give to each column of the lower triangle."""
    for level in columns:
        for a in range(k_column):
            counts[level * k_column + a] += k_row - a if diagonal else k_row


@_jit
def fill_own(columns: Index, rows: Index, k_column: int, k_row: int, diagonal: bool, first_row: int, cursor: Index, indices: Index) -> None:
    """Rows of these blocks; `cursor` (columns of the factor,) holds the next free place of each column."""
    for t in range(len(columns)):
        for a in range(k_column):
            column = columns[t] * k_column + a
            e = cursor[column]
            for b in range(a if diagonal else 0, k_row):
                indices[e] = first_row + rows[t] * k_row + b
                e += 1
            cursor[column] = e


@_jit
def find_own(
    columns: Index,
    rows: Index,
    k_column: int,
    k_row: int,
    diagonal: bool,
    first_column: int,
    first_row: int,
    indptr: Index,
    indices: Index,
    places: Index,
) -> None:
    """Place in a pattern (lower triangle by columns) of the first entry that each column of each block has there."""
    for t in range(len(columns)):
        for a in range(k_column):
            column = first_column + columns[t] * k_column + a
            row = first_row + rows[t] * k_row + (a if diagonal else 0)
            low, high = indptr[column], indptr[column + 1]
            while low < high:
                middle = (low + high) // 2
                if indices[middle] < row:
                    low = middle + 1
                else:
                    high = middle
            places[t, a] = low


@numba.njit(cache=True, parallel=True)
def closed_columns(
    columns: Index,
    own_indptr: Index,
    own_indices: Index,
    root_indptr: Index,
    root_leaves: Index,
    root_entries: Index,
    indptr: Index,
    indices: Index,
    marks: Index,
    counts: Index,
    S_indptr: Index,
    S_indices: Index,
) -> None:
    """Some columns of S's lower triangle: the root's own rows, and those that leaves join.

    Row w of `marks` (threads, r) begins with -1. Their numbers go to `counts`; with an `S_indptr` that is not empty, the
    rows themselves, ascending, to `S_indices`.
    """
    threads, fill = len(marks), len(S_indptr) > 0
    for w in numba.prange(threads):
        mark = marks[w]
        for i in range(w, len(columns), threads):
            c = columns[i]
            start = S_indptr[i] if fill else 0
            found = 0
            for e in range(own_indptr[c], own_indptr[c + 1]):
                mark[own_indices[e]] = c
                if fill:
                    S_indices[start + found] = own_indices[e]
                found += 1
            for t in range(root_indptr[c], root_indptr[c + 1]):
                for e in range(root_entries[t], indptr[root_leaves[t] + 1]):
                    if mark[indices[e]] != c:
                        mark[indices[e]] = c
                        if fill:
                            S_indices[start + found] = indices[e]
                        found += 1
            counts[i] = found
            if fill:
                S_indices[start : start + found].sort()
