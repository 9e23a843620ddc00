"""Confidence intervals of a fit's estimates."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np
import pandas as pd
from scipy.special import ndtri

from bigmm.errors import ModelError
from bigmm.inference.likelihood import Likelihood, Parameter
from bigmm.inference.profile import profile_interval

if TYPE_CHECKING:
    from bigmm.inference.fit import LinearMixedModelFit

logger = logging.getLogger(__name__)

IntervalMethod: TypeAlias = Literal["wald", "profile"]


def confidence_intervals(fit: LinearMixedModelFit, parm: str | Sequence[str] | None, level: float, method: IntervalMethod) -> pd.DataFrame:
    """See `LinearMixedModelFit.confint`."""
    if method not in get_args(IntervalMethod):
        raise ModelError(f"method={method!r}: expected {' or '.join(map(repr, get_args(IntervalMethod)))}")
    _check_level(level)
    quantile = float(ndtri((1.0 + level) / 2.0))
    limits = _wald(fit, parm, quantile) if method == "wald" else _profile(fit, parm, quantile)
    names = [f"{100.0 * part:.6g} %" for part in ((1.0 - level) / 2.0, (1.0 + level) / 2.0)]
    return pd.DataFrame(list(limits.values()), index=pd.Index(list(limits), dtype="str"), columns=names, dtype=float)


def _check_level(level: Any) -> None:
    if not isinstance(level, (float, np.floating)) or not 0.0 < level < 1.0:
        raise ModelError(f"level={level!r}: expected a number between 0 and 1, for example 0.95")


def _wald(fit: LinearMixedModelFit, parm: str | Sequence[str] | None, quantile: float) -> dict[str, tuple[float, float]]:
    half = quantile * fit.stderr
    return {name: (fit.fixef[name] - half[name], fit.fixef[name] + half[name]) for name in _chosen(parm, fit.coef_names)}


def _profile(fit: LinearMixedModelFit, parm: str | Sequence[str] | None, quantile: float) -> dict[str, tuple[float, float]]:
    if fit.model is None:
        raise ModelError(
            "this fit holds no crossproducts, which a profile is made from (it was loaded, or its leaves were on workers): fit them "
            "again, by bigmm.load(crossproducts).fit(start=fit.theta)"
        )
    model = fit.model.by_ml()
    with model.lock:
        likelihood = Likelihood(model, model.fit(start=fit.theta).theta if fit.reml else fit.theta)
        parameters = {parameter.name: parameter for parameter in likelihood.parameters()}
        chosen = _chosen(parm, list(parameters))
        return {name: _limits(parameters[name], likelihood.minimum, quantile) for name in chosen}


def _limits(parameter: Parameter, minimum: float, quantile: float) -> tuple[float, float]:
    """Of one parameter; logged, for on a large model it takes a while."""
    low, high = profile_interval(parameter, minimum, quantile)
    logger.info("profile of %s: %.6g to %.6g, estimate %.6g", parameter.name, low, high, parameter.estimate)
    return low, high


def _chosen(parm: str | Sequence[str] | None, names: Sequence[str]) -> list[str]:
    asked = list(names) if parm is None else [parm] if isinstance(parm, str) else list(parm)
    unknown = [name for name in asked if name not in names]
    if unknown:
        raise ModelError(f"parm has {', '.join(map(repr, unknown))}: expected names among {', '.join(map(repr, names))}")
    return asked
