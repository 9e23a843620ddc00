"""The deviance of ML as a function of one parameter and of the others: standard deviations, correlations, coefficients.

With n rows it is, but for a constant,

    log|L_theta|^2 + n log(2 pi sigma^2) + pwrss(theta) / sigma^2

and a parameter that is held makes itself felt in it:

    sigma               where it stands; sigma^2 is pwrss / n otherwise
    a coefficient b     pwrss grows by (b - beta_j(theta))^2 / [(R_X'R_X)^-1]_jj
    a standard          is sigma T_00 of the term's template T when the columns of the term are put into another order, so that
    deviation           its random effect comes first
    a correlation       is T_10 / (T_10^2 + T_11^2)^1/2 when its two random effects come first

Bates et al. (2015), JSS 67(1), section 3.4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from bigmm.columns import Array
from bigmm.solver.covariance import RelativeCovariance, TermCovariance
from bigmm.solver.model import LinearMixedModel
from bigmm.solver.units import row_sizes

#: First steps of a minimization, in what one level's data could tell from zero, and of a logarithm.
_STEP = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class Parameter:
    """One parameter, and the deviance as a function of it and of the others.

    Attributes
    ----------
    name : str
    estimate, low, high : float
        Of ML; and what bounds it.
    guess : float
        A first guess of its standard error.
    start, lower, step : (others,)
        The others at the estimates, their lower bounds, first steps of a minimization over them.
    deviance : callable
        Of the parameter and the others.
    closed : bool
        A finite bound is a value that it may have.
    """

    name: str
    estimate: float
    low: float
    high: float
    guess: float
    start: Array
    lower: Array
    step: Array
    deviance: Callable[[float, Array], float]
    closed: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class _Point:
    """What one theta gives: log|L|^2, pwrss, coefficients and the diagonal of their covariance matrix over sigma^2."""

    logdet: float
    pwrss: float
    beta: Array
    variances: Array


class Likelihood:
    """The likelihood of a model that was fitted by ML.

    Parameters
    ----------
    model : LinearMixedModel
        With ``reml=False``.
    theta : array
        Where the deviance has its minimum.
    """

    def __init__(self, model: LinearMixedModel, theta: Array) -> None:
        self._model, self._theta = model, theta
        self._covariance: RelativeCovariance = model.selected.covariance
        self._n = model.selected.blocks.nobs
        self._best = self._at(theta)
        self._sigma = float(np.sqrt(self._best.pwrss / self._n))
        self.minimum = self._deviance(self._best)

    def parameters(self) -> Iterator[Parameter]:
        """All of them, in lme4's order: standard deviations and correlations as theta's entries, sigma, coefficients."""
        for label, term in zip(self._covariance.labels, self._covariance.terms, strict=True):
            for j in range(term.size):
                yield self._standard_deviation(label, term, j)
                for i in range(j + 1, term.size):
                    yield self._correlation(label, term, i, j)
        yield self._residual()
        for j, name in enumerate(self._model.selected.fixed.names):
            yield self._coefficient(j, name)

    def _at(self, theta: Array) -> _Point:
        _, evaluation = self._model.evaluate(theta)
        fixed = self._model.selected.fixed
        inverse = np.linalg.inv(evaluation.RX)
        return _Point(evaluation.logdet, evaluation.pwrss, fixed.beta(evaluation.beta), np.diag(fixed.vcov(inverse @ inverse.T)))

    def _deviance(self, point: _Point, sigma: float | None = None, more: float = 0.0) -> float:
        """With sigma profiled out, unless it is given, and so much more in pwrss."""
        pwrss = point.pwrss + more
        variance = pwrss / self._n if sigma is None else sigma**2
        return float(point.logdet + self._n * np.log(2.0 * np.pi * variance) + pwrss / variance)

    def _residual(self) -> Parameter:
        def deviance(value: float, theta: Array) -> float:
            return self._deviance(self._at(theta), value)

        guess = self._sigma / np.sqrt(2.0 * self._n)
        return replace(self._over_theta("sigma", self._sigma, guess, deviance), low=0.0, closed=False)

    def _coefficient(self, j: int, name: str) -> Parameter:
        def deviance(value: float, theta: Array) -> float:
            point = self._at(theta)
            return self._deviance(point, more=(value - point.beta[j]) ** 2 / point.variances[j])

        guess = self._sigma * float(np.sqrt(self._best.variances[j]))
        return self._over_theta(name, float(self._best.beta[j]), guess, deviance)

    def _over_theta(self, name: str, estimate: float, guess: float, deviance: Callable[[float, Array], float]) -> Parameter:
        step = _STEP * row_sizes(self._model.units)
        return Parameter(name, estimate, -np.inf, np.inf, guess, self._theta, self._covariance.lower, step, deviance)

    def _standard_deviation(self, label: str, term: TermCovariance, i: int) -> Parameter:
        order = _Order(self._covariance, term, (i,))
        held = term.theta.start
        y = order.into(self._theta)

        def deviance(value: float, others: Array) -> float:
            sigma = float(np.exp(others[-1]))
            return self._deviance(self._at(order.out_of(np.insert(others[:-1], held, value / sigma))), sigma)

        step = order.permuted(_STEP * row_sizes(self._model.units))
        estimate, least = self._sigma * y[held], self._sigma * step[held]
        levels = self._model.selected.blocks.groups[term.group].q
        return Parameter(
            f"sd_{term.names[i]}|{label}",
            float(estimate),
            0.0,
            np.inf,
            float(max(estimate / np.sqrt(2.0 * levels), least)),
            np.append(np.delete(y, held), np.log(self._sigma)),
            np.append(np.delete(self._covariance.lower, held), -np.inf),
            np.append(np.delete(step, held), _STEP),
            deviance,
        )

    def _correlation(self, label: str, term: TermCovariance, i: int, j: int) -> Parameter:
        order = _Order(self._covariance, term, (j, i))
        below, on = term.theta.start + 1, term.theta.start + term.size  # T_10 and T_11
        y = order.into(self._theta)
        length = float(np.hypot(y[below], y[on]))

        def deviance(value: float, others: Array) -> float:
            theta = np.insert(others, below, 0.0)
            theta[below], theta[on] = value * theta[on], np.sqrt(1.0 - value**2) * theta[on]
            return self._deviance(self._at(order.out_of(theta)))

        step = order.permuted(_STEP * row_sizes(self._model.units))
        estimate = y[below] / length if length > 0.0 else 0.0
        levels = self._model.selected.blocks.groups[term.group].q
        y[on] = length
        return Parameter(
            f"cor_{term.names[i]}.{term.names[j]}|{label}",
            float(estimate),
            -1.0,
            1.0,
            float(max(1.0 - estimate**2, 0.1) / np.sqrt(levels)),
            np.delete(y, below),
            np.delete(self._covariance.lower, below),
            np.delete(step, below),
            deviance,
        )


class _Order:
    """Theta with the random effects of one term in another order: some come first."""

    def __init__(self, covariance: RelativeCovariance, term: TermCovariance, first: tuple[int, ...]) -> None:
        self._covariance, self._term = covariance, term
        self._rows = np.array([*first, *(i for i in range(term.size) if i not in first)])

    def into(self, theta: Array) -> Array:
        """From the model's order."""
        return self._with_rows(theta, self._rows)

    def out_of(self, theta: Array) -> Array:
        """Into the model's order."""
        return self._with_rows(theta, np.argsort(self._rows))

    def permuted(self, sizes: Array) -> Array:
        """Sizes that are the same for all entries of a row."""
        diagonal = np.diag(self._covariance.template(self._term, sizes))[self._rows]
        out = sizes.copy()
        out[self._term.theta] = RelativeCovariance.entries_of(np.tile(diagonal[:, None], self._term.size))
        return out

    def _with_rows(self, theta: Array, rows: npt.NDArray[np.intp]) -> Array:
        """The lower triangular template of the same covariance matrix with its rows and columns in another order."""
        R = np.asarray(np.linalg.qr(self._covariance.template(self._term, theta)[rows].T, mode="r"))
        out = theta.copy()
        out[self._term.theta] = RelativeCovariance.entries_of(R.T * np.where(np.diag(R) < 0.0, -1.0, 1.0))
        return out
