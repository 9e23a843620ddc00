"""Confidence intervals against those of lme4."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

import bigmm
from tests.reference.cases import read_data

#: lme4 1.1-31: confint(lmer(Reaction ~ 1 + Days + (1 + Days | Subject), sleepstudy), parm = "beta_", method = "Wald", level = ...)
LME4 = {
    0.95: {"2.5 %": [238.02914112, 7.43759393], "97.5 %": [264.78106858, 13.49697799]},
    0.9: {"5 %": [240.179642222, 7.924688257], "95 %": [262.63056747, 13.00988366]},
}


@pytest.fixture(scope="module")
def fit() -> bigmm.LinearMixedModelFit:
    return bigmm.lmer("Reaction ~ 1 + Days + (1 + Days | Subject)", read_data("sleepstudy"))


@pytest.mark.parametrize("level", LME4)
def test_intervals_of_lme4(fit: bigmm.LinearMixedModelFit, level: float) -> None:
    expected = pd.DataFrame(LME4[level], index=pd.Index(["(Intercept)", "Days"], dtype="str"))
    pd.testing.assert_frame_equal(fit.confint(level), expected, rtol=1e-6)


def test_95_percent_unless_asked_otherwise(fit: bigmm.LinearMixedModelFit) -> None:
    pd.testing.assert_frame_equal(fit.confint(), fit.confint(0.95, method="wald"))
    assert list(fit.confint(np.float64(0.999))) == ["0.05 %", "99.95 %"]


@pytest.mark.parametrize("level", [0.0, 1.0, 95, -0.5, float("nan"), "0.95", True, None])
def test_levels_that_are_none(fit: bigmm.LinearMixedModelFit, level: Any) -> None:
    with pytest.raises(bigmm.BigmmError, match="expected a number between 0 and 1"):
        fit.confint(level)


def test_methods_that_are_not_there(fit: bigmm.LinearMixedModelFit) -> None:
    method: Any = "profile"
    with pytest.raises(bigmm.BigmmError, match="method='profile': expected 'wald'"):
        fit.confint(method=method)


def test_no_fixed_effects() -> None:
    table = bigmm.lmer("Reaction ~ 0 + (1 | Subject)", read_data("sleepstudy")).confint()
    assert table.shape == (0, 2)
