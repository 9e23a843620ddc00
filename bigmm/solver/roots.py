"""The root's matrix S, assembled, factored, solved with and inverted: dense by LAPACK, sparse by CHOLMOD."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numba
import numpy as np
import scipy.sparse as sp
from scipy.linalg import lapack
from scipy.linalg.blas import dtrsm

from bigmm.columns import Array
from bigmm.solver import elimination
from bigmm.solver.cholmod import NotPositiveDefiniteError, Ordering, SparseFactor
from bigmm.solver.layout import Index, Layout, Leaves, Root
from bigmm.solver.selected_inverse import Places, find, invert_in_place
from bigmm.solver.threads import blas_threads


class RootFactor(Protocol):
    """S = Lambda'Z'Z Lambda + I - sum_j B_j'B_j and its Cholesky factor."""

    def assemble(self, templates: Sequence[Array], B: Array | None) -> None:
        """Write S; `templates` are those of the root's factors."""

    def factorize(self) -> None:
        """Factor S; raises NotPositiveDefiniteError."""

    def logdet(self) -> float:
        """log|S|."""

    def solve_L(self, b: Array) -> Array:
        """L^-1 P b, shape (r, columns)."""

    def solve_Lt(self, b: Array) -> Array:
        """P'L^-T b, shape (r, columns)."""

    def invert(self) -> None:
        """Turn the factor into S^-1, where it is needed; solves are over until the next `factorize`."""

    def leaf_traces(self, G: Array) -> Array:
        """Sum of G_j S^-1 G_j' over the leaves, shape (k, k); after `invert`."""

    def diagonal_blocks(self) -> list[Array]:
        """Sum over levels of the diagonal blocks of S^-1, one (k, k) array a factor; after `invert`."""


#: A root whose pattern has more than this part of its triangle filled is held as a dense array.
_DENSE = 0.1


def root_factor(layout: Layout, ordering: Ordering = "default", *, simplicial: bool = False) -> RootFactor | None:
    """The root's factor, dense or sparse by how full its pattern is; None when there is no root.

    Parameters
    ----------
    layout : Layout
    ordering : str
        CHOLMOD's order; any but the default asks for a sparse factor.
    simplicial : bool
        Ask for a sparse factor without entries that are zero by structure.
    """
    root, leaves = layout.root, layout.leaves
    if not root.r:
        return None
    pattern = root_pattern(root, leaves)
    if leaves is not None and ordering == "default" and not simplicial and pattern.nnz > _DENSE * root.r * (root.r + 1) / 2:
        return DenseRoot(root, leaves)
    return SparseRoot(root, leaves, pattern, ordering, simplicial=simplicial)


class DenseRoot:
    """S as a full square array of which the upper triangle (in C order) is used; L and then S^-1 take its place."""

    def __init__(self, root: Root, leaves: Leaves | None) -> None:
        self._root, self._leaves = root, leaves
        self._S = np.empty((root.r, root.r))
        self._logdet = 0.0
        self._threads = blas_threads(root.r)

    def assemble(self, templates: Sequence[Array], B: Array | None) -> None:
        """Write S."""
        S = self._S
        S[:] = 0.0
        for own in self._root.blocks:
            row, column = self._root.places(own)
            S[column, row] = templates[own.row_group].T @ own.ZtZ @ templates[own.column_group]
        S[np.diag_indices(len(S))] += 1.0
        if self._leaves is not None and B is not None:
            found = self._leaves
            elimination.subtract_from_dense(found.root_indptr, found.root_leaves, found.root_entries, found.indptr, found.indices, B, S)

    def factorize(self) -> None:
        """Factor S in place (LAPACK's dpotrf; C order's upper triangle is Fortran order's lower one)."""
        with self._threads():
            _, info = lapack.dpotrf(self._S.T, lower=1, clean=0, overwrite_a=1)
        if info != 0:
            raise NotPositiveDefiniteError(f"leading minor {info} of the root is not positive")
        self._logdet = float(2.0 * np.log(np.diagonal(self._S)).sum())

    def logdet(self) -> float:
        """log|S|."""
        return self._logdet

    def solve_L(self, b: Array) -> Array:
        """L^-1 b."""
        with self._threads():
            return np.asarray(dtrsm(1.0, self._S.T, b, lower=1))

    def solve_Lt(self, b: Array) -> Array:
        """L^-T b."""
        with self._threads():
            return np.asarray(dtrsm(1.0, self._S.T, b, lower=1, trans_a=1))

    def invert(self) -> None:
        """S^-1 in place of L (LAPACK's dpotri)."""
        with self._threads():
            lapack.dpotri(self._S.T, lower=1, overwrite_c=1)

    def leaf_traces(self, G: Array) -> Array:
        """Sum of G_j S^-1 G_j' over the leaves."""
        assert self._leaves is not None
        found, k = self._leaves, G.shape[1]
        out = np.empty((self._root.r, k, k))
        elimination.traces_from_dense(
            found.root_indptr, found.root_leaves, found.root_entries, found.indptr, found.indices, G, self._S, out
        )
        return np.asarray(out.sum(axis=0))

    def diagonal_blocks(self) -> list[Array]:
        """Sum over levels of the diagonal blocks of S^-1."""
        blocks = []
        for own in self._root.blocks:
            if own.row_group == own.column_group:
                row, column = self._root.places(own)
                blocks.append(self._S[np.minimum(row, column), np.maximum(row, column)].sum(axis=0))
        return blocks


class SparseRoot:
    """S on its closed pattern, lower triangle by columns, factored by CHOLMOD."""

    def __init__(
        self, root: Root, leaves: Leaves | None, pattern: sp.csc_array, ordering: Ordering = "default", *, simplicial: bool = False
    ) -> None:
        self._root, self._leaves = root, leaves
        self.indptr, self.indices = pattern.indptr.astype(np.int64), pattern.indices.astype(np.int64)
        self.factor = SparseFactor(self.indptr, self.indices, ordering, simplicial=simplicial)
        keys = np.repeat(np.arange(root.r, dtype=np.int64), np.diff(self.indptr)) * root.r + self.indices
        self._places = [_place(keys, root, own.row_group == own.column_group, *root.places(own)) for own in root.blocks]
        self._diagonal = self.indptr[:-1]
        self._work = np.zeros((numba.get_num_threads(), root.r if leaves is not None else 0))
        self._inverse: Array | None = None
        self._in_L: Index | None = None

    def assemble(self, templates: Sequence[Array], B: Array | None) -> None:
        """Write S."""
        S = self.factor.values
        S[:] = 0.0
        for own, (inside, places) in zip(self._root.blocks, self._places, strict=True):
            S[places] = (templates[own.row_group].T @ own.ZtZ @ templates[own.column_group])[inside]
        S[self._diagonal] += 1.0
        if self._leaves is not None and B is not None:
            found = self._leaves
            own_columns = (found.root_indptr, found.root_leaves, found.root_entries, found.indptr, found.indices)
            elimination.subtract_from_sparse(*own_columns, B, self.indptr, self.indices, self._work, S)

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
        elimination.traces_from_sparse(*own_columns, G, self.indptr, self.indices, self._inverse, self._work, out)
        self._work[:] = 0.0
        return np.asarray(out.sum(axis=0))

    def diagonal_blocks(self) -> list[Array]:
        """Sum over levels of the diagonal blocks of S^-1."""
        assert self._inverse is not None
        blocks = []
        for own, (inside, places) in zip(self._root.blocks, self._places, strict=True):
            if own.row_group == own.column_group:
                lower = np.zeros(own.ZtZ.shape)
                lower[inside] = self._inverse[places]
                total = lower.sum(axis=0)
                blocks.append(total + np.tril(total, -1).T)
        return blocks


def _place(keys: Index, root: Root, diagonal: bool, row: Index, column: Index) -> tuple[Any, Index]:
    """Which entries of some blocks lie in the lower triangle, and where these stand in the pattern."""
    inside: Any = row >= column if diagonal else np.ones(row.shape, dtype=bool)
    return inside, np.searchsorted(keys, column[inside] * root.r + row[inside])


def root_pattern(root: Root, leaves: Leaves | None) -> sp.csc_array:
    """Positions that Z'Z has or that elimination of the leaves fills, lower triangle; values mean nothing.

    Built from ones, so that no entry cancels: scipy drops entries of a product or sum that are exactly zero.
    """
    r = root.r
    places = [root.places(own) for own in root.blocks]
    row = np.concatenate([np.zeros(0, dtype=np.int64), *(row.ravel() for row, _ in places)])
    column = np.concatenate([np.zeros(0, dtype=np.int64), *(column.ravel() for _, column in places)])
    pattern = sp.csc_array(sp.coo_array((np.ones(len(row)), (row, column)), shape=(r, r)))
    if leaves is not None and r:
        C = sp.csr_array((np.ones(len(leaves.indices)), leaves.indices, leaves.indptr), shape=(len(leaves.indptr) - 1, r))
        pattern = sp.csc_array(pattern + C.T @ C)
    pattern = sp.csc_array(sp.tril(pattern))
    pattern.sum_duplicates()
    pattern.sort_indices()
    return pattern
