"""The search for theta: Newton's steps, or a method of nlopt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from bigmm.columns import Array
from bigmm.errors import ModelError
from bigmm.solver import nlopt_search
from bigmm.solver.covariance import RelativeCovariance
from bigmm.solver.evaluations import SAME, Evaluate, Evaluations
from bigmm.solver.newton import Minimum, newton
from bigmm.solver.nlopt_search import METHODS
from bigmm.solver.units import Units, floors

#: A diagonal entry of theta below this many floors is tried at 0, and stays there when that costs nothing.
_SNAP_FLOORS = 30.0
#: Evaluations for each entry of theta that Newton's steps get before BOBYQA goes on, and that BOBYQA gets then.
_STEPS, _RESCUE = 40, 60
#: What BOBYQA calls converged is not, when Newton's steps promise more than this there: much of what is below may be rounding.
_SURE = 1e-3


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
        if self.method not in ("newton", *METHODS):
            raise ModelError(f"unknown optimizer {self.method!r}: expected one of newton, {', '.join(METHODS)}")
        if not (self.ftol_rel >= 0 and self.xtol_abs >= 0 and self.maxeval >= 1):
            raise ModelError("optimizer tolerances must be >= 0 and maxeval >= 1")


@dataclass(frozen=True, slots=True, eq=False)
class Optimization:
    """One search, settings and outcome.

    Attributes
    ----------
    settings : Optimizer
    start : array
        Theta that was evaluated first; where another start by moments is lower, the search goes on from that, second in `trace`.
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
        Largest derivative in theta, each in units that make one level's data worth about 1, where derivatives were taken last: the
        last step needs none. None for methods without.
    decrement : float or None
        How much that step could lower the objective, by the gradient and information there (Newton's decrement, at a boundary
        that of steps which the boundary allows); None for methods without.
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


def minimize(
    function: Evaluate,
    covariance: RelativeCovariance,
    start: Array,
    units: Units,
    settings: Optimizer,
    on_evaluation: Callable[[int, Array, float], None] | None = None,
    *,
    short: bool = False,
    other: Array | None = None,
) -> Optimization:
    """Minimize the objective over theta.

    Parameters
    ----------
    function : callable
        Theta to objective and derivatives; may raise NotPositiveDefiniteError.
    covariance : RelativeCovariance
    start : (theta,)
        Where to begin.
    units : list of (k, k)
        W of each term, see `bigmm.solver.units`.
    settings : Optimizer
    on_evaluation : callable, optional
        Called with (number, theta, objective) after every evaluation.
    short : bool
        Evaluations are dear: Newton's method ends as soon as the objective has all its digits.
    other : (theta,), optional
        Another start of Newton's method, of larger variances, which is taken where the objective is lower there.

    Raises
    ------
    ModelError
        When the objective does not exist at the start.
    """
    seen = Evaluations(function, on_evaluation)
    if settings.method == "newton":
        found = _newton(seen, covariance, start, units, settings, short, other)
    else:
        reason, converged = nlopt_search.search(seen, covariance, start, units, settings)
        found = Minimum(*seen.best, None, None, converged, reason)
    theta, objective = _snap(seen, found, covariance.lower, floors(units), settings.maxeval)
    certificate = (found.reason, found.converged, found.gradient, found.decrement)
    return Optimization(settings, start.copy(), theta, objective, tuple(seen.trace), *certificate)


def _newton(
    seen: Evaluations, covariance: RelativeCovariance, start: Array, units: Units, settings: Optimizer, short: bool, other: Array | None
) -> Minimum:
    """Newton's steps; BOBYQA goes on from the best point in the rare case that they stall, and they have the last word."""
    found = _steps(seen, covariance, start, units, settings, short, other)
    if found.converged:
        return found
    if len(seen.trace) >= settings.maxeval:
        return replace(found, theta=seen.best[0], objective=seen.best[1])
    limit = min(settings.maxeval, len(seen.trace) + _RESCUE * (len(start) + 1))
    reason, converged = nlopt_search.search(seen, covariance, seen.best[0], units, replace(settings, method="bobyqa", maxeval=limit))
    reason = f"{found.reason}, then BOBYQA: {reason}"
    if found.decrement == np.inf or len(seen.trace) >= settings.maxeval:  # without derivatives it has the last word
        return Minimum(*seen.best, None, None, converged, reason)
    end = seen.best[1]
    try:
        last = _steps(seen, covariance, seen.best[0], units, settings, short)
    except ModelError:  # so near to where the objective ends that rounding decides whether it exists
        return Minimum(*seen.best, None, None, False, f"{reason}, where derivatives do not exist")
    promised = np.inf if last.decrement is None else max(last.decrement, end - last.objective)
    sure = last.converged or (converged and promised <= _SURE)
    return replace(last, theta=seen.best[0], objective=seen.best[1], converged=sure, reason=f"{reason}, then {last.reason}")


def _steps(
    seen: Evaluations,
    covariance: RelativeCovariance,
    start: Array,
    units: Units,
    settings: Optimizer,
    short: bool,
    other: Array | None = None,
) -> Minimum:
    """Newton's steps alone, a bounded number of them."""
    steps = min(settings.maxeval - len(seen.trace), _STEPS * (len(start) + 1))
    before = len(seen.trace)
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # a step without end is not taken
            tolerance = settings.ftol_rel / 10.0
            found = newton(seen.evaluate, covariance, start, units, tolerance=tolerance, maxeval=steps, short=short, other=other)
    except np.linalg.LinAlgError as error:  # derivatives beyond double precision; the values seen so far are good
        return Minimum(*seen.best, np.inf, np.inf, False, f"Newton's steps failed ({error})")
    ran_out = not found.converged and len(seen.trace) - before >= steps and steps < settings.maxeval
    return replace(found, reason=f"no end after {steps} evaluations") if ran_out else found


def _snap(seen: Evaluations, found: Minimum, lower: Array, floor: Array, maxeval: int) -> tuple[Array, float]:
    """Where the search ended, with diagonal entries near 0 put at 0, all or one by one, where that costs nothing.

    (Not the lowest of all objectives: among those that differ by rounding it is the luckiest.)
    """
    theta, objective = found.theta, found.objective
    small = np.flatnonzero((lower == 0.0) & (theta > 0.0) & (theta < _SNAP_FLOORS * floor))
    for together in ([small] if len(small) > 1 else []) + [small[i : i + 1] for i in range(len(small))]:
        if len(seen.trace) >= maxeval:
            break
        candidate = theta.copy()
        candidate[together] = 0.0
        value = seen(candidate)
        if value <= objective + SAME:
            theta, objective = candidate, value
            if len(together) == len(small):
                break
    return theta, objective
