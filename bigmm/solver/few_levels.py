"""The exact second derivative among grouping factors of few levels, where the average information averages over too little.

The objective's second derivative in Sigma_i and Sigma_j, entries of covariance matrices, is the average information H_ij plus

    f_i'P f_j nu / pwrss - tr(P Z dSigma_i Z'P Z dSigma_j Z')        (P is V^-1 in the trace unless REML)

whose expectation is zero: over many levels it vanishes beside H, over six it does not. The trace is a sum over pairs of levels
of tr(dSigma_i M dSigma_j M') with the blocks M of Z'PZ = T^-T (I - G) T^-1, where G is the inverse of Lambda'Z'Z Lambda + I
(REML: bordered by X) between these levels alone.

Gilmour, Thompson and Cullis (1995), doi:10.2307/2533274.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg

from bigmm.columns import Array
from bigmm.solver.pls import PenalizedLeastSquares

#: A factor has few levels when its columns of Z are no more than this: their part of the inverse costs less than any evaluation.
_FEW = 64
#: Numbers that those columns may take on the root: 1.6 MB. Solving for more takes as long as an evaluation beside a sparse root, and
#: where the root is that long the other factors have levels enough.
_ROOM = 200_000


def few_levels(pls: PenalizedLeastSquares) -> list[int]:
    """Grouping factors of few levels; none whose leaves are elsewhere, none at all beside a long root."""
    groups = range(len(pls.blocks.groups)) if pls.eliminated is not None else pls.layout.root.groups
    columns = {g: pls.blocks.groups[g].q * pls.blocks.groups[g].k for g in groups}
    few = [g for g in groups if columns[g] <= _FEW]
    return few if pls.layout.root.r * sum(columns[g] for g in few) <= _ROOM else []


@dataclass(frozen=True, slots=True, eq=False)
class FewLevels:
    """Columns of Z of grouping factors of few levels, m in all, spherical, in the factors' order.

    Attributes
    ----------
    factors : list of int
    right : (r, m)
        What they leave on the root: with F = L^-1 P `right`, F'F is their inverse by way of the root.
    own : (m, m)
        Their inverse otherwise.
    """

    factors: list[int]
    right: Array
    own: Array


def few_columns(pls: PenalizedLeastSquares, coefficients: Array, U: Array) -> FewLevels:
    """Columns of the grouping factors of `few_levels`.

    Parameters
    ----------
    pls : PenalizedLeastSquares
        At the theta that was evaluated last.
    coefficients : (p + 1, columns)
        What makes W the columns that border the inverse: R_X^-1 for REML, else none.
    U : (r, columns)
        The root's spherical random effects for them.
    """
    few = few_levels(pls)
    if not few:
        return FewLevels(few, np.zeros((pls.layout.root.r, 0)), np.zeros((0, 0)))
    columns = [_leaves(pls, coefficients, U) if g == pls.layout.leading else _root_columns(pls, g, U) for g in few]
    right, alone, border = zip(*columns, strict=True)
    N = np.concatenate(border)
    return FewLevels(few, np.hstack(right), scipy.linalg.block_diag(*alone) + N @ N.T)


def traces_of_pairs(pls: PenalizedLeastSquares, templates: list[Array], few: FewLevels, through_root: Array) -> Array:
    """tr(P Z dSigma_i Z'P Z dSigma_j Z') for every two entries of theta, in units; zero for other factors, (theta, theta).

    Parameters
    ----------
    pls : PenalizedLeastSquares
    templates : list of (k, k)
        T of each grouping factor, in units.
    few : FewLevels
    through_root : (r, m)
        L^-1 P of its columns on the root.
    """
    information = _information(pls, templates, few.factors, few.own + through_root.T @ through_root)
    entries = pls.covariance.entries
    out = np.zeros((len(entries), len(entries)))
    for i, (g, *of_i) in enumerate(entries):
        for j, (h, *of_j) in enumerate(entries[: i + 1]):
            if (g, h) in information:
                out[i, j] = out[j, i] = _trace(information[g, h], of_i, of_j)
    return out


def _trace(products: Array, of_i: list[int], of_j: list[int]) -> float:
    """Sum over pairs of levels of tr(dSigma_i M dSigma_j M'); `products` are sums of M[p, r] M[q, s]."""
    (p, q), (r, s) = of_i, of_j
    mirrors = {(p, q), (q, p)}, {(r, s), (s, r)}
    return float(sum(products[b, c, a, d] for a, b in mirrors[0] for c, d in mirrors[1]))


def _information(pls: PenalizedLeastSquares, templates: list[Array], few: list[int], G: Array) -> dict[tuple[int, int], Array]:
    """Of every two factors, sums over pairs of levels of M[p, r] M[q, s], (k, k', k, k'); `G` is the inverse between their levels."""
    sizes = [(pls.blocks.groups[g].q, pls.blocks.groups[g].k) for g in few]
    ends = np.cumsum([0, *(q * k for q, k in sizes)])
    inverses = [np.linalg.inv(templates[g]) for g in few]
    out = {}
    for i, (g, (q, k)) in enumerate(zip(few, sizes, strict=True)):
        for j, (h, (other_q, other_k)) in enumerate(zip(few, sizes, strict=True)):
            known = float(g == h) * np.eye(q * k, other_q * other_k) - G[ends[i] : ends[i + 1], ends[j] : ends[j + 1]]
            blocks = known.reshape(q, k, other_q, other_k).transpose(0, 2, 1, 3)
            M = (inverses[i].T @ blocks @ inverses[j]).reshape(q * other_q, k * other_k)
            out[g, h] = (M.T @ M).reshape(k, other_k, k, other_k)
    return out


def _root_columns(pls: PenalizedLeastSquares, g: int, U: Array) -> tuple[Array, Array, Array]:
    """Of one factor of the root: unit columns, no inverse of its own, and the border."""
    root = pls.layout.root
    at = root.columns(root.groups.index(g))
    count = at.stop - at.start
    right = np.zeros((root.r, count))
    right[at] = np.eye(count)
    return right, np.zeros((count, count)), U[at]


def _leaves(pls: PenalizedLeastSquares, coefficients: Array, U: Array) -> tuple[Array, Array, Array]:
    """Of the leaves: -(D_j^-1 C_j)' as columns, the blocks D_j^-1, and the border."""
    assert pls.eliminated is not None
    leaves, V, B = pls.eliminated.leaves, pls.eliminated.V, pls.eliminated.B
    q, k = V.shape[:2]
    inverse_T = np.linalg.inv(pls.leading_template)
    rows = V @ inverse_T.T  # L_j^-1
    right = np.zeros((pls.layout.root.r, q * k))
    leaf = np.repeat(np.arange(q), np.diff(leaves.indptr))
    values = np.einsum("eb,eba->ea", B, rows[leaf])
    right[leaves.indices[:, None], leaf[:, None] * k + np.arange(k)] = -values
    alone = scipy.linalg.block_diag(*(rows.transpose(0, 2, 1) @ rows))
    border = inverse_T @ pls.eliminated.effects(coefficients, U)
    return right, alone, border.reshape(q * k, -1)
