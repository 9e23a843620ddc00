"""Dependent fixed-effects columns, found from X'X."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bigmm.columns import Array

#: A column is dependent when less than this part of its squared length is left beside the columns before it.
#: (X'X holds squares: rounding alone leaves about 1e-15 times the number of columns.)
_TOLERANCE = 1e-11


def independent_columns(XtX: Array) -> tuple[npt.NDArray[np.bool_], Array]:
    """Which columns to keep, from the left, as R's qr() does, and what is left of each beside the kept ones before it.

    A Cholesky factorization of X'X that passes over the columns whose pivot vanishes. Columns are scaled by powers of two,
    which round nothing, to lengths between 1/2 and 1. Its own rounding is kept out of it (extended precision, where the machine
    has it): which columns stay should be a question of the data, not of the processor's order of additions.

    Returns
    -------
    keep : (p,) bool
    left : (p,)
        The pivots: parts of each column's squared length. Where they are small, so is what rounding leaves of coefficients.
    """
    p = len(XtX)
    pivots = np.zeros(p)
    lengths = np.sqrt(np.diag(XtX))
    keep = lengths > 0.0
    scale = np.exp2(np.frexp(np.where(keep, lengths, 1.0))[1])
    A = (XtX / np.outer(scale, scale)).astype(np.longdouble)
    R = np.zeros((p, p), dtype=np.longdouble)
    for j in range(p):
        column = A[j, :j] if j else A[j, :0]
        r = np.zeros(j, dtype=np.longdouble)
        for i in np.flatnonzero(keep[:j]):
            r[i] = (column[i] - R[:i, i] @ r[:i]) / R[i, i]
        left = A[j, j] - r @ r
        pivots[j] = left / A[j, j] if keep[j] else 0.0
        keep[j] = pivots[j] > _TOLERANCE
        if keep[j]:
            R[:j, j], R[j, j] = r, np.sqrt(left)
    return keep, pivots
