"""Compiled loops over leaves and over the root's columns: elimination, and the leaves' part of a solution.

Each thread owns columns of the root (or leaves), so that there are no locks, and sums are taken in an order that does
not depend on the number of threads.
"""

from __future__ import annotations

import numba
import numpy as np

from bigmm.columns import Array
from bigmm.solver.layout import Index

#: Compiles loops whose iterations threads share out.
parallel_loops = numba.njit(cache=True, parallel=True, fastmath={"contract", "reassoc", "nsz"}, error_model="numpy")
#: Compiles a part of such loops, wherever it is used. The cache of compiled loops looks at the file of a loop, not at those of its parts:
#: after a change here, clear __pycache__ (docs: numba, "Caching", limitations).
loop_part = numba.njit(inline="always", fastmath={"contract", "reassoc", "nsz"}, error_model="numpy")


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
    q, k, width = C.shape
    for j in numba.prange(q):
        for a in range(k):
            for w in range(width):
                total = V[j, a, 0] * C[j, 0, w]
                for b in range(1, k):
                    total += V[j, a, b] * C[j, b, w]
                out[j, a, w] = total


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
