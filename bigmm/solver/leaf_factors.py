"""Factors of the leaves and what they take from W'W: sums over runs of leaves, each by one thread, that do not depend on the threads."""

from __future__ import annotations

import numba
import numpy as np

from bigmm.columns import Array
from bigmm.solver.elimination import parallel_loops
from bigmm.solver.lanes import cholesky, collect, dot, lanes, penalized, product, solve_transposed, spread

#: Leaves in a run.
_RUN = 2**12
#: A product of diagonals of L is looked up before the next of them, within 1e-154 and 1e154, could take it out of double precision.
_LARGE = 1e150


def factor_leaves(ZtZ: Array, T: Array, V: Array) -> float:
    """V_j = L_j^-1 T' with L_j L_j' = T'(Z'Z)_j T + I, into `V` (q, k, k), for Z'Z (q, k, k) and T (k, k); returns 2 sum_j log|L_j|.

    W_j = V_j'V_j = T D_j^-1 T' is what elimination of leaf j needs. Nan where rounding has left no positive definite matrix.
    """
    logdets = np.empty(-(-len(V) // _RUN))
    _leaf_factors(ZtZ, T, V, lanes(3 * T.size), logdets)
    return float(logdets.sum())


def gram_of_leaves(V: Array, C: Array) -> Array:
    """Sum of (V_j C_j)'(V_j C_j), (columns, columns), for V (q, k, k) and C (q, k, columns)."""
    q, k, width = C.shape
    sums = np.empty((-(-q // _RUN), width, width))
    _leaf_grams(V, C, lanes(k * (k + 2 * width)), sums)
    return np.asarray(sums.sum(axis=0))


@parallel_loops
def _leaf_factors(ZtZ: Array, T: Array, V: Array, lanes: int, logdets: Array) -> None:
    q, k, runs = len(ZtZ), len(T), len(logdets)
    for run in numba.prange(runs):
        A, D, out = np.empty((k, k, lanes)), np.empty((k, k, lanes)), np.empty((k, k, lanes))
        logdet, diagonals, stop = 0.0, 1.0, q * (run + 1) // runs
        for first in range(q * run // runs, stop, lanes):
            n = min(lanes, stop - first)
            spread(ZtZ, first, n, A)
            penalized(A, T, n, out, D)
            cholesky(D, n)
            for a in range(k):
                for lane in range(n):
                    diagonals *= D[a, a, lane]
                    if not 1.0 / _LARGE < diagonals < _LARGE:
                        logdet += np.log(diagonals)
                        diagonals = 1.0
            solve_transposed(D, T, n, out)
            collect(out, first, n, V)
        logdets[run] = 2.0 * (logdet + np.log(diagonals))


@parallel_loops
def _leaf_grams(V: Array, C: Array, lanes: int, sums: Array) -> None:
    q, k, width = C.shape
    runs = len(sums)
    for run in numba.prange(runs):
        own_V, own_C, own = np.empty((k, k, lanes)), np.empty((k, width, lanes)), np.empty((k, width, lanes))
        total, stop = np.zeros((width, width)), q * (run + 1) // runs
        for first in range(q * run // runs, stop, lanes):
            n = min(lanes, stop - first)
            spread(V, first, n, own_V)
            spread(C, first, n, own_C)
            product(own_V, own_C, n, own)
            for a in range(k):
                for u in range(width):
                    for w in range(u + 1):
                        total[u, w] += dot(own[a, u], own[a, w], n)
        for u in range(width):
            for w in range(u + 1):
                sums[run, u, w] = total[u, w]
                sums[run, w, u] = total[u, w]
