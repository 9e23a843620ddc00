"""Confidence intervals of a fit's estimates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np
import pandas as pd
from scipy.special import ndtri

from bigmm.errors import ModelError

if TYPE_CHECKING:
    from bigmm.inference.fit import LinearMixedModelFit

IntervalMethod: TypeAlias = Literal["wald"]


def confidence_intervals(fit: LinearMixedModelFit, level: float, method: IntervalMethod) -> pd.DataFrame:
    """See `LinearMixedModelFit.confint`."""
    if method not in get_args(IntervalMethod):
        raise ModelError(f"method={method!r}: expected {' or '.join(map(repr, get_args(IntervalMethod)))}")
    _check_level(level)
    half = float(ndtri((1.0 + level) / 2.0)) * fit.stderr
    below, above = (f"{100.0 * part:.6g} %" for part in ((1.0 - level) / 2.0, (1.0 + level) / 2.0))
    return pd.DataFrame({below: fit.fixef - half, above: fit.fixef + half})


def _check_level(level: Any) -> None:
    """See that a confidence level is a number between 0 and 1.

    Raises
    ------
    ModelError
    """
    if not isinstance(level, (float, np.floating)) or not 0.0 < level < 1.0:
        raise ModelError(f"level={level!r}: expected a number between 0 and 1, for example 0.95")
