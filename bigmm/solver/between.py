"""What leaves of one column take from W'W, so that nothing large cancels.

With a_j = z_j'z_j and w_j = z_j'W, elimination leaves

    W'W - sum_j T^2 w_j'w_j / d_j  =  (W'W - sum_j w_j'w_j / a_j)  +  sum_j w_j'w_j / (a_j d_j),     d_j = T^2 a_j + 1.

On the left the column of ones keeps 1 of d_j parts: of a level of a million rows, six digits are lost. On the right the first
part does not depend on theta and is what lies within levels, for ones exactly 0; the second is what lies between them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bigmm.columns import Array
from bigmm.solver.layout import Leaves
from bigmm.solver.leaf_factors import gram_of_leaves

#: Leaves that are summed at once: bounds memory, and the rounding of long sums.
_BLOCK = 2**12
#: A level whose column has no more than this of squares has no column: one over it would be infinite.
_TINY = float(np.finfo(np.float64).tiny)


def gram_of_levels(leaves: Leaves) -> Array:
    """Sum of w_j'w_j / a_j, (width, width), which is to be taken from W'W before theta is known; 0 for leaves of several columns."""
    if leaves.ZtZ.shape[1] > 1:
        return np.zeros(leaves.ZtXy.shape[2:] * 2)
    return _weighted(leaves, lambda a: 1.0 / np.where(a > _TINY, a, np.inf))


def taken(leaves: Leaves, T: Array, V: Array) -> Array:
    """What theta takes beyond that, (width, width): less than 0 for leaves of one column, sum_j (V_j w_j)'(V_j w_j) for others.

    Parameters
    ----------
    leaves : Leaves
    T : (k, k)
    V : (q, k, k)
        As in `elimination`, at T.
    """
    if len(T) > 1:
        return gram_of_leaves(V, leaves.ZtXy)
    return -_weighted(leaves, lambda a: 1.0 / np.where(a > _TINY, a * (T[0, 0] ** 2 * a + 1.0), np.inf))


def _weighted(leaves: Leaves, weight: Callable[[Array], Array]) -> Array:
    """Sum of w_j'w_j times a function of a_j; symmetric."""
    q, _, width = leaves.ZtXy.shape
    total = np.zeros((width, width))
    for start in range(0, q, _BLOCK):
        C = leaves.ZtXy[start : start + _BLOCK, 0]
        total += (C * weight(leaves.ZtZ[start : start + _BLOCK, 0])).T @ C
    return 0.5 * (total + total.T)
