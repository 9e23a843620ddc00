"""Units of each term's covariance matrix, in which the columns of Z are orthogonal and of length one in a level's data.

In them Sigma = 1 is what one level's rows could tell from zero, in every direction, and a search does not see whether a
constant was added to a column, or another column, or in what it was measured.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from scipy.linalg.blas import dtrsm

from bigmm.columns import Array
from bigmm.solver.blocks import ModelBlocks
from bigmm.solver.covariance import RelativeCovariance

#: W of each random-effects term.
Units: TypeAlias = list[Array]

#: Singular values of T in units, and so its diagonal entries, are kept above this by a search.
FLOOR = 1e-3
#: A column that the others of its term explain but for this part of its square keeps a unit of its own: the rest is rounding.
_DEPENDENT = 1e-10


def term_units(blocks: ModelBlocks, covariance: RelativeCovariance) -> Units:
    """W of every term, (k, k), lower triangular, so that T = W T_w with T_w in units is lower triangular too.

    W'(Z'Z / q)W = I with Z'Z the sum over the q levels; a column of zeros counts as one of ones.
    """
    totals = [group.total() / group.q for group in blocks.groups]
    return [_unit(totals[term.group][term.columns, term.columns], blocks.nobs / blocks.groups[term.group].q) for term in covariance.terms]


def _unit(ZtZ: Array, rows: float) -> Array:
    lengths = np.sqrt(np.where(np.diag(ZtZ) > 0.0, np.diag(ZtZ), rows))
    correlations = ZtZ / np.outer(lengths, lengths)
    np.fill_diagonal(correlations, 1.0)
    return solve_lower(_reverse_cholesky(correlations) * lengths, np.eye(len(lengths)))


def solve_lower(L: Array, x: Array, *, transposed: bool = False) -> Array:
    """L^-1 x, or L'^-1 x, with a small lower triangular L, nonsingular, (k, k), and x (k, columns).

    BLAS does this in one thread. LAPACK's trtrs wakes all of OpenBLAS's for two equations, and on a busy machine waits for them for
    longer than an evaluation takes.
    """
    return np.asarray(dtrsm(1.0, L, x, lower=1, trans_a=int(transposed)))


def _reverse_cholesky(M: Array) -> Array:
    """V with V'V = M, lower triangular; of a matrix with ones on its diagonal, but for columns that depend on later ones."""
    V, left = np.eye(len(M)), M.copy()
    for i in reversed(range(len(M))):
        if left[i, i] > _DEPENDENT:
            V[i] = left[i] / np.sqrt(left[i, i])
            V[i, i + 1 :] = 0.0
            left -= np.outer(V[i], V[i])
    return V


def own_sizes(blocks: ModelBlocks, covariance: RelativeCovariance) -> Array:
    """Diagonal entries of theta with which each random effect adds the residual variance to a row, zero elsewhere."""
    squares = [np.diag(group.total()) for group in blocks.groups]
    of_entries = np.array([squares[g][row] if row == column else np.inf for g, row, column in covariance.entries])
    return np.asarray(np.sqrt(blocks.nobs / np.where(of_entries > 0.0, of_entries, float(blocks.nobs))))


def row_sizes(units: Units) -> Array:
    """Of every entry of theta, what one level's data could tell from zero in its row."""
    return np.concatenate([RelativeCovariance.entries_of(np.tile(np.diag(W)[:, None], len(W))) for W in units])


def floors(units: Units) -> Array:
    """The smallest diagonal entries of theta that differ from zero in any way that counts; minus infinity below the diagonals."""
    diagonal = np.concatenate([RelativeCovariance.entries_of(np.eye(len(W))) for W in units])
    return np.where(diagonal > 0.0, FLOOR * row_sizes(units), -np.inf)


def rounding(units: Units, templates: list[Array], levels: list[int]) -> float:
    """What T'Z'Z T + I loses to rounding in all levels, which is that of its log-determinant: within a factor of ten, as measured.

    Its entries are differences where columns nearly depend on one another; before they cancel a column j adds up to
    sum_i |z_i| |T_ij|, with |z_i| the length of a column of Z in one level.

    Parameters
    ----------
    units : list of (k, k)
    templates : list of (k, k)
        T of each term, in no units.
    levels : list of int
    """
    total = 0.0
    for W, T, count in zip(units, templates, levels, strict=True):
        lengths = np.linalg.norm(np.linalg.inv(W), axis=0)
        total += count * float((lengths @ np.abs(T)).max()) ** 2
    return float(np.finfo(np.float64).eps) / 2.0 * total
