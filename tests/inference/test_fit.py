"""What a fit holds, and what is left of it after pickling and saving."""

from __future__ import annotations

import pickle
import re
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import bigmm
from bigmm.inference.estimate import estimate
from bigmm.solver.optimize import Optimization
from tests.reference.cases import read_data


@pytest.fixture(scope="module")
def fit() -> bigmm.LinearMixedModelFit:
    return bigmm.lmer("Reaction ~ Days + (Days | Subject)", read_data("sleepstudy"))


@pytest.fixture(scope="module")
def crossed() -> bigmm.LinearMixedModelFit:
    """Combined and crossed factors, a declared order, contrasts, weights, an offset, incomplete rows."""
    data = read_data("simulated").dropna(subset=["w"])
    data["f"] = pd.Categorical(data["f"], categories=["mid", "low", "high"])
    data["s"] = pd.Categorical(data["s"], categories=sorted(set("ABCDEFGHIJKL"), reverse=True))
    formula = "y ~ f * x + h + (x | s) + (1 | g:f) + (0 + x | g)"
    return bigmm.lmer(formula, data, weights="w", offset="o", contrasts={"f": "sum"}, reml=False)


def test_attributes(fit: bigmm.LinearMixedModelFit) -> None:
    assert fit.formula.text == "Reaction ~ Days + (Days | Subject)"
    assert fit.reml
    assert fit.converged
    assert not fit.singular
    assert fit.nobs == 180
    assert fit.npar == 2 + 3 + 1
    assert fit.loglik == -fit.objective / 2
    assert fit.aic == pytest.approx(fit.objective + 12)
    assert fit.bic == pytest.approx(fit.objective + 6 * np.log(180))
    assert fit.nevals == len(fit.optimization.trace)
    assert fit.ngroups == {"Subject": 18}
    assert (fit.rows.read, fit.rows.used, fit.rows.dropped) == (180, 180, 0)


def test_tables(fit: bigmm.LinearMixedModelFit) -> None:
    assert isinstance(fit.fixef, pd.Series)
    assert isinstance(fit.stderr, pd.Series)
    assert fit.fixef.name == "Estimate"
    assert fit.stderr.name == "Std. Error"
    assert list(fit.fixef.index) == ["(Intercept)", "Days"]
    np.testing.assert_allclose(np.sqrt(np.diag(fit.vcov)), fit.stderr)
    np.testing.assert_array_equal(fit.vcov, fit.vcov.T)
    # what is changed in a table does not reach the fit
    estimates, table = fit.fixef, fit.ranef()["Subject"]
    estimates["Days"] *= 2
    table.iloc[0] = 0.0
    assert fit.fixef["Days"] == pytest.approx(10.467, abs=1e-3)
    assert (fit.ranef()["Subject"].iloc[0] != 0).all()


def test_varcorr_is_that_of_the_template(fit: bigmm.LinearMixedModelFit) -> None:
    table, T = fit.varcorr, fit.template(0)
    cov = T @ T.T
    np.testing.assert_allclose(table["vcov"], [cov[0, 0], cov[1, 1], cov[1, 0], fit.sigma**2])
    np.testing.assert_allclose(table["sdcor"][:3], [cov[0, 0] ** 0.5, cov[1, 1] ** 0.5, cov[1, 0] / (cov[0, 0] * cov[1, 1]) ** 0.5])
    assert table["var2"].isna().tolist() == [True, True, False, True]


def test_correlation_with_a_zero_variance_is_nan() -> None:
    model = bigmm.reduce("Reaction ~ Days + (Days | Subject)", read_data("sleepstudy")).model()
    theta = np.array([1.0, 0.0, 0.0])
    fit = estimate(model, Optimization(bigmm.Optimizer(), theta, theta, model.objective(theta), (), "set by hand", True))
    assert fit.singular
    assert np.isnan(fit.varcorr["sdcor"][2])
    assert fit.varcorr["vcov"][2] == 0.0
    assert " NaN" in fit.summary()
    assert "boundary (singular) fit" in fit.summary()
    np.testing.assert_array_equal(fit.ranef()["Subject"]["Days"], 0.0)


def test_random_effects_by_value() -> None:
    data = read_data("sleepstudy").assign(Subject=lambda d: d["Subject"] % 20)  # 8 to 19: integers, not texts
    (name,), (table,) = zip(*bigmm.lmer("Reaction ~ Days + (1 | Subject)", data).ranef().items(), strict=True)
    assert table.index.tolist() == sorted(set(data["Subject"]))
    assert table.index.name == name == "Subject"
    assert table.columns.tolist() == ["(Intercept)"]


def test_random_effects_in_declared_order(crossed: bigmm.LinearMixedModelFit) -> None:
    table = crossed.ranef()["s"]
    assert table.index.tolist() == list("LKJIHGFEDCBA")
    by_value = bigmm.lmer("y ~ x + (1 | s)", read_data("simulated"))
    declared = read_data("simulated").assign(s=lambda d: pd.Categorical(d["s"], categories=list("CBADEFLKJIHG")))
    by_order = bigmm.lmer("y ~ x + (1 | s)", declared)
    assert by_order.ranef()["s"].index.tolist() == list("CBADEFLKJIHG")
    pd.testing.assert_frame_equal(by_order.ranef()["s"].sort_index(), by_value.ranef()["s"], check_index_type=False)
    np.testing.assert_allclose(
        by_order.condvar()["s"]["vcov"][np.argsort(list("CBADEFLKJIHG"))], by_value.condvar()["s"]["vcov"], rtol=1e-9
    )


def test_random_effects_of_combined_factors(crossed: bigmm.LinearMixedModelFit) -> None:
    tables = crossed.ranef()
    assert list(tables) == ["g:f", "g", "s"]  # theta's order, by decreasing number of levels
    index = tables["g:f"].index
    assert isinstance(index, pd.MultiIndex)
    assert index.names == ["g", "f"]
    assert len(index) == crossed.ngroups["g:f"]
    order = {"mid": 0, "low": 1, "high": 2}
    assert index.tolist() == sorted(index.tolist(), key=lambda level: (level[0], order[level[1]]))
    variances = crossed.condvar()["g:f"]
    assert variances["levels"].equals(index)
    assert variances["vcov"].shape == (len(index), 1, 1)


def test_several_terms_on_one_factor() -> None:
    fit = bigmm.lmer("Reaction ~ Days + (1 | Subject) + (0 + Days | Subject)", read_data("sleepstudy"))
    assert list(fit.ranef()) == ["Subject"]
    assert fit.ranef()["Subject"].columns.tolist() == ["(Intercept)", "Days"]
    assert fit.varcorr["grp"].tolist() == ["Subject", "Subject.1", "Residual"]


# Pickles --------------------------------------------------------------------------------------------------------------


def assert_same(found: bigmm.LinearMixedModelFit, expected: bigmm.LinearMixedModelFit) -> None:
    assert found.summary() == expected.summary()
    assert found.dropped == expected.dropped
    assert found.rows == expected.rows
    assert (found.objective, found.sigma, found.npar) == (expected.objective, expected.sigma, expected.npar)
    np.testing.assert_array_equal(found.theta, expected.theta)
    pd.testing.assert_series_equal(found.fixef, expected.fixef)
    pd.testing.assert_frame_equal(found.vcov, expected.vcov)
    pd.testing.assert_frame_equal(found.varcorr, expected.varcorr)
    assert list(found.ranef()) == list(expected.ranef())
    for name, table in expected.ranef().items():
        pd.testing.assert_frame_equal(found.ranef()[name], table)
    assert len(found.optimization.trace) == found.nevals == expected.nevals
    for (at, value), (expected_at, expected_value) in zip(found.optimization.trace, expected.optimization.trace, strict=True):
        np.testing.assert_array_equal(at, expected_at)
        assert value == expected_value


def test_pickle(crossed: bigmm.LinearMixedModelFit) -> None:
    before = crossed.condvar()
    copy = pickle.loads(pickle.dumps(crossed))
    assert_same(copy, crossed)
    assert copy.model._pls is None  # CHOLMOD's factor cannot travel
    rows = read_data("simulated").assign(w=1.0)
    pd.testing.assert_series_equal(copy.predict(rows), crossed.predict(rows))
    for name, variances in copy.condvar().items():
        np.testing.assert_allclose(variances["vcov"], before[name]["vcov"], rtol=1e-12)
        assert variances["levels"].equals(before[name]["levels"])


def test_condvar_of_a_pickle_that_never_had_it(fit: bigmm.LinearMixedModelFit) -> None:
    fresh = bigmm.lmer("Reaction ~ Days + (Days | Subject)", read_data("sleepstudy"))
    copy = pickle.loads(pickle.dumps(fresh))
    np.testing.assert_allclose(copy.condvar()["Subject"]["vcov"], fit.condvar()["Subject"]["vcov"], rtol=1e-6)


def test_pickle_holds_no_rows() -> None:
    data = read_data("sleepstudy")
    many = pd.concat([data] * 100)
    settings = bigmm.Optimizer(maxeval=20)
    sizes = [len(pickle.dumps(bigmm.lmer("Reaction ~ Days + (1 | Subject)", rows, optimizer=settings))) for rows in (data, many)]
    assert abs(sizes[1] - sizes[0]) < 4000  # 18,000 rows are 144,000 bytes a column


# On disk --------------------------------------------------------------------------------------------------------------


def round_trip(fit: bigmm.LinearMixedModelFit, folder: Path) -> bigmm.LinearMixedModelFit:
    fit.save(folder / "fit")
    loaded = bigmm.load(folder / "fit")
    assert isinstance(loaded, bigmm.LinearMixedModelFit)
    return loaded


def test_loaded_fit(crossed: bigmm.LinearMixedModelFit, tmp_path: Path) -> None:
    loaded = round_trip(crossed, tmp_path)
    assert_same(loaded, crossed)
    rows = read_data("simulated")
    for re_form in (None, "NA", "~ (x | s)"):
        pd.testing.assert_series_equal(loaded.predict(rows, re_form=re_form), crossed.predict(rows, re_form=re_form))
    assert_same(pickle.loads(pickle.dumps(loaded)), crossed)


def test_loaded_fit_has_no_conditional_variances(fit: bigmm.LinearMixedModelFit, tmp_path: Path) -> None:
    loaded = round_trip(fit, tmp_path)
    with pytest.raises(bigmm.ModelError, match=r"this fit holds no crossproducts \(it was loaded"):
        loaded.condvar()


CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "singular": ("dyestuff2", "Yield ~ 1 + (1 | Batch)", {}),
    "no fixed effects": ("sleepstudy", "Reaction ~ 0 + (1 | Subject)", {}),
    "dropped columns": ("deficient", "y ~ x1 + x2 + x3 + f * h + c + (1 | g)", {"contrasts": {"f": "helmert"}}),
    "matrix of contrasts": ("cake", "angle ~ recipe + (1 | replicate)", {"contrasts": {"recipe": [[1, 0], [-1, 1], [0, -1]]}}),
    "not converged": ("sleepstudy", "Reaction ~ Days + (Days | Subject)", {"optimizer": bigmm.Optimizer("sbplx", maxeval=9)}),
    "awkward names": ("odd", "`y y` ~ `a:b` + (1 | `../g`)", {}),
}


@pytest.mark.parametrize("name", CASES)
def test_every_kind_of_fit_loads(name: str, tmp_path: Path) -> None:
    source, formula, arguments = CASES[name]
    data = _odd() if source == "odd" else read_data(source)
    fit = bigmm.lmer(formula, data, **arguments)
    loaded = round_trip(fit, tmp_path)
    assert_same(loaded, fit)
    pd.testing.assert_series_equal(loaded.predict(data), fit.predict(data))


def _odd() -> pd.DataFrame:
    data = read_data("sleepstudy").rename(columns={"Reaction": "y y", "Days": "a:b", "Subject": "../g"})
    return data.assign(**{"../g": "é/" + data["../g"].astype("str")})


def test_threads_take_turns_with_one_model() -> None:
    """There is one factor: what a thread has put there must not be read by another."""
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"g": rng.integers(0, 900, 9000), "h": rng.integers(0, 90, 9000)})
    rows["y"] = rng.normal(size=900)[rows["g"]] + rng.normal(size=90)[rows["h"]] + rng.normal(size=9000)
    model = bigmm.reduce("y ~ 1 + (1 | g) + (1 | h)", rows, client=0).model(reml=False)
    thetas = [model.theta0 * (0.3 + 0.1 * step) for step in range(16)]
    values, gradients, expected = [model.objective(t) for t in thetas], [model.gradient(t) for t in thetas], model.fit()
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(call, theta) for theta in thetas for call in (model.objective, model.gradient, model.fit)]
        found = [future.result() for future in futures]
    assert found[::3] == values
    np.testing.assert_array_equal(found[1::3], gradients)
    assert max(abs(fit.objective - expected.objective) for fit in found[2::3]) < 1e-7
    assert pickle.loads(pickle.dumps(model)).objective(thetas[0]) == pytest.approx(values[0], rel=1e-14)


def test_a_callback_may_evaluate() -> None:
    model = bigmm.reduce("Reaction ~ Days + (Days | Subject)", read_data("sleepstudy"), client=0).model()
    seen: list[float] = []
    found = model.fit(on_evaluation=lambda *_: seen.append(model.objective(3.0 * model.theta0)))
    expected = model.fit()
    assert len(seen) == found.nevals == expected.nevals
    assert (found.objective, found.theta.tolist()) == (expected.objective, expected.theta.tolist())


@pytest.mark.parametrize("reml", ["x", None, 0.5, 2, np.ones(2), pd.NA], ids=str)
def test_reml_is_true_or_false(reml: Any) -> None:
    with pytest.raises(bigmm.ModelError, match=f"reml={re.escape(repr(reml))}: expected True or False"):
        bigmm.lmer("Reaction ~ Days + (Days | Subject)", read_data("sleepstudy"), reml=reml)


def test_declared_order_in_the_hour_that_comes_twice() -> None:
    moments = pd.date_range("2023-10-29 00:00", periods=4, freq="30min", tz="UTC").tz_convert("Europe/Berlin")
    rng = np.random.default_rng(4)
    frame = pd.DataFrame({"y": rng.normal(size=80), "t": pd.Categorical(moments[np.arange(80) % 4], categories=moments[::-1])})
    fit = bigmm.lmer("y ~ 1 + (1 | t)", frame, client=0)
    assert [str(level) for level in fit.ranef()["t"].index] == [str(moment) for moment in moments[::-1]]


def test_terms_and_columns_named_alike() -> None:
    rng = np.random.default_rng(4)
    frame = pd.DataFrame({name: rng.normal(size=200) for name in ("y", "x", "fb")})
    frame = frame.assign(**{"g": rng.integers(0, 9, 200), "g.1": rng.integers(0, 7, 200), "f": rng.choice(["a", "b"], 200)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", bigmm.IdentificationWarning)  # two intercepts of one factor
        fit = bigmm.lmer("y ~ x + (x || g) + (0 + x | `g.1`) + (f | g) + (0 + fb | g)", frame, client=0)
    assert sorted(set(fit.varcorr["grp"])) == ["Residual", "g", "g.1", "g.2", "g.3", "g.4"]
    assert fit.varcorr.set_index("grp").loc["g.1", "var1"] == "x"
    assert fit.varcorr["grp"].value_counts()["g.1"] == 1
    assert sorted(fit.ranef()["g"].columns) == ["(Intercept)", "(Intercept).1", "fb", "fb.1", "x"]
    assert list(fit.condvar()["g"]["names"]) == list(fit.ranef()["g"].columns)
