"""A start for theta by moments: variances that explain the sums of squares within levels, from the crossproducts alone.

With r the residuals of ordinary least squares and z_c, z_d columns of Z, each one a variance component of its own,

    sum_j (z_c'r)_j^2 / (z_c'z_c)_j  ~  sigma^2 l_c + sum_d sigma_d^2 sum_jm (z_c'z_d)_jm^2 / (z_c'z_c)_j
                            r'r  ~  sigma^2 n + sum_d sigma_d^2 z_d'z_d

(Henderson 1953, doi:10.2307/3001853, method 1, without the share of the fixed effects), j and m levels.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from bigmm.columns import Array
from bigmm.solver.blocks import ModelBlocks
from bigmm.solver.covariance import RelativeCovariance

#: A standard deviation is no smaller than this part of what one level's data could tell from zero.
_LEAST = 0.3
#: The residual variance is no smaller than this part of what fixed effects leave, or than that one: where random effects could explain
#: nearly all of it their moments do, and the objective has to say which is nearer.
_RESIDUAL, _LEAST_RESIDUAL = 0.1, 1e-3
#: A random effect adds no more than this, as a multiple of the residual standard deviation.
_MOST = 1e3


def moment_starts(blocks: ModelBlocks, covariance: RelativeCovariance, own: Array, unit: Array) -> tuple[Array, Array | None]:
    """Theta with variances by moments and no correlations; and another, where moments leave next to nothing to the residual.

    Parameters
    ----------
    blocks : ModelBlocks
    covariance : RelativeCovariance
    own, unit : (theta,)
        Diagonal entries that add the residual variance to a row, and that one level's data could tell from zero.
    """
    M, moments = _equations(blocks)
    share = np.maximum(M[-1] / blocks.nobs, np.finfo(np.float64).tiny)
    weights = 1.0 / np.maximum(M[:, -1], 1.0)
    variances = nnls(M / share * weights[:, None], moments * weights)[0] / share
    total = moments[-1] / blocks.nobs

    def start(least: float) -> Array:
        return _theta(covariance, variances / max(float(variances[-1]), least * total), blocks, own, unit)

    return start(_RESIDUAL), start(_LEAST_RESIDUAL) if variances[-1] < _RESIDUAL * total else None


def _theta(covariance: RelativeCovariance, ratios: Array, blocks: ModelBlocks, own: Array, unit: Array) -> Array:
    """From the variances of columns of Z, as multiples of the residual's."""
    first = np.cumsum([0, *(group.k for group in blocks.groups)])
    theta = np.zeros(len(own))
    for i, (g, row, column) in enumerate(covariance.entries):
        if row == column:
            theta[i] = np.clip(np.sqrt(ratios[first[g] + row]), _LEAST * unit[i], _MOST * own[i])
    return theta


def _equations(blocks: ModelBlocks) -> tuple[Array, Array]:
    """Coefficients and right sides: a row and a column for every column of Z, last the residual."""
    XtX, Xty = blocks.XytXy[:-1, :-1], blocks.XytXy[:-1, -1]
    residual = np.append(-np.linalg.solve(XtX, Xty), 1.0)
    first = np.cumsum([0, *(group.k for group in blocks.groups)])
    M, moments = np.zeros((first[-1] + 1, first[-1] + 1)), np.zeros(first[-1] + 1)
    M[-1, -1], moments[-1] = blocks.nobs, residual @ blocks.XytXy @ residual
    for group, at in zip(blocks.groups, first, strict=False):
        here = slice(at, at + group.k)
        _within(group.ZtZ, group.ZtXy, residual, M[here, here], M[here, -1], M[-1, here], moments[here])
    for (g, h), pair in blocks.pairs.items():
        left, right = slice(first[g], first[g + 1]), slice(first[h], first[h + 1])
        _between(pair.g_refs, pair.h_refs, pair.ZtZ, blocks.groups[g].ZtZ, blocks.groups[h].ZtZ, M[left, right], M[right, left])
    return M, moments


@numba.njit(cache=True)
def _within(ZtZ: Array, ZtXy: Array, residual: Array, M: Array, levels: Array, sizes: Array, moments: Array) -> None:
    q, k, width = ZtXy.shape
    for j in range(q):
        for c in range(k):
            size = ZtZ[j, c, c]
            if size <= 0.0:
                continue
            total = 0.0
            for w in range(width):
                total += ZtXy[j, c, w] * residual[w]
            moments[c] += total * total / size
            levels[c] += 1.0
            sizes[c] += size
            for d in range(k):
                M[c, d] += ZtZ[j, c, d] ** 2 / size


@numba.njit(cache=True)
def _between(
    g_refs: npt.NDArray[np.int32],
    h_refs: npt.NDArray[np.int32],
    ZtZ: npt.NDArray[np.generic],
    g_ZtZ: Array,
    h_ZtZ: Array,
    M: Array,
    other: Array,
) -> None:
    for e in range(len(g_refs)):
        for c in range(ZtZ.shape[1]):
            for d in range(ZtZ.shape[2]):
                square = float(ZtZ[e, c, d]) ** 2
                g_size, h_size = g_ZtZ[g_refs[e], c, c], h_ZtZ[h_refs[e], d, d]
                if g_size > 0.0 and h_size > 0.0:  # else what is left of the pair is rounding of a subtraction
                    M[c, d] += square / g_size
                    other[d, c] += square / h_size
