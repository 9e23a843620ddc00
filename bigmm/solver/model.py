"""A linear mixed model as a function of theta (the slides' profDev), and its minimum."""

from __future__ import annotations

import copy
import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from bigmm.columns import Array
from bigmm.crossproducts import CrossProducts
from bigmm.errors import ModelError
from bigmm.formula import parse_formula
from bigmm.formula.coding import ContrastChoice
from bigmm.solver.cholmod import NotPositiveDefiniteError
from bigmm.solver.derivatives import Derivatives, differentiate
from bigmm.solver.moments import moment_starts
from bigmm.solver.optimize import Optimizer, minimize
from bigmm.solver.plan import Plan
from bigmm.solver.planning import make_plan
from bigmm.solver.pls import Evaluation, PenalizedLeastSquares, Solution
from bigmm.solver.replay import replayed
from bigmm.solver.residence import Residence
from bigmm.solver.roots import Arrangement
from bigmm.solver.select import SelectedModel, select, select_response
from bigmm.solver.units import FLOOR, Units, floors, own_sizes, rounding, term_units

if TYPE_CHECKING:
    from bigmm.inference.fit import LinearMixedModelFit


_Model = TypeVar("_Model", bound="LinearMixedModel")

#: Newton's method starts no diagonal entry of a given start below this part of what adds the residual variance to a row.
_LEAST_START = 0.1
#: With so many random effects, and a root, an evaluation takes long enough to count each.
_MANY = 2000


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


def build_models(
    cp: CrossProducts, formula: str | None = None, *, reml: bool = True, contrasts: Mapping[str, ContrastChoice] | None = None
) -> Iterator[LinearMixedModel | ModelError]:
    """The models of a formula's responses, one after the other; what stands in the way where a response has none.

    They share the coded columns, the symbolic analysis and the arrays of the factorization, so that each is to be used before
    the next is asked for; afterwards it makes a factorization of its own when it needs one.

    Raises
    ------
    FormulaError, LabelError
        As `build_model`.
    """
    parsed = cp.design.formula if formula is None else parse_formula(formula)
    first: LinearMixedModel | None = None
    for response in parsed.responses:
        single = parsed.for_response(response)
        try:
            selected = select(cp, single, contrasts) if first is None else select_response(first.selected, cp, single)
        except ModelError as error:
            yield ModelError(f"response {response.text!r}: {error}")
            continue
        model = LinearMixedModel(cp, selected, reml=reml)
        if first is None:
            first, shared = model, model.pls
        else:
            model._pls = shared.with_response(selected.blocks)
        try:
            yield model
        finally:
            model._pls = None


def found_model(found: _Model | ModelError) -> _Model:
    """The model, where nothing stands in its way.

    Raises
    ------
    ModelError
    """
    if isinstance(found, ModelError):
        raise found
    return found


class LinearMixedModel:
    """A linear mixed model ready to be evaluated at any theta; no rows, only crossproducts.

    Attributes
    ----------
    cp : CrossProducts
        Where it comes from.
    selected : SelectedModel
        Coded columns, grouping factors, theta's layout.
    reml : bool
    residence : Residence or None
        Where the leaves live and why, where that was chosen.
    lock : RLock
        Held by whatever evaluates: there is one factor, which threads that share a model use one after the other.
    """

    def __init__(self, cp: CrossProducts, selected: SelectedModel, *, reml: bool) -> None:
        given: Any = reml
        if not (isinstance(given, (int, np.bool_, np.integer)) and given in (0, 1)):
            raise ModelError(f"reml={reml!r}: expected True or False")
        self.cp = cp
        self.selected = selected
        self.reml = bool(reml)
        self._pls: PenalizedLeastSquares | None = None
        self._latest: tuple[float, Evaluation] | None = None
        self._planned: tuple[Plan, Callable[[], Arrangement]] | None = None
        self.residence: Residence | None = None
        self.lock = threading.RLock()

    def __getstate__(self) -> dict[str, Any]:
        """Without CHOLMOD's factor, which lives outside Python's memory and is found again when it is needed."""
        state = {**self.__dict__, "_pls": None, "_planned": None, "_latest": None}
        del state["lock"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """With a lock of its own."""
        self.__dict__.update(state, lock=threading.RLock())

    @property
    def is_portable(self) -> bool:
        """Whether a fit that is pickled takes its model along."""
        return True

    def by_ml(self) -> LinearMixedModel:
        """The same model with the likelihood instead of the REML criterion; they share the factorization, and its lock."""
        if not self.reml:
            return self
        other = copy.copy(self)
        other.reml, other.lock, other._pls, other._planned = False, self.lock, self._pls, self._planned
        return other

    def plan(self, memory: float | None = None) -> Plan:
        """How the model is factored and what that costs, found without factoring anything.

        Parameters
        ----------
        memory : float, optional
            Bytes that a fit may take; unless given, the environment's BIGMM_MEMORY, or what this process may still take.
        """
        if self._planned is None or memory is not None:
            self._planned = make_plan(self.selected.blocks, len(self.lower), memory)
        plan = self._planned[0]
        return plan if self.residence is None else replace(plan, leaves=str(self.residence))

    @property
    def pls(self) -> PenalizedLeastSquares:
        """The factorization as it was planned; the symbolic analysis happens once.

        Raises
        ------
        ModelError
            When memory will not hold it.
        """
        if self._pls is None:
            plan = self.plan()
            plan.check()
            assert self._planned is not None
            self._pls = PenalizedLeastSquares(self.selected.blocks, self.selected.covariance, self._planned[1]())
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
            For a theta of the wrong length or outside its bounds, or one at which no Cholesky factor or no finite objective
            exists.

        References
        ----------
        Bates et al. (2015), JSS 67(1), equations 34 and 42.
        """
        try:
            with self.lock:
                value = self.evaluate(theta)[0]
        except NotPositiveDefiniteError as error:
            raise ModelError(f"no Cholesky factor at theta = {np.asarray(theta)}: {error}") from None
        if not np.isfinite(value):
            raise ModelError(f"the objective is {value} at theta = {np.asarray(theta)}: is theta, or a column of the data, too large?")
        return value

    def evaluate(self, theta: npt.ArrayLike) -> tuple[float, Evaluation]:
        """The objective and the factorization behind it.

        Raises
        ------
        NotPositiveDefiniteError
            When rounding has left no positive definite matrix.
        """
        self._latest = None  # what the factor holds is no longer what a search saw last
        evaluation = self.pls.evaluate(theta)
        nu = self.degrees_of_freedom
        logdet = evaluation.logdet + (evaluation.logdet_RX if self.reml else 0.0)
        value = logdet + nu * (1.0 + np.log(2.0 * np.pi * evaluation.pwrss / nu)) - self.selected.blocks.sum_log_weights
        return float(value), evaluation

    def effects(self, _: Evaluation, solution: Solution) -> list[tuple[pd.Index, Array]]:
        """Levels and conditional modes of every grouping factor, at the theta that was evaluated last."""
        return [(group.levels, b) for group, b in zip(self.selected.groups, solution.b, strict=True)]

    def differentiate(self, evaluation: Evaluation, units: Units | None = None) -> Derivatives:
        """Gradient and average information, where `evaluate` was called last; in `units` of the covariance matrices, if given.

        Every template must be nonsingular: theta's diagonal entries above zero.
        """
        return differentiate(self.pls, evaluation, self.degrees_of_freedom, reml=self.reml, units=units)

    def gradient(self, theta: npt.ArrayLike) -> Array:
        """Exact gradient of the objective at a theta whose diagonal entries are above zero.

        Raises
        ------
        ModelError
            As `objective`, and for a diagonal entry of zero, where the derivative is zero whatever the data say.
        """
        values = self.selected.covariance.check(theta)
        if (values[self.lower == 0.0] == 0.0).any():
            raise ModelError("the gradient at a diagonal theta of 0 is 0 by symmetry and says nothing: ask just above it")
        try:
            with self.lock:
                return self.differentiate(self.evaluate(values)[1]).gradient
        except NotPositiveDefiniteError as error:
            raise ModelError(f"no Cholesky factor at theta = {values}: {error}") from None

    @cached_property
    def units(self) -> Units:
        """W of every random-effects term, in which one level's data are worth 1; see `bigmm.solver.units`."""
        return term_units(self.selected.blocks, self.selected.covariance)

    def rounding(self, theta: Array) -> float:
        """What the objective loses to rounding at theta, within a factor of ten, beside that of its own size."""
        covariance, groups = self.selected.covariance, self.selected.blocks.groups
        templates = [covariance.template(term, theta) for term in covariance.terms]
        return rounding(self.units, templates, [groups[term.group].q for term in covariance.terms])

    def fit(
        self,
        start: npt.ArrayLike | None = None,
        optimizer: str | Optimizer | None = None,
        on_evaluation: Callable[[int, Array, float], None] | None = None,
        log: str | os.PathLike[str] | None = None,
    ) -> LinearMixedModelFit:
        """Find theta and everything that follows from it.

        Parameters
        ----------
        start : array_like, optional
            Theta to start from. Unless given, Newton's method starts at variances by moments (`moment_starts`), and the
            others at `theta0`.
        optimizer : str or Optimizer, optional
        on_evaluation : callable, optional
            Called with (number, theta, objective) after every evaluation.
        log : path, optional
            File that every evaluation is written to. A search that was killed and is started again with the same arguments
            takes from it what it has, and ends with the same bits.

        Raises
        ------
        ModelError
            For a start of the wrong length or outside the bounds, unknown settings, or a plan that memory will not hold.
        StorageError
            For a log that cannot be read or written, or that belongs to another model or other crossproducts.
        """
        from bigmm.inference.estimate import estimate

        settings = optimizer if isinstance(optimizer, Optimizer) else Optimizer("newton" if optimizer is None else optimizer)
        own = own_sizes(self.selected.blocks, self.selected.covariance)
        theta, other = self._default_starts(settings, own) if start is None else (self.selected.covariance.check(start), None)
        if settings.method == "newton" and start is not None:  # from zero, where every direction looks flat, it may not get away
            theta = np.where(self.lower == 0.0, np.maximum(theta, _LEAST_START * own), theta)
        searching = nullcontext(self._with_derivatives) if log is None else replayed(self._with_derivatives, log, self._identity)
        with self.lock, searching as evaluate:
            found = minimize(
                evaluate, self.selected.covariance, theta, self.units, settings, on_evaluation, short=self.is_dear, other=other
            )
            return estimate(self, found)

    @property
    def is_dear(self) -> bool:
        """Whether an evaluation takes so long that none is spent on digits of theta that the objective's rounding hides.

        With one grouping factor it never does, and the last digits of a variance are had for next to nothing.
        """
        groups = self.selected.blocks.groups
        return len(groups) > 1 and sum(group.q * group.k for group in groups) > _MANY

    @property
    def _identity(self) -> dict[str, Any]:
        """What decides the objective."""
        coding = self.selected.fixed.coding
        contrasts = hashlib.sha256(repr(coding.names).encode() + coding.matrix.tobytes()).hexdigest()
        return {"crossproducts": self.cp.digest, "formula": self.selected.formula.text, "reml": self.reml, "contrasts": contrasts}

    def _default_starts(self, settings: Optimizer, own: Array) -> tuple[Array, Array | None]:
        """By moments for Newton's steps; `theta0` for the others, as in lme4."""
        if settings.method != "newton":
            return self.theta0, None
        return moment_starts(self.selected.blocks, self.selected.covariance, own, floors(self.units) / FLOOR)

    def _with_derivatives(self, theta: Array) -> tuple[float, Callable[[], Derivatives]]:
        value, evaluation = self.evaluate(theta)
        self._latest = value, evaluation

        def derive() -> Derivatives:
            held = self._latest is not None and self._latest[1] is evaluation  # unless a callback has evaluated, too
            self._latest = None  # derivatives use the factor up
            return self.differentiate(evaluation if held else self.evaluate(theta)[1], self.units)

        return value, derive

    def at_optimum(self, theta: Array) -> tuple[float, Evaluation]:
        """As `evaluate`, but for nothing where the search's last evaluation was this one."""
        latest, self._latest = self._latest, None
        return latest if latest is not None and np.array_equal(latest[1].theta, theta) else self.evaluate(theta)
