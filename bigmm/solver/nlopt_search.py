"""The search by a method of nlopt; the only file that knows nlopt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import nlopt
import numpy as np

from bigmm.columns import Array
from bigmm.errors import ModelError
from bigmm.solver.covariance import RelativeCovariance
from bigmm.solver.evaluations import SAME, Evaluations
from bigmm.solver.units import Units, floors, row_sizes

if TYPE_CHECKING:
    from bigmm.solver.optimize import Optimizer

METHODS = {
    "bobyqa": nlopt.LN_BOBYQA,
    "cobyla": nlopt.LN_COBYLA,
    "lbfgs": nlopt.LD_LBFGS,
    "mma": nlopt.LD_MMA,
    "neldermead": nlopt.LN_NELDERMEAD,
    "sbplx": nlopt.LN_SBPLX,
    "slsqp": nlopt.LD_SLSQP,
}
#: Those that use the gradient, which needs a nonsingular Lambda.
_WITH_GRADIENT = ("lbfgs", "mma", "slsqp")
_REASONS = {
    nlopt.SUCCESS: "success",
    nlopt.STOPVAL_REACHED: "stop value reached",
    nlopt.FTOL_REACHED: "ftol reached",
    nlopt.XTOL_REACHED: "xtol reached",
    nlopt.MAXEVAL_REACHED: "maxeval reached",
    nlopt.MAXTIME_REACHED: "maxtime reached",
}
#: No first step is smaller than this part of the unit: nlopt makes it as long as the start, and of 1e-17 that is the end.
_LEAST_STEP = 0.1
#: Step and slope of the one-sided check at a bound, and how often the search may start again from there.
_EDGE_STEP = 1e-3
_RESTARTS = 3
#: A step of `minimize_by_bobyqa` that gains less is the last.
_FTOL = 1e-7


def search(seen: Evaluations, covariance: RelativeCovariance, start: Array, units: Units, settings: Optimizer) -> tuple[str, bool]:
    """Minimize by a method of nlopt; what it found is the best that was seen.

    Parameters
    ----------
    seen : Evaluations
        The objective.
    covariance : RelativeCovariance
    start : (theta,)
        Where to begin.
    units : list of (k, k)
        W of each term, see `bigmm.solver.units`.
    settings : Optimizer

    Returns
    -------
    str, bool
        Why it stopped, and whether it could not go on.

    Raises
    ------
    ModelError
        When the objective does not exist at the start.
    """
    if not np.isfinite(seen(start)):
        raise ModelError(f"the objective does not exist at the start theta = {start}: give another start")
    if len(seen.trace) >= settings.maxeval:
        return _REASONS[nlopt.MAXEVAL_REACHED], False
    least = _LEAST_STEP * row_sizes(units)
    if settings.method in _WITH_GRADIENT:
        floor = floors(units)
        return _search(seen, np.maximum(start, floor), floor, least, settings)
    reason, converged = _search(seen, start, covariance.lower, least, settings)
    for _ in range(_RESTARTS):
        inside = _off_the_edge(seen, covariance)
        if inside is None or not converged:
            break
        reason, converged = _search(seen, inside, covariance.lower, least, settings)
    return reason, converged


@dataclass(slots=True)
class _Inside:
    """The objective as nlopt calls it, which swallows what is raised inside it."""

    seen: Evaluations
    failure: BaseException | None = None

    def __call__(self, theta: Array, gradient: Array) -> float:
        """The objective, and its gradient where there is room for one."""
        try:
            if not gradient.size:
                return self.seen(theta)
            value, derive = self.seen.evaluate(theta)
            found = None if derive is None else derive().gradient
            if found is None or not np.isfinite(found).all():
                gradient[:] = 0.0
                return self.seen.trace[0][1]
            gradient[:] = found
            return value
        except BaseException as error:
            self.failure = self.failure or error  # L-BFGS may call again, and that fails because of the first
            raise nlopt.ForcedStop from error


def _search(seen: Evaluations, start: Array, lower: Array, least: Array, settings: Optimizer) -> tuple[str, bool]:
    optimizer = nlopt.opt(METHODS[settings.method], len(start))
    inside = _Inside(seen)
    optimizer.set_min_objective(inside)
    optimizer.set_lower_bounds(lower)
    optimizer.set_ftol_rel(settings.ftol_rel)
    optimizer.set_xtol_abs(settings.xtol_abs)
    optimizer.set_initial_step(np.maximum(optimizer.get_initial_step(start), least))
    optimizer.set_maxeval(max(settings.maxeval - len(seen.trace), 1))
    try:
        optimizer.optimize(start)
    except (nlopt.ForcedStop, nlopt.RoundoffLimited, nlopt.runtime_error, SystemError) as error:
        if inside.failure is not None:  # what stops BOBYQA after its last step is a SystemError, L-BFGS in a line search a failure
            raise inside.failure from None
        if isinstance(error, nlopt.RoundoffLimited):
            return "stopped by rounding", True
        if isinstance(error, nlopt.runtime_error):
            return "nlopt found no better point", False
        raise
    code = optimizer.last_optimize_result()
    return _REASONS.get(code, f"nlopt code {code}"), code in (nlopt.SUCCESS, nlopt.FTOL_REACHED, nlopt.XTOL_REACHED)


def minimize_by_bobyqa(function: Callable[[Array], float], start: Array, lower: Array, step: Array) -> tuple[float, Array]:
    """The minimum of any function by BOBYQA, to about 1e-7: its value, and where it is.

    Parameters
    ----------
    function : callable
        Of an array; NaN where it does not exist, which passes for its value at the start.
    start, lower, step : (n,)
        Where to begin, a step inside the bounds; bounds; first steps.

    References
    ----------
    Powell (2009), The BOBYQA algorithm for bound constrained optimization without derivatives, report DAMTP 2009/NA06.
    """
    inside = np.maximum(start, lower + step)  # at zero, where a deviance is even in theta, it might not get away
    best, at_start = [(function(start), start)], function(inside)
    failures: list[BaseException] = []

    def seen(x: Array, _: Array) -> float:
        try:
            value = function(x)
        except BaseException as error:
            failures.append(error)
            raise nlopt.ForcedStop from error
        if value < best[0][0]:
            best[0] = value, x.copy()
        return value if np.isfinite(value) else at_start

    optimizer = nlopt.opt(nlopt.LN_BOBYQA, len(start))
    optimizer.set_min_objective(seen)
    optimizer.set_lower_bounds(lower)
    optimizer.set_initial_step(step)
    optimizer.set_ftol_abs(_FTOL)
    try:
        optimizer.optimize(inside)
    except (nlopt.ForcedStop, nlopt.RoundoffLimited, nlopt.runtime_error, SystemError):
        if failures:
            raise failures[0] from None
    return best[0]


def _off_the_edge(seen: Evaluations, covariance: RelativeCovariance) -> Array | None:
    """A point inside that is better than the best one when that lies on a bound; None when there is none.

    Where a diagonal entry of T is 0 the sign of the column below it is arbitrary, Sigma = T T' does not see it; but inside one
    sign may lead downhill and the other uphill.
    """
    theta, objective = seen.best
    for i in np.flatnonzero(theta == covariance.lower):
        for edge in _both_signs(covariance, theta, int(i)):
            inside = edge.copy()
            inside[i] += _EDGE_STEP
            if seen(inside) < objective - SAME:
                return inside
    return None


def _both_signs(covariance: RelativeCovariance, theta: Array, diagonal: int) -> list[Array]:
    """Theta, and theta with the other sign of the column below a diagonal entry, if there is anything below it."""
    g, _, column = covariance.entries[diagonal]
    below = np.array([(group, at) == (g, column) for group, _, at in covariance.entries])
    return [theta, np.where(below, -theta, theta)] if np.count_nonzero(theta[below]) else [theta]
