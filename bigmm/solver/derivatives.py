"""The exact gradient of the objective, and the average information, at the theta that was factored last.

For each grouping factor with l levels, template T and spherical random effects u_j, let

    E = sum over levels of [(Lambda'Z'Z Lambda + I)^-1]_jj          (k x k diagonal blocks of the inverse)
        (REML: of the inverse of the X-bordered matrix, which adds N_j N_j' with N = (..)^-1 Lambda'Z'X R_X^-1)
    U = sum over levels of u_j u_j'

    d objective / d T = 2 T^-T (l I - E - (nu / pwrss) U),   lower triangle                              (gradient)

With f_i = Z (dT_i T' + T dT_i') Z'V^-1(y - X beta), the average information for sigma^2-profiled theta is

    H_ij = (f_i'P f_j) nu / pwrss - (f_i'e)(f_j'e) nu / pwrss^2,     e = P y                        (average information)

Gilmour, Thompson and Cullis (1995), doi:10.2307/2533274; the gradient is that of Bates et al. (2015), section 3.5,
in terms of diagonal blocks alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bigmm.columns import Array
from bigmm.solver import elimination
from bigmm.solver.pls import Evaluation, PenalizedLeastSquares, Reduced


@dataclass(frozen=True, slots=True, eq=False)
class Derivatives:
    """First and second derivatives of the objective in theta.

    Attributes
    ----------
    gradient : (theta,)
    information : (theta, theta)
        Average information: close to the Hessian near the optimum, and positive semidefinite everywhere.
    precision, spread : tuple of (k, k)
        E / l and (nu / pwrss) U / l of each grouping factor: the identity is their sum at a minimum inside.
    levels : tuple of int
        l of each grouping factor.
    """

    gradient: Array
    information: Array
    precision: tuple[Array, ...]
    spread: tuple[Array, ...]
    levels: tuple[int, ...]


def differentiate(pls: PenalizedLeastSquares, evaluation: Evaluation, nu: int, *, reml: bool) -> Derivatives:
    """Derivatives at the theta that was evaluated last.

    The factor is used up: after this call nothing can be solved until the next evaluation.

    Parameters
    ----------
    pls : PenalizedLeastSquares
    evaluation : Evaluation
        Its last one; every template must be nonsingular.
    nu : int
        n, or n - p for REML.
    reml : bool
    """
    assert pls.W is not None
    with pls.looping():
        N = pls.effects(pls.W)
        b = [part @ np.append(-evaluation.beta, 1.0) for part in N]
        information = _average_information(pls, evaluation, b, nu)
        moments = _inverse_moments(pls)
    gradients, precisions, spreads = [], [], []
    for g, T in enumerate(pls.templates):
        inverse_T = _inverse(T)
        u = b[g] @ inverse_T.T
        q = len(u)
        precisions.append((moments[g] + (_bordered(N[g], evaluation, inverse_T) if reml else 0.0)) / q)
        spreads.append(nu / evaluation.pwrss * (u.T @ u) / q)
        gradients.append(2.0 * q * inverse_T.T @ (np.eye(len(T)) - precisions[g] - spreads[g]))
    levels = tuple(group.q for group in pls.blocks.groups)
    return Derivatives(pls.covariance.gather(gradients), information, tuple(precisions), tuple(spreads), levels)


def _inverse_moments(pls: PenalizedLeastSquares) -> list[Array]:
    """E of every grouping factor; turns the factor into the inverse, and B into W C Lambda."""
    out: list[Array] = [np.zeros(0)] * len(pls.blocks.groups)
    if pls.factor is not None:
        pls.factor.invert()
        for g, block in zip(pls.layout.root.groups, pls.factor.diagonal_blocks(), strict=True):
            out[g] = block
    leaves, leading = pls.layout.leaves, pls.layout.leading
    if leaves is not None and leading is not None:
        inverse_T = _inverse(pls.templates[leading])
        M = pls.V @ inverse_T.T  # L_j^-1: summed before it is scaled, T^-1 would enlarge the rounding of the sum twice
        out[leading] = np.tensordot(M, M, axes=([0, 1], [0, 1]))
        if pls.factor is not None:
            elimination.unscale_leaf_rows(leaves.indptr, pls.V, pls.B)
            out[leading] = out[leading] + inverse_T @ pls.factor.leaf_traces(pls.B) @ inverse_T.T
    return out


def _bordered(N: Array, evaluation: Evaluation, inverse_T: Array) -> Array:
    """What the fixed effects add to E for REML: sum of (T^-1 N R_X^-1)(..)' over levels."""
    scaled = inverse_T @ (N[:, :, :-1] @ np.linalg.inv(evaluation.RX))
    return np.asarray(np.tensordot(scaled, scaled, axes=([0, 2], [0, 2])))


def _average_information(pls: PenalizedLeastSquares, evaluation: Evaluation, b: list[Array], nu: int) -> Array:
    """H_ij = (f_i'P f_j) nu / pwrss - (f_i'e)(f_j'e) nu / pwrss^2; the columns f_i are treated as further columns of X."""
    w = _directions(pls, b)
    Aw = _multiply(pls, w)
    W = pls.W
    assert W is not None
    leaves, leading, root = pls.layout.leaves, pls.layout.leading, pls.layout.root
    root_Aw = np.concatenate([np.zeros((0, w[0].shape[2])), *(Aw[g].reshape(-1, w[0].shape[2]) for g in root.groups)])
    F = pls.reduce(None if leaves is None or leading is None else Aw[leading], root_Aw)
    both = Reduced(
        None if F.leaves is None or W.leaves is None else np.concatenate([W.leaves, F.leaves], axis=2), np.hstack([W.root, F.root])
    )
    width = pls.blocks.p + 1
    FtF = sum(np.tensordot(a, b, axes=([0, 1], [0, 1])) for a, b in zip(w, Aw, strict=True))
    WtF = sum(np.tensordot(group.ZtXy, a, axes=([0, 1], [0, 1])) for group, a in zip(pls.blocks.groups, w, strict=True))
    gram = both.gram()
    WVF = WtF - gram[:width, width:]
    FVF = FtF - gram[width:, width:]
    scaled = np.linalg.solve(evaluation.R.T, WVF)  # R'^-1 [X y]'V^-1 F: its rows are R_X'^-1 X'V^-1 F and e'F / |e|
    X_part, e_part = scaled[:-1], scaled[-1] * np.sqrt(evaluation.pwrss)
    FPF = FVF - X_part.T @ X_part
    return np.asarray(nu / evaluation.pwrss * (FPF - np.outer(e_part, e_part) / evaluation.pwrss))


def _directions(pls: PenalizedLeastSquares, b: list[Array]) -> list[Array]:
    """w_i = (dT_i T' + T dT_i') z for every entry of theta, z = Z'V^-1(y - X beta) = T^-T u; (q, k, theta) a factor."""
    count = len(pls.covariance.lower)
    out = [np.zeros((*part.shape, count)) for part in b]
    for index, (g, row, column) in enumerate(pls.covariance.entries):
        T = pls.templates[g]
        inverse_T = _inverse(T)
        u = b[g] @ inverse_T.T
        z = u @ inverse_T
        out[g][:, row, index] += u[:, column]
        out[g][:, :, index] += z[:, row, None] * T[:, column]
    return out


def _multiply(pls: PenalizedLeastSquares, w: list[Array]) -> list[Array]:
    """Z'Z w by grouping factor, (q, k, columns) each."""
    out = [group.ZtZ @ part for group, part in zip(pls.blocks.groups, w, strict=True)]
    for (g, h), pair in pls.blocks.pairs.items():
        _add_rows(out[g], pair.g_refs, pair.ZtZ @ w[h][pair.h_refs])
        _add_rows(out[h], pair.h_refs, pair.ZtZ.transpose(0, 2, 1) @ w[g][pair.g_refs])
    return out


def _inverse(matrix: Array) -> Array:
    return np.asarray(np.linalg.inv(matrix), dtype=np.float64)


def _add_rows(out: Array, refs: npt.NDArray[np.int32], values: Array) -> None:
    """out[refs] += values, with repeated refs."""
    flat = values.reshape(len(values), -1)
    for column in range(flat.shape[1]):
        out.reshape(len(out), -1)[:, column] += np.bincount(refs, flat[:, column], minlength=len(out))
