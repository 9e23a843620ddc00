"""Confidence intervals, against those of lme4 and against the likelihood as it is defined."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize
from scipy.special import ndtri

import bigmm
from bigmm.inference.likelihood import Parameter
from bigmm.inference.profile import profile_interval
from tests.reference.cases import read_data

SLOPES = "Reaction ~ 1 + Days + (1 + Days | Subject)"
#: lme4 1.1-31: confint(lmer(Reaction ~ 1 + Days + (1 + Days | Subject), sleepstudy), parm = "beta_", method = "Wald", level = ...)
WALD = {
    0.95: {"2.5 %": [238.02914112, 7.43759393], "97.5 %": [264.78106858, 13.49697799]},
    0.9: {"5 %": [240.179642222, 7.924688257], "95 %": [262.63056747, 13.00988366]},
}
#: lme4 1.1-31: confint(lmer(..., REML = FALSE), oldNames = FALSE), which interpolates between points of the profile.
PROFILES: dict[tuple[str, str], dict[str, tuple[float, float]]] = {
    ("sleepstudy", SLOPES): {
        "sd_(Intercept)|Subject": (14.38143435, 37.71601215),
        "cor_Days.(Intercept)|Subject": (-0.48150044, 0.68498621),
        "sd_Days|Subject": (3.80116474, 8.75336674),
        "sigma": (22.89826622, 28.85799732),
        "(Intercept)": (237.68069547, 265.12951469),
        "Days": (7.35865330, 13.57591874),
    },
    ("sleepstudy", "Reaction ~ 1 + Days + (1 + Days || Subject)"): {
        "sd_(Intercept)|Subject": (15.2586462, 37.7864639),
        "sd_Days|Subject.1": (3.9640744, 8.7691604),
        "sigma": (22.8805547, 28.7875976),
        "(Intercept)": (237.5721480, 265.2380618),
        "Days": (7.3340668, 13.6005051),
    },
    ("penicillin", "diameter ~ 1 + (1 | plate) + (1 | sample)"): {
        "sd_(Intercept)|plate": (0.63356597, 1.18210399),
        "sd_(Intercept)|sample": (1.09578940, 3.55629178),
        "sigma": (0.48584540, 0.62945348),
        "(Intercept)": (21.26662738, 24.67781762),
    },
    ("pastes", "strength ~ 1 + (1 | batch / cask)"): {
        "sd_(Intercept)|cask:batch": (2.15793374, 4.0535888),
        "sd_(Intercept)|batch": (0.0, 2.9465913),
        "sigma": (0.65202336, 1.0854481),
        "(Intercept)": (58.66365038, 61.4430164),
    },
    ("dyestuff2", "Yield ~ 1 + (1 | Batch)"): {
        "sd_(Intercept)|Batch": (0.0, 2.0840435),
        "sigma": (2.8928310, 4.8158326),
        "(Intercept)": (4.3121002, 7.0190923),
    },
}


#: Of the simulated data.
GROUPS, EACH = 60, 8


@pytest.fixture(scope="module")
def fit() -> bigmm.LinearMixedModelFit:
    return bigmm.lmer(SLOPES, read_data("sleepstudy"))


@pytest.mark.parametrize("level", WALD)
def test_wald_intervals_of_lme4(fit: bigmm.LinearMixedModelFit, level: float) -> None:
    expected = pd.DataFrame(WALD[level], index=pd.Index(["(Intercept)", "Days"], dtype="str"))
    pd.testing.assert_frame_equal(fit.confint(level=level), expected, rtol=1e-6)


@pytest.mark.parametrize(("data", "formula"), PROFILES)
def test_profiles_of_lme4(data: str, formula: str) -> None:
    """Of a model fitted by REML, too: the likelihood of ML decides."""
    expected = pd.DataFrame.from_dict(PROFILES[data, formula], orient="index", columns=["2.5 %", "97.5 %"])
    for reml in (True, False):
        found = bigmm.lmer(formula, read_data(data), reml=reml).confint(method="profile")
        assert list(found.index) == list(expected.index)
        np.testing.assert_allclose(found, expected, rtol=2e-4)


def _simulated() -> pd.DataFrame:
    rng = np.random.default_rng(5)
    g, x, z = np.arange(GROUPS * EACH) // EACH, rng.normal(size=GROUPS * EACH), rng.normal(size=GROUPS * EACH)
    b = rng.normal(size=(GROUPS, 3)) @ np.array([[1.0, 0.5, 0.2], [0.0, 0.7, -0.4], [0.0, 0.0, 0.6]])
    return pd.DataFrame({"y": 1.0 + x + b[g, 0] + b[g, 1] * x + b[g, 2] * z + rng.normal(size=len(g)), "x": x, "z": z, "g": g})


def _minus_twice_loglik(data: pd.DataFrame, parameters: np.ndarray) -> float:
    """From its definition: standard deviations, correlations (of 1 and x, 1 and z, x and z), residual one, coefficients of 1 and x."""
    sd, cor, sigma, beta = parameters[:3], parameters[3:6], parameters[6], parameters[7:]
    R = np.array([[1.0, cor[0], cor[1]], [cor[0], 1.0, cor[2]], [cor[1], cor[2], 1.0]])
    if np.linalg.eigvalsh(R).min() < 0.0 or sigma <= 0.0:
        return 1e10
    Z = np.stack([np.ones(len(data)), data["x"], data["z"]], axis=1).reshape(GROUPS, EACH, 3)
    V = Z @ (np.outer(sd, sd) * R) @ Z.transpose(0, 2, 1) + sigma**2 * np.eye(EACH)
    left = data["y"].to_numpy().reshape(GROUPS, EACH) - Z[:, :, :2] @ beta
    return float(np.linalg.slogdet(2.0 * np.pi * V)[1].sum() + (left * np.linalg.solve(V, left[:, :, None])[:, :, 0]).sum())


NAMES = ["sd_(Intercept)|g", "sd_x|g", "sd_z|g", "cor_x.(Intercept)|g", "cor_z.(Intercept)|g", "cor_z.x|g", "sigma", "(Intercept)", "x"]


@pytest.mark.parametrize("name", NAMES)
def test_limits_of_the_likelihood_as_it_is_defined(name: str) -> None:
    """Three random effects: with a parameter at its limit the likelihood's maximum over all others is lower by half a squared quantile."""
    data = _simulated()
    fit = bigmm.lmer("y ~ 1 + x + (1 + x + z | g)", data, reml=False)
    held, cov = NAMES.index(name), fit.varcorr
    start = np.concatenate([cov["sdcor"].iloc[:6], [fit.sigma], fit.fixef])
    assert _minus_twice_loglik(data, start) == pytest.approx(fit.objective, abs=1e-8)
    limits = fit.confint(name, level=0.9, method="profile").iloc[0]
    assert limits.iloc[0] < start[held] < limits.iloc[1]
    for limit in limits:

        def deviance(others: np.ndarray, limit: float = limit) -> float:
            return _minus_twice_loglik(data, np.insert(others, held, limit))

        found = minimize(deviance, np.delete(start, held), method="BFGS", options={"gtol": 1e-4})
        assert found.fun - fit.objective == pytest.approx(ndtri(0.95) ** 2, abs=1e-4)


def test_units_do_not_matter() -> None:
    data = _simulated()
    formula = "y ~ 1 + x + (1 + x | g)"
    plain = bigmm.lmer(formula, data).confint(method="profile")
    scaled = bigmm.lmer(formula, data.assign(y=1e3 * data["y"], x=1e-2 * data["x"])).confint(method="profile")
    by_y = ["sd_(Intercept)|g", "sigma", "(Intercept)"]
    np.testing.assert_allclose(scaled.loc[by_y], 1e3 * plain.loc[by_y], rtol=1e-4)
    np.testing.assert_allclose(scaled.loc[["sd_x|g", "x"]], 1e5 * plain.loc[["sd_x|g", "x"]], rtol=1e-4)
    np.testing.assert_allclose(scaled.loc["cor_x.(Intercept)|g"], plain.loc["cor_x.(Intercept)|g"], rtol=1e-3)


@pytest.mark.parametrize("shift", [100.0, 2000.0, 1e4])
def test_a_constant_that_is_added_to_a_predictor_does_not_matter(shift: float) -> None:
    """Days since another day: intercept and slope are correlated by nearly -1, and what does not depend on the intercept stays."""
    data, names = read_data("sleepstudy"), ["sigma", "Days", "sd_Days|Subject"]
    plain = bigmm.lmer(SLOPES, data, reml=False).confint(names, method="profile")
    fit = bigmm.lmer(SLOPES, data.assign(Days=data["Days"] + shift), reml=False)
    np.testing.assert_allclose(fit.confint(names, method="profile"), plain, rtol=2e-5)
    intercept = fit.confint(["sd_(Intercept)|Subject"], method="profile") / shift
    np.testing.assert_allclose(intercept, plain.loc[["sd_Days|Subject"]], rtol=10.0 / shift)


def _few_rows(seed: int) -> pd.DataFrame:
    """So few that the deviance has several minima when a parameter is held."""
    rng = np.random.default_rng(seed)
    levels = rng.integers(4, 10)
    n = int(levels * rng.integers(4, 7))
    g, h = np.arange(n) % levels, rng.integers(0, 5, n)
    x = rng.normal(size=n) + rng.choice([0, 0, 3])
    intercepts = rng.normal(size=levels)[g] * rng.choice([0.2, 1, 3])
    slopes = rng.normal(size=levels)[g] * x * rng.choice([0.0, 0.2, 1])
    y = intercepts + slopes + rng.normal(size=5)[h] * rng.choice([0.2, 1]) + rng.standard_t(2.5, size=n) + x
    return pd.DataFrame({"y": y, "x": x, "g": g, "h": h})


def _dense(data: pd.DataFrame) -> Any:
    """The deviance of y ~ 1 + (1 + x | g) + (1 | h) by its definition; of T, sigma_h, log(sigma), and the intercept unless that is free."""
    n, y = len(data), data["y"].to_numpy()
    Z, H = np.eye(data["g"].max() + 1)[data["g"]], np.eye(5)[data["h"]]
    Zx = Z * data[["x"]].to_numpy()

    def deviance(T: tuple[float, float, float], sigma_h: float, log_sigma: float, intercept: float | None = None) -> float:
        a, b, c = T
        first, second = a * Z + b * Zx, c * Zx
        V = first @ first.T + second @ second.T + sigma_h**2 * H @ H.T + np.exp(2.0 * log_sigma) * np.eye(n)
        weights = np.linalg.solve(V, np.ones(n))
        left = y - (weights @ y / weights.sum() if intercept is None else intercept)
        return float(np.linalg.slogdet(2.0 * np.pi * V)[1] + left @ np.linalg.solve(V, left))

    return deviance


#: The deviance of a held parameter and the others, which are 4 or 5 numbers.
HELD: dict[str, Any] = {
    "(Intercept)": lambda dense, value, o: dense((o[0], o[1], o[2]), o[3], o[4], value),
    "sd_(Intercept)|h": lambda dense, value, o: dense((o[0], o[1], o[2]), value, o[4]),
    "cor_x.(Intercept)|g": lambda dense, value, o: dense((abs(o[0]), value * abs(o[1]), np.sqrt(1.0 - value**2) * abs(o[1])), o[3], o[4]),
}


@pytest.mark.parametrize(
    ("seed", "name"),
    [
        (1013, "(Intercept)"),  # the intercepts do not vary: of two signs of T_10 one leads downhill
        (1013, "sd_(Intercept)|h"),  # another minimum, with slopes instead
        (1040, "cor_x.(Intercept)|g"),  # a plateau where nothing is left to be correlated
        (1043, "cor_x.(Intercept)|g"),
    ],
)
def test_a_profile_is_the_lowest_of_several_minima(seed: int, name: str) -> None:
    data, level = _few_rows(seed), 0.8
    fit, dense, held = bigmm.lmer("y ~ 1 + (1 + x | g) + (1 | h)", data, reml=False), _dense(data), HELD[name]
    starts = np.random.default_rng(1).normal(size=(40, 5))
    for limit in fit.confint(name, level, "profile").iloc[0]:
        if abs(limit) < 1.0 or not name.startswith("cor"):  # at a bound it may be less
            lowest = min(minimize(lambda o, at=limit: held(dense, at, o), start, method="BFGS").fun for start in starts)
            assert lowest - fit.objective == pytest.approx(ndtri((1.0 + level) / 2.0) ** 2, abs=2e-3)


def test_a_profile_that_only_leaps_is_refused() -> None:
    """No crossing, but a step at the estimate and no end of looking for one."""
    none = np.zeros(1)

    def deviance(value: float, others: np.ndarray) -> float:
        return float(9.0 * (value != 0.0) + (others[0] - 1.0) ** 2)

    leaping = Parameter("leaping", 0.0, -np.inf, np.inf, 1.0, none + 1.0, none - np.inf, deviance)
    with pytest.raises(bigmm.BigmmError, match="the profile of leaping leaps from one minimum to another at 0"):
        profile_interval(leaping, 0.0, 0.1)


def test_a_profile_leaves_the_fit_as_it_was(fit: bigmm.LinearMixedModelFit) -> None:
    before = fit.condvar()["Subject"]["vcov"]
    again = pickle.loads(pickle.dumps(fit))
    pd.testing.assert_frame_equal(again.confint("sigma", method="profile"), fit.confint(["sigma"], method="profile"))
    assert fit.model is not None
    assert fit.model.reml
    assert fit.model.objective(fit.theta) == fit.objective
    np.testing.assert_array_equal(again.condvar()["Subject"]["vcov"], before)


def test_a_column_that_is_called_sigma() -> None:
    data = read_data("sleepstudy")
    plain = bigmm.lmer("Reaction ~ Days + (1 | Subject)", data).confint(method="profile")
    found = bigmm.lmer("Reaction ~ sigma + (1 | Subject)", data.rename(columns={"Days": "sigma"})).confint(method="profile")
    assert list(found.index) == ["sd_(Intercept)|Subject", "sigma", "(Intercept)", "sigma"]
    np.testing.assert_array_equal(found, plain)


def test_names_of_columns(fit: bigmm.LinearMixedModelFit) -> None:
    pd.testing.assert_frame_equal(fit.confint(), fit.confint(None, 0.95, "wald"))
    assert list(fit.confint(level=np.float64(0.999))) == ["0.05 %", "99.95 %"]
    assert list(fit.confint(["Days"]).index) == ["Days"]
    assert bigmm.lmer("Reaction ~ 0 + (1 | Subject)", read_data("sleepstudy")).confint().shape == (0, 2)


@pytest.mark.parametrize("level", [0.0, 1.0, 95, -0.5, float("nan"), "0.95", True, None, 1e-17, 1e-9, 1.0 - 1e-16])
def test_levels_that_are_none(fit: bigmm.LinearMixedModelFit, level: Any) -> None:
    with pytest.raises(bigmm.BigmmError, match="expected a number between 0 and 1"):
        fit.confint(level=level)


def test_what_is_not_there(fit: bigmm.LinearMixedModelFit, tmp_path: Any) -> None:
    method: Any = "boot"
    with pytest.raises(bigmm.BigmmError, match="method='boot': expected 'wald' or 'profile'"):
        fit.confint(method=method)
    with pytest.raises(bigmm.BigmmError, match=r"parm has 'days': expected names among '\(Intercept\)', 'Days'"):
        fit.confint(["Days", "days"])
    with pytest.raises(bigmm.BigmmError, match=r"parm has 'sigma': expected .* have intervals by profile alone"):
        fit.confint("sigma")
    number: Any = 5
    with pytest.raises(bigmm.BigmmError, match=r"parm has 5: expected names among '\(Intercept\)'"):
        fit.confint(number)
    fit.save(tmp_path / "fit")
    with pytest.raises(bigmm.BigmmError, match="holds no crossproducts"):
        bigmm.load(tmp_path / "fit").confint(method="profile")


def test_a_fit_that_is_not_at_its_minimum() -> None:
    """A search that was stopped: the profile goes below it, and says so."""
    model = bigmm.reduce(SLOPES, read_data("sleepstudy"), client=0).model(reml=False)
    stopped = model.fit(start=[3.0, 0.0, 3.0], optimizer=bigmm.Optimizer("bobyqa", maxeval=3))
    with pytest.raises(bigmm.BigmmError, match="fit again from another start"):
        stopped.confint("Days", method="profile")
