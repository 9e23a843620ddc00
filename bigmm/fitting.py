"""The four steps of lme4 in a row: formula, crossproducts, model, fit."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy.typing as npt

from bigmm.design import NaAction
from bigmm.errors import ClusterError, FormulaError, ModelError, PrecisionWarning
from bigmm.formula import parse_formula
from bigmm.formula.coding import ContrastChoice, check_contrasts
from bigmm.reduction.arguments import check_column_names
from bigmm.reduction.cluster import connect
from bigmm.reduction.progress import Progress, ProgressCallback
from bigmm.reduction.reduce import reduce
from bigmm.remote import reduce_on_workers

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
    leaves: Literal["driver", "workers"] = "driver",
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
    leaves : {"driver", "workers"}
        Where the crossproducts of the largest factor are kept: in this process, or, when its memory will not hold them, on the
        workers of a cluster, which then share every evaluation; the numbers are the same to rounding.
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
    if leaves not in ("driver", "workers"):
        raise ModelError(f"leaves={leaves!r}: expected 'driver' or 'workers'")
    parsed = parse_formula(formula)
    if len(parsed.responses) > 1:
        raise FormulaError("several responses are several fits: bigmm.reduce(formula, data).fits()", formula, formula.index("cbind("))
    check_contrasts({} if contrasts is None else contrasts, parsed.fixed)
    on_pass = {"weights": weights, "offset": offset, "na_action": na_action, "progress": progress, "storage_options": storage_options}
    if leaves == "workers":
        with connect(client, here=False) as connected:
            if connected is None:
                raise ClusterError("leaves='workers' needs a cluster: pass a client, an address or a number of processes")
            remote = reduce_on_workers(formula, data, connected, **on_pass)  # type: ignore[arg-type]
            fit = replace(_search(remote.model(reml=reml, contrasts=contrasts), start, optimizer, progress), model=None)
            if verify:
                _verify(fit, data, connected)
            return fit
    cp = reduce(formula, data, client=client, **on_pass)  # type: ignore[arg-type]
    fit = _search(cp.model(reml=reml, contrasts=contrasts), start, optimizer, progress)
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
