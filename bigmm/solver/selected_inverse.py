"""The inverse of a sparse matrix on the pattern of its Cholesky factor: Takahashi's equations.

Z = S^-1 obeys Z = L^-T D + (I - L^-T..)Z; read column by column from the last, each entry on L's pattern needs only
entries on the pattern (Takahashi, Fagan and Chin 1973; Erisman and Tinney 1975, doi:10.1145/360680.360704).
"""

from __future__ import annotations

import numba
import numpy as np

from bigmm.columns import Array
from bigmm.solver.layout import Index


@numba.njit(cache=True)
def takahashi(indptr: Index, indices: Index, L: Array, Z: Array) -> None:
    """Z = (L L')^-1 on the pattern of L, into `Z` (nnz,).

    Parameters
    ----------
    indptr, indices, L
        Cholesky factor by columns, rows ascending, the diagonal first in each column.
    """
    n = len(indptr) - 1
    place = np.full(n, -1, dtype=np.int64)
    column = np.zeros(n)
    for j in range(n - 1, -1, -1):
        start, stop = indptr[j], indptr[j + 1]
        diagonal = L[start]
        # column := Z[rows of j, rows of j] @ L[rows of j, j], from the columns to the right
        for e in range(start + 1, stop):
            column[indices[e]] = 0.0
            place[indices[e]] = e
        for e in range(start + 1, stop):
            i = indices[e]
            for f in range(indptr[i], indptr[i + 1]):
                row = indices[f]
                if place[row] >= 0:
                    column[row] += Z[f] * L[e]
                    if row != i:
                        column[i] += Z[f] * L[place[row]]
        total = 0.0
        for e in range(start + 1, stop):
            i = indices[e]
            Z[e] = -column[i] / diagonal
            total += L[e] * column[i]
            place[i] = -1
        Z[start] = (1.0 / diagonal + total / diagonal) / diagonal
