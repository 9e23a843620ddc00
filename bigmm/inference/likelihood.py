"""The deviance of ML as a function of one parameter and of the others: standard deviations, correlations, coefficients.

With n rows it is, but for a constant,

    log|L_theta|^2 + n log(2 pi sigma^2) + pwrss(theta) / sigma^2

and a parameter that is held makes itself felt in it:

    sigma               where it stands; sigma^2 is pwrss / n otherwise
    a coefficient b     pwrss grows by (b - beta_j(theta))^2 / [(R_X'R_X)^-1]_jj
    a standard          is sigma T_00 of the term's template T when the columns of the term are put into another order, so that
    deviation           its random effect comes first
    a correlation       is T_10 / (T_10^2 + T_11^2)^1/2 when its two random effects come first

The others are entries of S in T = B S, with B the units of `bigmm.solver.units` in that order of the columns: in T itself a constant that
is added to a column makes the deviance a ridge, which no minimization without derivatives follows.

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
from bigmm.solver.units import Units, solve_lower

#: First steps of a minimization, in what one level's data could tell from zero, and of a logarithm.
STEP = 0.1


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
    start, lower : (others,)
        The others at the estimates, in units in which `STEP` is a first step; their lower bounds.
    deviance : callable
        Of the parameter and the others.
    columns : tuple of (int, slice)
        Places among the others of a diagonal entry of S and of the entries below it: when it is zero, their sign means nothing.
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
    deviance: Callable[[float, Array], float]
    columns: tuple[tuple[int, slice], ...] = ()
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
        basis = _Basis(self._covariance, self._model.units)

        def of_others(value: float, others: Array) -> float:
            return deviance(value, basis.out_of(others))

        start, lower = basis.into(self._theta), self._covariance.lower
        return Parameter(name, estimate, -np.inf, np.inf, guess, start, lower, of_others, basis.columns())

    def _standard_deviation(self, label: str, term: TermCovariance, i: int) -> Parameter:
        basis = _Basis(self._covariance, self._model.units, term, (i,))
        held, unit = term.theta.start, float(basis.unit[0, 0])
        y = basis.into(self._theta)

        def deviance(value: float, others: Array) -> float:
            sigma = float(np.exp(others[-1]))
            return self._deviance(self._at(basis.out_of(np.insert(others[:-1], held, value / (sigma * unit)))), sigma)

        estimate = self._sigma * unit * y[held]
        levels = self._model.selected.blocks.groups[term.group].q
        return Parameter(
            f"sd_{term.names[i]}|{label}",
            float(estimate),
            0.0,
            np.inf,
            float(max(estimate / np.sqrt(2.0 * levels), self._sigma * unit * STEP)),
            np.append(np.delete(y, held), np.log(self._sigma)),
            np.append(np.delete(self._covariance.lower, held), -np.inf),
            deviance,
            basis.columns(without=held, fixed=1),
        )

    def _correlation(self, label: str, term: TermCovariance, i: int, j: int) -> Parameter:
        """Beside S_00 the length of the second row of T is free, less what a correlation of that size needs of S_00."""
        basis = _Basis(self._covariance, self._model.units, term, (j, i))
        first, below, on = term.theta.start, term.theta.start + 1, term.theta.start + term.size  # S_00, S_10 and S_11
        B00, B10, B11 = (float(basis.unit[place]) for place in ((0, 0), (1, 0), (1, 1)))
        y = basis.into(self._theta)
        T10, T11 = B10 * y[first] + B11 * y[below], B11 * y[on]

        def needed(value: float, S00: float) -> float:
            return max(value * B10, 0.0) * S00

        def deviance(value: float, others: Array) -> float:
            S = np.insert(others, below, 0.0)
            length = abs(B11 * S[on] + needed(value, S[first]))
            S[below], S[on] = (value * length - B10 * S[first]) / B11, np.sqrt(1.0 - value**2) * length / B11
            return self._deviance(self._at(basis.out_of(S)))

        length = float(np.hypot(T10, T11))
        estimate = T10 / length if length > 0.0 and B00 * y[first] > 0.0 else 0.0
        levels = self._model.selected.blocks.groups[term.group].q
        y[on], lower = (length - needed(estimate, y[first])) / B11, self._covariance.lower.copy()
        lower[on] = -np.inf
        return Parameter(
            f"cor_{term.names[i]}.{term.names[j]}|{label}",
            float(estimate),
            -1.0,
            1.0,
            float(max(1.0 - estimate**2, 0.1) / np.sqrt(levels)),
            np.delete(y, below),
            np.delete(lower, below),
            deviance,
            basis.columns(without=below, fixed=2),
        )


class _Basis:
    """Entries of S for all terms, T = B S; those of one term, perhaps, with its random effects in another order: some come first."""

    def __init__(
        self, covariance: RelativeCovariance, units: Units, own: TermCovariance | None = None, first: tuple[int, ...] = ()
    ) -> None:
        self._covariance, self._own = covariance, own
        self._orders = [
            np.array([*first, *(i for i in range(term.size) if i not in first)] if term is own else range(term.size))
            for term in covariance.terms
        ]
        self._units = [_with_rows(W, order) for W, order in zip(units, self._orders, strict=True)]

    @property
    def unit(self) -> Array:
        """B of the term whose order is another."""
        return next(B for term, B in zip(self._covariance.terms, self._units, strict=True) if term is self._own)

    def into(self, theta: Array) -> Array:
        """From theta."""
        out = theta.copy()
        for term, order, B in zip(self._covariance.terms, self._orders, self._units, strict=True):
            T = _with_rows(self._covariance.template(term, theta), order)
            out[term.theta] = RelativeCovariance.entries_of(solve_lower(B, T))
        return out

    def out_of(self, S: Array) -> Array:
        """To theta."""
        theta = S.copy()
        for term, order, B in zip(self._covariance.terms, self._orders, self._units, strict=True):
            T = _with_rows(B @ self._covariance.template(term, S), np.argsort(order))
            theta[term.theta] = RelativeCovariance.entries_of(T)
        return theta

    def columns(self, without: int | None = None, fixed: int = 0) -> tuple[tuple[int, slice], ...]:
        """Places of each diagonal entry and of what is below it, when one entry is left out; without the own term's first few columns."""
        found = []
        for term in self._covariance.terms:
            diagonal = term.theta.start
            for column in range(term.size - 1):
                length = term.size - column
                if term is not self._own or column >= fixed:
                    at = diagonal - (without is not None and diagonal > without)
                    found.append((at, slice(at + 1, at + length)))
                diagonal += length
        return tuple(found)


def _with_rows(T: Array, rows: npt.NDArray[np.intp]) -> Array:
    """The lower triangular factor of the same matrix T T' with its rows and columns in another order."""
    if (rows == np.arange(len(rows))).all():
        return T
    R = np.asarray(np.linalg.qr(T[rows].T, mode="r"))
    return np.asarray(R.T * np.where(np.diag(R) < 0.0, -1.0, 1.0))
