"""What a search has seen: every evaluation of the objective is counted, kept and told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from bigmm.columns import Array
from bigmm.solver.cholmod import NotPositiveDefiniteError
from bigmm.solver.derivatives import Derivatives

#: Objectives that differ by no more than this are the same: the rounding of large ones.
SAME = 1e-8
#: Theta to the objective, and what gives its derivatives there.
Evaluate: TypeAlias = Callable[[Array], "tuple[float, Callable[[], Derivatives]]"]


@dataclass(slots=True)
class Evaluations:
    """The objective as a search calls it: every call is kept, failures become the first value.

    (Infinity would ruin the quadratic model that BOBYQA keeps.)

    Attributes
    ----------
    function : callable
        Theta to (objective, function that gives the derivatives there); may raise NotPositiveDefiniteError.
    on_evaluation : callable or None
        Called with (number, theta, objective) after every evaluation.
    trace : list of (theta, objective)
        NaN where no Cholesky factor exists.
    """

    function: Evaluate
    on_evaluation: Callable[[int, Array, float], None] | None
    trace: list[tuple[Array, float]] = field(default_factory=list)

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
        """The objective; where there is none, the first value."""
        value, _ = self.evaluate(theta)
        return value if np.isfinite(value) else self.trace[0][1]

    @property
    def best(self) -> tuple[Array, float]:
        """Theta and value of the lowest objective."""
        return min((pair for pair in self.trace if np.isfinite(pair[1])), key=lambda pair: pair[1])
