"""The minimum of a quadratic function of covariance matrices among the positive semidefinite ones.

A model is g's + s'H s / 2 in the change s of the entries of all Sigma, and a correction in T. Without that it is convex,
and the matrices are written as T T' with square T: every minimum in T is then the minimum (Burer and Monteiro 2005,
doi:10.1007/s10107-004-0564-1), and Newton's steps find it on the boundary as fast as inside. All in the units of `Blocks`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bigmm.columns import Array
from bigmm.solver.covariance import RelativeCovariance
from bigmm.solver.derivatives import Derivatives

#: A diagonal entry of T is kept above this part of its unit.
FLOOR = 1e-3
#: So many times that is next to nothing, below a diagonal entry at its floor.
_NOTHING = 3.0
#: Steps at most, and when they end: what they still gain, as a part of what was gained.
_STEPS, _ENOUGH = 100, 1e-7
#: From where the search begins, a diagonal entry is no smaller than this: at zero every direction looks flat.
_LEAST = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """g's + s'H s / 2 + t'A t / 2, in the changes s of the entries of Sigma and t of those of T.

    `secant` says that H has learnt from a far step, so that what it promises may be wrong by much.
    """

    g: Array
    H: Array
    A: Array
    secant: bool = False

    @property
    def corrected(self) -> bool:
        """There is a correction, which may make it less than convex."""
        return bool(self.A.any())


class Blocks:
    """Entries of all Sigma = T T', in theta's order, in units in which one level's data tell variances of about 1 from 0.

    Attributes
    ----------
    units : list of (k,)
        For each term the standard deviations that make units.
    scale, row_scale : (theta,)
        Units of the entries of Sigma, and of T.
    """

    def __init__(self, covariance: RelativeCovariance, floor: Array) -> None:
        self.terms = covariance.terms
        lower = [np.triu_indices(term.size) for term in self.terms]
        self.rows, self.columns = [rows for _, rows in lower], [columns for columns, _ in lower]
        self.units = [floor[term.theta][r == c] / FLOOR for term, r, c in zip(self.terms, self.rows, self.columns, strict=True)]
        pairs = list(zip(self.units, self.rows, self.columns, strict=True))
        self.row_scale = np.concatenate([s[r] for s, r, _ in pairs])
        self.scale = np.concatenate([s[r] * s[c] for s, r, c in pairs])

    def templates(self, theta: Array) -> list[Array]:
        """T of every term, in units."""
        out = []
        for term, rows, columns in zip(self.terms, self.rows, self.columns, strict=True):
            T = np.zeros((term.size, term.size))
            T[rows, columns] = theta[term.theta] / self.row_scale[term.theta]
            out.append(T)
        return out

    def theta(self, templates: list[Array]) -> Array:
        """Theta with diagonal entries that are not negative: Sigma does not see the sign of a column."""
        signed = [T * np.where(np.diag(T) < 0.0, -1.0, 1.0) for T in templates]
        return np.asarray(self.gather(signed) * self.row_scale)

    def vanished(self, theta: Array, floor: Array) -> Array:
        """Theta with diagonal entries at their floor put at zero, and what is next to nothing below them."""
        templates = self.templates(theta)
        for T, smallest in zip(templates, self.templates(np.maximum(floor, 0.0)), strict=True):
            at_floor = np.diag(T) <= np.diag(smallest) * (1.0 + 1e-9)
            T[(np.abs(T) <= _NOTHING * FLOOR) & at_floor] = 0.0
        return np.asarray(self.gather(templates) * self.row_scale)

    def gather(self, matrices: list[Array]) -> Array:
        """The entries that stand where theta's do, of one matrix a term."""
        return np.concatenate([M[r, c] for M, r, c in zip(matrices, self.rows, self.columns, strict=True)])

    def entries(self, theta: Array) -> Array:
        """Entries of all Sigma."""
        return self.gather([T @ T.T for T in self.templates(theta)])

    def slope(self, derivatives: Derivatives) -> Array:
        """Derivative of the objective in the entries; one below the diagonal counts with its mirror."""
        at = [(term.group, (term.columns, term.columns)) for term in self.terms]
        parts = [derivatives.K[g][columns] - derivatives.Q[g][columns] for g, columns in at]
        return np.asarray(self.gather([M + M.T - np.diag(np.diag(M)) for M in parts]) * self.scale)

    def symmetric(self, dual: Array) -> list[Array]:
        """One symmetric matrix a term from derivatives in the entries."""
        out = []
        for term, rows, columns in zip(self.terms, self.rows, self.columns, strict=True):
            M = np.zeros((term.size, term.size))
            M[rows, columns] = dual[term.theta] / 2.0
            out.append(M + M.T)
        return out

    def congruence(self, R: list[Array]) -> Array:
        """The matrix that takes the entries of S to those of R S R', for every term."""
        out = np.zeros((len(self.scale), len(self.scale)))
        for term, r, c, M in zip(self.terms, self.rows, self.columns, R, strict=True):
            both = M[r][:, r] * M[c][:, c] + M[r][:, c] * M[c][:, r]
            out[term.theta, term.theta] = np.where(r == c, both / 2.0, both)
        return out

    def metric(self, K: list[Array]) -> Array:
        """tr(S K S K) as a quadratic form in the entries of S, for every term."""
        out = np.zeros((len(self.scale), len(self.scale)))
        for term, r, c, M in zip(self.terms, self.rows, self.columns, K, strict=True):
            both = M[r][:, r] * M[c][:, c] + M[r][:, c] * M[c][:, r]
            twice = np.where(r == c, 1.0, 2.0)
            out[term.theta, term.theta] = both * np.outer(twice, twice) / 2.0
        return out

    def jacobian(self, templates: list[Array]) -> Array:
        """Derivative of the entries of Sigma in those of T."""
        out = np.zeros((len(self.scale), len(self.scale)))
        for term, r, c, T in zip(self.terms, self.rows, self.columns, templates, strict=True):
            a, b = r[:, None], c[:, None]
            out[term.theta, term.theta] = (a == r) * T[b, c] + (b == r) * T[a, c]
        return out

    def curvature(self, slopes: list[Array]) -> Array:
        """Second derivative in T of tr(slope T T')."""
        out = np.zeros((len(self.scale), len(self.scale)))
        for term, r, c, M in zip(self.terms, self.rows, self.columns, slopes, strict=True):
            out[term.theta, term.theta] = 2.0 * (c[:, None] == c) * M[r[:, None], r]
        return out


def minimize_model(model: Model, blocks: Blocks, theta: Array, floor: Array) -> tuple[Array, float]:
    """Theta of the minimum of a model around `theta`, no diagonal entry below its floor, and how much lower it is there."""
    local = _Local(model, blocks, theta)
    starts = [blocks.gather([_raised(T) for T in blocks.templates(theta)]), local.x0]
    for x in starts:  # the second cannot end higher than the model is at `theta`
        found = np.maximum(blocks.theta(local.matrices(local.descend(x))), floor)
        gain = -local.value(found / blocks.row_scale)
        if gain > 0.0:
            return found, gain
    return theta, 0.0


def polished(model: Model, blocks: Blocks, theta: Array, floor: Array) -> Array:
    """Theta after one plain Newton step, of whatever size: what it gains may be far below the rounding of the objective.

    None is taken where a diagonal entry would come near its floor.
    """
    local = _Local(model, blocks, theta)
    found = (local.x0 + local.newton_step(local.x0)[0]) * blocks.row_scale
    inside = (found > _NOTHING * floor).all() and (np.abs(found - theta) <= 1e-3 * np.maximum(np.abs(theta), blocks.row_scale)).all()
    return np.asarray(found) if inside else theta


def curvature_in_T(model: Model, blocks: Blocks, theta: Array) -> Array:
    """The model's second derivative in T at `theta`, as far as it is positive."""
    local = _Local(model, blocks, theta)
    values, vectors = np.linalg.eigh(local.derivatives(local.x0)[1])
    return np.asarray((vectors * np.maximum(values, 1e-8 * values[-1])) @ vectors.T)


def _raised(T: Array) -> Array:
    """T with a diagonal off zero."""
    T = T.copy()
    np.fill_diagonal(T, np.maximum(np.diag(T), _LEAST))
    return T


class _Local:
    """A model around one theta, as a function of x, theta in units."""

    def __init__(self, model: Model, blocks: Blocks, theta: Array) -> None:
        self.model, self.blocks = model, blocks
        self.x0, self.s0 = theta / blocks.row_scale, blocks.entries(theta)

    def matrices(self, x: Array) -> list[Array]:
        """T of every term."""
        return self.blocks.templates(x * self.blocks.row_scale)

    def value(self, x: Array) -> float:
        """How much higher the model is than at the theta around which it is."""
        s, t = self.blocks.gather([T @ T.T for T in self.matrices(x)]) - self.s0, x - self.x0
        return float(self.model.g @ s + 0.5 * s @ self.model.H @ s + 0.5 * t @ self.model.A @ t)

    def derivatives(self, x: Array) -> tuple[Array, Array]:
        """Gradient and second derivative in x."""
        blocks, model = self.blocks, self.model
        templates = self.matrices(x)
        dual = model.g + model.H @ (blocks.gather([T @ T.T for T in templates]) - self.s0)
        J = blocks.jacobian(templates)
        second = J.T @ model.H @ J + blocks.curvature(blocks.symmetric(dual)) + model.A
        return J.T @ dual + model.A @ (x - self.x0), second

    def descend(self, x: Array) -> Array:
        """Newton's steps from x as long as they gain something."""
        value = self.value(x)
        for _ in range(_STEPS):
            step, gain = self.newton_step(x)
            if gain <= _ENOUGH * max(-value, 0.0) + 1e-15:
                break
            for shorter in 0.5 ** np.arange(30):
                lower = self.value(x + shorter * step)
                if lower < value:
                    break
            else:
                break
            x, value = x + shorter * step, lower
        return x

    def newton_step(self, x: Array) -> tuple[Array, float]:
        """Newton's step, away from saddles too, and what it promises."""
        gradient, second = self.derivatives(x)
        size = np.sqrt(np.maximum(np.abs(np.diag(second)), 1e-300))
        values, vectors = np.linalg.eigh(second / np.outer(size, size))
        values = np.maximum(np.abs(values), 1e-10)
        along = vectors.T @ (gradient / size)
        return -(vectors @ (along / values)) / size, float(0.5 * (along**2 / values).sum())
