"""The fit as text. The files in golden/ were compared with what summary() of lme4 1.1-31 prints; `pytest --update-golden` writes them."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

import bigmm
from bigmm.inference.estimate import estimate
from bigmm.inference.summary import abbreviate, format_numbers
from bigmm.solver.optimize import Optimization, Optimizer
from tests.reference.cases import CASES, read_data

Golden = Callable[[str, str], None]


def text_of(fit: bigmm.LinearMixedModelFit) -> str:
    """The summary; how the search ended depends on the processor's rounding."""
    assert str(fit) == fit.summary()
    text, found = re.subn(r"after \d+ evaluations( \(gradient \S+, Newton decrement \S+\))?", "after N evaluations", fit.summary())
    assert found == 1
    return text


def fit_at(model: bigmm.LinearMixedModel, theta: list[float]) -> bigmm.LinearMixedModelFit:
    """A fit at a given theta, where the one that a search finds would differ in the last digit shown."""
    at = np.array(theta)
    value = model.objective(at)
    return estimate(model, Optimization(Optimizer(), at, at, value, ((at, value),), "ftol reached", True))


def test_sleepstudy_reml(golden: Golden) -> None:
    golden("sleepstudy_reml", text_of(bigmm.lmer("Reaction ~ Days + (Days | Subject)", read_data("sleepstudy"))))


def test_insteval_ml(golden: Golden) -> None:
    case = CASES["insteval_ml"]
    cp = bigmm.reduce("y ~ 1 + service + (1 | s) + (1 | d) + (1 | dept)", case.frame())
    golden("insteval_ml", text_of(fit_at(cp.model(reml=False), case.expected["theta"])))


def test_interactions(golden: Golden) -> None:
    cake = read_data("cake", ["temperature"])
    golden("cake_interactions", text_of(bigmm.lmer("angle ~ recipe * temperature + (1 | recipe:replicate)", cake)))


def test_uncorrelated_coefficients(golden: Golden) -> None:
    golden("cake_additive", text_of(bigmm.lmer("angle ~ recipe + temp + (1 | recipe:replicate)", read_data("cake"))))


def test_singular(golden: Golden) -> None:
    golden("dyestuff2_singular", text_of(bigmm.lmer("Yield ~ 1 + (1 | Batch)", read_data("dyestuff2"))))


def test_rank_deficient_with_dropped_rows_weights_and_offset(golden: Golden) -> None:
    data = read_data("deficient").assign(w=lambda d: d.x2 + 0.5, o=lambda d: d.x1 / 2)
    data.loc[[2, 6], "y"] = np.nan
    data.loc[8, "f"] = None
    golden("deficient", text_of(bigmm.lmer("y ~ x1 + x2 + x3 + f * h + c + (1 | g)", data, weights="w", offset="o")))


def test_correlations_and_several_terms(golden: Golden) -> None:
    cp = bigmm.reduce("y ~ f * h + x + (f | s) + (0 + x | g) + (1 | g)", read_data("simulated"))
    theta = [0.68314, 0.76678, 0.95294, -0.25323, -1.03257, 0.37862, 0.53100, 0.46799]
    golden("simulated_terms", text_of(fit_at(cp.model(reml=False), theta)))


def test_no_fixed_effects() -> None:
    fit = bigmm.lmer("Reaction ~ 0 + (1 | Subject)", read_data("sleepstudy"), reml=False)
    assert "No fixed effects\n" in fit.summary()
    assert "Correlation" not in fit.summary()


def test_not_converged() -> None:
    fit = bigmm.lmer("Reaction ~ Days + (Days | Subject)", read_data("sleepstudy"), optimizer=bigmm.Optimizer(maxeval=3))
    assert not fit.converged
    assert fit.nevals >= 3
    assert "NOT CONVERGED" in fit.summary()


# format(c(...), digits = ...) of R 4.2.2
FORMATS = [
    ([612.1002, 35.0717, 654.9401], 4, ["612.10", " 35.07", "654.94"]),
    ([0.1059, 0.2652, 0.006165, 1.38649], 4, ["0.105900", "0.265200", "0.006165", "1.386490"]),
    ([90303.1, 1959.2], 4, ["90303", " 1959"]),
    ([0, 13.81], 4, [" 0.00", "13.81"]),
    ([0, 0], 4, ["0", "0"]),
    ([-0.0, 1.5], 4, ["0.0", "1.5"]),
    ([1e-10, 1], 4, ["1e-10", "1e+00"]),
    ([1e10, 1], 4, ["1e+10", "1e+00"]),
    ([123456], 4, ["123456"]),
    ([1e5], 4, ["1e+05"]),
    ([1e-5, 123], 4, ["1.00e-05", "1.23e+02"]),
    ([np.nan, 2.25], 4, [" NaN", "2.25"]),
    ([np.inf, 1.25], 4, [" Inf", "1.25"]),
    ([99999.5, 1], 4, ["1e+05", "1e+00"]),
    ([9999.99], 4, ["10000"]),
    ([0.00099999], 4, ["0.001"]),
    ([-1.5, 22.75], 4, ["-1.50", "22.75"]),
    ([1234567.8, 0.001], 4, ["1.235e+06", "1.000e-03"]),
    ([1e15], 4, ["1e+15"]),
    ([123456789], 4, ["123456789"]),
    ([3.00001], 4, ["3"]),
    ([0.1 + 0.2], 15, ["0.3"]),
    ([1 / 3, 2 / 3], 7, ["0.3333333", "0.6666667"]),
    ([1e300, 1e-300], 4, ["1e+300", "1e-300"]),
    ([1.0005], 4, ["1"]),
    ([0.5, 1.5], 1, ["0.5", "1.5"]),
    ([31.4159, 2.71828], 3, ["31.42", " 2.72"]),
]


@pytest.mark.parametrize(("values", "digits", "expected"), FORMATS, ids=str)
def test_format_numbers(values: list[float], digits: int, expected: list[str]) -> None:
    assert format_numbers(np.array(values, dtype=np.float64), digits) == expected


def test_format_no_numbers() -> None:
    assert format_numbers(np.zeros(0)) == []


# abbreviate(name, 6) and abbreviate(name, 11) of R 4.2.2
ABBREVIATIONS = [
    ("(Intercept)", "(Intr)", "(Intercept)"),
    ("Days", "Days", "Days"),
    ("recipeB", "recipB", "recipeB"),
    ("temperature185", "tmp185", "tempertr185"),
    ("flow:hyes", "flw:hy", "flow:hyes"),
    ("flow:hyes:x", "flw:h:", "flow:hyes:x"),
    ("fmid:hyes", "fmd:hy", "fmid:hyes"),
    ("service1", "servc1", "service1"),
    ("I(Days^2)", "I(D^2)", "I(Days^2)"),
    ("a b c d e f g", "abcdefg", "abcdefg"),
    ("sampleSample", "smplSm", "sampleSampl"),
    ("aeiou", "aeiou", "aeiou"),
    ("Aeiou bcd", "Aeibcd", "Aeiou bcd"),
    ("UPPERCASE", "UPPERC", "UPPERCASE"),
    ("temperature", "tmprtr", "temperature"),
    ("minority yes", "mnrtyy", "minorityyes"),
    ("poly(x, 2)1", "p(,2)1", "poly(x, 2)1"),
    ("under_score", "undr_s", "under_score"),
    ("recipe.L", "recp.L", "recipe.L"),
    ("temperature^5", "tmpr^5", "temperatr^5"),
    ("MATHKIND_long", "MATHKI", "MATHKIND_ln"),
    ("scale(x)", "scl(x)", "scale(x)"),
]


@pytest.mark.parametrize(("name", "six", "eleven"), ABBREVIATIONS)
def test_abbreviate(name: str, six: str, eleven: str) -> None:
    assert abbreviate([name], 6) == [six]
    assert abbreviate([name], 11) == [eleven]


def test_abbreviations_differ() -> None:
    # R: abbreviate(c("flow:hyes", "flew:hyes", "flowx", "flow:hyas"), 6), and the same for the names below
    assert abbreviate(["flow:hyes", "flew:hyes", "flowx", "flow:hyas"], 6) == ["flow:hyes", "flew:hys", "flowx", "flow:hyas"]
    names = ["temperature", "temperatura", "temperatere", "Days"]
    assert abbreviate(names, 6) == ["temperature", "temperatura", "temperater", "Days"]
    assert abbreviate(["a ", "a"], 6) == ["a", "a"]
