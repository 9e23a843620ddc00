"""The quadratic model of the objective at one theta, in the entries of all Sigma: its slope and its information."""

from __future__ import annotations

import math

import numpy as np
import scipy.linalg

from bigmm.columns import Array
from bigmm.solver.conic import Model
from bigmm.solver.covariance import TermCovariance
from bigmm.solver.derivatives import Derivatives
from bigmm.solver.templates import Blocks

#: Where K and Q differ by more than this factor the average information is made the expected one ...
_NEAR = 3.0
#: ... as far as this factor.
_FAR = 1e6
#: Rounding makes no direction's information smaller than this part of its own, ...
_SMALLEST = 1e-14
#: ... nor than this part of what the random effects would tell if one level's data told nothing but them.
_LEAST = 1e-12
#: Changes of the slope do not correct the information when they disagree with it by more than this factor, ...
_BENT = 20.0
#: ... but where they show less curvature, or none, it may be made smaller along the step by this one.
_BOLD = 8.0


def quadratic_model(theta: Array, derivatives: Derivatives, blocks: Blocks, *, near: bool) -> Model:
    """The model of the derivatives at theta, without a correction.

    `near` a minimum it has the exact second derivative where that is known, made convex.
    """
    g = blocks.slope(derivatives)
    sizes = metric(theta, derivatives, blocks)
    if near:
        root = _root(derivatives.information + derivatives.gap, np.diag(sizes))
    else:
        H = derivatives.information
        towards = blocks.congruence([_towards_expected(derivatives, term) for term in blocks.terms])
        root = towards.T @ _root(H, np.maximum(np.diag(H), _LEAST * np.diag(sizes)))
    return Model(g, _bounded(root @ root.T, theta, derivatives, blocks) + _LEAST * sizes, np.zeros((len(g), len(g))))


def _root(H: Array, squares: Array) -> Array:
    """R with R R' = H, but for its negative part, as it is when entries are measured by the roots of `squares`."""
    size = np.sqrt(squares)
    values, vectors = np.linalg.eigh(H / np.outer(size, size))
    return np.asarray(size[:, None] * vectors * np.sqrt(np.maximum(values, _SMALLEST)))


def _towards_expected(derivatives: Derivatives, term: TermCovariance) -> Array:
    """The average information of one term made what the expected one would be, in directions in which it is far from it.

    In a balanced one-factor design the average information of a term is tr(dSigma K dSigma Q) / l, the expected one
    tr(dSigma K dSigma K) / l, whose steps end at the optimum from anywhere. With Q y = mu K y the change of variables
    dSigma -> R dSigma R', R = sum of mu^-1/4 y y'K, turns the one into the other.
    """
    at = (term.columns, term.columns)
    K, Q = ((M[term.group][at] + M[term.group][at].T) / 2 for M in (derivatives.K, derivatives.Q))
    try:
        mu, Y = scipy.linalg.eigh(Q, K)
    except np.linalg.LinAlgError:  # no data, or beyond double precision
        return np.eye(term.size)
    factor = np.where((mu > 1.0 / _NEAR) & (mu < _NEAR), 1.0, np.clip(mu, 1.0 / _FAR, _FAR) ** -0.25)
    return np.asarray((Y * factor) @ Y.T @ K)


def _bounded(H: Array, theta: Array, derivatives: Derivatives, blocks: Blocks) -> Array:
    """The information, in no direction above that of known random effects: l tr(S S) in relative changes T S T' of Sigma."""
    templates = blocks.templates(theta)
    C, inverse = blocks.congruence(templates), blocks.congruence([np.asarray(np.linalg.inv(T), dtype=np.float64) for T in templates])
    counts = [derivatives.levels[term.group] for term in blocks.terms]
    size = np.sqrt(
        np.diag(blocks.metric([np.asarray(math.sqrt(count) * np.eye(term.size)) for count, term in zip(counts, blocks.terms, strict=True)]))
    )
    values, vectors = np.linalg.eigh(C.T @ H @ C / np.outer(size, size))
    if values[-1] <= 1.0:
        return H
    root = inverse.T @ (size[:, None] * vectors * np.sqrt(np.clip(values, 0.0, 1.0)))
    return np.asarray(root @ root.T)


def metric(theta: Array, derivatives: Derivatives, blocks: Blocks) -> Array:
    """The expected information of each term as if the design were balanced and nothing else were estimated.

    That is l tr(S K S K) with K = (Sigma + 1)^-1: it makes a step long, whatever the columns.
    """
    counts = [derivatives.levels[term.group] for term in blocks.terms]
    inverse = [np.linalg.inv(T @ T.T + np.eye(len(T))) for T in blocks.templates(theta)]
    return blocks.metric([np.asarray(math.sqrt(count) * M) for count, M in zip(counts, inverse, strict=True)])


def updated(H: Array, changes: list[tuple[Array, Array]], *, bold: bool = False) -> Array:
    """BFGS updates by (step, change of the slope), but for changes that disagree too much to be of the same kind.

    A `bold` one makes do with a part of the change where there is too little curvature along a step (Powell 1978, damped BFGS):
    where the objective falls straight on, steps of the information would be short, and many.
    """
    for moved, seen in changes:
        Hs, change = H @ moved, seen
        curvature, expected = float(change @ moved), float(moved @ Hs)
        if bold and curvature < expected / _BENT:
            part = (1.0 - 1.0 / _BOLD) * expected / (expected - curvature)
            change, curvature = part * change + (1.0 - part) * Hs, expected / _BOLD
        if expected / _BENT < curvature < _BENT * expected:
            H = H - np.outer(Hs, Hs) / expected + np.outer(change, change) / curvature
    return H
