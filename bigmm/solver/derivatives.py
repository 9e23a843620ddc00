"""The exact gradient of the objective, and the average information, at the theta that was factored last.

For each grouping factor with l levels, template T and spherical random effects u_j, let

    E = sum over levels of [(Lambda'Z'Z Lambda + I)^-1]_jj          (k x k diagonal blocks of the inverse)
        (REML: of the inverse of the X-bordered matrix, which adds N_j N_j' with N = (..)^-1 Lambda'Z'X R_X^-1)
    U = sum over levels of u_j u_j'

    d objective / d T = 2 T^-T (l I - E - (nu / pwrss) U),   lower triangle                              (gradient)

With f_i = Z (dT_i T' + T dT_i') Z'V^-1(y - X beta), the average information for sigma^2-profiled theta is

    H_ij = (f_i'P f_j) nu / pwrss - (f_i'e)(f_j'e) nu / pwrss^2,     e = P y                        (average information)

No product with Z'Z is needed: f_i = Z Lambda v_i with v_i = T^-1 dT_i u + dT_i' T^-T u in each level, and from
Lambda'Z'Z Lambda = D - I follow f_i'V^-1 f_j = v_i'v_j - v_i'D^-1 v_j and W'V^-1 f_j = W'Z Lambda D^-1 v_j.

Gilmour, Thompson and Cullis (1995), doi:10.2307/2533274; the gradient is that of Bates et al. (2015), section 3.5,
in terms of diagonal blocks alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bigmm.columns import Array
from bigmm.solver.pls import Evaluation, PenalizedLeastSquares


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


@dataclass(slots=True)
class _Sums:
    """Of each grouping factor E and U; of the directions v_i of theta the products that the information needs."""

    E: list[Array]
    U: list[Array]
    FVF: Array
    WVF: Array


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
    residual = np.append(-evaluation.beta, 1.0)[:, None]
    coefficients = np.hstack([np.vstack([np.linalg.inv(evaluation.RX), np.zeros(pls.blocks.p)]), residual]) if reml else residual
    with pls.looping():
        sums = _sums(pls, coefficients)
        _add_inverse(pls, sums)
    gradients: list[Array] = []
    precisions: list[Array] = []
    spreads: list[Array] = []
    for T, E, U, group in zip(pls.templates, sums.E, sums.U, pls.blocks.groups, strict=True):
        precisions.append(E / group.q)
        spreads.append(nu / evaluation.pwrss * U / group.q)
        inner = np.eye(group.k) - precisions[-1] - spreads[-1]
        gradients.append(2.0 * group.q * np.asarray(np.linalg.solve(T.T, inner), dtype=np.float64))
    information = _average_information(sums, evaluation, nu)
    levels = tuple(group.q for group in pls.blocks.groups)
    return Derivatives(pls.covariance.gather(gradients), information, tuple(precisions), tuple(spreads), levels)


def _sums(pls: PenalizedLeastSquares, coefficients: Array) -> _Sums:
    """Everything that does not need the inverse: E lacks S^-1."""
    assert pls.W is not None
    leading, root = pls.layout.leading, pls.layout.root
    entries = pls.covariance.entries
    width, count = pls.blocks.p + 1, len(entries)
    empty = np.zeros(0)
    out = _Sums([empty] * len(pls.templates), [empty] * len(pls.templates), np.zeros((count, count)), np.zeros((width, count)))
    U = pls.W.root @ coefficients if pls.factor is None else pls.factor.solve_Lt(pls.W.root @ coefficients)
    directions = np.zeros((root.r, count))
    for g, N, v in zip(root.groups, root.split(U), root.split(directions), strict=True):
        flat = N[:, :, :-1].transpose(1, 0, 2).reshape(N.shape[1], -1)
        out.E[g], out.U[g] = flat @ flat.T, N[:, :, -1].T @ N[:, :, -1]
        _directions(pls.templates[g], N[:, :, -1], [(i, row, column) for i, (of, row, column) in enumerate(entries) if of == g], v)
    out.FVF += directions.T @ directions
    if leading is not None:
        of = [i for i, (g, _, _) in enumerate(entries) if g == leading]
        found, directions[:, of] = pls.leaf_sums(U, coefficients, np.array([entries[i][1:] for i in of], dtype=np.int64))
        out.E[leading], out.U[leading] = found.inverse + found.border, found.spread
        out.FVF[np.ix_(of, of)] += found.own - found.reduced
        out.WVF[:, of] += found.mixed
    if pls.factor is not None:
        F_root = pls.factor.solve_L(directions)
        out.FVF -= F_root.T @ F_root
        out.WVF += pls.W.root.T @ F_root
    return out


def _directions(T: Array, u: Array, entries: list[tuple[int, int, int]], out: Array) -> None:
    """v_i = T^-1 dT_i u + dT_i' T^-T u in each level, into `out` (q, k, theta)."""
    inverse_T = np.linalg.inv(T)
    z = u @ inverse_T
    for i, row, column in entries:
        np.multiply(u[:, column, None], inverse_T[:, row], out=out[:, :, i])
        out[:, column, i] += z[:, row]


def _add_inverse(pls: PenalizedLeastSquares, sums: _Sums) -> None:
    """The parts of E with S^-1; turns the factor into the inverse, and B into W C Lambda."""
    if pls.factor is None:
        return
    pls.factor.invert()
    for g, block in zip(pls.layout.root.groups, pls.factor.diagonal_blocks(), strict=True):
        sums.E[g] = sums.E[g] + block
    leading = pls.layout.leading
    if leading is not None:
        inverse_T = np.linalg.inv(pls.templates[leading])
        sums.E[leading] = sums.E[leading] + inverse_T @ pls.leaf_traces() @ inverse_T.T


def _average_information(sums: _Sums, evaluation: Evaluation, nu: int) -> Array:
    """H_ij = (f_i'P f_j) nu / pwrss - (f_i'e)(f_j'e) nu / pwrss^2; the columns f_i are treated as further columns of X."""
    scaled = np.linalg.solve(evaluation.R.T, sums.WVF)  # R'^-1 [X y]'V^-1 F: its rows are R_X'^-1 X'V^-1 F and e'F / |e|
    X_part, e_part = scaled[:-1], scaled[-1] * np.sqrt(evaluation.pwrss)
    FPF = sums.FVF - X_part.T @ X_part
    return np.asarray(nu / evaluation.pwrss * (FPF - np.outer(e_part, e_part) / evaluation.pwrss))
