"""The root's matrix S, assembled, factored, solved with and inverted: dense by LAPACK, sparse by CHOLMOD."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import numba
import numpy as np
import scipy.sparse as sp
from scipy.linalg import lapack
from scipy.linalg.blas import dtrsm

from bigmm.columns import Array
from bigmm.solver import assembly, elimination, placement
from bigmm.solver.blocks import ModelBlocks
from bigmm.solver.cholmod import NotPositiveDefiniteError, Ordering, SparseFactor
from bigmm.solver.layout import Index, Layout, Leaves, OwnBlocks, Root, lay_out
from bigmm.solver.pattern import closed_pattern, own_pattern
from bigmm.solver.selected_inverse import Places, find, invert_in_place
from bigmm.solver.threads import blas_limit, dense_threads, tiny


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


class DenseRoot:
    """S as a full square array of which the upper triangle (in C order) is used; L and then S^-1 take its place."""

    def __init__(self, root: Root, leaves: Leaves | None) -> None:
        self._root, self._leaves = root, leaves
        self._S = np.empty((root.r, root.r))
        self._logdet = 0.0
        self._inversion_threads = blas_limit(dense_threads(root.r))  # dpotri shares even little work
        self._threads: Callable[[], AbstractContextManager[object]] = nullcontext if tiny(root.r) else self._inversion_threads

    def assemble(self, templates: Sequence[Array], B: Array | None) -> None:
        """Write S."""
        assert B is not None
        assert self._leaves is not None
        found = self._leaves
        entries = (found.root_indptr, found.root_leaves, found.root_entries, found.indptr, found.indices)
        elimination.subtract_into_dense(found.work_order, numba.get_num_threads(), *entries, B, self._S)
        self._add_own(templates)

    def assemble_onto(self, templates: Sequence[Array], eliminated: Array) -> None:
        """Write S; `eliminated` is minus sum_j B_j'B_j, its upper triangle."""
        np.copyto(self._S, eliminated)
        self._add_own(templates)

    def _add_own(self, templates: Sequence[Array]) -> None:
        S, columns = self._S, self._root.columns
        for own in self._root.blocks:
            g, h = own.column_group, own.row_group
            part = S[columns(g), columns(h)]
            assembly.add_to_dense(own.column_refs, own.row_refs, own.diagonal, own.ZtZ, templates[g], templates[h], part)
        _diagonal(S)[:] += 1.0

    def factorize(self) -> None:
        """Factor S in place (LAPACK's dpotrf; C order's upper triangle is Fortran order's lower one)."""
        with self._threads():
            _, info = lapack.dpotrf(self._S.T, lower=1, clean=0, overwrite_a=1)
        if info != 0:
            raise NotPositiveDefiniteError(f"leading minor {info} of the root is not positive")
        self._logdet = float(2.0 * np.log(_diagonal(self._S)).sum())

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
        with self._inversion_threads():
            lapack.dpotri(self._S.T, lower=1, overwrite_c=1)

    @property
    def L(self) -> Array:
        """The factor, its lower triangle; after `factorize`."""
        return self._S.T

    @property
    def inverse(self) -> Array:
        """S^-1, its upper triangle; after `invert`."""
        return self._S

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
        for k, start, stop in zip(self._root.sizes, self._root.offsets, self._root.offsets[1:], strict=False):
            own, sums = self._S[start:stop, start:stop], np.empty((k, k))
            for a in range(k):
                for b in range(a, k):
                    sums[a, b] = sums[b, a] = np.diagonal(own, b - a)[a::k].sum()
            blocks.append(sums)
        return blocks


def _diagonal(S: Array) -> Array:
    """A view of the diagonal that can be written."""
    return S.reshape(-1)[:: len(S) + 1]


class SparseRoot:
    """S on its closed pattern, lower triangle by columns, factored by CHOLMOD."""

    def __init__(self, root: Root, leaves: Leaves | None, factor: SparseFactor) -> None:
        self._root, self._leaves = root, leaves
        self.factor, self.indptr, self.indices = factor, factor.indptr, factor.indices
        self._places = [self._find(own) for own in root.blocks]
        self._work = np.zeros((numba.get_num_threads(), root.r if leaves is not None else 0))
        self._inverse: Array | None = None
        self._in_L: Index | None = None

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
        elimination.traces_from_sparse(*own_columns, G, self.indptr, self.indices, self._inverse, self._work, out)
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


@dataclass(frozen=True, slots=True, eq=False)
class Arrangement:
    """A layout and its root's factor; None when there is no root."""

    layout: Layout
    factor: RootFactor | None


def arrange(blocks: ModelBlocks, *, leaves: bool = True, ordering: Ordering | None = None, simplicial: bool = False) -> Arrangement:
    """An arrangement that is asked for, whatever it costs; `bigmm.solver.plan` chooses one.

    Parameters
    ----------
    blocks : ModelBlocks
    leaves : bool
        Eliminate the leading factor by hand; False leaves everything to CHOLMOD, in the order of the groups.
    ordering : str, optional
        CHOLMOD's fill-reducing order of the root; leaves and no order give a dense root.
    simplicial : bool
        Ask CHOLMOD for a factor without entries that are zero by structure.
    """
    layout = lay_out(blocks, leaves=leaves)
    if not layout.root.r:
        return Arrangement(layout, None)
    if layout.leaves is not None and ordering is None and not simplicial:
        return Arrangement(layout, DenseRoot(layout.root, layout.leaves))
    own = own_pattern(layout.root)
    pattern = own if layout.leaves is None else closed_pattern(own, layout.leaves)
    factor = SparseFactor(pattern.indptr, pattern.indices, ordering or "default", simplicial=simplicial)
    return Arrangement(layout, SparseRoot(layout.root, layout.leaves, factor))
