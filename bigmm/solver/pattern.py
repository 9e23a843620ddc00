"""Where the root's matrix can be other than zero: found from ones, as values may cancel."""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

from bigmm.solver import placement
from bigmm.solver.layout import Index, Leaves, Root, pointers


@dataclass(frozen=True, slots=True, eq=False)
class Pattern:
    """Positions that S can fill: lower triangle by columns, rows ascending, the diagonal first.

    Attributes
    ----------
    indptr : (r + 1,)
    indices : (nnz,)
    """

    indptr: Index
    indices: Index

    @property
    def r(self) -> int:
        """Columns."""
        return len(self.indptr) - 1


def own_pattern(root: Root) -> Pattern:
    """The pattern of the root's part of Z'Z; no entry is lost because its value happens to be zero."""
    counts = np.zeros(root.r, dtype=np.int64)
    for own in root.blocks:
        _, k_column, k_row = own.ZtZ.shape
        placement.own_counts(own.column_refs, k_column, k_row, own.diagonal, counts[root.columns(own.column_group)])
    indptr = pointers(counts)
    cursor, indices = indptr[:-1].copy(), np.empty(indptr[-1], dtype=np.int32)
    for own in root.blocks:
        _, k_column, k_row = own.ZtZ.shape
        part, first_row = cursor[root.columns(own.column_group)], root.offsets[own.row_group]
        placement.fill_own(own.column_refs, own.row_refs, k_column, k_row, own.diagonal, first_row, part, indices)
    return Pattern(indptr, indices)


def closed_counts(own: Pattern, leaves: Leaves, columns: Index) -> Index:
    """Entries of S's pattern in some of its columns, fill by the leaves included."""
    nothing = np.empty(0, dtype=np.int32)
    return _close(own, leaves, columns, np.empty(0, dtype=np.int64), nothing)


def closed_pattern(own: Pattern, leaves: Leaves) -> Pattern:
    """S's pattern, fill by the leaves included."""
    columns = np.arange(own.r, dtype=np.int32)
    indptr = pointers(closed_counts(own, leaves, columns))
    indices = np.empty(indptr[-1], dtype=np.int32)
    _close(own, leaves, columns, indptr, indices)
    return Pattern(indptr, indices)


def _close(own: Pattern, leaves: Leaves, columns: Index, S_indptr: Index, S_indices: Index) -> npt.NDArray[np.int64]:
    counts = np.empty(len(columns), dtype=np.int64)
    marks = np.full((numba.get_num_threads(), own.r), -1, dtype=np.int32)
    entries = (leaves.root_indptr, leaves.root_leaves, leaves.root_entries, leaves.indptr, leaves.indices)
    placement.closed_columns(columns, own.indptr, own.indices, *entries, marks, counts, S_indptr, S_indices)
    return counts
