"""The waist: crossproducts of the model matrices as one labelled, additive, saveable value."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from bigmm.accounting import RowCounts, SkippedChunk, Sources
from bigmm.columns import Array, Column
from bigmm.design import Design

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from bigmm.inference.fit import LinearMixedModelFit
    from bigmm.solver.model import LinearMixedModel
    from bigmm.solver.optimize import Optimizer
    from bigmm.solver.plan import Plan


@dataclass(frozen=True, slots=True, eq=False)
class GroupProducts:
    """Crossproducts of one grouping factor's columns.

    Attributes
    ----------
    names : tuple of str
        Columns whose combined values are the levels.
    levels : Index, length q
        Sorted by value.
    columns : tuple of Column, length k
        Raw columns of Z that every level has.
    rows : (q,) int64
        Rows of each level.
    ZtZ : (q, k, k) float64
        Z'Z is block diagonal: one block a level.
    ZtXy : (q, k, P + R) float64
        Z'[X_raw y1 y2 ...].
    """

    names: tuple[str, ...]
    levels: pd.Index
    columns: tuple[Column, ...]
    rows: npt.NDArray[np.int64]
    ZtZ: Array
    ZtXy: Array

    @property
    def name(self) -> str:
        """As lme4 prints it."""
        return ":".join(self.names)


@dataclass(frozen=True, slots=True, eq=False)
class PairProducts:
    """Z_g'Z_h of two grouping factors: dense blocks for the pairs of levels that meet in a row.

    Attributes
    ----------
    g_refs, h_refs : (nnz,) int32
        The levels of g and of h, ordered by (g, h); every pair once.
    ZtZ : (nnz, k_g, k_h)
        Integers when the entries are counts, else float64.
    """

    g_refs: npt.NDArray[np.int32]
    h_refs: npt.NDArray[np.int32]
    ZtZ: npt.NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class CrossProducts:
    """The sufficient statistics of a linear mixed model and of every model inside it.

    With W = [X_raw y1 y2 ...], the raw fixed-effects columns and the R responses, these are W'W, and for the grouping factors
    Z_g'Z_g, Z_g'W and Z_g'Z_h. Everything carries labels, so that the sum of two is the crossproducts of all their
    rows: levels and columns that only one of them has seen simply appear in the sum.

    Attributes
    ----------
    design : Design
        The formula and the constants of the pass.
    columns : tuple of Column, length P
        Raw columns of the fixed part.
    XytXy : (P + R, P + R) float64
        W'W, columns shifted by the design's constants, weighted.
    groups : tuple of GroupProducts
        One for each grouping factor, in the formula's order.
    pairs : dict of {(g, h): PairProducts}
        For positions g < h in `groups`.
    rows : RowCounts
    sum_log_weights : float
    plan_digest : str
        Identifies the data of the pass and how they were cut: paths, sizes, times, row groups. See `digest` for what is inside.
    sources : Sources
        Rows by file: their sums are `rows`.
    skipped : tuple of SkippedChunk
        Chunks that could not be read and are not in the sums.

    References
    ----------
    Bates, Maechler, Bolker and Walker (2015), JSS 67(1), section 5.
    """

    design: Design
    columns: tuple[Column, ...]
    XytXy: Array
    groups: tuple[GroupProducts, ...]
    pairs: Mapping[tuple[int, int], PairProducts]
    rows: RowCounts
    sum_log_weights: float = 0.0
    plan_digest: str = ""
    sources: Sources = field(default_factory=Sources)
    skipped: tuple[SkippedChunk, ...] = ()
    _digest: str = field(default="", init=False, repr=False)

    @property
    def nobs(self) -> int:
        """Rows used."""
        return self.rows.used

    @property
    def digest(self) -> str:
        """SHA-256 of all arrays, labels, counts and the design, in hexadecimal: equal when, to the bit, the crossproducts are.

        It is the same on every machine and does not depend on where the files lie. Computed on first use, at the speed of SHA-256.
        """
        if not self._digest:
            from bigmm.storage import content_digest

            object.__setattr__(self, "_digest", content_digest(self))
        return self._digest

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays; levels included."""
        total = self.XytXy.nbytes + self.sources.nbytes
        for group in self.groups:
            total += group.ZtZ.nbytes + group.ZtXy.nbytes + group.rows.nbytes + int(group.levels.memory_usage())
        return total + sum(pair.ZtZ.nbytes + pair.g_refs.nbytes + pair.h_refs.nbytes for pair in self.pairs.values())

    def __repr__(self) -> str:
        """One line: the formula, rows, levels and size."""
        groups = ", ".join(f"{group.name} {len(group.levels):,}" for group in self.groups)
        return f"<CrossProducts {self.design.formula.text!r}: {self.nobs:,} rows, {groups}, {self.nbytes:,} bytes>"

    def __add__(self, other: object) -> CrossProducts:
        """Crossproducts of the rows of both; aligned by label.

        Raises
        ------
        LabelError
            When they were collected for different formulas, weights or kinds of columns, or share a file, whose rows would
            count twice (`bigmm.merge` can allow that).
        """
        from bigmm.addition import merge

        return merge([self, other]) if isinstance(other, CrossProducts) else NotImplemented

    def __radd__(self, other: object) -> CrossProducts:
        """Of `sum`, which begins with 0."""
        return self if isinstance(other, int) and other == 0 else NotImplemented

    def __sub__(self, other: object) -> CrossProducts:
        """Crossproducts of the rows of `self` that are not in `other`; levels without rows disappear.

        Raises
        ------
        LabelError
            When `other` is not a part of `self`, or has files that are not among those of `self` (`bigmm.subtract` can allow that).
        """
        from bigmm.subtraction import subtract

        return subtract(self, other) if isinstance(other, CrossProducts) else NotImplemented

    def model(self, formula: str | None = None, reml: bool = True, contrasts: Mapping[str, Any] | None = None) -> LinearMixedModel:
        """The objective as a function of theta, for the formula of the pass or any sub-model of it.

        Parameters
        ----------
        formula : str, optional
            Any formula whose columns and grouping factors were collected; it names one response when there are several.
        reml : bool
            REML criterion, or minus twice the log-likelihood.
        contrasts : dict, optional
            ``{column: "treatment" | "sum" | "helmert" | "poly" | array}``.

        Raises
        ------
        LabelError
            When the formula asks for something that was not collected.
        """
        from bigmm.solver.model import build_model

        return build_model(self, formula, reml=reml, contrasts=contrasts)

    def fit(
        self,
        formula: str | None = None,
        reml: bool = True,
        contrasts: Mapping[str, Any] | None = None,
        start: npt.ArrayLike | None = None,
        optimizer: str | Optimizer | None = None,
    ) -> LinearMixedModelFit:
        """Estimates of the formula of the pass or of any sub-model of it; no row is read again.

        Parameters
        ----------
        formula, reml, contrasts
            As for `model`.
        start : array_like, optional
            Theta to start from.
        optimizer : str or Optimizer, optional
            "newton" (the default), a method of nlopt ("bobyqa", "lbfgs", "cobyla", "neldermead", "sbplx"), or settings.
        """
        return self.model(formula, reml=reml, contrasts=contrasts).fit(start=start, optimizer=optimizer)

    def fits(
        self,
        formula: str | None = None,
        reml: bool = True,
        contrasts: Mapping[str, Any] | None = None,
        start: npt.ArrayLike | None = None,
        optimizer: str | Optimizer | None = None,
    ) -> dict[str, LinearMixedModelFit]:
        """A fit for each response of ``cbind(y1, y2) ~ ...``, the same numbers as `fit` gives for it alone.

        Columns are coded and Z'Z is analysed once for all of them.

        Parameters
        ----------
        formula : str, optional
            A sub-model; its left side lists the responses to fit.
        reml, contrasts, start, optimizer
            As for `fit`.

        Returns
        -------
        dict of {response: LinearMixedModelFit}

        Raises
        ------
        ModelError
            When one of them cannot be fitted, a constant for example; `fit` fits the others.
        """
        from bigmm.solver.model import build_models, found_model

        models = map(found_model, build_models(self, formula, reml=reml, contrasts=contrasts))
        fits = (model.fit(start=start, optimizer=optimizer) for model in models)
        return {fit.formula.responses[0].text: fit for fit in fits}

    def plan(
        self,
        formula: str | None = None,
        reml: bool = True,
        contrasts: Mapping[str, Any] | None = None,
        memory: float | None = None,
    ) -> Plan:
        """How a fit would factor the model, and the entries of L, memory, flops and seconds that this costs; nothing is factored.

        Parameters
        ----------
        formula, reml, contrasts
            As for `model`.
        memory : float, optional
            Bytes that a fit may take; unless given, the environment's BIGMM_MEMORY, or what this process may still take.

        Returns
        -------
        Plan
            Prints as a table.
        """
        return self.model(formula, reml=reml, contrasts=contrasts).plan(memory)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a directory of JSON, npz and Parquet that `bigmm.load` reads; replaced as a whole or not at all.

        Raises
        ------
        StorageError
            When `path` exists and does not hold crossproducts.
        """
        from bigmm.storage import save_crossproducts

        save_crossproducts(self, path)

    def plot_factor(self, formula: str | None = None, theta: npt.ArrayLike | None = None, *, permute: bool = True) -> Figure:
        """Draw Lambda'Z'Z Lambda + I and its Cholesky factor L side by side; needs matplotlib.

        Parameters
        ----------
        formula : str, optional
            A sub-model; its grouping factors are laid out in the order of the text.
        theta : array_like, optional
            Where to factor; the start value unless given.
        permute : bool
            Let CHOLMOD find a fill-reducing order.
        """
        from bigmm.inference.plots import plot_factor

        return plot_factor(self, formula, theta, permute=permute)
