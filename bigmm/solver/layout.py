"""Where everything stands, found once: leaves, and the blocks of the root.

Leaves are the levels of the leading factor, which has the most random effects; Z'Z is block diagonal on them, so they
are eliminated first and by hand. The root is all other random effects, in columns: those of a level stand together.

Nothing that grows with Z'Z is copied or sorted: crossproducts of two factors arrive ordered by level, and stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from bigmm.columns import Array
from bigmm.solver import placement
from bigmm.solver.blocks import ModelBlocks
from bigmm.solver.memory import zeros

#: int32 for what grows with Z'Z (int64 for places beyond its reach), int64 for pointers.
Index: TypeAlias = npt.NDArray[np.int32] | npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class LeafPair:
    """Z'Z of the leading factor with one factor of the root, as the crossproducts hold it.

    Attributes
    ----------
    by_leaf : bool
        Ordered by (leaf, level) with blocks Z_1'Z_h, or by (level, leaf) with blocks Z_h'Z_1.
    first : int
        First root column of the factor.
    k : int
        Its columns a level.
    indptr : (q + 1,) or (q_h + 1,)
        Blocks of each leaf, or of each level.
    starts : (q,)
        Place of each leaf's first entry for this factor.
    ZtZ : (blocks, k_1, k) or (blocks, k, k_1)
    """

    by_leaf: bool
    first: int
    k: int
    indptr: Index
    starts: Index
    ZtZ: npt.NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Leaves:
    """The leading factor's rows of Z'Z: Z_1'Z_1 and Z_1'Z_root.

    Attributes
    ----------
    ZtZ : (q, k, k)
    ZtXy : (q, k, p + 1)
    pairs : tuple of LeafPair
        Values of Z_1'Z_root, one for each factor of the root.
    indptr : (q + 1,)
        Entries of leaf j are ``indptr[j]:indptr[j + 1]``.
    indices : (nnz,)
        Root columns of the entries, ascending in each leaf; columns of one level are neighbours.
    root_indptr : (r + 1,)
        Entries that lie in a root column are ``root_indptr[c]:root_indptr[c + 1]`` of the next two.
    root_leaves, root_entries : (nnz,)
        Their leaves, and their places in `indices`.
    work_order : (r,)
        Root columns by decreasing number of products that elimination adds to them: dealt out in turns, every thread
        gets the same work.
    products : float
        Entries of sum_j B_j'B_j before they are added up, lower triangle: half of the sum of squared row lengths.
    """

    ZtZ: Array
    ZtXy: Array
    pairs: tuple[LeafPair, ...]
    indptr: Index
    indices: Index
    root_indptr: Index
    root_leaves: Index
    root_entries: Index
    work_order: Index
    products: float


@dataclass(frozen=True, slots=True, eq=False)
class OwnBlocks:
    """Z_g'Z_h of two factors of the root (or of one with itself), upper triangle of Z'Z, as the crossproducts hold it.

    Attributes
    ----------
    column_group, row_group : int
        Positions in `Root.groups`; column_group <= row_group. (Transposed, in the lower triangle, h gives the rows.)
    column_refs, row_refs : (nnz,)
        Levels, ordered by (column, row).
    ZtZ : (nnz, k_column, k_row)
    """

    column_group: int
    row_group: int
    column_refs: Index
    row_refs: Index
    ZtZ: npt.NDArray[Any]

    @property
    def diagonal(self) -> bool:
        """Whether they are one factor's own blocks: one a level, symmetric."""
        return self.column_group == self.row_group


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
        Ordered by (column_group, row_group).
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

    def columns(self, group: int) -> slice:
        """Columns of one of the factors."""
        return slice(self.offsets[group], self.offsets[group + 1])

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


def lay_out(blocks: ModelBlocks, *, leaves: bool = True, leading: int | None = None) -> Layout:
    """Choose the leading factor and lay out leaves and root.

    Parameters
    ----------
    blocks : ModelBlocks
    leaves : bool
        False puts every random effect into the root, in the order of the groups.
    leading : int, optional
        The leading factor, where it is decided.
    """
    effects = [group.q * group.k for group in blocks.groups]
    leading = int(np.argmax(effects)) if leaves and leading is None else leading
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
    """Join the pairs of the leading factor with all others into rows."""
    group, r = blocks.groups[leading], offsets[-1]
    pairs = [blocks.pairs[min(leading, h), max(leading, h)] for h in groups]
    counts = [placement.count(pair.g_refs if leading < h else pair.h_refs, group.q) for h, pair in zip(groups, pairs, strict=True)]
    sizes = [blocks.groups[h].k for h in groups]
    lengths = np.array([k * count for k, count in zip(sizes, counts, strict=True)], dtype=np.int64).reshape(len(sizes), group.q)
    # Without a root these are zeros, in pages that nobody writes and that take no memory.
    indptr = pointers(lengths.sum(axis=0)) if groups else zeros(group.q + 1).view(np.int64)
    # One scalar factor in the root: the crossproducts hold its entries, or their transpose, as they are needed here.
    alone = sizes == [1]
    indices = pairs[0].h_refs if alone and leading < groups[0] else np.empty(indptr[-1], dtype=np.int32)
    members = []
    for i, (h, pair) in enumerate(zip(groups, pairs, strict=True)):
        starts = indptr[:-1] + lengths[:i].sum(axis=0)
        own = pointers(counts[i] if leading < h else placement.count(pair.g_refs, blocks.groups[h].q))
        if leading > h:
            placement.fill_by_root(pair.g_refs, pair.h_refs, starts.copy(), offsets[i], sizes[i], indices)
        elif not alone:
            placement.fill_by_leaf(own, starts, pair.h_refs, offsets[i], sizes[i], indices)
        members.append(LeafPair(leading < h, offsets[i], sizes[i], own, starts, native(pair.ZtZ)))
    root_indptr = pointers(placement.count(indices, r))
    root_entries: Index = np.empty(len(indices), dtype=np.int32)
    if len(indices) > np.iinfo(np.int32).max:
        root_entries = np.empty(len(indices), dtype=np.int64)
    root_leaves = pairs[0].h_refs if alone and leading > groups[0] else np.empty(len(indices), dtype=np.int32)
    work = placement.transpose(indptr, indices, root_indptr[:-1].copy(), root_entries)
    if not (alone and leading > groups[0]):
        placement.leaves_by_root(indptr, indices, root_indptr[:-1].copy(), root_leaves)
    return Leaves(
        ZtZ=np.ascontiguousarray(group.ZtZ),
        ZtXy=np.ascontiguousarray(group.ZtXy),
        pairs=tuple(members),
        indptr=indptr,
        indices=indices,
        root_indptr=root_indptr,
        root_leaves=root_leaves,
        root_entries=root_entries,
        work_order=np.argsort(-work, kind="stable").astype(np.int32),
        products=float(work.sum()),
    )


def pointers(counts: Index) -> npt.NDArray[np.int64]:
    """Where each run of so many begins, and where the last ends."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64, copy=False)


def native(blocks: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Counts and doubles as they are, in C order; anything else as doubles: compiled loops know two kinds."""
    return np.ascontiguousarray(blocks, dtype=np.int32 if blocks.dtype == np.int32 else np.float64)


def lay_out_root(blocks: ModelBlocks, leading: int) -> Root:
    """The root alone, of a model whose leaves are elsewhere."""
    groups = tuple(g for g in range(len(blocks.groups)) if g != leading)
    sizes = [blocks.groups[g].q * blocks.groups[g].k for g in groups]
    return _root(blocks, groups, tuple(int(c) for c in np.cumsum([0, *sizes])))


def _root(blocks: ModelBlocks, groups: tuple[int, ...], offsets: tuple[int, ...]) -> Root:
    members = [blocks.groups[g] for g in groups]
    own: list[OwnBlocks] = []
    for i, g in enumerate(groups):
        at = np.arange(members[i].q, dtype=np.int32)
        own.append(OwnBlocks(i, i, at, at, native(members[i].ZtZ)))
        for j in range(i + 1, len(groups)):
            pair = blocks.pairs[g, groups[j]]
            own.append(OwnBlocks(i, j, pair.g_refs, pair.h_refs, native(pair.ZtZ)))
    return Root(
        groups=groups,
        sizes=tuple(group.k for group in members),
        offsets=offsets,
        blocks=tuple(own),
        ZtXy=_borders(blocks, groups),
    )
