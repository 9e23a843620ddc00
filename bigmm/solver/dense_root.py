"""The root's matrix S as a dense array: assembled, factored, solved with and inverted in place."""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np
from scipy.linalg.blas import dtrsm

from bigmm.columns import Array
from bigmm.solver import assembly, elimination, tiles
from bigmm.solver.cholmod import NotPositiveDefiniteError
from bigmm.solver.costs import cheapest_inverse
from bigmm.solver.dense_inverse import ByInverse, ByInverseFactor, DenseInverse
from bigmm.solver.layout import Leaves, Root
from bigmm.solver.root_order import RootOrder, root_order
from bigmm.solver.threads import dense_threads


class DenseRoot:
    """S as a full square array of which the upper triangle (in C order) is used; L and then an inverse take its place.

    They stand in the order of a `RootOrder` (P below) where that makes the gradient cheaper.
    """

    #: The tiles have threads of their own.
    blas_threads = 1

    def __init__(self, root: Root, leaves: Leaves | None) -> None:
        self._root, self._leaves = root, leaves
        self._S = np.empty((root.r, root.r))
        self._logdet = 0.0
        self._threads = dense_threads(root.r)
        self._order: RootOrder | None = None
        self._inverse: DenseInverse
        if leaves is None or (way := cheapest_inverse(root.r, leaves)) == "S^-1":
            self._inverse = ByInverse(root.r)
        else:
            self._order = root_order(leaves, few_leaves_first=way != "L^-1")
            self._inverse = ByInverseFactor(self._order, leaves)

    def assemble(self, templates: Sequence[Array], B: Array | None) -> None:
        """Write S."""
        assert B is not None
        assert self._leaves is not None
        found = self._leaves
        entries = (found.root_indptr, found.root_leaves, found.root_entries, found.indptr, found.indices)
        elimination.subtract_into_dense(found.work_order, numba.get_num_threads(), *entries, B, self._S)
        self._add_own(templates)
        if self._order is not None:
            self._order.permute(self._S)

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
        """Factor S in place."""
        failed = tiles.factorize(self._S, self._threads)
        if failed:
            raise NotPositiveDefiniteError(f"the root is not positive definite: leading minor {failed} of its order")
        self._logdet = float(2.0 * np.log(_diagonal(self._S)).sum())

    def logdet(self) -> float:
        """log|S|."""
        return self._logdet

    def solve_L(self, b: Array) -> Array:
        """L^-1 P b."""
        return np.asarray(dtrsm(1.0, self._S.T, b if self._order is None else self._order.into(b), lower=1))

    def solve_Lt(self, b: Array) -> Array:
        """P'L^-T b."""
        u = np.asarray(dtrsm(1.0, self._S.T, b, lower=1, trans_a=1))
        return u if self._order is None else self._order.out_of(u)

    def invert(self) -> None:
        """S^-1, or L^-1, in place of L."""
        self._inverse.invert(self._S, self._threads)

    @property
    def L(self) -> Array:
        """The factor, its lower triangle; after `factorize`, of a root whose leaves are elsewhere."""
        assert self._leaves is None
        return self._S.T

    @property
    def inverse(self) -> Array:
        """S^-1, its upper triangle; after `invert`, of a root whose leaves are elsewhere."""
        assert self._leaves is None
        return self._S

    def leaf_traces(self, G: Array) -> Array:
        """Sum of G_j S^-1 G_j' over the leaves."""
        assert self._leaves is not None
        return self._inverse.leaf_traces(self._S, self._leaves, G)

    def diagonal_blocks(self) -> list[Array]:
        """Sum over levels of the diagonal blocks of S^-1."""
        return self._inverse.diagonal_blocks(self._S, self._root)


def _diagonal(S: Array) -> Array:
    """A view of the diagonal that can be written."""
    return S.reshape(-1)[:: len(S) + 1]
