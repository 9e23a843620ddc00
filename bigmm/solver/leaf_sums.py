"""What the derivatives need from the leaves, summed in one pass that stores nothing but the leaves' directions.

Leaves are taken in a fixed number of blocks, each with sums of its own, so that the bits do not depend on the threads.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

from bigmm.columns import Array
from bigmm.solver.elimination import border_of, inverse_factor, parallel_loops
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
    k, width, t = V.shape[1], leaves.ZtXy.shape[2], len(entries)
    sizes = [k * k] * 3 + [t * t] * 2 + [width * t]
    sums = np.zeros((min(_BLOCKS, len(V)), sum(sizes)))
    inverse_T, inverse_in_units = (np.asarray(np.linalg.inv(T)) for T in templates)
    _leaf_sums(
        leaves.indptr,
        leaves.indices,
        V,
        B,
        inverse_T,
        inverse_in_units,
        leaves.ZtXy,
        U,
        coefficients,
        entries,
        F is not None,
        np.zeros((0, k, t)) if F is None else F,
        sums,
    )
    inverse, border, spread, own, reduced, mixed = np.split(sums.sum(axis=0), np.cumsum(sizes)[:-1])
    shape = (k, k)
    return LeafSums(
        inverse.reshape(shape),
        border.reshape(shape),
        spread.reshape(shape),
        own.reshape(t, t),
        reduced.reshape(t, t),
        mixed.reshape(width, t),
    )


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
    keep: bool,
    F: Array,
    sums: Array,
) -> None:
    q, k, width = ZtW.shape
    columns, t, blocks = coefficients.shape[1], len(entries), len(sums)
    last = columns - 1
    rooted = len(U) > 0
    for block in numba.prange(blocks):
        inverse, border, spread, own, reduced, mixed = (
            np.zeros((k, k)),
            np.zeros((k, k)),
            np.zeros((k, k)),
            np.zeros((t, t)),
            np.zeros((t, t)),
            np.zeros((width, t)),
        )
        M, VtW, left, N = np.empty((k, k)), np.empty((k, width)), np.empty((k, columns)), np.empty((k, columns))
        z, v, f = np.empty(k), np.empty((t, k)), np.empty((t, k))
        for j in range(q * block // blocks, q * (block + 1) // blocks):
            inverse_factor(inverse_T, V, j, M)
            border_of(V, ZtW, j, VtW)
            for a in range(k):  # left = V (Z'W) coefficients - B U
                for w in range(columns):
                    left[a, w] = 0.0
                for c in range(width):
                    x = VtW[a, c]
                    for w in range(columns):
                        left[a, w] += x * coefficients[c, w]
            if rooted:
                for e in range(indptr[j], indptr[j + 1]):
                    for a in range(k):
                        x = B[e, a]
                        for w in range(columns):
                            left[a, w] -= x * U[indices[e], w]
            for a in range(k):
                for w in range(columns):
                    N[a, w] = 0.0
                for b in range(a, k):
                    x = M[a, b]
                    for w in range(columns):
                        N[a, w] += x * left[b, w]
            for a in range(k):
                for b in range(a + 1):
                    total = 0.0
                    for c in range(a, k):
                        total += M[a, c] * M[b, c]
                    inverse[a, b] += total
                    total = 0.0
                    for w in range(last):
                        total += N[a, w] * N[b, w]
                    border[a, b] += total
                    spread[a, b] += N[a, last] * N[b, last]
            for a in range(k):  # z = T^-T u, T in units
                total = 0.0
                for b in range(a, k):
                    total += inverse_in_units[b, a] * N[b, last]
                z[a] = total
            for i in range(t):  # v = T^-1 dSigma z, f = L^-1 v = M' v
                row, column = entries[i, 0], entries[i, 1]
                for a in range(k):
                    v[i, a] = inverse_in_units[a, row] * z[column]
                    if row != column:
                        v[i, a] += inverse_in_units[a, column] * z[row]
                for a in range(k):
                    total = 0.0
                    for b in range(a + 1):
                        total += M[b, a] * v[i, b]
                    f[i, a] = total
                    if keep:
                        F[j, a, i] = total
                for h in range(i + 1):
                    total, other = 0.0, 0.0
                    for a in range(k):
                        total += v[i, a] * v[h, a]
                        other += f[i, a] * f[h, a]
                    own[i, h] += total
                    reduced[i, h] += other
                for a in range(k):
                    x = f[i, a]
                    for c in range(width):
                        mixed[c, i] += VtW[a, c] * x
        at = 0
        for part in (inverse, border, spread, own, reduced):
            for a in range(part.shape[0]):
                for b in range(a + 1):
                    sums[block, at + a * part.shape[0] + b] = part[a, b]
                    sums[block, at + b * part.shape[0] + a] = part[a, b]
            at += part.size
        for c in range(width):
            for i in range(t):
                sums[block, at + c * t + i] = mixed[c, i]
