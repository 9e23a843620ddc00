"""What the derivatives need from the leaves, summed in one pass that stores nothing but the leaves' directions.

Leaves are taken in a fixed number of blocks, each with sums of its own, so that the bits do not depend on the threads.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

from bigmm.columns import Array
from bigmm.solver.elimination import loop_part, parallel_loops
from bigmm.solver.lanes import dot, lanes, lower_times_transposed, product, spread, times, upper_product
from bigmm.solver.layout import Index, Leaves

#: Blocks of leaves.
_BLOCKS = 64


@dataclass(frozen=True, slots=True, eq=False)
class LeafSums:
    """Sums over the leaves; D_j = L_j L_j' = T'(Z'Z)_j T + I, and the columns are those of (Z'Z..)^-1 Z'W `coefficients`.

    Attributes
    ----------
    inverse : (k, k)
        D_j^-1.
    border : (k, k)
        N_j N_j' with N_j the spherical random effects of all columns but the last.
    spread : (k, k)
        u_j u_j', u_j those of the last column.
    own, reduced : (t, t)
        v_j'v_j and (L_j^-1 v_j)'(L_j^-1 v_j) for the directions v_j = T^-1 dSigma T^-T u_j, T in units.
    mixed : (width, t)
        (V_j(Z_1'W)_j)'(L_j^-1 v_j).
    """

    inverse: Array
    border: Array
    spread: Array
    own: Array
    reduced: Array
    mixed: Array


def sum_leaves(
    leaves: Leaves, V: Array, B: Array, templates: tuple[Array, Array], U: Array, coefficients: Array, entries: Index, F: Array | None
) -> LeafSums:
    """Sums over leaves, at the theta that was factored last.

    Parameters
    ----------
    leaves, V, B
        As in `elimination`.
    templates : two of (k, k)
        T of the leading factor, nonsingular, and T in units.
    U : (r, columns)
        The root's spherical random effects for W `coefficients`.
    coefficients : (width, columns)
    entries : (t, 2)
        Row and column of Sigma = T T', in units, that each direction changes, with its mirror.
    F : (q, k, t) or None
        Where to put L_j^-1 v_j, for the border of a root.
    """
    k, width, t, columns = V.shape[1], leaves.ZtXy.shape[2], len(entries), coefficients.shape[1]
    sizes = [k * k] * 3 + [t * t] * 2 + [width * t]
    sums = np.zeros((min(_BLOCKS, len(V)), sum(sizes)))
    inverse_T, inverse_in_units = (np.asarray(np.linalg.inv(T)) for T in templates)
    kept = np.zeros((0, k, t)) if F is None else F
    room = lanes(2 * k * (k + width + columns) + k + 2 * k * t)
    U = np.ascontiguousarray(U)  # another order would be compiled again
    _leaf_sums(leaves.indptr, leaves.indices, V, B, inverse_T, inverse_in_units, leaves.ZtXy, U, coefficients, entries, kept, room, sums)
    parts = np.split(sums.sum(axis=0), np.cumsum(sizes)[:-1])
    inverse, border, spreads, own, reduced = (symmetric(part, order) for part, order in zip(parts, [k, k, k, t, t], strict=False))
    return LeafSums(inverse, border, spreads, own, reduced, parts[-1].reshape(width, t))


def symmetric(lower: Array, order: int) -> Array:
    """A symmetric matrix of which the lower triangle was summed."""
    triangle = lower.reshape(order, order)
    return np.asarray(triangle + np.tril(triangle, -1).T)


@parallel_loops
def _leaf_sums(
    indptr: Index,
    indices: Index,
    V: Array,
    B: Array,
    inverse_T: Array,
    inverse_in_units: Array,
    ZtW: Array,
    U: Array,
    coefficients: Array,
    entries: Index,
    F: Array,
    lanes: int,
    sums: Array,
) -> None:
    q, k, width = ZtW.shape
    columns, t, blocks = coefficients.shape[1], len(entries), len(sums)
    for block in numba.prange(blocks):
        own_V, M, C, VtW = np.empty((k, k, lanes)), np.empty((k, k, lanes)), np.empty((k, width, lanes)), np.empty((k, width, lanes))
        left, N, z = np.empty((k, columns, lanes)), np.empty((k, columns, lanes)), np.empty((k, lanes))
        v, f = np.empty((t, k, lanes)), np.empty((t, k, lanes))
        out, stop = sums[block], q * (block + 1) // blocks
        for first in range(q * block // blocks, stop, lanes):
            n = min(lanes, stop - first)
            spread(V, first, n, own_V)
            spread(ZtW, first, n, C)
            lower_times_transposed(inverse_T, own_V, n, M)  # L^-T
            product(own_V, C, n, VtW)
            times(VtW, coefficients, n, left)
            if len(U) > 0:
                _subtract_root(indptr, indices, B, U, first, n, left)
            upper_product(M, left, n, N)
            _add_moments(M, N, n, out)
            _directions(inverse_in_units, entries, N, n, z, v)
            _reduced(M, v, n, f)
            if len(F) > 0:
                _keep(f, first, n, F)
            _add_information(v, f, VtW, n, out[3 * k * k :])


@loop_part
def _subtract_root(indptr: Index, indices: Index, B: Array, U: Array, first: int, n: int, left: Array) -> None:
    """Less B_j U."""
    for lane in range(n):
        for e in range(indptr[first + lane], indptr[first + lane + 1]):
            for a in range(left.shape[0]):
                for w in range(left.shape[1]):
                    left[a, w, lane] -= B[e, a] * U[indices[e], w]


@loop_part
def _add_moments(M: Array, N: Array, n: int, out: Array) -> None:
    """Lower triangles of M M', and of N N' without the last column and of it alone."""
    k, last = N.shape[0], N.shape[1] - 1
    for a in range(k):
        for b in range(a + 1):
            at = a * k + b
            for c in range(a, k):
                out[at] += dot(M[a, c], M[b, c], n)
            for w in range(last):
                out[k * k + at] += dot(N[a, w], N[b, w], n)
            out[2 * k * k + at] += dot(N[a, last], N[b, last], n)


@loop_part
def _directions(inverse_T: Array, entries: Index, N: Array, n: int, z: Array, v: Array) -> None:
    """Write v = T^-1 dSigma z with z = T^-T u, T in units."""
    k, last = N.shape[0], N.shape[1] - 1
    for a in range(k):
        for lane in range(n):
            z[a, lane] = inverse_T[a, a] * N[a, last, lane]
        for b in range(a + 1, k):
            for lane in range(n):
                z[a, lane] += inverse_T[b, a] * N[b, last, lane]
    for i in range(len(entries)):
        row, column = entries[i, 0], entries[i, 1]
        for a in range(k):
            for lane in range(n):
                v[i, a, lane] = inverse_T[a, row] * z[column, lane]
            if row != column:
                for lane in range(n):
                    v[i, a, lane] += inverse_T[a, column] * z[row, lane]


@loop_part
def _reduced(M: Array, v: Array, n: int, f: Array) -> None:
    """Write f = L^-1 v = M'v."""
    for i in range(v.shape[0]):
        for a in range(v.shape[1]):
            for lane in range(n):
                f[i, a, lane] = M[0, a, lane] * v[i, 0, lane]
            for b in range(1, a + 1):
                for lane in range(n):
                    f[i, a, lane] += M[b, a, lane] * v[i, b, lane]


@loop_part
def _keep(f: Array, first: int, n: int, F: Array) -> None:
    """Write f of n leaves, from `first` on, into F (leaves, k, t)."""
    for i in range(f.shape[0]):
        for a in range(f.shape[1]):
            for lane in range(n):
                F[first + lane, a, i] = f[i, a, lane]


@loop_part
def _add_information(v: Array, f: Array, VtW: Array, n: int, out: Array) -> None:
    """Lower triangles of v'v and f'f, and (V Z'W)'f."""
    t, k, width = v.shape[0], v.shape[1], VtW.shape[1]
    for i in range(t):
        for a in range(k):
            for h in range(i + 1):
                out[i * t + h] += dot(v[i, a], v[h, a], n)
                out[t * t + i * t + h] += dot(f[i, a], f[h, a], n)
            for c in range(width):
                out[2 * t * t + c * t + i] += dot(VtW[a, c], f[i, a], n)
