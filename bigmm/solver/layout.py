"""Where everything stands, found once: leaves, and the blocks of the root.

Leaves are the levels of the leading factor, which has the most random effects; Z'Z is block diagonal on them, so they
are eliminated first and by hand. The root is all other random effects, in columns: those of a level stand together.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

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
        Root columns of the entries, ascending in each leaf; columns of one level are neighbours.
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
class OwnBlocks:
    """Z_g'Z_h of two factors of the root (or of one with itself), lower triangle of Z'Z.

    Attributes
    ----------
    row_group, column_group : int
        Positions in `Root.groups`; row_group >= column_group.
    row_refs, column_refs : (nnz,)
        Levels.
    ZtZ : (nnz, k_row, k_column)
    """

    row_group: int
    column_group: int
    row_refs: Index
    column_refs: Index
    ZtZ: Array


@dataclass(frozen=True, slots=True, eq=False)
class Root:
    """All random effects but the leaves.

    Attributes
    ----------
    groups : tuple of int
        Positions of the factors among the model's, in the order of their columns.
    sizes : tuple of int
        Columns a level, k, of each.
    offsets : tuple of int
        First column of each, and the number r of columns.
    blocks : tuple of OwnBlocks
    ZtXy : (r, p + 1)
    """

    groups: tuple[int, ...]
    sizes: tuple[int, ...]
    offsets: tuple[int, ...]
    blocks: tuple[OwnBlocks, ...]
    ZtXy: Array

    @property
    def r(self) -> int:
        """Columns."""
        return self.offsets[-1]

    def places(self, own: OwnBlocks) -> tuple[Index, Index]:
        """Rows and columns in the root of every entry of some blocks, each of the blocks' shape."""
        _, k_row, k_column = own.ZtZ.shape
        row = own.row_refs[:, None, None] * k_row + np.arange(k_row)[:, None] + self.offsets[own.row_group]
        column = own.column_refs[:, None, None] * k_column + np.arange(k_column) + self.offsets[own.column_group]
        return np.broadcast_to(row, own.ZtZ.shape), np.broadcast_to(column, own.ZtZ.shape)

    def split(self, x: Array) -> list[Array]:
        """Values on the root, one (q, k, ...) view a factor."""
        parts = zip(self.sizes, self.offsets, self.offsets[1:], strict=False)
        return [x[start:stop].reshape(-1, k, *x.shape[1:]) for k, start, stop in parts]


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
    return Layout(leading, built, _root(blocks, groups, offsets))


def replace_borders(layout: Layout, blocks: ModelBlocks) -> Layout:
    """The same layout with the Z'[X y] of other blocks, whose Z'Z is the same."""
    leaves = layout.leaves
    if leaves is not None and layout.leading is not None:
        leaves = replace(leaves, ZtXy=np.ascontiguousarray(blocks.groups[layout.leading].ZtXy))
    return replace(layout, leaves=leaves, root=replace(layout.root, ZtXy=_borders(blocks, layout.root.groups)))


def _borders(blocks: ModelBlocks, groups: tuple[int, ...]) -> Array:
    width = blocks.p + 1
    return np.concatenate([np.zeros((0, width)), *(blocks.groups[g].ZtXy.reshape(-1, width) for g in groups)])


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
        ZtZ=np.ascontiguousarray(group.ZtZ),
        ZtXy=np.ascontiguousarray(group.ZtXy),
        indptr=_pointers(leaf, group.q),
        indices=column,
        values=value,
        root_indptr=_pointers(column, offsets[-1]),
        root_leaves=leaf[by_column],
        root_entries=by_column,
    )


def _pointers(places: Index, size: int) -> Index:
    return np.concatenate([[0], np.cumsum(np.bincount(places, minlength=size))]).astype(np.int64)


def _root(blocks: ModelBlocks, groups: tuple[int, ...], offsets: tuple[int, ...]) -> Root:
    members = [blocks.groups[g] for g in groups]
    own: list[OwnBlocks] = []
    for i, g in enumerate(groups):
        at = np.arange(members[i].q)
        own.append(OwnBlocks(i, i, at, at, members[i].ZtZ))
        for j in range(i + 1, len(groups)):
            pair = blocks.pair(groups[j], g)
            own.append(OwnBlocks(j, i, pair.g_refs.astype(np.int64), pair.h_refs.astype(np.int64), pair.ZtZ.astype(np.float64)))
    return Root(
        groups=groups,
        sizes=tuple(group.k for group in members),
        offsets=offsets,
        blocks=tuple(own),
        ZtXy=_borders(blocks, groups),
    )
