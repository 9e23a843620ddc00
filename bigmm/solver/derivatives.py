"""The exact gradient of the objective, and the average information, at the theta that was factored last.

For each grouping factor with l levels, template T, Sigma = T T' and spherical random effects u_j, let

    E = sum over levels of [(Lambda'Z'Z Lambda + I)^-1]_jj          (k x k diagonal blocks of the inverse)
        (REML: of the inverse of the X-bordered matrix, which adds N_j N_j' with N = (..)^-1 Lambda'Z'X R_X^-1)
    U = sum over levels of u_j u_j'

    d objective / d Sigma = K - Q,   K = T^-T (l I - E) T^-1,   Q = (nu / pwrss) T^-T U T^-1         (slopes)
    d objective / d T = 2 (K - Q) T,   lower triangle                                                (gradient)

K comes from the log-determinants and Q from the residual sum of squares. With f_i = Z dSigma_i Z'V^-1(y - X beta),
the average information for sigma^2-profiled covariances is

    H_ij = (f_i'P f_j) nu / pwrss - (f_i'e)(f_j'e) nu / pwrss^2,     e = P y                        (average information)

All of it may be had in units of Sigma, Sigma = W Sigma_w W' with lower triangular W (`bigmm.solver.units`): T is W^-1 T then,
and the spherical u_j and E are what they are. So nothing is lost to columns that nearly depend on one another.

No product with Z'Z is needed: f_i = Z Lambda v_i with v_i = T^-1 dSigma_i T^-T u_j in each level, and from
Lambda'Z'Z Lambda = D - I follow f_i'V^-1 f_j = v_i'v_j - v_i'D^-1 v_j and W'V^-1 f_j = W'Z Lambda D^-1 v_j.

Gilmour, Thompson and Cullis (1995), doi:10.2307/2533274; the gradient is that of Bates et al. (2015), section 3.5,
in terms of diagonal blocks alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bigmm.columns import Array
from bigmm.solver.few_levels import FewLevels, few_columns, traces_of_pairs
from bigmm.solver.pls import Evaluation, PenalizedLeastSquares, residual_of
from bigmm.solver.units import Units, solve_lower


@dataclass(frozen=True, slots=True, eq=False)
class Derivatives:
    """First and second derivatives of the objective.

    Attributes
    ----------
    gradient : (theta,)
        In theta, which is in no units.
    K, Q : tuple of (k, k)
        The two parts of the derivative in Sigma = T T' of each grouping factor, in units, K - Q: of the log-determinants, and of
        the residual sum of squares. They are equal at a minimum inside.
    moments : tuple of (k, k)
        (E + nu U / pwrss) / l, the mean over levels of what is known of u u' given y: the identity at a minimum inside. However
        far a variance lies from the others these are exact, where K, Q and the information may be all rounding.
    information : (theta, theta)
        Average information in the entries of Sigma that stand where theta's do in T (an entry below the diagonal with
        its mirror): close to the Hessian in them near the optimum, and positive semidefinite everywhere.
    gap : (theta, theta)
        What the Hessian in these entries has beside the average information, among grouping factors of few levels; zero elsewhere.
    levels : tuple of int
        Of each grouping factor.
    rounding : float
        What the objective loses to that of pwrss, within a factor of ten: much where the fixed effects explain nearly all of y.
    """

    gradient: Array
    K: tuple[Array, ...]
    Q: tuple[Array, ...]
    moments: tuple[Array, ...]
    information: Array
    gap: Array
    levels: tuple[int, ...]
    rounding: float


@dataclass(slots=True)
class _Sums:
    """Of each grouping factor E and U; of the directions v_i the products that the information needs."""

    E: list[Array]
    U: list[Array]
    FVF: Array
    WVF: Array


def differentiate(pls: PenalizedLeastSquares, evaluation: Evaluation, nu: int, *, reml: bool, units: Units | None = None) -> Derivatives:
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
    units : list of (k, k), optional
        W of each term; unless given, the identity.
    """
    with pls.few_threads():
        return _differentiate(pls, evaluation, nu, reml=reml, units=units)


def _differentiate(pls: PenalizedLeastSquares, evaluation: Evaluation, nu: int, *, reml: bool, units: Units | None) -> Derivatives:
    W = pls.covariance.by_group([np.eye(term.size) for term in pls.covariance.terms] if units is None else units)
    templates = [solve_lower(*pair) for pair in zip(W, pls.templates, strict=True)]
    residual = residual_of(evaluation)
    coefficients = np.hstack([np.vstack([np.linalg.inv(evaluation.RX), np.zeros(pls.blocks.p)]), residual]) if reml else residual
    U = pls.spherical(coefficients)
    few = few_columns(pls, coefficients[:, :-1], U[:, :-1])
    sums, through_root = _sums(pls, templates, coefficients, U, few)
    pairs = traces_of_pairs(pls, templates, few, through_root)
    _add_inverse(pls, sums)
    K: list[Array] = []
    Q: list[Array] = []
    moments: list[Array] = []
    for T, E, U, group in zip(templates, sums.E, sums.U, pls.blocks.groups, strict=True):
        inverse_T = _inverse(T)
        K.append(inverse_T.T @ (group.q * np.eye(group.k) - E) @ inverse_T)
        Q.append(nu / evaluation.pwrss * inverse_T.T @ U @ inverse_T)
        moments.append((E + nu / evaluation.pwrss * U) / group.q)
    in_units = [2.0 * (k - q) @ T for k, q, T in zip(K, Q, templates, strict=True)]
    gradients = [solve_lower(*pair, transposed=True) for pair in zip(W, in_units, strict=True)]
    FPF, e = _projected(sums, evaluation)
    information = nu / evaluation.pwrss * (FPF - np.outer(e, e) / evaluation.pwrss)
    known = np.array([g in few.factors for g, _, _ in pls.covariance.entries])
    gap = np.where(np.outer(known, known), nu / evaluation.pwrss * FPF - pairs, 0.0)
    levels = tuple(group.q for group in pls.blocks.groups)
    rounding = nu * float(np.finfo(np.float64).eps) * float(evaluation.rest[-1, -1]) / evaluation.pwrss
    return Derivatives(pls.covariance.gather(gradients), tuple(K), tuple(Q), tuple(moments), information, gap, levels, rounding)


def _sums(pls: PenalizedLeastSquares, templates: list[Array], coefficients: Array, U: Array, few: FewLevels) -> tuple[_Sums, Array]:
    """Everything that does not need the inverse, and L^-1 P of the few levels' columns: E lacks S^-1; `templates` are in units."""
    assert pls.W is not None
    leading, root = pls.layout.leading, pls.layout.root
    entries = pls.covariance.entries
    width, count = pls.blocks.p + 1, len(entries)
    empty = np.zeros(0)
    out = _Sums([empty] * len(templates), [empty] * len(templates), np.zeros((count, count)), np.zeros((width, count)))
    directions = np.zeros((root.r, count))
    for g, N, v in zip(root.groups, root.split(U), root.split(directions), strict=True):
        flat = N[:, :, :-1].transpose(1, 0, 2).reshape(N.shape[1], -1)
        out.E[g], out.U[g] = flat @ flat.T, N[:, :, -1].T @ N[:, :, -1]
        _directions(templates[g], N[:, :, -1], [(i, row, column) for i, (of, row, column) in enumerate(entries) if of == g], v)
    out.FVF += directions.T @ directions
    if leading is not None:
        of = [i for i, (g, _, _) in enumerate(entries) if g == leading]
        places = np.array([entries[i][1:] for i in of], dtype=np.int64)
        found, directions[:, of] = pls.leaf_sums(templates[leading], U, coefficients, places)
        out.E[leading], out.U[leading] = found.inverse + found.border, found.spread
        out.FVF[np.ix_(of, of)] += found.own - found.reduced
        out.WVF[:, of] += found.mixed
    if pls.factor is None:
        return out, few.right
    solved = pls.factor.solve_L(np.hstack([directions, few.right]))  # at once, for it takes a pass over L
    F_root = solved[:, :count]
    out.FVF -= F_root.T @ F_root
    out.WVF += pls.W.T @ F_root
    return out, solved[:, count:]


def _directions(T: Array, u: Array, entries: list[tuple[int, int, int]], out: Array) -> None:
    """v_i = T^-1 dSigma_i T^-T u in each level, into `out` (q, k, theta)."""
    inverse_T = _inverse(T)
    z = u @ inverse_T
    for i, row, column in entries:
        np.multiply(z[:, column, None], inverse_T[:, row], out=out[:, :, i])
        if row != column:
            out[:, :, i] += z[:, row, None] * inverse_T[:, column]


def _add_inverse(pls: PenalizedLeastSquares, sums: _Sums) -> None:
    """The parts of E with S^-1; turns the factor into the inverse, and B_j into L_j^-T B_j."""
    if pls.factor is None:
        return
    pls.factor.invert()
    for g, block in zip(pls.layout.root.groups, pls.factor.diagonal_blocks(), strict=True):
        sums.E[g] = sums.E[g] + block
    leading = pls.layout.leading
    if leading is not None:
        sums.E[leading] = sums.E[leading] + pls.leaf_traces()


def _projected(sums: _Sums, evaluation: Evaluation) -> tuple[Array, Array]:
    """f_i'P f_j and f_i'e; the columns f_i are treated as further columns of X."""
    scaled = np.linalg.solve(evaluation.R.T, sums.WVF)  # R'^-1 [X y]'V^-1 F: its rows are R_X'^-1 X'V^-1 F and e'F / |e|
    X_part = scaled[:-1]
    return sums.FVF - X_part.T @ X_part, scaled[-1] * np.sqrt(evaluation.pwrss)


def _inverse(T: Array) -> Array:
    return np.asarray(np.linalg.inv(T), dtype=np.float64)
