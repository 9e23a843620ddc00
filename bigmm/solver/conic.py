"""The minimum of a quadratic function of covariance matrices among the positive semidefinite ones.

A model is g's + s'H s / 2 in the change s of the entries of all Sigma, and a correction in T. Without that it is convex,
and the matrices are written as T T' with square T, not triangular: every minimum in T is then the minimum (Burer and
Monteiro 2005, doi:10.1007/s10107-004-0564-1), and Newton's steps find it on the boundary as fast as inside. (A triangular
T has others where its diagonal vanishes: with [[0, 0], [0, 1]] no small change of T changes the covariance at first order.)
All in the units of `Blocks`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.linalg

from bigmm.columns import Array
from bigmm.solver.covariance import RelativeCovariance
from bigmm.solver.derivatives import Derivatives

Index = npt.NDArray[np.intp]

#: Singular values of T, and so its diagonal entries, are kept above this part of the unit.
FLOOR = 1e-3
#: Singular values so many times as large are far from it.
_FAR_OFF = 10.0
#: The part of a row that counts as rounding when a singular T is made triangular.
_ROUNDING = 1e-13
#: Steps at most, and when they end: what they still gain, as a part of what was gained.
_STEPS, _ENOUGH = 100, 1e-7
#: Where the search begins, a singular value of T is no smaller than this: at zero every direction looks flat.
_LEAST = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """g's + s'H s / 2 + t'A t / 2, in the changes s of the entries of Sigma and t of those of T.

    `secant` says that H has learnt from changes of the slope in Sigma, so that what it promises may be wrong by much.
    """

    g: Array
    H: Array
    A: Array
    secant: bool = False

    @property
    def corrected(self) -> bool:
        """There is a correction, which may make it less than convex."""
        return bool(self.A.any())


class Pattern:
    """The entries of T of every term that may change: all of them, or its lower triangle, which is theta."""

    def __init__(self, sizes: list[int], *, square: bool) -> None:
        self.sizes = sizes
        upper = [np.nonzero(np.ones((k, k)) if square else np.triu(np.ones((k, k)))) for k in sizes]
        self.rows, self.columns = [rows for _, rows in upper], [columns for columns, _ in upper]
        ends = np.cumsum([0, *map(len, self.rows)])
        self.slices = [slice(*ends[i : i + 2]) for i in range(len(sizes))]

    def gather(self, matrices: list[Array]) -> Array:
        """The entries, of one matrix a term."""
        return np.concatenate([M[r, c] for M, r, c in zip(matrices, self.rows, self.columns, strict=True)])

    def matrices(self, x: Array) -> list[Array]:
        """One matrix a term, zero elsewhere."""
        out = [np.zeros((k, k)) for k in self.sizes]
        for T, rows, columns, at in zip(out, self.rows, self.columns, self.slices, strict=True):
            T[rows, columns] = x[at]
        return out

    def jacobian(self, templates: list[Array]) -> Array:
        """Derivative of the lower triangles of all T T' in the entries of T."""
        return _block_diagonal([self._jacobian(*of) for of in zip(templates, self.rows, self.columns, strict=True)])

    @staticmethod
    def _jacobian(T: Array, rows: Index, columns: Index) -> Array:
        c, r = (M[:, None] for M in np.triu_indices(len(T)))
        return np.asarray((r == rows) * T[c, columns] + (c == rows) * T[r, columns])

    def curvature(self, slopes: list[Array]) -> Array:
        """Second derivative in T of tr(slope T T')."""
        of = zip(slopes, self.rows, self.columns, strict=True)
        return _block_diagonal([2.0 * (c[:, None] == c) * M[r[:, None], r] for M, r, c in of])


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
        self.lower = Pattern([term.size for term in self.terms], square=False)
        self.square = Pattern([term.size for term in self.terms], square=True)
        self.rows, self.columns = self.lower.rows, self.lower.columns
        self.units = [floor[term.theta][r == c] / FLOOR for term, r, c in zip(self.terms, self.rows, self.columns, strict=True)]
        pairs = list(zip(self.units, self.rows, self.columns, strict=True))
        self.row_scale = np.concatenate([s[r] for s, r, _ in pairs])
        self.scale = np.concatenate([s[r] * s[c] for s, r, c in pairs])

    def templates(self, theta: Array) -> list[Array]:
        """T of every term, in units."""
        return self.lower.matrices(theta / self.row_scale)

    def theta(self, templates: list[Array]) -> Array:
        """Theta of the same covariances, but for singular values below the floor."""
        return np.asarray(self.lower.gather([_above(T, FLOOR) for T in templates]) * self.row_scale)

    def vanished(self, theta: Array) -> Array:
        """Theta with what is at the floor put at zero."""
        return np.asarray(self.lower.gather([_echelon(T) for T in self.templates(theta)]) * self.row_scale)

    def inside(self, theta: Array) -> bool:
        """No singular value is near the floor."""
        return all(np.linalg.svd(T, compute_uv=False)[-1] > _FAR_OFF * FLOOR for T in self.templates(theta))

    def entries(self, theta: Array) -> Array:
        """Entries of all Sigma."""
        return self.lower.gather([T @ T.T for T in self.templates(theta)])

    def slope(self, derivatives: Derivatives) -> Array:
        """Derivative of the objective in the entries; one below the diagonal counts with its mirror."""
        at = [(term.group, (term.columns, term.columns)) for term in self.terms]
        parts = [derivatives.K[g][columns] - derivatives.Q[g][columns] for g, columns in at]
        return np.asarray(self.lower.gather([M + M.T - np.diag(np.diag(M)) for M in parts]) * self.scale)

    def symmetric(self, dual: Array) -> list[Array]:
        """One symmetric matrix a term from derivatives in the entries."""
        return [(M + M.T) / 2.0 for M in self.lower.matrices(dual)]

    def congruence(self, R: list[Array]) -> Array:
        """The matrix that takes the entries of S to those of R S R', for every term."""
        of = zip(self.rows, self.columns, R, strict=True)
        return _block_diagonal([_products(M, r, c) * np.where(r == c, 0.5, 1.0) for r, c, M in of])

    def metric(self, K: list[Array]) -> Array:
        """tr(S K S K) as a quadratic form in the entries of S, for every term."""
        twice = [np.where(r == c, 1.0, 2.0) for r, c in zip(self.rows, self.columns, strict=True)]
        of = zip(self.rows, self.columns, K, twice, strict=True)
        return _block_diagonal([_products(M, r, c) * np.outer(two, two) / 2.0 for r, c, M, two in of])


def _products(M: Array, r: Index, c: Index) -> Array:
    return np.asarray(M[r][:, r] * M[c][:, c] + M[r][:, c] * M[c][:, r])


def _block_diagonal(parts: list[Array]) -> Array:
    return np.asarray(scipy.linalg.block_diag(*parts))


def _lower(T: Array) -> Array:
    """The lower triangular matrix with the same T T' and a diagonal that is not negative."""
    L = np.transpose(np.linalg.qr(T.T, mode="r"))
    return np.asarray(L * np.where(np.diag(L) < 0.0, -1.0, 1.0))


def _above(T: Array, floor: float) -> Array:
    """T made lower triangular, its singular values no smaller than the floor, so that no diagonal entry is."""
    U, s, _ = np.linalg.svd(T)
    return _lower(T if s[-1] >= floor else U * np.maximum(s, floor))


def _echelon(T: Array) -> Array:
    """T without singular values that are at the floor, as a lower triangular matrix whose columns vanish where its diagonal does."""
    U, s, _ = np.linalg.svd(T)
    if s[-1] > FLOOR * (1.0 + 1e-9):
        return T
    rest, L = U * np.where(s > FLOOR * (1.0 + 1e-9), s, 0.0), np.zeros_like(T)
    smallest = _ROUNDING * np.linalg.norm(rest)
    for j, row in enumerate(rest):
        if (norm := np.linalg.norm(row)) > smallest:
            direction = row / norm
            L[j:, j] = rest[j:] @ direction
            rest -= np.outer(rest @ direction, direction)
    return L


def minimize_model(model: Model, blocks: Blocks, theta: Array) -> tuple[Array, float]:
    """Theta of the minimum of a model around `theta`, nothing below the floor, and how much lower it is there."""
    local = _Local(model, blocks, theta, blocks.lower if model.corrected else blocks.square)
    templates = blocks.templates(theta)
    starts = [[_above(T, _LEAST) for T in templates], templates]
    for start in starts:  # the second cannot end higher than the model is at `theta`
        found = blocks.theta(local.pattern.matrices(local.descend(local.pattern.gather(start))))
        gain = -local.value(local.pattern.gather(blocks.templates(found)))
        if gain > 0.0:
            return found, gain
    return theta, 0.0


def polished(model: Model, blocks: Blocks, theta: Array) -> Array:
    """Theta after one plain Newton step, of whatever size: what it gains may be far below the rounding of the objective.

    None is taken where a singular value would come near the floor.
    """
    local = _Local(model, blocks, theta, blocks.lower)
    found = local.x0 + local.newton_step(local.x0)[0]
    step = np.abs(found - local.x0) <= 1e-3 * np.maximum(np.abs(local.x0), 1.0)
    found = np.asarray(found * blocks.row_scale)
    return found if step.all() and blocks.inside(found) else theta


def curvature_in_T(model: Model, blocks: Blocks, theta: Array) -> Array:
    """The model's second derivative in T at `theta`, as far as it is positive."""
    local = _Local(model, blocks, theta, blocks.lower)
    values, vectors = np.linalg.eigh(local.derivatives(local.x0)[1])
    return np.asarray((vectors * np.maximum(values, 1e-8 * values[-1])) @ vectors.T)


class _Local:
    """A model around one theta, as a function of x, the entries of T in units; a correction needs those of the lower triangle."""

    def __init__(self, model: Model, blocks: Blocks, theta: Array, pattern: Pattern) -> None:
        self.model, self.blocks, self.pattern = model, blocks, pattern
        self.x0, self.s0 = pattern.gather(blocks.templates(theta)), blocks.entries(theta)

    def change(self, templates: list[Array]) -> Array:
        """How the entries of all Sigma change from theta."""
        return self.blocks.lower.gather([T @ T.T for T in templates]) - self.s0

    def value(self, x: Array) -> float:
        """How much higher the model is than at the theta around which it is."""
        s = self.change(self.pattern.matrices(x))
        value = self.model.g @ s + 0.5 * s @ self.model.H @ s
        return float(value + 0.5 * (x - self.x0) @ self.model.A @ (x - self.x0) if self.model.corrected else value)

    def derivatives(self, x: Array) -> tuple[Array, Array]:
        """Gradient and second derivative in x."""
        blocks, model, pattern = self.blocks, self.model, self.pattern
        templates = pattern.matrices(x)
        dual = model.g + model.H @ self.change(templates)
        J = pattern.jacobian(templates)
        first, second = J.T @ dual, J.T @ model.H @ J + pattern.curvature(blocks.symmetric(dual))
        return (first + model.A @ (x - self.x0), second + model.A) if model.corrected else (first, second)

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
