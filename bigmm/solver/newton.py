"""Safeguarded second-order steps: the average information, corrected by the last change of the gradient.

Steps are solved for in theta and taken in the covariance matrices: Sigma = T T' moves by dT T' + T dT', in which
the objective is smooth where a variance vanishes; theta itself has a stationary point at zero whatever the data say.
A vanishing diagonal entry is held at a floor just above zero, and there the derivative with respect to the
variance decides whether it stays. Close to a singular Sigma steps are taken in theta, where a column may change its sign.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bigmm.columns import Array
from bigmm.errors import ModelError
from bigmm.solver.covariance import RelativeCovariance, TermCovariance
from bigmm.solver.derivatives import Derivatives

#: Newton's step is trusted to shrink or grow a standard deviation by these factors; no step goes beyond the third.
_SHRINK, _GROW, _VANISH = 5.0, 4.0, 1e5
#: Decrements below this are not worth a step, whatever the size of the objective.
_TOLERANCE = 1e-10
#: T'Z'Z T of a term that its columns, all zero, say nothing about.
_NO_DATA = 1e-12
#: Part of the predicted decrease that a step has to bring.
_ARMIJO = 1e-4
#: An entry within this factor of its floor may be held there.
_HELD = 1.0001
#: Sizes of a variance, in squared floors, at which a vanished one is tried, and the gain that counts.
_BEYOND, _GAIN = (1e6, 1e4, 1e2), 1e-7
#: Steps in a row that change the objective by no more than its rounding: then the search has seen all that it can.
_STALLED = 3
#: Such a search has converged when a step could lower the objective by no more than this, beside rounding.
_CERTAIN = 1e-6
#: A last step that changes no entry of theta by more than this part of it leaves nothing to gain.
_TINY = 1e-10
#: Searches that start again beyond a zero, at most.
_ESCAPES = 5
#: A floor as a part of what could matter.
_HELD_PART = 1e-3
#: A diagonal entry below this many floors is near zero.
_NEAR = 100.0


@dataclass(frozen=True, slots=True, eq=False)
class Minimum:
    """Where a search ended.

    Attributes
    ----------
    theta : array
    objective : float
    decrement : float or None
        How much a further step could lower the objective: half of g'H^-1 g over the entries that are free; None when unknown.
    converged : bool
        The decrement is below the tolerance, and no vanished variance wants to grow.
    reason : str
    """

    theta: Array
    objective: float
    decrement: float | None
    converged: bool
    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class _Point:
    theta: Array
    objective: float
    derivatives: Derivatives


Mask = npt.NDArray[np.bool_]
Evaluate = Callable[[Array], "tuple[float, Callable[[], Derivatives] | None]"]


def newton(evaluate: Evaluate, covariance: RelativeCovariance, start: Array, floor: Array, *, tolerance: float, maxeval: int) -> Minimum:
    """Minimize from `start`.

    Parameters
    ----------
    evaluate : callable
        Theta to (objective, function that gives the derivatives there); NaN and None where there is none.
    covariance : RelativeCovariance
    start : (theta,)
    floor : (theta,)
        Positive for diagonal entries, minus infinity elsewhere.
    tolerance : float
        Stop when a step could lower the objective by no more than this part of it (or 1e-10).
    maxeval : int

    Raises
    ------
    ModelError
        When the objective does not exist at the start.
    """
    search = _Search(evaluate, covariance, floor, maxeval)
    point = search.at(np.maximum(start, floor))
    if point is None:
        raise ModelError(f"the objective does not exist at the start theta = {start}: give another start")
    H, damping, stalled = search.curvature(point), 0.0, 0
    while True:
        g = point.derivatives.gradient
        held = search.held(point)
        step, decrement = _step(g, H, ~held, damping)
        if decrement <= max(_TOLERANCE, tolerance * abs(point.objective)) or stalled >= _STALLED:
            beyond = search.escape(point)
            if beyond is None:
                return search.last_step(point, step, decrement)
            point, H, damping, stalled = beyond, search.curvature(beyond), 0.0, 0
            continue
        found = search.better(point, H, held, damping)
        if found is None:
            return Minimum(point.theta, point.objective, decrement, False, search.reason)
        new, easy = found
        stalled = stalled + 1 if new.objective > point.objective - _noise(point.objective) else 0
        damping = damping / 10.0 if easy else max(10.0 * damping, 0.01)
        flips = search.flips(point.theta, new.theta)
        H = _corrected(search.curvature(new), new.theta - flips * point.theta, new.derivatives.gradient - flips * g)
        point = new


class _Search:
    """Evaluations, counted, and the proposals that are tried from one point."""

    def __init__(self, evaluate: Evaluate, covariance: RelativeCovariance, floor: Array, maxeval: int) -> None:
        self.evaluate, self.covariance, self.floor = evaluate, covariance, floor
        self.left, self.escapes = maxeval, _ESCAPES
        self.shrunk = [0] * len(covariance.terms)  # how often in a row a term has shrunk as far as it may

    @property
    def reason(self) -> str:
        """Why nothing better was found."""
        return "no step lowers the objective" if self.left > 0 else "maxeval reached"

    def last_step(self, point: _Point, step: Array, decrement: float) -> Minimum:
        """The step that gains next to nothing is taken all the same: it doubles the digits of theta, which the objective hides.

        If it was not tiny, a second one follows; only its end needs no derivatives.
        """
        certain = decrement <= _CERTAIN + 10.0 * _noise(point.objective)
        reason = "no step can lower the objective" if certain else "steps lower the objective no more"
        theta, bound = self._move(point, step), point.objective + 10.0 * _noise(point.objective)
        new = self.at(theta, bound) if certain and (np.abs(step) > _TINY * np.abs(point.theta)).any() else None
        if new is not None:
            point = new
            theta = self._move(point, _step(point.derivatives.gradient, self.curvature(point), ~self.held(point), 0.0)[0])
        value, _ = self.evaluate(theta) if self.left > 0 else (np.nan, None)
        better = value <= bound
        return Minimum(theta if better else point.theta, value if better else point.objective, decrement, certain, reason)

    def at(self, theta: Array, below: float = np.inf) -> _Point | None:
        """The point at theta with its derivatives, if its objective lies below a bound."""
        if self.left <= 0:
            return None
        self.left -= 1
        value, derive = self.evaluate(theta)
        return _Point(theta, value, derive()) if derive is not None and np.isfinite(value) and value <= below else None

    def better(self, point: _Point, H: Array, held: Mask, damping: float) -> tuple[_Point, bool] | None:
        """A point with a lower objective, and whether the first proposal gave it."""
        for number, theta in enumerate(self._proposals(point, H, held, damping)):
            decrease = min(float(point.derivatives.gradient @ (theta - point.theta)), 0.0)
            new = self.at(theta, point.objective + _ARMIJO * decrease + _noise(point.objective))
            if new is not None:
                self.shrunk = [count + 1 if self._has_shrunk(i, point, new) else 0 for i, count in enumerate(self.shrunk)]
                return new, number == 0
            if self.left <= 0:
                return None
        return None

    def _proposals(self, point: _Point, H: Array, held: Mask, damping: float) -> Iterator[Array]:
        """Newton's step, where it can be trusted; an EM step; ever shorter steps."""
        g = point.derivatives.gradient
        step, _ = _step(g, H, ~held, damping)
        yield self._move(point, step)
        yield self._each_term(point, lambda precision, spread: precision + spread)
        for shorter in 10.0 ** np.arange(-2.0, 9.0):
            if shorter > damping:
                step, _ = _step(g, H, ~held, shorter)
                yield self._move(point, step)

    def _move(self, point: _Point, step: Array) -> Array:
        """A step, with the terms that it would change too much moved as if the design were balanced."""
        new = point.theta.copy()
        for i, term in enumerate(self.covariance.terms):
            T, dT = self.covariance.template(term, point.theta), self.covariance.template(term, step)
            A = np.linalg.solve(T, dT)
            growth = np.linalg.eigvalsh(np.eye(len(A)) + A + A.T)
            if self._is_near_zero(point, term):
                moved = _additive(T, dT, np.diag(self.covariance.template(term, self.floor)))
            elif growth[0] > _SHRINK**-2 and growth[-1] < _GROW**2:
                moved = T @ _factor(np.eye(len(A)) + A + A.T)
            else:
                moved = T @ _balanced(*self._moments(point, term), least=_SHRINK ** -float(2 * (self.shrunk[i] + 1) ** 2))
            new[term.theta] = self.covariance.entries_of(moved)
        return np.maximum(new, self.floor)

    def _is_near_zero(self, point: _Point, term: TermCovariance) -> bool:
        """Whether the term's covariance matrix is close to a singular one."""
        T, least = self.covariance.template(term, point.theta), self.covariance.template(term, self.floor)
        return bool((np.diag(T) <= _NEAR * np.diag(least)).any())

    def held(self, point: _Point) -> Mask:
        """Diagonal entries that stay at their floor: the rest of their column is zero and the objective rises with them.

        With something below it, an entry of zero is not on a boundary: the objective is the same at (t, s) and (-t, -s).
        """
        held = (point.theta <= self.floor * _HELD) & (point.derivatives.gradient >= 0.0)
        for term in self.covariance.terms:
            T, least = self.covariance.template(term, point.theta), np.diag(self.covariance.template(term, self.floor))
            empty = (np.abs(np.tril(T, -1)) <= least[:, None]).all(axis=0)
            held[term.theta] &= self.covariance.entries_of(np.diag(empty)) > 0
        return held

    def curvature(self, point: _Point) -> Array:
        """The average information, and what it lacks where a variance is near zero.

        The objective's change with Sigma = T T' to the second order in dT has the part tr(G dT dT'), G its derivative in
        Sigma, which holds a variance at zero; inside, G vanishes at the minimum.
        """
        H = point.derivatives.information.copy()
        for term in self.covariance.terms:
            if self._is_near_zero(point, term):
                G = self._slope(point, term)
                values, vectors = np.linalg.eigh(G)
                G = (vectors * np.maximum(values, 0.0)) @ vectors.T
                at = term.theta.start
                for column in range(term.size):
                    to = at + term.size - column
                    H[at:to, at:to] += 2.0 * G[column:, column:]
                    at = to
        return H

    def _slope(self, point: _Point, term: TermCovariance) -> Array:
        """Derivative of the objective in a term's Sigma: T^-T (l I - l E - l U) T^-1."""
        precision, spread = self._moments(point, term)
        inverse = np.linalg.inv(self.covariance.template(term, point.theta))
        return point.derivatives.levels[term.group] * (inverse.T @ (np.eye(term.size) - precision - spread) @ inverse)

    def flips(self, old: Array, new: Array) -> Array:
        """-1 for the entries of the columns that have changed their sign between two points, 1 elsewhere."""
        signs = np.ones_like(old)
        for term in self.covariance.terms:
            a, b = self.covariance.template(term, old), self.covariance.template(term, new)
            column = np.where((a * b).sum(axis=0) < 0.0, -1.0, 1.0)
            signs[term.theta] = self.covariance.entries_of(np.tile(column, (term.size, 1)))
        return signs

    def _has_shrunk(self, i: int, old: _Point, new: _Point) -> bool:
        term = self.covariance.terms[i]
        change = np.linalg.solve(self.covariance.template(term, old.theta), self.covariance.template(term, new.theta))
        return bool(np.linalg.svd(change, compute_uv=False)[-1] < 1.5 / _SHRINK ** float((self.shrunk[i] + 1) ** 2))

    def _moments(self, point: _Point, term: TermCovariance) -> tuple[Array, Array]:
        at = (term.columns, term.columns)
        return point.derivatives.precision[term.group][at], point.derivatives.spread[term.group][at]

    def _each_term(self, point: _Point, relative: Callable[[Array, Array], Array]) -> Array:
        """Sigma becomes T (a function of the term's moments) T' for every term."""
        new = point.theta.copy()
        for term in self.covariance.terms:
            T = self.covariance.template(term, point.theta)
            new[term.theta] = self.covariance.entries_of(T @ _factor(relative(*self._moments(point, term))))
        return np.maximum(new, self.floor)

    def escape(self, point: _Point) -> _Point | None:
        """A better point beyond a zero, if the objective falls when a vanished variance grows.

        The derivative in Sigma is T^-T (l I - l E) T^-1; a minimum on the boundary has no negative direction of it.
        """
        for term in self.covariance.terms if self.escapes else ():
            T, least = self.covariance.template(term, point.theta), np.diag(self.covariance.template(term, self.floor))
            if (np.diag(T) > _NEAR * least).all():
                continue
            precision, spread = self._moments(point, term)
            inverse = np.linalg.inv(T / least[:, None])
            slopes, vectors = np.linalg.eigh(inverse.T @ (np.eye(term.size) - precision - spread) @ inverse)
            direction = least * vectors[:, 0]
            for size in _BEYOND if slopes[0] < 0.0 else ():
                theta = point.theta.copy()
                theta[term.theta] = self.covariance.entries_of(_cholesky(T @ T.T + size * np.outer(direction, direction)))
                beyond = self.at(np.maximum(theta, self.floor), point.objective - _GAIN)
                if beyond is not None:
                    self.escapes -= 1
                    return beyond
        return None


def _step(g: Array, H: Array, free: Mask, damping: float) -> tuple[Array, float]:
    """Damped Newton step on the free entries, and half of g'H^-1 g there."""
    step = np.zeros_like(g)
    if not free.any():
        return step, 0.0
    inner = H[np.ix_(free, free)]
    scale = np.sqrt(np.maximum(np.diag(inner), 1e-300))
    values, vectors = np.linalg.eigh(inner / np.outer(scale, scale))
    values = np.maximum(values, 1e-8)
    along = vectors.T @ (g[free] / scale)
    step[free] = -(vectors @ (along / (values + damping))) / scale
    return step, float(0.5 * (along**2 / values).sum())


def _balanced(precision: Array, spread: Array, least: float) -> Array:
    """Factor of M with which Sigma_new = T M T' would be the optimum of a balanced one-factor design.

    There T'Z'Z T + I = X is the same for every level, so that the precision is X^-1, and with Y = X - I
    the spread is X^-1 (Y M Y + Y) X^-1; both are averages over levels in any design. M shrinks a variance by `least`
    at most: what looks like zero from far away need not be.
    """
    X = np.linalg.inv((precision + precision.T) / 2)
    Y = X - np.eye(len(X))
    if np.linalg.eigvalsh(Y)[0] <= _NO_DATA:
        return _factor(precision + spread, least)
    inverse_Y = np.linalg.inv(Y)
    return _factor(inverse_Y @ (X @ spread @ X - Y) @ inverse_Y, least)


def _factor(M: Array, least: float = 0.0) -> Array:
    """Cholesky factor of a relative covariance matrix, its eigenvalues kept within bounds."""
    values, vectors = np.linalg.eigh((M + M.T) / 2)
    roots = np.sqrt(np.clip(values, max(least, _VANISH**-2), _VANISH**2))
    R: Array = np.linalg.qr((vectors * roots).T)[1]  # M = (V sqrt(D))(V sqrt(D))' = R'R; cholesky() could fail by rounding
    return R.T * np.where(np.diag(R) < 0.0, -1.0, 1.0)


def _cholesky(M: Array) -> Array:
    return np.asarray(np.linalg.cholesky(M), dtype=np.float64)


def _noise(objective: float) -> float:
    """Rounding of an objective."""
    return 1e-14 * abs(objective)


def _additive(T: Array, dT: Array, least: Array) -> Array:
    """T + dT, no row of it many times as long; a column that crosses zero comes out with its sign changed: T T' is the same."""
    length = np.maximum(np.sqrt((T**2).sum(axis=1)), least / _HELD_PART)
    new = T + dT / max(1.0, float((np.abs(dT).max(axis=1) / (_GROW * length)).max()))
    return new * np.where(np.diag(new) < 0.0, -1.0, 1.0)


def _corrected(H: Array, moved: Array, change: Array) -> Array:
    """The BFGS update of H: it then agrees with the last change of the gradient."""
    Hs = H @ moved
    curvature, model = float(change @ moved), float(moved @ Hs)
    if curvature <= 0.05 * model or curvature > 20 * model or model <= 0.0:
        return H
    return H - np.outer(Hs, Hs) / model + np.outer(change, change) / curvature
