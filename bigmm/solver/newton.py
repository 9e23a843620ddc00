"""Second-order steps in the covariance matrices, which may become singular in one of them.

In Sigma = T T' the objective is smooth where a variance vanishes, and what may not happen is a negative variance. So
each step minimizes a quadratic model in all Sigma at once among the positive semidefinite matrices (`conic`): the
slope K - Q and the average information, corrected by the last change of the slope. A step ends on the boundary where
the model wants it there, and leaves it by the same rule: at a vanished variance the slope in the variance decides,
not that in theta, which is zero there whatever the data say. Singular values of T are kept at a floor just above
zero, where all derivatives still exist.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from bigmm.columns import Array
from bigmm.errors import ModelError
from bigmm.solver.conic import Model, minimize_model, polished
from bigmm.solver.corrections import Models, Point
from bigmm.solver.covariance import RelativeCovariance
from bigmm.solver.derivatives import Derivatives
from bigmm.solver.information import metric
from bigmm.solver.templates import Blocks
from bigmm.solver.threads import blas_limit
from bigmm.solver.units import Units

#: Decrements below this are not worth a step, whatever the size of the objective.
_TOLERANCE = 1e-9
#: Part of the predicted decrease that a step has to bring.
_ARMIJO = 1e-4
#: The damping of a step that did not lower the objective, how it grows with every other and fades after good ones, ...
_DAMPING, _MORE = 1.0, 4.0
#: ... and where the one and the other ends; the one earlier where little is to be gained.
_MOST, _MOST_CERTAIN, _LEAST_DAMPING = 1e9, 100.0, 0.05
#: A correction is dropped when it leaves less than this part of the decrement, or makes it larger by more than that.
_TRUSTED = 0.2
#: A step that brings so many times what it promised shows that the model is too cautious: its correction is believed.
_TIMID = 1.5
#: The model has lost a direction when EM's step promises so many times what it does.
_UNSOUND = 10.0
#: Near the end a step promises no more than so many times what the one before did.
_ABSURD = 30.0
#: Steps in a row that change the objective by no more than its rounding: then the search has seen all that it can.
_STALLED = 3
#: Such a search has converged when a step could lower the objective by no more than this, beside rounding.
_CERTAIN = 1e-6
#: However large the rounding, more than this is not taken for it, unless it is that of pwrss, which is known better.
_HIDDEN = 1e-3
#: A last step that changes no entry of theta by more than this part of it leaves nothing to gain.
_TINY = 1e-10
#: A search that is to be short takes its last step where the decrement is so small and has fallen by this factor, so that
#: the next one would be nothing, ...
_SOON, _FAST = 1e-5, 0.01
#: ... and is done if that step brings this part of what the model promises.
_KEPT = 0.5
_FOUND = "no step can lower the objective"


@dataclass(frozen=True, slots=True, eq=False)
class Minimum:
    """Where a search ended.

    Attributes
    ----------
    theta : array
    objective : float
    gradient : float or None
        Largest derivative in theta, each in units of its scale, where the decrement was taken.
    decrement : float or None
        How much a further step could lower the objective: what the quadratic model gains among all covariance matrices.
    converged : bool
        The decrement is below the tolerance.
    reason : str
    """

    theta: Array
    objective: float
    gradient: float | None
    decrement: float | None
    converged: bool
    reason: str


Evaluate = Callable[[Array], "tuple[float, Callable[[], Derivatives] | None]"]


def newton(
    evaluate: Evaluate,
    covariance: RelativeCovariance,
    start: Array,
    units: Units,
    *,
    tolerance: float,
    maxeval: int,
    short: bool = False,
    other: Array | None = None,
) -> Minimum:
    """Minimize from `start`.

    Parameters
    ----------
    evaluate : callable
        Theta to (objective, function that gives the derivatives there, in units); NaN and None where there is none.
    covariance : RelativeCovariance
    start : (theta,)
    units : list of (k, k)
        W of each term, see `bigmm.solver.units`.
    tolerance : float
        Stop when a step could lower the objective by no more than this part of it (or 1e-9).
    maxeval : int
    short : bool
        Evaluations are dear: none is spent on digits of theta that the objective's rounding hides, nor on derivatives at a
        point that the last step reaches by all evidence.
    other : (theta,), optional
        Another start, of larger variances, which is taken where the objective is lower there.

    Raises
    ------
    ModelError
        When the objective does not exist at the start.
    """
    search = _Search(evaluate, covariance, units, maxeval)
    point = search.at(search.blocks.within_reach(start))
    if other is not None:
        point = search.lower(point, search.blocks.within_reach(other))
    if point is None:
        raise ModelError(f"the objective does not exist at the start theta = {start}: give another start")
    model, damping, stalled, before, timid = search.models.plain(point), 0.0, 0, 0.0, False
    while True:
        model, step, decrement, certain = search.undamped(point, model, before, timid=timid)
        enough = max(_TOLERANCE, tolerance * abs(point.objective))
        if certain <= enough or stalled >= _STALLED:
            return search.last_step(*((point, step, certain) if short else search.refined(point, step, certain)))
        if short and certain <= min(_SOON, _FAST * before) and certain**2 <= enough * before:
            last = search.last_step(point, step, certain)
            if last.objective <= point.objective - _KEPT * certain + search.noise(point):
                return replace(last, converged=True, reason=_FOUND)
        before = certain
        found = search.better(point, model, damping, (step, decrement))
        if found is None and search.left > 0 and certain <= search.hidden(point):  # rounding hides what it could gain
            return search.last_step(point, step, certain)
        if found is None:
            return search.ended(point, certain, converged=False, reason=search.reason)
        new, damping = found
        stalled = stalled + 1 if new.objective > point.objective - search.noise(point) else 0
        timid = point.objective - new.objective > _TIMID * certain
        model, point = search.corrected(point, new, decrement)


class _Search:
    """Evaluations, counted, and the steps that are tried from one point; in units that make one level's data worth 1."""

    def __init__(self, evaluate: Evaluate, covariance: RelativeCovariance, units: Units, maxeval: int) -> None:
        self.evaluate, self.left = evaluate, maxeval
        self.models = Models(covariance, units)
        self.one_thread = blas_limit(1)  # BLAS threads that wait for small matrices are in the way of the loops of an evaluation

    @property
    def blocks(self) -> Blocks:
        """Covariance matrices along the axes of now."""
        return self.models.blocks

    @property
    def reason(self) -> str:
        """Why nothing better was found."""
        return "no step lowers the objective" if self.left > 0 else "maxeval reached"

    def noise(self, point: Point) -> float:
        """Rounding of the objective."""
        derivatives = point.derivatives
        return max(1e-14 * abs(point.objective), self.blocks.rounding(point.theta, derivatives.levels), derivatives.rounding)

    def slack(self, point: Point) -> float:
        """How much higher a last step may end, which the objective is too coarse to judge."""
        return max(1e-13 * abs(point.objective), self.noise(point))

    def hidden(self, point: Point) -> float:
        """What a step may promise that rounding hides."""
        return _CERTAIN + max(min(10.0 * self.noise(point), _HIDDEN), point.derivatives.rounding)

    def ended(self, point: Point, decrement: float, *, converged: bool, reason: str) -> Minimum:
        """The search ends at a point."""
        gradient = float(np.abs(self.blocks.gradient(point.theta, point.derivatives)).max())
        return Minimum(point.theta, point.objective, gradient, decrement, converged, reason)

    def refined(self, point: Point, theta: Array, decrement: float) -> tuple[Point, Array, float]:
        """One more point with derivatives, unless the step is tiny: it gives digits of theta that the objective's rounding hides."""
        if decrement > _CERTAIN or not (np.abs(theta - point.theta) > _TINY * np.abs(point.theta)).any():
            return point, theta, decrement
        theta = polished(self.models.plain(point), self.blocks, point.theta) if self.blocks.inside(theta) else theta
        new = self.at(theta, point.objective + self.slack(point))
        if new is None:
            return point, theta, decrement
        if self.blocks.inside(new.theta):
            return new, polished(self.models.plain(new), self.blocks, new.theta), decrement
        return new, self.propose(new, self.models.plain(new), 0.0)[0], decrement

    def last_step(self, point: Point, theta: Array, decrement: float) -> Minimum:
        """The step that gains next to nothing is taken all the same, without derivatives: it doubles the digits of theta.

        What is at the floor is put at zero, where a singular fit ends.
        """
        ends = (self.blocks.vanished(theta), theta, self.blocks.vanished(point.theta))
        end, bound = point, point.objective + self.slack(point)
        for last in {theta.tobytes(): theta for theta in ends}.values():
            value = self._without_derivatives(last)
            if value <= bound:
                end = replace(point, theta=last, objective=value)
                break
        certain = decrement <= self.hidden(point)
        reason = _FOUND if certain else "steps lower the objective no more"
        return self.ended(end, decrement, converged=certain, reason=reason)

    def at(self, theta: Array, below: float = np.inf) -> Point | None:
        """The point at theta with its derivatives, if its objective lies below a bound."""
        if self.left <= 0:
            return None
        self.left -= 1
        value, derive = self.evaluate(theta)
        if derive is None or not np.isfinite(value) or value > below:
            return None
        derivatives = derive()
        if not all(np.isfinite(part).all() for part in (derivatives.gradient, derivatives.information, derivatives.gap)):
            return None
        return self.models.point(theta, value, derivatives)

    def lower(self, point: Point | None, theta: Array) -> Point | None:
        """The point, or that at theta where its objective is lower; nobody looks when smaller variances are what the point asks for."""
        if point is not None and self.blocks.slope(point.derivatives) @ self.blocks.entries(point.theta) > 0.0:
            return point
        value = self._without_derivatives(theta)
        lower = self.at(theta) if np.isfinite(value) and (point is None or value < point.objective) else None
        return point if lower is None else lower

    def _without_derivatives(self, theta: Array) -> float:
        if self.left <= 0:
            return np.nan
        self.left -= 1
        return self.evaluate(theta)[0]

    def propose(self, point: Point, model: Model, damping: float) -> tuple[Array, float]:
        """Theta of the model's minimum, and how much lower the model is there."""
        damped = Model(model.g, model.H + damping * metric(point.theta, point.derivatives, self.blocks), model.A) if damping else model
        with self.one_thread():
            return minimize_model(damped, self.blocks, point.theta)

    def undamped(self, point: Point, model: Model, before: float, *, timid: bool) -> tuple[Model, Array, float, float]:
        """The model to go by, its step and its decrement, and the larger one of the models with and without a correction.

        Where the exact second derivative is known, and after a `timid` step, the model is believed, unless it promises many times
        what it did `before`, which was kept: then rounding has got into a direction that has no say.
        """
        step, decrement = self.propose(point, model, 0.0)
        if not (model.corrected or model.secant):
            return self._sound(point, model, step, decrement, decrement)
        plain = self.models.plain(point)
        other, certain = self.propose(point, plain, 0.0)
        believed = model.secant or ((model.known or timid) and decrement <= max(_ABSURD * before, certain / _TRUSTED))
        if believed or _TRUSTED * certain < decrement < certain / _TRUSTED:
            return self._sound(point, model, step, decrement, max(decrement, certain))
        self.models.forget()
        return self._sound(point, plain, other, certain, certain)

    def _sound(self, point: Point, model: Model, step: Array, decrement: float, certain: float) -> tuple[Model, Array, float, float]:
        """The step, or EM's where the model promises next to nothing of what EM does: rounding has taken a direction from it."""
        em, promise = self.blocks.em_step(point.theta, point.derivatives)
        sound = promise <= _UNSOUND * certain + _TOLERANCE
        return (model, step, decrement, max(certain, promise)) if sound else (model, em, promise, promise)

    def better(self, point: Point, model: Model, damping: float, undamped: tuple[Array, float]) -> tuple[Point, float] | None:
        """A point with a lower objective, and the damping of the next step: what failed is made shorter."""
        most = _MOST if undamped[1] > self.hidden(point) else _MOST_CERTAIN
        while damping <= most and self.left > 0:
            theta, decrement = self.propose(point, model, damping) if damping else undamped
            new = self.at(theta, point.objective - _ARMIJO * decrement + self.noise(point))
            if new is not None:
                damping = damping / _MORE if point.objective - new.objective > 0.5 * decrement else damping
                return new, damping if damping >= _LEAST_DAMPING else 0.0
            damping = max(_DAMPING, damping * _MORE)
        return None

    def corrected(self, old: Point, new: Point, decrement: float) -> tuple[Model, Point]:
        """The model of the next step, and the new point along its axes."""
        with self.one_thread():
            return self.models.corrected(old, new, decrement)
