"""Limits of a parameter by profile of the likelihood.

The profile is the deviance of ML, minimized over all other parameters while this one is held. The interval are the values for
which it lies no more than the square of a normal quantile above the minimum. No row is read for that; a limit takes some seven
values of the profile, and a look around for a lower minimum. No minimization without derivatives is certain to find the lowest of several.

Bates et al. (2015), JSS 67(1), section 5.1.
"""

from __future__ import annotations

from collections.abc import Iterator

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
#: Crossings of the quantile that are looked at: each but the last was a leap to another minimum.
_CROSSINGS = 20
#: A minimization that gains less than this is the last.
_GAIN = 1e-4
#: Limits are found to this part of their distance from the estimate, and the root of the excess there is the quantile but for this part.
_PRECISION, _CLOSE = 1e-5, 1e-3


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
    profile, inside = _Profile(parameter, minimum), parameter.estimate
    for _ in range(_CROSSINGS):
        inside, outside = _bracket(parameter, profile, bound, quantile, inside)
        precision = _PRECISION * abs(outside - parameter.estimate)
        limit = float(brentq(lambda value: profile.root(value) - quantile, inside, outside, xtol=precision))
        profile.forget(limit)  # a leap from further inside may have led to another minimum, and the crossing is none
        profile.look_around(limit)
        if profile.root(limit) >= (1.0 - _CLOSE) * quantile:
            return limit
        inside = limit
    raise ModelError(
        f"the profile of {parameter.name} leaps from one minimum to another at {inside:.6g}: the data say too little of this parameter for "
        "an interval: ask for the others (parm=)"
    )


def _bracket(parameter: Parameter, profile: _Profile, bound: float, quantile: float, inside: float) -> tuple[float, float]:
    """Two values between which the root of the excess passes the quantile; the first is known to be one side."""
    side, outside = 1.0 if bound > parameter.estimate else -1.0, inside
    for _ in range(_STEPS_OUT):
        length = quantile * parameter.guess
        if inside != parameter.estimate:
            length = abs(inside - parameter.estimate) * float(np.clip(1.1 * quantile / max(profile.root(inside), 1e-9), *_LONGER))
        outside = parameter.estimate + side * length
        if side * outside >= side * bound:
            outside = (inside + bound) / 2.0
        if profile.root(outside) >= quantile:
            return inside, outside
        inside = outside
    raise ModelError(
        f"the profile of {parameter.name} rises by no more than {profile.root(outside) ** 2:.3g} up to {outside:.6g}: expected "
        f"{quantile**2:.3g}; the data say too little of this parameter for an interval: ask for the others (parm=)"
    )


class _Profile:
    """The profile of a parameter on one side of its estimate; each minimization begins where the one next to it, further inside, has ended.

    Begun further outside, it might stay at another minimum, and the profile would depend on the way.
    """

    def __init__(self, parameter: Parameter, minimum: float) -> None:
        self._parameter, self._minimum = parameter, minimum
        self._seen = {parameter.estimate: (0.0, parameter.start)}

    def root(self, value: float) -> float:
        """The root of its excess over the minimum."""
        if value not in self._seen:
            deviance, others = self._deviance(value)
            self._seen[value] = float(np.sqrt(max(deviance - self._minimum, 0.0))), others
        return self._seen[value][0]

    def forget(self, value: float) -> None:
        """What was found there and further outside; the estimate stays."""
        estimate = self._parameter.estimate
        self._seen = {one: found for one, found in self._seen.items() if one == estimate or self._distance(one) < self._distance(value)}

    def look_around(self, value: float) -> None:
        """Whether there is a lower minimum there: with one variance that vanishes, or that appears, and from the estimate."""
        root, others = self.root(value), self._seen[value][1]
        for start in _elsewhere(self._parameter, others):
            found, at = self._lowest(value, start)
            other = float(np.sqrt(max(found - self._minimum, 0.0)))
            if other < (1.0 - _CLOSE) * root:
                root, self._seen[value] = other, (other, at)

    def _distance(self, value: float) -> float:
        return abs(value - self._parameter.estimate)

    def _start(self, value: float) -> Array:
        return self._seen[max((one for one in self._seen if self._distance(one) < self._distance(value)), key=self._distance)][1]

    def _deviance(self, value: float) -> tuple[float, Array]:
        found, others = self._lowest(value, self._start(value))
        for start in _reflections(self._parameter, others):
            other = self._lowest(value, start)
            found, others = other if other[0] < found - _GAIN else (found, others)
        if not np.isfinite(found):
            raise ModelError(
                f"the deviance does not exist with {self._parameter.name} at {value:.6g}: its interval is beyond what double precision "
                "holds; ask for the others (parm=)"
            )
        return found, others

    def _lowest(self, value: float, start: Array) -> tuple[float, Array]:
        """A minimum over the others."""

        def deviance(others: Array) -> float:
            try:
                return self._parameter.deviance(value, others)
            except NotPositiveDefiniteError:
                return float("nan")

        found, others, gain = np.inf, start, np.inf
        while gain > _GAIN:  # along a ridge BOBYQA may stop early, and goes on when it is started again
            before = found
            found, others = minimize_by_bobyqa(deviance, others, self._parameter.lower, np.full(len(start), STEP))
            gain = before - found
        if found <= self._minimum - _LOWER:
            raise ModelError(
                f"with {self._parameter.name} at {value:.6g} the deviance is {found:.10g}, below the fit's {self._minimum:.10g}: "
                "expected a fit at the lowest minimum; fit again from another start"
            )
        return found, others


def _elsewhere(parameter: Parameter, others: Array) -> Iterator[Array]:
    """Other starts of a minimization."""
    yield parameter.start
    for diagonal in np.flatnonzero(parameter.lower == 0.0):
        start = others.copy()
        start[diagonal] = 1.0 if others[diagonal] < STEP else 0.0
        yield start


def _reflections(parameter: Parameter, others: Array) -> Iterator[Array]:
    """Where a diagonal entry of S is about zero, so that the sign of the column below it means nothing: the other sign.

    Inside, one sign may lead downhill and the other uphill.
    """
    for diagonal, below in parameter.columns:
        if others[diagonal] < STEP and np.abs(others[below]).max() > 0.0:
            other = others.copy()
            other[below] = -others[below]
            yield other
