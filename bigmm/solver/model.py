"""A linear mixed model as a function of theta (the slides' profDev), and its minimum."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bigmm.columns import Array
from bigmm.crossproducts import CrossProducts
from bigmm.errors import ModelError
from bigmm.formula import parse_formula
from bigmm.formula.coding import ContrastChoice
from bigmm.solver.cholmod import NotPositiveDefiniteError
from bigmm.solver.optimize import Optimizer, minimize
from bigmm.solver.pls import Evaluation, PenalizedLeastSquares
from bigmm.solver.select import SelectedModel, select

if TYPE_CHECKING:
    from bigmm.inference.fit import LinearMixedModelFit


def build_model(
    cp: CrossProducts, formula: str | None = None, *, reml: bool = True, contrasts: Mapping[str, ContrastChoice] | None = None
) -> LinearMixedModel:
    """The model of a formula inside crossproducts.

    Raises
    ------
    FormulaError, LabelError, ModelError
        As `bigmm.formula.parse_formula` and `bigmm.solver.select.select`.
    """
    parsed = cp.design.formula if formula is None else parse_formula(formula)
    return LinearMixedModel(cp, select(cp, parsed, contrasts), reml=reml)


class LinearMixedModel:
    """A linear mixed model ready to be evaluated at any theta; no rows, only crossproducts.

    Attributes
    ----------
    cp : CrossProducts
        Where it comes from.
    selected : SelectedModel
        Coded columns, grouping factors, theta's layout.
    reml : bool
    """

    def __init__(self, cp: CrossProducts, selected: SelectedModel, *, reml: bool) -> None:
        self.cp = cp
        self.selected = selected
        self.reml = reml
        self._pls: PenalizedLeastSquares | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Without CHOLMOD's factor, which lives outside Python's memory and is found again when it is needed."""
        return {**self.__dict__, "_pls": None}

    @property
    def pls(self) -> PenalizedLeastSquares:
        """The factorization; the symbolic analysis happens once."""
        if self._pls is None:
            self._pls = PenalizedLeastSquares(self.selected.blocks, self.selected.covariance)
        return self._pls

    @property
    def theta0(self) -> Array:
        """Start value of theta: Lambda is the identity."""
        return self.selected.covariance.theta0

    @property
    def lower(self) -> Array:
        """Lower bounds of theta: 0 on diagonals."""
        return self.selected.covariance.lower

    @property
    def theta_names(self) -> tuple[str, ...]:
        """Names of the entries of theta."""
        return self.selected.covariance.names

    @property
    def degrees_of_freedom(self) -> int:
        """What pwrss is divided by: n, or n - p for REML."""
        blocks = self.selected.blocks
        return blocks.nobs - blocks.p if self.reml else blocks.nobs

    def objective(self, theta: npt.ArrayLike) -> float:
        """Minus twice the profiled log-likelihood, or the REML criterion, at theta.

        ``log|L|^2 (+ log|R_X|^2) + nu (1 + log(2 pi pwrss / nu)) - sum(log w)``, nu = n or n - p.

        Raises
        ------
        ModelError
            For a theta of the wrong length or outside its bounds, or one at which no Cholesky factor exists.

        References
        ----------
        Bates et al. (2015), JSS 67(1), equations 34 and 42.
        """
        try:
            return self.evaluate(theta)[0]
        except NotPositiveDefiniteError as error:
            raise ModelError(f"no Cholesky factor at theta = {np.asarray(theta)}: {error}") from None

    def evaluate(self, theta: npt.ArrayLike) -> tuple[float, Evaluation]:
        """The objective and the factorization behind it.

        Raises
        ------
        NotPositiveDefiniteError
            When rounding has left no positive definite matrix.
        """
        evaluation = self.pls.evaluate(theta)
        nu = self.degrees_of_freedom
        logdet = evaluation.logdet + (evaluation.logdet_RX if self.reml else 0.0)
        value = logdet + nu * (1.0 + np.log(2.0 * np.pi * evaluation.pwrss / nu)) - self.selected.blocks.sum_log_weights
        return float(value), evaluation

    def fit(
        self,
        start: npt.ArrayLike | None = None,
        optimizer: str | Optimizer | None = None,
        on_evaluation: Callable[[int, Array, float], None] | None = None,
    ) -> LinearMixedModelFit:
        """Find theta and everything that follows from it.

        Parameters
        ----------
        start : array_like, optional
            Theta to start from; `theta0` unless given.
        optimizer : str or Optimizer, optional
        on_evaluation : callable, optional
            Called with (number, theta, objective) after every evaluation.

        Raises
        ------
        ModelError
            For a start of the wrong length or outside the bounds, or unknown settings.
        """
        from bigmm.inference.fit import estimate

        settings = optimizer if isinstance(optimizer, Optimizer) else Optimizer(optimizer or "bobyqa")
        theta = self.selected.covariance.check(self.theta0 if start is None else start)
        found = minimize(lambda at: self.evaluate(at)[0], theta, self.lower, settings, on_evaluation)
        return estimate(self, found)
