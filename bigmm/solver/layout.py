"""Where everything stands, found once: leaves, root columns, and the closed pattern of the root's matrix.

Leaves are the levels of the leading factor, which has the most random effects; Z'Z is block diagonal on them, so they
are eliminated first and by hand. The root is all other random effects. Its matrix S is kept as the lower triangle by
columns with whole k x k blocks on the diagonal: all columns of a level have the same rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from bigmm.columns import Array
from bigmm.solver.blocks import ModelBlocks

Index = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Leaves:
    """The leading factor's rows of Z'Z: Z_1'Z_1 and Z_1'Z_root.

    Attributes
    ----------
    ZtZ : (q, k, k)
    ZtXy : (q, k, p + 1)
    indptr : (q + 1,)
        Entries of leaf j are ``indptr[j]:indptr[j + 1]``.
    indices : (nnz,)
        Root columns of the entries, ascending in each leaf.
    values : (nnz, k)
        One column of Z_1'Z_root an entry.
    root_indptr : (r + 1,)
        Entries that lie in a root column are ``root_indptr[c]:root_indptr[c + 1]`` of the next two.
    root_leaves, root_entries : (nnz,)
        Their leaves, and their places in `indices`.
    """

    ZtZ: Array
    ZtXy: Array
    indptr: Index
    indices: Index
    values: Array
    root_indptr: Index
    root_leaves: Index
    root_entries: Index


@dataclass(frozen=True, slots=True, eq=False)
class Root:
    """All random effects but the leaves: their Z'Z on the pattern that S will have.

    Attributes
    ----------
    groups : tuple of int
        Positions of the factors, in the order of their columns.
    offsets : tuple of int
        First column of each, and the number r of columns.
    level_of, k_of, inner_of : (r,)
        For each column: the first column of its level, the columns of its level, its place among them.
    indptr, indices : (r + 1,), (nnz,)
        Lower triangle by columns, blocks on the diagonal whole, rows ascending.
    ZtZ : (nnz,)
        Z'Z on that pattern, zero where only elimination of the leaves fills in.
    ZtXy : (r, p + 1)
    """

    groups: tuple[int, ...]
    offsets: tuple[int, ...]
    level_of: Index
    k_of: Index
    inner_of: Index
    indptr: Index
    indices: Index
    ZtZ: Array
    ZtXy: Array

    @property
    def r(self) -> int:
        """Columns."""
        return self.offsets[-1]


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Leaves (None: none are eliminated by hand), their position among the groups, and the root."""

    leading: int | None
    leaves: Leaves | None
    root: Root


def lay_out(blocks: ModelBlocks, *, leaves: bool = True) -> Layout:
    """Choose the leading factor and lay out leaves and root.

    Parameters
    ----------
    blocks : ModelBlocks
    leaves : bool
        False puts every random effect into the root, in the order of the groups.
    """
    effects = [group.q * group.k for group in blocks.groups]
    leading = int(np.argmax(effects)) if leaves else None
    groups = tuple(g for g in range(len(blocks.groups)) if g != leading)
    offsets = tuple(int(c) for c in np.cumsum([0, *(effects[g] for g in groups)]))
    built = None if leading is None else _leaves(blocks, leading, groups, offsets)
    return Layout(leading, built, _root(blocks, groups, offsets, built))


def _leaves(blocks: ModelBlocks, leading: int, groups: tuple[int, ...], offsets: tuple[int, ...]) -> Leaves:
    """Join Z_1'Z_h of all root factors into rows of columns."""
    group = blocks.groups[leading]
    rows, columns, values = [], [], []
    for h, offset in zip(groups, offsets, strict=False):
        pair = blocks.pair(leading, h)
        k = blocks.groups[h].k
        rows.append(np.repeat(pair.g_refs.astype(np.int64), k))
        columns.append((pair.h_refs.astype(np.int64)[:, None] * k + np.arange(k) + offset).ravel())
        values.append(pair.ZtZ.transpose(0, 2, 1).reshape(-1, group.k))
    leaf = np.concatenate(rows) if rows else np.zeros(0, dtype=np.int64)
    column = np.concatenate(columns) if columns else np.zeros(0, dtype=np.int64)
    value = np.concatenate(values).astype(np.float64) if values else np.zeros((0, group.k))
    order = np.lexsort((column, leaf))
    leaf, column, value = leaf[order], column[order], np.ascontiguousarray(value[order])
    by_column = np.argsort(column, kind="stable")
    return Leaves(
        ZtZ=group.ZtZ,
        ZtXy=group.ZtXy,
        indptr=_pointers(leaf, group.q),
        indices=column,
        values=value,
        root_indptr=_pointers(column, offsets[-1]),
        root_leaves=leaf[by_column],
        root_entries=by_column,
    )


def _pointers(sorted_or_not: Index, size: int) -> Index:
    return np.concatenate([[0], np.cumsum(np.bincount(sorted_or_not, minlength=size))]).astype(np.int64)


def _root(blocks: ModelBlocks, groups: tuple[int, ...], offsets: tuple[int, ...], leaves: Leaves | None) -> Root:
    own = _root_ZtZ(blocks, groups, offsets)
    pattern = _pattern(own, leaves, offsets[-1])
    sizes = [blocks.groups[g].k for g in groups]
    counts = [blocks.groups[g].q for g in groups]
    width = blocks.p + 1
    k_of = np.repeat(np.array(sizes, dtype=np.int64), [k * q for k, q in zip(sizes, counts, strict=True)])
    inner_of = np.concatenate([np.zeros(0, dtype=np.int64), *(np.tile(np.arange(k), q) for k, q in zip(sizes, counts, strict=True))])
    return Root(
        groups=groups,
        offsets=offsets,
        level_of=np.arange(offsets[-1]) - inner_of,
        k_of=k_of,
        inner_of=inner_of,
        indptr=pattern.indptr.astype(np.int64),
        indices=pattern.indices.astype(np.int64),
        ZtZ=_on_pattern(own, pattern),
        ZtXy=np.concatenate([blocks.groups[g].ZtXy.reshape(-1, width) for g in groups] or [np.zeros((0, width))]),
    )


def _root_ZtZ(blocks: ModelBlocks, groups: tuple[int, ...], offsets: tuple[int, ...]) -> sp.coo_array:
    """Z'Z of the root factors as (row, column, value), lower triangle and whole diagonal blocks, zeros kept."""
    rows, columns, values = [], [], []
    for i, g in enumerate(groups):
        group = blocks.groups[g]
        at = np.arange(group.q)
        entries: list[tuple[int, int, Any, Any, Any]] = [(i, i, at, at, group.ZtZ)]
        entries += [(j, i, pair.g_refs, pair.h_refs, pair.ZtZ) for j in range(i + 1, len(groups)) for pair in [blocks.pair(groups[j], g)]]
        for row_group, column_group, row_refs, column_refs, block in entries:
            _, k_row, k_column = block.shape
            row = row_refs.astype(np.int64)[:, None, None] * k_row + np.arange(k_row)[:, None] + offsets[row_group]
            column = column_refs.astype(np.int64)[:, None, None] * k_column + np.arange(k_column) + offsets[column_group]
            rows.append(np.broadcast_to(row, block.shape).ravel())
            columns.append(np.broadcast_to(column, block.shape).ravel())
            values.append(block.astype(np.float64).ravel())
    empty = [np.zeros(0, dtype=np.int64)]
    value = np.concatenate(values) if values else np.zeros(0)
    return sp.coo_array((value, (np.concatenate(rows or empty), np.concatenate(columns or empty))), shape=(offsets[-1], offsets[-1]))


def _pattern(own: sp.coo_array, leaves: Leaves | None, r: int) -> sp.csc_array:
    """Positions that Z'Z has or that elimination of the leaves fills; values mean nothing.

    Built from ones, so that no entry cancels: scipy drops entries of a product or sum that are exactly zero.
    """
    pattern = sp.csc_array(sp.coo_array((np.ones(own.nnz), (own.row, own.col)), shape=(r, r)))
    if leaves is not None and r:
        C = sp.csr_array((np.ones(len(leaves.indices)), leaves.indices, leaves.indptr), shape=(len(leaves.indptr) - 1, r))
        pattern = sp.csc_array(pattern + sp.tril(C.T @ C, -1))  # the diagonal blocks are there already
    pattern.sum_duplicates()
    pattern.sort_indices()
    return pattern


def _on_pattern(own: sp.coo_array, pattern: sp.csc_array) -> Array:
    """Values of `own` at every position of `pattern`, in its order."""
    r = pattern.shape[0]
    columns = np.repeat(np.arange(r, dtype=np.int64), np.diff(pattern.indptr))
    keys = columns * r + pattern.indices
    out = np.zeros(len(keys))
    out[np.searchsorted(keys, own.col * r + own.row)] = own.data
    return out
