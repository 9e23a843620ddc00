"""The search by a method of nlopt; the only file that knows nlopt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import nlopt
import numpy as np

from bigmm.columns import Array
from bigmm.errors import ModelError
from bigmm.solver.evaluations import SAME, Evaluations

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
#: Step and slope of the one-sided check at a bound, and how often the search may start again from there.
_EDGE_STEP = 1e-3
_RESTARTS = 3


def search(seen: Evaluations, lower: Array, start: Array, floor: Array, settings: Optimizer) -> tuple[str, bool]:
    """Minimize by a method of nlopt; what it found is the best that was seen.

    Parameters
    ----------
    seen : Evaluations
        The objective.
    lower, start, floor : (theta,)
        Bounds, and those of methods that use the gradient.
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
    if settings.method in _WITH_GRADIENT:
        return _search(seen, np.maximum(start, floor), floor, settings)
    reason, converged = _search(seen, start, lower, settings)
    for _ in range(_RESTARTS):
        inside = _off_the_edge(seen, lower)
        if inside is None or not converged:
            break
        reason, converged = _search(seen, inside, lower, settings)
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
            gradient[:] = derive().gradient if derive is not None else 0.0
            return value if derive is not None else self.seen.trace[0][1]
        except BaseException as error:
            self.failure = self.failure or error  # L-BFGS may call again, and that fails because of the first
            raise nlopt.ForcedStop from error


def _search(seen: Evaluations, start: Array, lower: Array, settings: Optimizer) -> tuple[str, bool]:
    optimizer = nlopt.opt(METHODS[settings.method], len(start))
    inside = _Inside(seen)
    optimizer.set_min_objective(inside)
    optimizer.set_lower_bounds(lower)
    optimizer.set_ftol_rel(settings.ftol_rel)
    optimizer.set_xtol_abs(settings.xtol_abs)
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


def _off_the_edge(seen: Evaluations, lower: Array) -> Array | None:
    """A point inside that is better than the best one when that lies on a bound; None when there is none."""
    theta, objective = seen.best
    for i in np.flatnonzero(theta == lower):
        inside = theta.copy()
        inside[i] += _EDGE_STEP
        if seen(inside) < objective - SAME:
            return inside
    return None
