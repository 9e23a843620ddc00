"""The search for theta: Newton's steps, or a method of nlopt; the only file that knows nlopt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import nlopt
import numpy as np

from bigmm.columns import Array
from bigmm.errors import ModelError
from bigmm.solver.cholmod import NotPositiveDefiniteError
from bigmm.solver.covariance import RelativeCovariance
from bigmm.solver.derivatives import Derivatives
from bigmm.solver.newton import Minimum, newton

_METHODS = {
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
#: A diagonal entry of theta below this many floors is tried at 0 ...
_SNAP_FLOORS = 30.0
#: ... and stays there when the objective rises by no more than this, the rounding of large objectives.
_SNAP_RISE = 1e-8
#: Step and slope of the one-sided check at a bound, and how often the search may start again from there.
_EDGE_STEP = 1e-3
_RESTARTS = 3
#: Evaluations for each entry of theta that Newton's steps get before BOBYQA goes on, and that BOBYQA gets then.
_STEPS, _RESCUE = 40, 60


@dataclass(frozen=True, slots=True)
class Optimizer:
    """Settings of a search.

    Attributes
    ----------
    method : {"newton", "bobyqa", "cobyla", "lbfgs", "mma", "neldermead", "sbplx", "slsqp"}
        Newton's steps with the exact gradient and the average information; or methods of nlopt, of which BOBYQA is
        lme4's default, and L-BFGS, MMA and SLSQP use the gradient.
    ftol_rel, xtol_abs : float
        Stop when a step changes the objective by less than this part of itself, or every entry of theta by less.
        The default `ftol_rel` is the rounding of the objective; lme4 stops at an absolute 1e-8. Newton's method looks at
        what a step could gain, a tenth of that, and not at `xtol_abs`.
    maxeval : int
        Evaluations at most.
    """

    method: str = "newton"
    ftol_rel: float = 4e-14
    xtol_abs: float = 1e-8
    maxeval: int = 100_000

    def __post_init__(self) -> None:
        """Refuse what nlopt would not understand."""
        if self.method not in ("newton", *_METHODS):
            raise ModelError(f"unknown optimizer {self.method!r}: expected one of newton, {', '.join(_METHODS)}")
        if not (self.ftol_rel >= 0 and self.xtol_abs >= 0 and self.maxeval >= 1):
            raise ModelError("optimizer tolerances must be >= 0 and maxeval >= 1")


@dataclass(frozen=True, slots=True, eq=False)
class Optimization:
    """One search, settings and outcome.

    Attributes
    ----------
    settings : Optimizer
    start : array
        Theta that it started from.
    theta : array
        The best theta found.
    objective : float
        Its objective.
    trace : tuple of (theta, objective)
        Every evaluation, in order; NaN where no Cholesky factor exists.
    reason : str
        Why it stopped.
    converged : bool
        It stopped because it could not improve, not because it ran out of evaluations.
    gradient : float or None
        Largest derivative in theta, each in units that make one level's data worth about 1; None for methods without.
    decrement : float or None
        How much a further step could lower the objective, by the last gradient and information (Newton's decrement, at a
        boundary that of steps which the boundary allows); None for methods without.
    """

    settings: Optimizer
    start: Array
    theta: Array
    objective: float
    trace: tuple[tuple[Array, float], ...]
    reason: str
    converged: bool
    gradient: float | None = None
    decrement: float | None = None

    @property
    def nevals(self) -> int:
        """Evaluations of the objective."""
        return len(self.trace)


#: Theta to the objective, and what gives its derivatives there.
Evaluate: TypeAlias = Callable[[Array], "tuple[float, Callable[[], Derivatives]]"]


@dataclass(slots=True)
class _Recorder:
    """The objective as a search calls it: every call is kept, failures become the first value.

    (Infinity would ruin the quadratic model that BOBYQA keeps.)
    """

    function: Evaluate
    on_evaluation: Callable[[int, Array, float], None] | None
    trace: list[tuple[Array, float]] = field(default_factory=list)
    failure: BaseException | None = None

    def evaluate(self, theta: Array) -> tuple[float, Callable[[], Derivatives] | None]:
        """Objective and derivatives; NaN and None where there are none."""
        derive: Callable[[], Derivatives] | None = None
        try:
            value, derive = self.function(theta)
        except NotPositiveDefiniteError:
            value = float("nan")
        self.trace.append((theta.copy(), value))
        if self.on_evaluation is not None:
            self.on_evaluation(len(self.trace), self.trace[-1][0], value)
        return value, derive

    def __call__(self, theta: Array) -> float:
        value, _ = self.evaluate(theta)
        return value if np.isfinite(value) else self.trace[0][1]

    def inside_nlopt(self, theta: Array, gradient: Array) -> float:
        """The same for nlopt, which swallows what is raised inside it."""
        try:
            if not gradient.size:
                return self(theta)
            value, derive = self.evaluate(theta)
            gradient[:] = derive().gradient if derive is not None else 0.0
            return value if derive is not None else self.trace[0][1]
        except BaseException as error:
            self.failure = self.failure or error  # L-BFGS may call again, and that fails because of the first
            raise nlopt.ForcedStop from error

    @property
    def best(self) -> tuple[Array, float]:
        return min((pair for pair in self.trace if np.isfinite(pair[1])), key=lambda pair: pair[1])


def minimize(
    function: Evaluate,
    covariance: RelativeCovariance,
    start: Array,
    floor: Array,
    settings: Optimizer,
    on_evaluation: Callable[[int, Array, float], None] | None = None,
    *,
    short: bool = False,
) -> Optimization:
    """Minimize the objective over theta.

    Parameters
    ----------
    function : callable
        Theta to objective and derivatives; may raise NotPositiveDefiniteError.
    covariance : RelativeCovariance
    start, floor : arrays
        Where to begin; the smallest diagonal entries that differ from zero in any way that counts.
    settings : Optimizer
    on_evaluation : callable, optional
        Called with (number, theta, objective) after every evaluation.
    short : bool
        Evaluations are dear: Newton's method ends as soon as the objective has all its digits.

    Raises
    ------
    ModelError
        When the objective does not exist at the start.
    """
    recorder = _Recorder(function, on_evaluation)
    if settings.method == "newton":
        found = _newton(recorder, covariance, start, floor, settings, short)
    else:
        reason, converged = _nlopt(recorder, covariance.lower, start, floor, settings)
        found = Minimum(*recorder.best, None, None, converged, reason)
    theta, objective = _snap(recorder, found, covariance.lower, floor)
    certificate = (found.reason, found.converged, found.gradient, found.decrement)
    return Optimization(settings, start.copy(), theta, objective, tuple(recorder.trace), *certificate)


def _newton(recorder: _Recorder, covariance: RelativeCovariance, start: Array, floor: Array, settings: Optimizer, short: bool) -> Minimum:
    """Newton's steps; BOBYQA goes on from the best point in the rare case that they stall."""
    steps = min(settings.maxeval, _STEPS * (len(start) + 1))
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # a step without end is not taken
            tolerance = settings.ftol_rel / 10.0
            found = newton(recorder.evaluate, covariance, start, floor, tolerance=tolerance, maxeval=steps, short=short)
    except np.linalg.LinAlgError as error:  # derivatives beyond double precision; the values seen so far are good
        found = Minimum(*recorder.best, np.inf, np.inf, False, f"Newton's steps failed ({error})")
    if found.converged:
        return found
    if len(recorder.trace) >= settings.maxeval:
        return replace(found, theta=recorder.best[0], objective=recorder.best[1])
    before = found.reason if len(recorder.trace) < steps else f"no end after {steps} evaluations"
    limit = min(settings.maxeval, len(recorder.trace) + _RESCUE * (len(start) + 1))
    reason, converged = _nlopt(recorder, covariance.lower, recorder.best[0], floor, replace(settings, method="bobyqa", maxeval=limit))
    return Minimum(*recorder.best, None, None, converged, f"{before}, then BOBYQA: {reason}")


def _nlopt(recorder: _Recorder, lower: Array, start: Array, floor: Array, settings: Optimizer) -> tuple[str, bool]:
    if not np.isfinite(recorder(start)):
        raise ModelError(f"the objective does not exist at the start theta = {start}: give another start")
    if settings.method in _WITH_GRADIENT:
        return _search(recorder, np.maximum(start, floor), floor, settings)
    reason, converged = _search(recorder, start, lower, settings)
    for _ in range(_RESTARTS):
        inside = _off_the_edge(recorder, lower)
        if inside is None or not converged:
            break
        reason, converged = _search(recorder, inside, lower, settings)
    return reason, converged


def _search(recorder: _Recorder, start: Array, lower: Array, settings: Optimizer) -> tuple[str, bool]:
    optimizer = nlopt.opt(_METHODS[settings.method], len(start))
    optimizer.set_min_objective(recorder.inside_nlopt)
    optimizer.set_lower_bounds(lower)
    optimizer.set_ftol_rel(settings.ftol_rel)
    optimizer.set_xtol_abs(settings.xtol_abs)
    optimizer.set_maxeval(max(settings.maxeval - len(recorder.trace), 1))
    try:
        optimizer.optimize(start)
    except (nlopt.ForcedStop, nlopt.RoundoffLimited, nlopt.runtime_error, SystemError) as error:
        if recorder.failure is not None:  # what stops BOBYQA after its last step is a SystemError, L-BFGS in a line search a failure
            raise recorder.failure from None
        if isinstance(error, nlopt.RoundoffLimited):
            return "stopped by rounding", True
        if isinstance(error, nlopt.runtime_error):
            return "nlopt found no better point", False
        raise
    code = optimizer.last_optimize_result()
    return _REASONS.get(code, f"nlopt code {code}"), code in (nlopt.SUCCESS, nlopt.FTOL_REACHED, nlopt.XTOL_REACHED)


def _off_the_edge(recorder: _Recorder, lower: Array) -> Array | None:
    """A point inside that is better than the best one when that lies on a bound; None when there is none."""
    theta, objective = recorder.best
    for i in np.flatnonzero(theta == lower):
        inside = theta.copy()
        inside[i] += _EDGE_STEP
        if recorder(inside) < objective - _SNAP_RISE:
            return inside
    return None


def _snap(recorder: _Recorder, found: Minimum, lower: Array, floor: Array) -> tuple[Array, float]:
    """Where the search ended, with diagonal entries near 0 put at 0, all or one by one, where that costs nothing.

    (Not the lowest of all objectives: among those that differ by rounding it is the luckiest.)
    """
    theta, objective = found.theta, found.objective
    small = np.flatnonzero((lower == 0.0) & (theta > 0.0) & (theta < _SNAP_FLOORS * floor))
    for together in ([small] if len(small) > 1 else []) + [small[i : i + 1] for i in range(len(small))]:
        candidate = theta.copy()
        candidate[together] = 0.0
        value = recorder(candidate)
        if value <= objective + _SNAP_RISE:
            theta, objective = candidate, value
            if len(together) == len(small):
                break
    return theta, objective
