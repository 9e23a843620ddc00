"""Leaves eliminated at one theta, wherever they live: what they give to the root, to the rest and to the derivatives.

All of it is sums over leaves. A set of leaves that is cut into slices gives the sum of what the slices give.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager

import numpy as np

from bigmm.columns import Array
from bigmm.solver import elimination, traces
from bigmm.solver.layout import Index, Leaves
from bigmm.solver.leaf_factors import factor_leaves
from bigmm.solver.leaf_sums import LeafSums, sum_leaves
from bigmm.solver.memory import zeros
from bigmm.solver.threads import loop_threads, looping


class EliminatedLeaves:
    """V_j and B_j of all leaves, in arrays that every theta writes again.

    Parameters
    ----------
    leaves : Leaves

    Attributes
    ----------
    V : (q, k, k)
        L_j^-1 T'.
    B : (nnz, k)
        V_j (Z_1'Z_root)_j Lambda, one column an entry.
    """

    def __init__(self, leaves: Leaves) -> None:
        q, k = leaves.ZtZ.shape[:2]
        self.leaves = leaves
        self.V = zeros(q, k, k)
        self.B = np.empty((len(leaves.indices), k))
        self._VtW = np.empty_like(leaves.ZtXy) if leaves.root_indptr[1:].size else None
        self._threads = loop_threads(leaves.products * k + leaves.ZtZ.size * (k + leaves.ZtXy.shape[2]))

    def with_columns(self, leaves: Leaves) -> EliminatedLeaves:
        """The same leaves with other columns in their Z'W; the arrays are shared, so that one is used at a time."""
        other = copy.copy(self)
        other.leaves = leaves
        return other

    def looping(self) -> AbstractContextManager[None]:
        """A context in which compiled loops have as many threads as their work is worth."""
        return looping(self._threads)

    def factor(self, T: Array, root_templates: Sequence[Array]) -> float:
        """Write V and B; returns 2 sum_j log|L_j|."""
        leaves = self.leaves
        logdet = factor_leaves(leaves.ZtZ, T, self.V)
        for pair, root_T in zip(leaves.pairs, root_templates, strict=True):
            if pair.by_leaf:
                elimination.leaf_rows_by_leaf(pair.indptr, pair.starts, pair.ZtZ, self.V, root_T, self.B)
            else:
                columns = leaves.root_indptr[pair.first :]
                args = (pair.indptr, columns, leaves.root_leaves, leaves.root_entries, pair.ZtZ, self.V, root_T, self.B)
                elimination.leaf_rows_by_root(*args)
        return logdet

    def subtract_border(self, border: Array) -> None:
        """`border` (r, width) of W less sum_j B_j'V_j (Z_1'W)_j."""
        if self._VtW is not None:
            elimination.leaf_borders(self.V, self.leaves.ZtXy, self._VtW)
            self._subtract(self._VtW, border)

    def _subtract(self, columns: Array, border: Array) -> None:
        leaves = self.leaves
        elimination.subtract_borders(leaves.root_indptr, leaves.root_leaves, leaves.root_entries, self.B, columns, border)

    def effects(self, coefficients: Array, U: Array) -> Array:
        """Random effects on the original scale for W `coefficients`, V_j'(V_j (Z_1'W)_j coefficients - B_j U), (q, k, columns)."""
        C = self.leaves.ZtXy @ coefficients
        elimination.leaf_effects(self.leaves.indptr, self.leaves.indices, self.B, self.V, C, U)
        return C

    def sums(self, T: Array, in_units: Array, U: Array, coefficients: Array, entries: Index) -> tuple[LeafSums, Array]:
        """What derivatives need, and minus the border of the directions, (r, t); see `leaf_sums.sum_leaves`."""
        border = np.zeros((len(self.leaves.root_indptr) - 1, len(entries)))
        F = np.empty((*self.V.shape[:2], len(entries))) if len(border) else None
        found = sum_leaves(self.leaves, self.V, self.B, (T, in_units), U, np.ascontiguousarray(coefficients), entries, F)
        if F is not None:
            self._subtract(F, border)
        return found, border

    def spherical_rows(self, T: Array) -> Array:
        """B becomes L_j^-T B_j, in place: what traces with the inverse are taken of."""
        traces.spherical_rows(self.leaves.indptr, self.V, np.asarray(np.linalg.inv(T), dtype=np.float64), self.B)
        return self.B
