"""The order of a dense root's columns for a gradient by L^-1: in each factor, levels that few leaves meet before those that many meet.

Column c of L^-1 begins at row c, so that an entry of a leaf in it costs r - c multiplications. Where a few levels have most
of the entries, as popular items do, this order leaves a quarter of these multiplications.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numba
import numpy as np
import numpy.typing as npt

from bigmm.columns import Array
from bigmm.solver.elimination import parallel_loops
from bigmm.solver.layout import Index, Leaves

#: Places within a leaf, which has few entries.
LeafEntries: TypeAlias = npt.NDArray[np.uint16] | npt.NDArray[np.uint32]
#: Rows and columns of a tile that is mirrored.
_TILE = 64


@dataclass(frozen=True, slots=True, eq=False)
class RootOrder:
    """Where the root's columns stand.

    Attributes
    ----------
    columns : (r,)
        Of each place, the column that stands there.
    places : (r,)
        Of each column, where it stands.
    entries : (nnz,)
        The entries of each leaf by the places of their columns, counted from the leaf's first entry.
    few_leaves_first : bool
        Unless so, every column is where the layout has it.
    """

    columns: Index
    places: Index
    entries: LeafEntries
    few_leaves_first: bool

    def permute(self, S: Array) -> None:
        """Put a symmetric matrix, of which the upper triangle is given, into this order; the lower triangle is lost."""
        if self.few_leaves_first:
            _mirror(S)
            _gather(S, self.columns, self.places)
            _move_rows(S, self.columns)

    def into(self, b: Array) -> Array:
        """Rows in this order."""
        return np.asarray(b[self.columns]) if self.few_leaves_first else b

    def out_of(self, b: Array) -> Array:
        """Rows of this order where the layout has them."""
        return np.asarray(b[self.places]) if self.few_leaves_first else b


def root_order(leaves: Leaves, *, few_leaves_first: bool) -> RootOrder:
    """Order the columns, unless they shall stay where they are, and the entries of each leaf with them."""
    columns = root_columns(leaves, few_leaves_first=few_leaves_first)
    places = np.empty_like(columns)
    places[columns] = np.arange(len(columns), dtype=np.int32)
    longest = int(np.diff(leaves.indptr).max(initial=0))
    entries: LeafEntries = np.empty(len(leaves.indices), dtype=np.uint16)
    if longest > np.iinfo(np.uint16).max:
        entries = np.empty(len(leaves.indices), dtype=np.uint32)
    _order_entries(columns, leaves.root_indptr, leaves.root_leaves, leaves.root_entries, leaves.indptr, leaves.indptr[:-1].copy(), entries)
    return RootOrder(columns, places, entries, few_leaves_first)


def root_columns(leaves: Leaves, *, few_leaves_first: bool) -> npt.NDArray[np.int32]:
    """Columns of the root as they are laid out, or in each factor by the number of leaves that meet their level."""
    if not few_leaves_first:
        return np.arange(len(leaves.root_indptr) - 1, dtype=np.int32)
    counts, ends = np.diff(leaves.root_indptr), [*(pair.first for pair in leaves.pairs[1:]), len(leaves.root_indptr) - 1]
    found = []
    for pair, end in zip(leaves.pairs, ends, strict=True):
        levels = np.argsort(counts[pair.first : end : pair.k], kind="stable")
        found.append(pair.first + pair.k * np.repeat(levels, pair.k) + np.tile(np.arange(pair.k), len(levels)))
    return np.concatenate(found).astype(np.int32)


@numba.njit(cache=True)
def _order_entries(
    columns: Index, root_indptr: Index, root_leaves: Index, root_entries: Index, indptr: Index, cursor: Index, entries: LeafEntries
) -> None:
    """Write `entries`; `cursor` (q,) begins with every leaf's first entry."""
    for c in columns:
        for t in range(root_indptr[c], root_indptr[c + 1]):
            j = root_leaves[t]
            entries[cursor[j]] = root_entries[t] - indptr[j]
            cursor[j] += 1


@parallel_loops
def _mirror(S: Array) -> None:
    """The lower triangle from the upper one, by tiles that stay in the cache."""
    r = len(S)
    for i in numba.prange(-(-r // _TILE)):
        start, stop = i * _TILE, min(i * _TILE + _TILE, r)
        for first in range(0, stop, _TILE):
            for row in range(start, stop):
                for column in range(first, min(first + _TILE, row)):
                    S[row, column] = S[column, row]


@parallel_loops
def _gather(S: Array, columns: Index, places: Index) -> None:
    """Columns of every row in the new order, from where the row's own place will be."""
    r = len(S)
    for c in numba.prange(r):
        row = S[c].copy()
        for t in range(places[c], r):
            S[c, t] = row[columns[t]]


@numba.njit(cache=True)
def _move_rows(S: Array, columns: Index) -> None:
    """Rows to their places, one cycle of the permutation after the other."""
    r = len(S)
    moved, first_row = np.zeros(r, dtype=np.bool_), np.empty(r)
    for first in range(r):
        if moved[first]:
            continue
        first_row[:] = S[first]
        to = first
        while columns[to] != first:
            S[to, to:] = S[columns[to], to:]
            moved[to] = True
            to = columns[to]
        S[to, to:] = first_row[to:]
        moved[to] = True
