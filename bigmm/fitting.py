"""The four steps of lme4 in a row: formula, crossproducts, model, fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from bigmm.design import NaAction
from bigmm.errors import FormulaError
from bigmm.formula import parse_formula
from bigmm.formula.coding import ContrastChoice, check_contrasts
from bigmm.reduction.arguments import check_column_names
from bigmm.reduction.progress import Progress, ProgressCallback
from bigmm.reduction.reduce import reduce

if TYPE_CHECKING:
    from bigmm.inference.fit import LinearMixedModelFit
    from bigmm.solver.optimize import Optimizer


def lmer(
    formula: str,
    data: Any,
    *,
    reml: bool = True,
    weights: str | None = None,
    offset: str | None = None,
    contrasts: Mapping[str, ContrastChoice] | None = None,
    na_action: NaAction = "omit",
    client: Any = None,
    start: npt.ArrayLike | None = None,
    optimizer: str | Optimizer | None = None,
    progress: ProgressCallback | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> LinearMixedModelFit:
    """Fit a linear mixed model.

    The same as ``bigmm.reduce(...).fit(...)``: one pass over the rows, and a search that needs none of them.

    Parameters
    ----------
    formula, data, weights, offset, na_action, client, progress, storage_options
        As for `bigmm.reduce`.
    reml : bool
        REML criterion (as lme4 does by default), or maximum likelihood.
    contrasts, start, optimizer
        As for `bigmm.CrossProducts.fit`.

    Returns
    -------
    LinearMixedModelFit

    Raises
    ------
    BigmmError
        FormulaError, DataError, ClusterError as `bigmm.reduce`; ModelError when the data cannot identify the model.

    References
    ----------
    Bates, Maechler, Bolker and Walker (2015), "Fitting linear mixed-effects models using lme4", JSS 67(1).
    """
    check_column_names(weights, offset)
    parsed = parse_formula(formula)
    if len(parsed.responses) > 1:
        raise FormulaError("several responses are several fits: bigmm.reduce(formula, data).fits()", formula, formula.index("cbind("))
    check_contrasts({} if contrasts is None else contrasts, parsed.fixed)
    cp = reduce(
        formula,
        data,
        weights=weights,
        offset=offset,
        na_action=na_action,
        client=client,
        progress=progress,
        storage_options=storage_options,
    )
    model = cp.model(reml=reml, contrasts=contrasts)
    if progress is None:
        return model.fit(start=start, optimizer=optimizer)
    return model.fit(start, optimizer, lambda number, theta, value: progress(Progress("optimize", number, None, value, theta=tuple(theta))))
