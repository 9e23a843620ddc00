"""Confidence intervals of a fit's estimates."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
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
#: Levels: nearer to 0 and 1 a quantile says nothing, and the names of the limits are the same.
_LOWEST, _HIGHEST = 1e-3, 1.0 - 1e-9
#: A parameter's name, and its limits.
Named: TypeAlias = tuple[str, tuple[float, float]]


def confidence_intervals(fit: LinearMixedModelFit, parm: str | Sequence[str] | None, level: float, method: IntervalMethod) -> pd.DataFrame:
    """See `LinearMixedModelFit.confint`."""
    if method not in get_args(IntervalMethod):
        raise ModelError(f"method={method!r}: expected {' or '.join(map(repr, get_args(IntervalMethod)))}")
    _check_level(level)
    quantile = float(ndtri((1.0 + level) / 2.0))
    found = _wald(fit, parm, quantile) if method == "wald" else _profile(fit, parm, quantile)
    names = [f"{100.0 * part:.6g} %" for part in ((1.0 - level) / 2.0, (1.0 + level) / 2.0)]
    index = pd.Index([name for name, _ in found], dtype="str")
    return pd.DataFrame([limits for _, limits in found], index=index, columns=names, dtype=float)


def _check_level(level: Any) -> None:
    if not isinstance(level, (float, np.floating)) or not _LOWEST <= level <= _HIGHEST:
        raise ModelError(f"level={level!r}: expected a number between 0 and 1, for example 0.95 ({_LOWEST:g} to 1 - {1.0 - _HIGHEST:.0e})")


def _wald(fit: LinearMixedModelFit, parm: str | Sequence[str] | None, quantile: float) -> list[Named]:
    half = quantile * fit.stderr.to_numpy()
    places = _places(parm, fit.coef_names, "; standard deviations, correlations and sigma have intervals by profile alone")
    return [(fit.coef_names[j], (fit.beta[j] - half[j], fit.beta[j] + half[j])) for j in places]


def _profile(fit: LinearMixedModelFit, parm: str | Sequence[str] | None, quantile: float) -> list[Named]:
    if fit.model is None:
        raise ModelError(
            "this fit holds no crossproducts, which a profile is made from (it was loaded, or its leaves were on workers): fit them "
            "again, by bigmm.load(crossproducts).fit(start=fit.theta)"
        )
    model = fit.model.by_ml()
    with model.lock:
        likelihood = Likelihood(model, model.fit(start=fit.theta).theta if fit.reml else fit.theta)
        parameters = list(likelihood.parameters())
        places = _places(parm, [parameter.name for parameter in parameters])
        return [(parameters[place].name, _limits(parameters[place], likelihood.minimum, quantile)) for place in places]


def _limits(parameter: Parameter, minimum: float, quantile: float) -> tuple[float, float]:
    """Of one parameter; logged, for on a large model it takes a while."""
    low, high = profile_interval(parameter, minimum, quantile)
    logger.info("profile of %s: %.6g to %.6g, estimate %.6g", parameter.name, low, high, parameter.estimate)
    return low, high


def _places(parm: str | Sequence[str] | None, names: Sequence[str], others: str = "") -> list[int]:
    """Where the parameters stand that are asked for; a column may be called sigma, too. `others` is said to who asks for others."""
    if parm is None:
        return list(range(len(names)))
    asked = [parm] if isinstance(parm, str) or not isinstance(parm, Iterable) else list(parm)
    unknown = [name for name in asked if name not in names]
    if unknown:
        raise ModelError(f"parm has {', '.join(map(repr, unknown))}: expected names among {', '.join(map(repr, names))}{others}")
    return [place for name in asked for place, one in enumerate(names) if one == name]
