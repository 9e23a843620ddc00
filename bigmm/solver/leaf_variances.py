"""Conditional variances of the leaves' random effects, wherever the leaves live."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bigmm.columns import Array
from bigmm.solver.leaves import EliminatedLeaves

#: Columns of L^-1 that are formed at a time.
BATCH = 256


def leaf_variances(eliminated: EliminatedLeaves, r: int, solve_L: Callable[[Array], Array]) -> Array:
    """V_j'(I + B_j S^-1 B_j') V_j, (q, k, k), from the columns of L^-1 P B_j'; `r` are the root's columns."""
    V = eliminated.V
    alone = np.asarray(np.einsum("jba,jbc->jac", V, V))
    if not r or not len(V):  # no root, or a slice without levels
        return alone
    step = max(BATCH // V.shape[1], 1)
    found = [_through_root(eliminated, first, min(first + step, len(V)), r, solve_L) for first in range(0, len(V), step)]
    return np.asarray(alone + np.concatenate(found))


def _through_root(eliminated: EliminatedLeaves, first: int, last: int, r: int, solve_L: Callable[[Array], Array]) -> Array:
    leaves, V, B = eliminated.leaves, eliminated.V[first:last], eliminated.B
    k = V.shape[1]
    right = np.zeros((r, (last - first) * k))
    entries = slice(leaves.indptr[first], leaves.indptr[last])
    leaf = np.repeat(np.arange(last - first), np.diff(leaves.indptr[first : last + 1]))
    for a in range(k):
        right[leaves.indices[entries], leaf * k + a] = B[entries, a]
    return np.asarray(np.einsum("jba,jbc,jcd->jad", V, squares(solve_L(right), k), V))


def squares(columns: Array, k: int) -> Array:
    """Diagonal k x k blocks of columns' columns."""
    parts = columns.reshape(len(columns), -1, k)
    return np.asarray(np.einsum("rja,rjb->jab", parts, parts))
