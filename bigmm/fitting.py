"""The four steps of lme4 in a row: formula, crossproducts, model, fit."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from bigmm.design import NaAction
from bigmm.errors import FormulaError, PrecisionWarning
from bigmm.formula import parse_formula
from bigmm.formula.coding import ContrastChoice, check_contrasts
from bigmm.leaves import reduced
from bigmm.reduction.arguments import check_column_names
from bigmm.reduction.progress import Progress, ProgressCallback
from bigmm.remote import RemoteCrossProducts
from bigmm.solver.residence import LeavesChoice, check_leaves

if TYPE_CHECKING:
    from bigmm.inference.fit import LinearMixedModelFit
    from bigmm.solver.model import LinearMixedModel
    from bigmm.solver.optimize import Optimizer

logger = logging.getLogger(__name__)

#: Residual sums of squares further apart than this part of them are warned about.
_APART = 1e-6


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
    leaves: LeavesChoice = "auto",
    verify: bool = False,
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
    leaves : {"auto", "workers", "local"}
        Where the crossproducts of the largest factor are kept: in this process, or on the workers of a cluster, which then share
        every evaluation; the numbers are the same to rounding. "auto" leaves them on the workers when there are some and the
        memory of this process (BIGMM_MEMORY overrides what is found) will not hold them; what was chosen and why is logged, and
        part of the model's plan.
    verify : bool
        Read the rows once more at the end, log how far their residual sum of squares is from that of the crossproducts, and
        warn when fewer than six digits agree (see `LinearMixedModelFit.verify`).

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
    check_leaves(leaves)
    parsed = parse_formula(formula)
    if len(parsed.responses) > 1:
        raise FormulaError("several responses are several fits: bigmm.reduce(formula, data).fits()", formula, formula.index("cbind("))
    check_contrasts({} if contrasts is None else contrasts, parsed.fixed)
    on_pass = {"weights": weights, "offset": offset, "na_action": na_action, "progress": progress, "storage_options": storage_options}
    with reduced(formula, data, leaves, client, **on_pass) as found:  # type: ignore[arg-type]
        model = found.cp.model(reml=reml, contrasts=contrasts)
        model.residence = found.residence
        fit = _search(model, start, optimizer, progress)
        if isinstance(found.cp, RemoteCrossProducts):
            fit = replace(fit, model=None)
            client = found.cp.client
        if verify:
            _verify(fit, data, client)
    return fit


def _search(
    model: LinearMixedModel, start: npt.ArrayLike | None, optimizer: str | Optimizer | None, progress: ProgressCallback | None
) -> LinearMixedModelFit:
    if progress is None:
        return model.fit(start=start, optimizer=optimizer)
    return model.fit(start, optimizer, lambda number, theta, value: progress(Progress("optimize", number, None, value, theta=tuple(theta))))


def _verify(fit: LinearMixedModelFit, data: Any, client: Any) -> None:
    found = fit.verify(data, client)
    logger.info("%s", found)
    if abs(found.relative) > _APART:
        warnings.warn(
            f"{found}: center the columns, or subtract a large part of the response, and reduce again", PrecisionWarning, stacklevel=3
        )
