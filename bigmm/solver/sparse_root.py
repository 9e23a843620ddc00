"""The root's matrix S on its pattern: factored by CHOLMOD, inverted on the pattern of L."""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np
import scipy.sparse as sp

from bigmm.columns import Array
from bigmm.solver import assembly, elimination, placement, traces
from bigmm.solver.cholmod import SparseFactor
from bigmm.solver.layout import Index, Leaves, OwnBlocks, Root
from bigmm.solver.selected_inverse import Places, find, invert_in_place


class SparseRoot:
    """S on its closed pattern, lower triangle by columns, factored by CHOLMOD."""

    def __init__(self, root: Root, leaves: Leaves | None, factor: SparseFactor) -> None:
        self._root, self._leaves = root, leaves
        self.factor, self.indptr, self.indices = factor, factor.indptr, factor.indices
        self._places = [self._find(own) for own in root.blocks]
        self._work = np.zeros((numba.get_num_threads(), root.r if leaves is not None else 0))
        self._inverse: Array | None = None
        self._in_L: Index | None = None

    @property
    def blas_threads(self) -> int:
        """By the widest front."""
        return self.factor.blas_threads

    def _find(self, own: OwnBlocks) -> Index:
        """Where each column of each block begins in S, (blocks, k_column)."""
        _, k_column, k_row = own.ZtZ.shape
        g, h, offsets = own.column_group, own.row_group, self._root.offsets
        places: Index = np.empty((len(own.ZtZ), k_column), dtype=self.indptr.dtype)
        refs = (own.column_refs, own.row_refs, k_column, k_row, own.diagonal, offsets[g], offsets[h])
        placement.find_own(*refs, self.indptr, self.indices, places)
        return places

    def assemble(self, templates: Sequence[Array], B: Array | None) -> None:
        """Write S."""
        S = self.factor.values
        S[:] = 0.0
        for own, places in zip(self._root.blocks, self._places, strict=True):
            g, h = own.column_group, own.row_group
            assembly.add_to_sparse(places, own.diagonal, own.ZtZ, templates[g], templates[h], S)
        S[self.indptr[:-1]] += 1.0
        if self._leaves is not None and B is not None:
            found = self._leaves
            entries = (found.root_indptr, found.root_leaves, found.root_entries, found.indptr, found.indices)
            elimination.subtract_from_sparse(found.work_order, *entries, B, self.indptr, self.indices, self._work, S)

    def matrix(self) -> sp.csc_array:
        """S as it was assembled last, lower triangle."""
        return sp.csc_array((self.factor.values.copy(), self.indices, self.indptr), shape=(self._root.r, self._root.r))

    def factorize(self) -> None:
        """Factor S."""
        self.factor.factorize()

    def logdet(self) -> float:
        """log|S|."""
        return self.factor.logdet()

    def solve_L(self, b: Array) -> Array:
        """L^-1 P b."""
        return self.factor.solve_L(b)

    def solve_Lt(self, b: Array) -> Array:
        """P'L^-T b."""
        return self.factor.solve_Lt(b)

    def invert(self) -> None:
        """S^-1 on the pattern of S, by Takahashi's equations on the pattern of L."""
        L = self.factor.L()
        L.sort_indices()  # looks whether it has to
        invert_in_place(L.indptr, L.indices, L.data)
        if self._in_L is None:
            self._in_L = self._match(L.indptr, L.indices)
            self._inverse = np.empty(len(self._in_L))
        np.take(L.data, self._in_L, out=self._inverse)

    def _match(self, indptr: Places, indices: Places) -> Index:
        """Place in L of every entry of S's pattern; L's own pattern is the analysis's, the same at every theta."""
        position = np.empty(self._root.r, dtype=np.int64)
        position[self.factor.permutation] = np.arange(self._root.r)
        row, column = position[self.indices], np.repeat(position, np.diff(self.indptr))
        return find(indptr, indices, np.maximum(row, column), np.minimum(row, column))

    def leaf_traces(self, G: Array) -> Array:
        """Sum of G_j S^-1 G_j' over the leaves."""
        assert self._leaves is not None
        assert self._inverse is not None
        found, k = self._leaves, G.shape[1]
        out = np.empty((self._root.r, k, k))
        own_columns = (found.root_indptr, found.root_leaves, found.root_entries, found.indptr, found.indices)
        traces.from_sparse(*own_columns, G, self.indptr, self.indices, self._inverse, self._work, out)
        self._work[:] = 0.0
        return np.asarray(out.sum(axis=0))

    def diagonal_blocks(self) -> list[Array]:
        """Sum over levels of the diagonal blocks of S^-1."""
        assert self._inverse is not None
        blocks = []
        for own, places in zip(self._root.blocks, self._places, strict=True):
            if own.diagonal:
                k = own.ZtZ.shape[1]
                sums = np.empty((k, k))
                for a in range(k):
                    for b in range(a, k):
                        sums[a, b] = sums[b, a] = self._inverse[places[:, a] + (b - a)].sum()
                blocks.append(sums)
        return blocks
