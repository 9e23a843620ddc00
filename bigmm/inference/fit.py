"""A fitted model: estimates in arrays, tables on request."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bigmm.accounting import RowCounts
from bigmm.columns import Array, Column
from bigmm.design import Design
from bigmm.errors import ModelError
from bigmm.formula.coding import ContrastChoice, distinct_names
from bigmm.formula.terms import Formula
from bigmm.inference.effects import GroupEffects, effects_table, level_index, level_order
from bigmm.solver.covariance import RelativeCovariance
from bigmm.solver.optimize import Optimization

if TYPE_CHECKING:
    from bigmm.inference.intervals import IntervalMethod
    from bigmm.inference.verify import Verification
    from bigmm.solver.model import LinearMixedModel

#: A diagonal entry of theta below this is reported as singular, as in lme4's isSingular().
_SINGULAR = 1e-4


@dataclass(frozen=True, eq=False)
class LinearMixedModelFit:
    """A linear mixed model at its optimum. Holds no rows and no client; pickles.

    Attributes
    ----------
    formula : Formula
    reml : bool
    design : Design
        Kinds and orders of the columns, weights and offset of the pass.
    columns : tuple of Column, length P
        Raw fixed-effects columns that were collected.
    contrasts : dict
        As they were asked for.
    coef_names : tuple of str, length p
    dropped : tuple of str
        Coefficients that were left out because their columns depend on others.
    beta : (p,) float64
    vcov_beta : (p, p) float64
    sigma : float
        Residual standard deviation (for weight 1).
    objective : float
        Minus twice the log-likelihood, or the REML criterion.
    theta : array
        Relative covariance parameters, in lme4's order.
    covariance : RelativeCovariance
        What the entries of theta mean.
    groups : tuple of GroupEffects
    rows : RowCounts
    optimization : Optimization
        The search: settings, every (theta, objective), reason for stopping.
    model : LinearMixedModel or None
        The crossproducts' model, for conditional variances; None for a fit that was loaded, or whose leaves were on workers.
    """

    formula: Formula
    reml: bool
    design: Design
    columns: tuple[Column, ...]
    contrasts: Mapping[str, ContrastChoice]
    coef_names: tuple[str, ...]
    dropped: tuple[str, ...]
    beta: Array
    vcov_beta: Array
    sigma: float
    objective: float
    theta: Array
    covariance: RelativeCovariance
    groups: tuple[GroupEffects, ...]
    rows: RowCounts
    optimization: Optimization
    model: LinearMixedModel | None = field(default=None, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        """Without a model whose leaves are on workers."""
        return {**self.__dict__, "model": self.model if self.model is not None and self.model.is_portable else None}

    @property
    def fixef(self) -> pd.Series:
        """Fixed-effects estimates, by name."""
        return pd.Series(self.beta, index=pd.Index(self.coef_names, dtype="str"), name="Estimate")

    @property
    def stderr(self) -> pd.Series:
        """Standard errors of the fixed effects, by name."""
        return pd.Series(np.sqrt(np.diag(self.vcov_beta)), index=pd.Index(self.coef_names, dtype="str"), name="Std. Error")

    @property
    def vcov(self) -> pd.DataFrame:
        """Covariance matrix of the fixed effects, sigma^2 (R_X'R_X)^-1."""
        names = pd.Index(self.coef_names, dtype="str")
        return pd.DataFrame(self.vcov_beta, index=names, columns=names)

    @property
    def nobs(self) -> int:
        """Rows used."""
        return self.rows.used

    @property
    def loglik(self) -> float:
        """Log-likelihood, restricted if REML."""
        return -self.objective / 2.0

    @property
    def npar(self) -> int:
        """Parameters: fixed effects, theta, sigma."""
        return len(self.beta) + len(self.theta) + 1

    @property
    def aic(self) -> float:
        """Akaike's information criterion (of the restricted likelihood if REML, as in lme4)."""
        return self.objective + 2.0 * self.npar

    @property
    def bic(self) -> float:
        """Schwarz's criterion with log(nobs), as in lme4."""
        return self.objective + float(np.log(self.nobs)) * self.npar

    @property
    def converged(self) -> bool:
        """The search stopped because it could not improve."""
        return self.optimization.converged

    @property
    def nevals(self) -> int:
        """Evaluations of the objective."""
        return self.optimization.nevals

    @property
    def singular(self) -> bool:
        """Some variance is estimated as zero, or some correlation as one; a result, not a failure."""
        return bool((self.theta[self.covariance.lower == 0.0] < _SINGULAR).any())

    @property
    def ngroups(self) -> dict[str, int]:
        """Levels of each grouping factor, in the order of theta."""
        return {self.group_names[g]: len(self.groups[g].levels) for g in self._order}

    @property
    def group_names(self) -> tuple[str, ...]:
        """Names of `groups`, each once: a column may be called like a combination, ``a:b``."""
        return distinct_names([group.name for group in self.groups])

    @property
    def _order(self) -> tuple[int, ...]:
        """Positions of the grouping factors in the order of theta, lme4's."""
        return tuple(dict.fromkeys(term.group for term in self.covariance.terms))

    def template(self, index: int) -> Array:
        """Sigma T of one random-effects term, shape (k, k)."""
        return self.sigma * self.covariance.template(self.covariance.terms[index], self.theta)

    @property
    def varcorr(self) -> pd.DataFrame:
        """Variances and correlations of the random effects, as R's ``as.data.frame(VarCorr(m))``.

        Columns grp, var1, var2 (None for a variance), vcov (covariance), sdcor (standard deviation or correlation).
        """
        rows: list[tuple[str, str | None, str | None, float, float]] = []
        for index, (label, term) in enumerate(zip(self.covariance.labels, self.covariance.terms, strict=True)):
            T = self.template(index)
            cov = T @ T.T
            sd = np.sqrt(np.diag(cov))
            rows += [(label, name, None, cov[i, i], sd[i]) for i, name in enumerate(term.names)]
            pairs = [(i, j) for j in range(term.size) for i in range(j + 1, term.size)]
            with np.errstate(invalid="ignore"):
                rows += [(label, term.names[j], term.names[i], cov[i, j], cov[i, j] / (sd[i] * sd[j])) for i, j in pairs]
        rows.append(("Residual", None, None, self.sigma**2, self.sigma))
        return pd.DataFrame(rows, columns=["grp", "var1", "var2", "vcov", "sdcor"])

    def ranef(self) -> dict[str, pd.DataFrame]:
        """Conditional modes of the random effects: for each grouping factor a table, index = levels.

        Levels stand in their declared order or sorted by value; those of combined factors are a MultiIndex.
        """
        return {self.group_names[g]: effects_table(self.groups[g], self.design) for g in self._order}

    def condvar(self) -> dict[str, dict[str, Array]]:
        """Conditional variances of the random effects given y and beta, lme4's ``postVar``.

        Returns
        -------
        dict
            For each grouping factor, ``{"levels": Index, "names": columns, "vcov": (q, k, k) array}`` with the levels
            in the order of `ranef`.

        Raises
        ------
        ModelError
            For a fit without crossproducts: one that was loaded, or that `lmer` has made with leaves on workers.
        """
        out: dict[str, dict[str, Any]] = {}
        for g in self._order:
            group, variances = self.groups[g], self._conditional_variances[g]
            order = level_order(group, self.design)
            out[self.group_names[g]] = {
                "levels": level_index(group)[order],
                "names": distinct_names(group.coef_names),
                "vcov": variances[order],
            }
        return out

    @cached_property
    def _conditional_variances(self) -> tuple[Array, ...]:
        if self.model is None:
            raise ModelError(
                "this fit holds no crossproducts (it was loaded, or its leaves were on workers): fit them again, by "
                "bigmm.load(crossproducts).fit(start=fit.theta); with leaves on workers, while the cluster is there, by "
                "bigmm.reduce_on_workers(formula, data, client).model().fit(start=fit.theta)"
            )
        with self.model.lock:
            self.model.evaluate(self.theta)
            return tuple(self.sigma**2 * relative for relative in self.model.pls.conditional_variances())

    def confint(self, parm: str | Sequence[str] | None = None, level: float = 0.95, method: IntervalMethod = "wald") -> pd.DataFrame:
        """Confidence intervals.

        Parameters
        ----------
        parm : str or sequence of str, optional
            Names of what is wanted; everything that the method has, unless given.
        level : float
            Of confidence, between 0 and 1.
        method : {"wald", "profile"}
            "wald": of fixed effects, estimates plus and minus normal quantiles of their standard errors. "profile", lme4's
            default: of standard deviations and correlations of the random effects, of the residual standard deviation and of the
            fixed effects, by likelihood-ratio tests against ML. A limit takes some 500 evaluations where there are three thetas,
            more where there are more.

        Returns
        -------
        DataFrame
            Two columns, named as in R (``2.5 %``, ``97.5 %``); a line for each parameter, named as lme4 does with
            ``oldNames = FALSE``: ``sd_(Intercept)|Subject``, ``cor_Days.(Intercept)|Subject``, ``sigma``, ``Days``.

        Raises
        ------
        ModelError
            For other names or methods, a level that is no number between 0 and 1 (0.001 to 1 - 1e-9), a profile of a fit without
            crossproducts, one that leads below the fit's minimum, and one that does not rise.

        References
        ----------
        Bates et al. (2015), JSS 67(1), section 5.1; lme4's ``confint.merMod`` (https://rdrr.io/cran/lme4/man/confint.merMod.html).
        """
        from bigmm.inference.intervals import confidence_intervals

        return confidence_intervals(self, parm, level, method)

    def summary(self) -> str:
        """The fit as text, in lme4's layout."""
        from bigmm.inference.summary import summarize

        return summarize(self)

    def __str__(self) -> str:
        return self.summary()

    def predict(self, data: Any, re_form: Any = None, new_levels: str = "error") -> Any:
        """Predicted response for new rows.

        Parameters
        ----------
        data : DataFrame, Table, path, ...
            Anything that `bigmm.lmer` reads. A Dask DataFrame gives a lazy Dask Series, everything else a pandas
            Series (with the index of a pandas frame).
        re_form : None, NA-like or str
            None: conditional on all random effects. NA (``float("nan")``, ``pandas.NA``, ``"NA"`` or ``"~0"``): population
            level. A formula such as ``"~ (1 | g)"``: conditional on these terms only.
        new_levels : {"error", "population"}
            What to do with a level that the fit has not seen: refuse, or take its random effects as zero.

        Returns
        -------
        Series
            NaN in rows that lack a value.

        Raises
        ------
        DataError
            For missing columns, new levels of fixed categories, or new levels of grouping factors with "error".
        """
        from bigmm.inference.predict import predict

        return predict(self, data, re_form, new_levels)

    def verify(self, data: Any, client: Any = None) -> Verification:
        """Read the rows once more, and compare their residual sum of squares at these estimates with that of the crossproducts.

        Parameters
        ----------
        data
            The rows that the fit was made from.
        client
            As for `bigmm.reduce`.

        Raises
        ------
        DataError
            When the data have another number of complete rows.
        """
        from bigmm.inference.verify import verify

        return verify(self, data, client)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a directory of JSON and Parquet that `bigmm.load` reads; replaced as a whole or not at all.

        Raises
        ------
        StorageError
            When `path` exists and does not hold a fit.
        """
        from bigmm.storage import save_fit

        save_fit(self, path)
