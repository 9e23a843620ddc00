"""What a Cholesky factor will hold and cost, before there is one: exact counts from the pattern and the permutation."""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from bigmm.solver.layout import Index


@numba.njit(cache=True)
def column_counts(
    indptr: Index, indices: Index, permutation: Index, limit: float = np.inf
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], float]:
    """Entries in each column of L, P S P' = L L', each column's parent in the elimination tree, and the flops of finding L.

    The diagonal counts, and nothing cancels. Flops are the sum of squared counts.

    Row k of L is what a walk from the entries of row k of P S P' up the elimination tree meets
    (Liu 1990, doi:10.1137/0611010; Davis 2006, chapter 4): as many steps as L has entries, and no memory for them.

    Parameters
    ----------
    indptr, indices
        S, lower triangle by columns.
    permutation : (r,)
        Row i of P S P' is row ``permutation[i]`` of S.
    limit : float
        Stop when the flops exceed it.
    """
    r = len(permutation)
    position = np.empty(r, dtype=np.int32)
    for i in range(r):
        position[permutation[i]] = i
    rows = np.zeros(r + 1, dtype=np.int64)
    for j in range(r):
        for e in range(indptr[j], indptr[j + 1]):
            rows[max(position[j], position[indices[e]]) + 1] += 1
    for i in range(r):
        rows[i + 1] += rows[i]
    cursor, columns = rows[:-1].copy(), np.empty(rows[r], dtype=np.int32)
    for j in range(r):
        for e in range(indptr[j], indptr[j + 1]):
            row = max(position[j], position[indices[e]])
            columns[cursor[row]] = min(position[j], position[indices[e]])
            cursor[row] += 1
    parent, seen = np.full(r, -1, dtype=np.int32), np.full(r, -1, dtype=np.int32)
    counts, flops = np.ones(r, dtype=np.int64), float(r)
    for k in range(r):
        seen[k] = k
        for e in range(rows[k], rows[k + 1]):
            i = columns[e]
            while seen[i] != k:
                if parent[i] < 0:
                    parent[i] = k
                flops += 2 * counts[i] + 1
                counts[i] += 1
                seen[i] = k
                i = parent[i]
        if flops > limit:
            break
    return counts, parent, flops
