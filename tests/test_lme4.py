"""Every case of reference/cases.json against lme4 (reference/lme4.json).

The objective is compared at fixed thetas as well as at the optimum, so that a wrong objective and a wrong search fail
apart.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import bigmm
from tests.reference.cases import CASES, Case

#: The same formula in other operations: rounding, over a sum of at most 1e5 terms.
OBJECTIVE_RTOL = 1e-9
#: Both searches stop at the rounding of the objective (1e-8 at the most here).
OPTIMUM_ATOL = 1e-6
#: Six digits, of a standard error and (in units of it) of a coefficient: theta enters them in the first order.
DIGITS = 1e-6
#: A search without derivatives sees theta only through the objective, to sqrt(rounding / curvature): 1e-6 to 1e-5.
THETA_ATOL = 1e-5
#: Variances and correlations relative to themselves, where this much of theta's error is left of a small one.
VARCORR_RTOL = 2e-5
#: Random effects in units of sigma, their variances in units of sigma^2: theta's error in the first order.
RANEF_ATOL = 1e-5

#: Cases whose objective is flat in some theta, with the differences from lme4 as measured (stderr relative, then
#: varcorr relative, then others). lme4's own default search stops 2e-8 to 1e-6 above the optimum in them, except in penicillin.
FLAT = {
    # dept has 14 levels and a variance of 0.4 % of the residual's, and the objective of 2.4e5 a rounding of 1e-9: lme4's
    # derivative-free search leaves up to 7e-7 in theta here. (Our gradient vanishes at ours to 1e-12 of a step's gain.)
    "insteval_ml": {"digits": 1e-5, "varcorr": 4e-5},  # 2.6e-6, 9.5e-6
    "insteval_reml": {"digits": 2e-5, "varcorr": 6e-5},  # 5.5e-6, 1.9e-5
    "insteval_service_slopes_ml": {"digits": 1e-5, "varcorr": 2e-5},  # 1.9e-6, 4.3e-6
}

every_case = pytest.mark.parametrize("name", CASES)


def tolerance(name: str, key: str, usual: float) -> float:
    return FLAT.get(name, {}).get(key, usual)


@functools.cache
def model_of(name: str) -> bigmm.LinearMixedModel:
    case = CASES[name]
    cp = bigmm.reduce(case.formula, case.frame(), weights=case.weights, offset=case.offset)
    return cp.model(reml=case.reml, contrasts=case.contrasts)


@functools.cache
def fit_of(name: str) -> bigmm.LinearMixedModelFit:
    return model_of(name).fit()


@pytest.mark.parametrize("name", CASES)
def test_objective_at_fixed_thetas(name: str) -> None:
    for point in CASES[name].expected["fixed_theta"]:
        assert model_of(name).objective(point["theta"]) == pytest.approx(point["objective"], rel=OBJECTIVE_RTOL)


@pytest.mark.parametrize("name", CASES)
def test_objective_at_their_optimum(name: str) -> None:
    expected = CASES[name].expected
    assert model_of(name).objective(expected["theta"]) == pytest.approx(expected["objective"], rel=OBJECTIVE_RTOL)


@every_case
def test_optimum(name: str) -> None:
    fit, expected = fit_of(name), CASES[name].expected
    assert fit.converged
    assert fit.objective <= expected["objective"] + OPTIMUM_ATOL
    assert fit.objective == model_of(name).objective(fit.theta)


@every_case
def test_theta(name: str) -> None:
    fit, expected = fit_of(name), CASES[name].expected
    assert list(model_of(name).theta_names) == list(fit.covariance.names) == expected["theta_names"]
    np.testing.assert_allclose(fit.theta, expected["theta"], rtol=0, atol=tolerance(name, "theta", THETA_ATOL))
    assert fit.singular is expected["singular"]


@every_case
def test_coefficients(name: str) -> None:
    fit, expected = fit_of(name), CASES[name].expected
    digits, stderr = tolerance(name, "digits", DIGITS), np.array(expected["stderr"])
    assert list(fit.fixef.index) == list(fit.stderr.index) == expected["fixef"]["names"]
    assert list(fit.dropped) == expected["dropped_columns"]
    np.testing.assert_allclose(fit.fixef / stderr, expected["fixef"]["values"] / stderr, rtol=0, atol=digits)
    np.testing.assert_allclose(fit.stderr, stderr, rtol=digits)
    if expected["vcov"] is not None:
        assert list(fit.vcov.index) == list(fit.vcov.columns) == expected["fixef"]["names"]
        scale = np.outer(stderr, stderr)
        np.testing.assert_allclose(fit.vcov / scale, expected["vcov"] / scale, rtol=0, atol=5 * digits)  # two factors of R_X^-1


@every_case
def test_criteria(name: str) -> None:
    fit, expected = fit_of(name), CASES[name].expected
    assert fit.nobs == expected["nobs"]
    assert list(fit.ngroups.items()) == list(expected["ngroups"].items())
    assert fit.sigma == pytest.approx(expected["sigma"], rel=DIGITS)
    for found, key in ((fit.loglik, "logLik"), (fit.aic, "AIC"), (fit.bic, "BIC")):
        assert found == pytest.approx(expected[key], rel=0, abs=OPTIMUM_ATOL)


@every_case
def test_varcorr(name: str) -> None:
    found, expected = fit_of(name).varcorr, pd.DataFrame(CASES[name].expected["varcorr"])
    labels = ["grp", "var1", "var2"]
    assert list(found.columns) == [*labels, "vcov", "sdcor"]
    assert _labels(found) == _labels(expected)
    rtol = tolerance(name, "varcorr", VARCORR_RTOL)
    for column in ("vcov", "sdcor"):
        np.testing.assert_allclose(found[column].astype(float), expected[column].astype(float), rtol=rtol, atol=1e-12)


def _labels(varcorr: pd.DataFrame) -> list[list[str | None]]:
    return [[None if pd.isna(value) else value for value in row] for row in varcorr[["grp", "var1", "var2"]].to_numpy().tolist()]


@every_case
def test_random_effects(name: str) -> None:
    fit, expected = fit_of(name), CASES[name].expected["ranef"]
    tables = fit.ranef()
    assert list(tables) == list(expected)
    for factor, wanted in expected.items():
        table = tables[factor]
        assert list(table.columns) == wanted["columns"]
        assert table.shape == (CASES[name].expected["ngroups"][factor], len(wanted["columns"]))
        found = table.to_numpy()[_positions(table.index, wanted["levels"])]
        scale = fit.sigma
        np.testing.assert_allclose(found / scale, np.array(wanted["values"]) / scale, rtol=0, atol=tolerance(name, "ranef", RANEF_ATOL))


def _positions(levels: pd.Index, wanted: list[str]) -> list[int]:
    """Places of R's level texts; the parts of a combined level are joined by colons there."""
    texts = [":".join(map(str, level)) if isinstance(level, tuple) else str(level) for level in levels]
    return [texts.index(text) for text in wanted]


@every_case
def test_conditional_variances(name: str) -> None:
    fit, expected = fit_of(name), CASES[name].expected
    variances = fit.condvar()
    assert list(variances) == list(expected["condVar"])
    for factor, terms in expected["condVar"].items():
        found, names = variances[factor]["vcov"], list(variances[factor]["names"])
        rows = _positions(variances[factor]["levels"], expected["ranef"][factor]["levels"])
        for term in terms:
            columns = [names.index(column) for column in term["columns"]]
            blocks = found[np.ix_(rows, columns, columns)]
            wanted = np.array(term["values"]).reshape(blocks.shape)
            np.testing.assert_allclose(blocks / fit.sigma**2, wanted / fit.sigma**2, rtol=0, atol=RANEF_ATOL)


@every_case
@pytest.mark.parametrize(("kind", "re_form"), [("conditional", None), ("population", "NA")])
def test_predictions(name: str, kind: str, re_form: str | None) -> None:
    fit, expected, rows = fit_of(name), CASES[name].expected["predict"], CASES[name].frame()
    found = fit.predict(rows, re_form=re_form).loc[expected["rows"]]
    np.testing.assert_allclose(found / fit.sigma, np.array(expected[kind]) / fit.sigma, rtol=0, atol=tolerance(name, "ranef", RANEF_ATOL))


# The same through files -----------------------------------------------------------------------------------------------

FROM_FILES = [
    "sleepstudy_full_reml",
    "cbpp_weights_ml",
    "cake_recipe_slopes_reml",
    "insteval_ml",
    "simulated_weights_offset_ml",
    "simulated_factor_slopes_sum_ml",
    "simulated_nested_slopes_reml",
    "deficient_both_reml",
]


@pytest.mark.parametrize("name", FROM_FILES)
def test_parquet_in_pieces(name: str, tmp_path: Path) -> None:
    case, model = CASES[name], model_of(name)
    for number, piece in enumerate(_pieces(case.frame(), case)):
        pq.write_table(piece, tmp_path / f"part-{number}.parquet", row_group_size=max(len(piece) // 2, 1))
    cp = bigmm.reduce(case.formula, str(tmp_path / "*.parquet"), weights=case.weights, offset=case.offset)
    found = cp.model(reml=case.reml, contrasts=case.contrasts)
    assert cp.nobs == case.expected["nobs"]
    assert list(found.selected.fixed.names) == case.expected["fixef"]["names"]
    for point in case.expected["fixed_theta"]:
        assert found.objective(point["theta"]) == pytest.approx(point["objective"], rel=OBJECTIVE_RTOL)
    found.pls.evaluate(case.expected["theta"])
    assert found.objective(case.expected["theta"]) == pytest.approx(model.objective(case.expected["theta"]), rel=1e-13)


def _pieces(frame: pd.DataFrame, case: Case) -> Iterator[Any]:
    """Unequal pieces; codes that R takes for a factor are written as text."""
    table = pa.Table.from_pandas(frame.astype(dict.fromkeys(case.factors, "str")), preserve_index=False)
    cuts = [0, len(frame) // 7, len(frame) // 2, len(frame) // 2 + 1, len(frame)]
    for start, stop in itertools.pairwise(cuts):
        yield table.slice(start, stop - start)
