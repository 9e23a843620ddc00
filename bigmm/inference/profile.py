"""Limits of a parameter by profile of the likelihood.

The profile is the deviance of ML, minimized over all other parameters while this one is held. The interval are the values for
which it lies no more than the square of a normal quantile above the minimum. No row is read for that; a limit takes some six values
of the profile.

Bates et al. (2015), JSS 67(1), section 5.1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from scipy.optimize import brentq

from bigmm.columns import Array
from bigmm.errors import ModelError
from bigmm.inference.likelihood import STEP, Parameter
from bigmm.solver.cholmod import NotPositiveDefiniteError
from bigmm.solver.nlopt_search import minimize_by_bobyqa

#: A deviance this far below the minimum is another minimum.
_LOWER = 1e-3
#: Steps away from an estimate at most, and how many times as long as the one before each is.
_STEPS_OUT, _LONGER = 60, (1.5, 4.0)
#: A minimization that gains less than this is the last.
_GAIN = 1e-4
#: Limits are found to this part of their distance from the estimate.
_PRECISION = 1e-5


def profile_interval(parameter: Parameter, minimum: float, quantile: float) -> tuple[float, float]:
    """Where the root of the profile's excess over the minimum is a normal quantile, on both sides of the estimate, or what bounds it.

    Raises
    ------
    ModelError
        When the profile leads below the minimum, or does not rise.
    """
    return _limit(parameter, parameter.low, minimum, quantile), _limit(parameter, parameter.high, minimum, quantile)


def _limit(parameter: Parameter, bound: float, minimum: float, quantile: float) -> float:
    attained = parameter.closed and np.isfinite(bound)
    if attained and (parameter.estimate == bound or _Profile(parameter, minimum).root(bound) <= quantile):
        return bound
    profile = _Profile(parameter, minimum)
    inside, outside = _bracket(parameter, profile, bound, quantile)
    precision = _PRECISION * abs(outside - parameter.estimate)
    return float(brentq(lambda value: profile.root(value) - quantile, inside, outside, xtol=precision))


def _bracket(parameter: Parameter, profile: _Profile, bound: float, quantile: float) -> tuple[float, float]:
    """Two values between which the root of the excess passes the quantile."""
    inside, length, side = parameter.estimate, quantile * parameter.guess, 1.0 if bound > parameter.estimate else -1.0
    for _ in range(_STEPS_OUT):
        outside = parameter.estimate + side * length
        if side * outside >= side * bound:
            outside = (inside + bound) / 2.0
        root = profile.root(outside)
        if root >= quantile:
            return inside, outside
        inside, length = outside, abs(outside - parameter.estimate) * float(np.clip(1.1 * quantile / max(root, 1e-9), *_LONGER))
    raise ModelError(
        f"the profile of {parameter.name} rises by no more than {root**2:.3g} up to {outside:.6g}: expected {quantile**2:.3g}; "
        "the data say too little of this parameter for an interval: ask for the others (parm=)"
    )


class _Profile:
    """The profile of a parameter; each minimization begins where the one before has ended."""

    def __init__(self, parameter: Parameter, minimum: float) -> None:
        self._parameter, self._minimum = parameter, minimum
        self._others = parameter.start
        self._roots = {parameter.estimate: 0.0}

    def root(self, value: float) -> float:
        """The root of its excess over the minimum."""
        if value not in self._roots:
            self._roots[value] = float(np.sqrt(max(self._deviance(value) - self._minimum, 0.0)))
        return self._roots[value]

    def _deviance(self, value: float) -> float:
        parameter = self._parameter

        def deviance(others: Array) -> float:
            try:
                return parameter.deviance(value, others)
            except NotPositiveDefiniteError:
                return float("nan")

        found, others = self._lowest(deviance, self._others)
        for start in _reflections(parameter, others):
            other = self._lowest(deviance, start)
            found, others = other if other[0] < found - _GAIN else (found, others)
        if not np.isfinite(found):
            raise ModelError(
                f"the deviance does not exist with {parameter.name} at {value:.6g}: its interval is beyond what double precision holds; "
                "ask for the others (parm=)"
            )
        if found <= self._minimum - _LOWER:
            raise ModelError(
                f"with {parameter.name} at {value:.6g} the deviance is {found:.10g}, below the fit's {self._minimum:.10g}: expected a fit "
                "at the lowest minimum; fit again from another start"
            )
        self._others = others
        return found

    def _lowest(self, deviance: Callable[[Array], float], start: Array) -> tuple[float, Array]:
        found, others, gain = np.inf, start, np.inf
        while gain > _GAIN:  # along a ridge BOBYQA may stop early, and goes on when it is started again
            before = found
            found, others = minimize_by_bobyqa(deviance, others, self._parameter.lower, np.full(len(start), STEP))
            gain = before - found
        return found, others


def _reflections(parameter: Parameter, others: Array) -> Iterator[Array]:
    """Where a diagonal entry of S is about zero, so that the sign of the column below it means nothing: the other sign.

    Inside, one sign may lead downhill and the other uphill.
    """
    for diagonal, below in parameter.columns:
        if others[diagonal] < STEP and np.abs(others[below]).max() > 0.0:
            other = others.copy()
            other[below] = -others[below]
            yield other
