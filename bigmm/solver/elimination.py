"""Compiled loops over leaves and over the root's columns: elimination, and the leaves' part of a solution.

Each thread owns columns of the root (or leaves), so that there are no locks, and sums are taken in an order that does
not depend on the number of threads.
"""

from __future__ import annotations

import numba
import numpy as np

from bigmm.columns import Array
from bigmm.solver.layout import Index

#: Leaves in a run, of which one thread makes sums: they do not depend on the number of threads.
RUN = 2**12
#: Compiles loops whose iterations threads share out.
parallel_loops = numba.njit(cache=True, parallel=True, fastmath={"contract", "reassoc", "nsz"}, error_model="numpy")
#: Compiles a part of such loops, wherever it is used. The cache of compiled loops looks at the file of a loop, not at those of its parts:
#: after a change here, clear __pycache__ (docs: numba, "Caching", limitations).
loop_part = numba.njit(inline="always", fastmath={"contract", "reassoc", "nsz"}, error_model="numpy")


@parallel_loops
def leaf_factors(ZtZ: Array, T: Array, V: Array, logdets: Array) -> None:
    """V_j = L_j^-1 T' with L_j L_j' = T'(Z'Z)_j T + I, into `V` (q, k, k), and 2 sum_j log|L_j| of each run of leaves.

    W_j = V_j'V_j = T D_j^-1 T' is what elimination of leaf j needs.
    """
    q, k = ZtZ.shape[0], ZtZ.shape[1]
    runs = len(logdets)
    for run in numba.prange(runs):
        D, logdet = np.zeros((k, k)), 0.0
        for j in range(q * run // runs, q * (run + 1) // runs):
            if k == 1:
                d = T[0, 0] * T[0, 0] * ZtZ[j, 0, 0] + 1.0
                V[j, 0, 0] = T[0, 0] / np.sqrt(d)
                logdet += np.log(d)
            else:
                logdet += _leaf_factor(ZtZ, T, j, D, V)
        logdets[run] = logdet


@loop_part
def _leaf_factor(ZtZ: Array, T: Array, j: int, D: Array, V: Array) -> float:
    """The same for leaf j alone; `D` (k, k) is room. Returns 2 log|L_j|."""
    k = len(T)
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
    for column in range(k):  # L V = T', one column at a time
        for a in range(k):
            total = T[column, a]
            for c in range(a):
                total -= D[a, c] * V[j, c, column]
            V[j, a, column] = total / D[a, a]
    return logdet


@parallel_loops
def leaf_rows_by_leaf(blocks_indptr: Index, starts: Index, ZtZ: Array, V: Array, T: Array, B: Array) -> None:
    """B_j = V_j C_j T for one factor of the root, into `B` (nnz, k_1); blocks C (k_1, k) are ordered by leaf."""
    k1, k = V.shape[1], len(T)
    for j in numba.prange(len(blocks_indptr) - 1):
        e = starts[j]
        for t in range(blocks_indptr[j], blocks_indptr[j + 1]):
            if k1 == 1 and k == 1:
                B[e, 0] = V[j, 0, 0] * ZtZ[t, 0, 0] * T[0, 0]
            else:
                for b in range(k):
                    for a in range(k1):
                        B[e + b, a] = _product(V[j, a], ZtZ[t], T, b)
            e += k


@parallel_loops
def leaf_rows_by_root(
    levels_indptr: Index, root_indptr: Index, root_leaves: Index, root_entries: Index, ZtZ: Array, V: Array, T: Array, B: Array
) -> None:
    """The same from blocks C' (k, k_1) that are ordered by level; `root_indptr` begins at the factor's first column."""
    k1, k = V.shape[1], len(T)
    for level in numba.prange(len(levels_indptr) - 1):
        for b in range(k):
            s = root_indptr[level * k + b]
            for t in range(levels_indptr[level], levels_indptr[level + 1]):
                j, e = root_leaves[s], root_entries[s]
                for a in range(k1):
                    B[e, a] = _product(V[j, a], ZtZ[t].T, T, b)
                s += 1


@loop_part
def _product(v: Array, C: Array, T: Array, b: int) -> float:
    """V C T, one entry; T is lower triangular."""
    total = 0.0
    for d in range(b, len(T)):
        if T[d, b] != 0.0:
            inner = 0.0
            for c in range(len(v)):
                inner += v[c] * C[c, d]
            total += inner * T[d, b]
    return total


@parallel_loops
def subtract_into_dense(
    order: Index,
    threads: int,
    root_indptr: Index,
    root_leaves: Index,
    root_entries: Index,
    indptr: Index,
    indices: Index,
    B: Array,
    S: Array,
) -> None:
    """Minus sum_j B_j'B_j into the upper triangle of S (r, r); rows are dealt out to threads in turns, in the order that is given.

    (Unsigned places spare the test for negative ones, which halves the speed.)
    """
    r, k = len(S), B.shape[1]
    for w in numba.prange(threads):
        for i in range(w, r, threads):
            c = order[i]
            row = S[c]
            row[c:] = 0.0
            for t in range(root_indptr[c], root_indptr[c + 1]):
                own, stop = np.uint64(root_entries[t]), np.uint64(indptr[root_leaves[t] + 1])
                if k == 1:
                    b = B[own, 0]
                    for e in range(own, stop):
                        row[np.uint32(indices[e])] -= b * B[e, 0]
                else:
                    for e in range(own, stop):
                        total = 0.0
                        for a in range(k):
                            total += B[own, a] * B[e, a]
                        row[np.uint32(indices[e])] -= total


@parallel_loops
def subtract_from_sparse(
    order: Index,
    root_indptr: Index,
    root_leaves: Index,
    root_entries: Index,
    indptr: Index,
    indices: Index,
    B: Array,
    S_indptr: Index,
    S_indices: Index,
    work: Array,
    S: Array,
) -> None:
    """Values of S on its pattern (lower triangle by columns) less sum_j B_j'B_j; row w of `work` belongs to one thread."""
    r, k, threads = len(S_indptr) - 1, B.shape[1], len(work)
    for w in numba.prange(threads):
        sums = work[w]
        for i in range(w, r, threads):
            c = order[i]
            for t in range(root_indptr[c], root_indptr[c + 1]):
                own, stop = np.uint64(root_entries[t]), np.uint64(indptr[root_leaves[t] + 1])
                for e in range(own, stop):
                    total = 0.0
                    for a in range(k):
                        total += B[own, a] * B[e, a]
                    sums[np.uint32(indices[e])] += total
            for e in range(S_indptr[c], S_indptr[c + 1]):
                S[e] -= sums[S_indices[e]]
                sums[S_indices[e]] = 0.0


@loop_part
def inverse_factor(inverse_T: Array, V: Array, j: int, out: Array) -> None:
    """L_j^-T = T^-1 V_j' of one leaf, upper triangular, into `out` (k, k)."""
    k = len(out)
    for a in range(k):
        for b in range(k):
            total = 0.0
            for c in range(a + 1):
                total += inverse_T[a, c] * V[j, b, c]
            out[a, b] = total


@loop_part
def border_of(V: Array, C: Array, j: int, out: Array) -> None:
    """V_j C_j of one leaf, into `out` (k, columns)."""
    k, width = out.shape
    for a in range(k):
        for w in range(width):
            out[a, w] = 0.0
        for b in range(k):
            for w in range(width):
                out[a, w] += V[j, a, b] * C[j, b, w]


@parallel_loops
def leaf_borders(V: Array, C: Array, out: Array) -> None:
    """V_j C_j of every leaf, into `out` (q, k, columns)."""
    for j in numba.prange(len(C)):
        border_of(V, C, j, out[j])


@parallel_loops
def subtract_borders(root_indptr: Index, root_leaves: Index, root_entries: Index, B: Array, VtW: Array, out: Array) -> None:
    """`out` (r, columns) less sum_j B_j' VtW_j; VtW is (q, k, columns)."""
    r, width = out.shape
    k = B.shape[1]
    for c in numba.prange(r):
        for t in range(root_indptr[c], root_indptr[c + 1]):
            leaf, e = root_leaves[t], root_entries[t]
            for a in range(k):
                for w in range(width):
                    out[c, w] -= B[e, a] * VtW[leaf, a, w]


@parallel_loops
def leaf_grams(V: Array, C: Array, sums: Array) -> None:
    """Sum of (V_j C_j)'(V_j C_j) over each of `len(sums)` runs of leaves, into `sums` (runs, columns, columns)."""
    q, k, width = C.shape
    runs = len(sums)
    for run in numba.prange(runs):
        total = np.zeros((width, width))
        own = np.empty((k, width))
        for j in range(q * run // runs, q * (run + 1) // runs):
            border_of(V, C, j, own)
            for a in range(k):
                for u in range(width):
                    for w in range(u + 1):
                        total[u, w] += own[a, u] * own[a, w]
        for u in range(width):
            for w in range(u + 1):
                sums[run, u, w] = total[u, w]
                sums[run, w, u] = total[u, w]


@parallel_loops
def leaf_effects(indptr: Index, indices: Index, B: Array, V: Array, C: Array, U: Array) -> None:
    """V_j'(V_j C_j - B_j U) in place of C_j, (q, k, columns): the leaves' part of the solution for any columns."""
    q, k, width = C.shape
    for j in numba.prange(q):
        left = np.empty((k, width))
        border_of(V, C, j, left)
        for e in range(indptr[j], indptr[j + 1]):
            for a in range(k):
                for w in range(width):
                    left[a, w] -= B[e, a] * U[indices[e], w]
        for b in range(k):
            for w in range(width):
                total = 0.0
                for a in range(k):
                    total += V[j, a, b] * left[a, w]
                C[j, b, w] = total
