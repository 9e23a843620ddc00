"""Compiled loops over leaves and over the root's columns.

Each thread owns columns of S (or leaves), so that there are no locks and the bits do not depend on the number of
threads.
"""

from __future__ import annotations

import numba
import numpy as np

from bigmm.columns import Array
from bigmm.solver.layout import Index


@numba.njit(cache=True, parallel=True)
def leaf_factors(ZtZ: Array, T: Array, V: Array, logdet_of: Array) -> None:
    """V_j = L_j^-1 T' with L_j L_j' = T'(Z'Z)_j T + I, into `V` (q, k, k), and 2 log|L_j| into `logdet_of` (q,).

    W_j = V_j'V_j = T D_j^-1 T' is what elimination of leaf j needs.
    """
    q, k = ZtZ.shape[0], ZtZ.shape[1]
    for j in numba.prange(q):
        D = np.zeros((k, k))
        for a in range(k):
            for b in range(a + 1):
                total = 1.0 if a == b else 0.0
                for c in range(a, k):
                    for d in range(b, k):
                        total += T[c, a] * ZtZ[j, c, d] * T[d, b]
                D[a, b] = total
        logdet = 0.0
        for a in range(k):
            for b in range(a + 1):
                total = D[a, b]
                for c in range(b):
                    total -= D[a, c] * D[b, c]
                D[a, b] = np.sqrt(total) if a == b else total / D[b, b]
            logdet += 2.0 * np.log(D[a, a])
        logdet_of[j] = logdet
        for column in range(k):  # L V = T', one column at a time
            for a in range(k):
                total = T[column, a]
                for c in range(a):
                    total -= D[a, c] * V[j, c, column]
                V[j, a, column] = total / D[a, a]


@numba.njit(cache=True, parallel=True)
def leaf_rows(indptr: Index, values: Array, V: Array, B: Array) -> None:
    """B_j = V_j C_j, into `B` (nnz, k): the scaled rows of the leaves."""
    k = V.shape[1]
    for j in numba.prange(len(indptr) - 1):
        for e in range(indptr[j], indptr[j + 1]):
            for a in range(k):
                total = 0.0
                for b in range(k):
                    total += V[j, a, b] * values[e, b]
                B[e, a] = total


@numba.njit(cache=True, parallel=True)
def subtract_leaves(
    indptr: Index,
    indices: Index,
    ZtZ: Array,
    leaf_indptr: Index,
    leaf_indices: Index,
    root_indptr: Index,
    root_leaves: Index,
    root_entries: Index,
    level_of: Index,
    B: Array,
    threads: int,
    out: Array,
) -> None:
    """S = Z'Z - sum_j B_j'B_j on S's pattern, into `out`; each of `threads` owns every threads-th column."""
    r, k = len(indptr) - 1, B.shape[1]
    work = np.zeros((threads, r))
    for block in numba.prange(threads):
        sums = work[block]
        for c in range(block, r, threads):
            first = level_of[c]
            for t in range(root_indptr[c], root_indptr[c + 1]):
                own, stop = root_entries[t], leaf_indptr[root_leaves[t] + 1]
                start = own
                while start > leaf_indptr[root_leaves[t]] and leaf_indices[start - 1] >= first:
                    start -= 1
                for e in range(start, stop):
                    total = 0.0
                    for a in range(k):
                        total += B[own, a] * B[e, a]
                    sums[leaf_indices[e]] += total
            for e in range(indptr[c], indptr[c + 1]):
                out[e] = ZtZ[e] - sums[indices[e]]
                sums[indices[e]] = 0.0


@numba.njit(cache=True, parallel=True)
def subtract_borders(ZtXy: Array, root_indptr: Index, root_leaves: Index, root_entries: Index, B: Array, VtXy: Array, out: Array) -> None:
    """Z'[X y] of the root less sum_j B_j' V_j (Z_1'[X y])_j, into `out` (r, p + 1)."""
    r, width = ZtXy.shape
    k = B.shape[1]
    for c in numba.prange(r):
        for w in range(width):
            out[c, w] = ZtXy[c, w]
        for t in range(root_indptr[c], root_indptr[c + 1]):
            leaf, e = root_leaves[t], root_entries[t]
            for a in range(k):
                for w in range(width):
                    out[c, w] -= B[e, a] * VtXy[leaf, a, w]


@numba.njit(cache=True, parallel=True)
def scale_root(indptr: Index, indices: Index, level_of: Index, k_of: Index, inner_of: Index, T: Array, data: Array, out: Array) -> None:
    """Lambda' S Lambda + I on S's pattern, into `out`; `T` (r, max k) holds row by row each column's template."""
    for c in numba.prange(len(indptr) - 1):
        first, size, inner = level_of[c], k_of[c], inner_of[c]
        start, length = indptr[c], indptr[c + 1] - indptr[c]
        for e in range(length):
            row = indices[start + e]
            block = e - inner_of[row]  # where this row's level begins among the column's rows
            total = 0.0
            for b in range(inner, size):
                other = indptr[first + b]
                for a in range(inner_of[row], k_of[row]):
                    total += T[level_of[row] + a, inner_of[row]] * data[other + block + a] * T[first + b, inner]
            out[start + e] = total + 1.0 if row == c else total


@numba.njit(cache=True, parallel=True)
def apply_leaf_rows(indptr: Index, indices: Index, values: Array, x: Array, out: Array) -> None:
    """C_j x for every leaf, into `out` (q, k); x (r,) lives on the root."""
    k = values.shape[1]
    for j in numba.prange(len(indptr) - 1):
        for a in range(k):
            total = 0.0
            for e in range(indptr[j], indptr[j + 1]):
                total += values[e, a] * x[indices[e]]
            out[j, a] = total
