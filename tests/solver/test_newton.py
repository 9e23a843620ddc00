"""Newton's steps: few evaluations, the optimum that BOBYQA finds, and right at the boundary."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

import bigmm
from bigmm.solver.cholmod import NotPositiveDefiniteError
from bigmm.solver.model import LinearMixedModel
from bigmm.solver.optimize import Optimizer
from bigmm.solver.pls import Evaluation
from tests.reference.cases import CASES, Case
from tests.solver.test_derivatives import SMALL, model_of

#: The objective's rounding, and what BOBYQA leaves on flat ones.
ATOL = 1e-6


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_finds_what_bobyqa_finds_in_few_evaluations(case: Case) -> None:
    model = model_of(case, case.reml)
    fit, oracle = model.fit(), model.fit(optimizer="bobyqa")
    assert fit.converged
    assert fit.optimization.reason == "no step can lower the objective"
    assert fit.objective <= oracle.objective + ATOL
    assert fit.nevals <= 25
    assert fit.optimization.decrement is not None
    assert 0.0 <= fit.optimization.decrement <= 1e-9
    assert fit.optimization.gradient is not None
    assert 0.0 <= fit.optimization.gradient <= 1e-2
    assert f"Newton decrement {fit.optimization.decrement:.0e})" in fit.summary()


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_units_of_a_slope_do_not_matter(factor: float) -> None:
    frame = CASES["sleepstudy_full_ml"].frame()
    scaled = frame.assign(Days=frame["Days"] * factor)
    formula = "Reaction ~ Days + (Days | Subject)"
    one, other = bigmm.lmer(formula, frame, client=0), bigmm.lmer(formula, scaled, client=0)
    assert other.converged
    assert other.nevals <= one.nevals + 3
    assert other.theta[2] * factor == pytest.approx(one.theta[2], rel=1e-6)


@pytest.mark.parametrize("method", ["lbfgs", "mma", "slsqp"])
def test_methods_of_nlopt_that_use_the_gradient(method: str) -> None:
    model = model_of(CASES["sleepstudy_full_ml"], False)
    fit = model.fit(optimizer=method)
    assert fit.objective == pytest.approx(model.fit().objective, abs=1e-6)
    assert fit.converged


def test_starts_anywhere() -> None:
    model = model_of(CASES["sleepstudy_full_ml"], False)
    best = model.fit()
    for start in ([1e-3, 0.0, 1e-3], [100.0, 0.0, 100.0], [0.0, 0.0, 0.0], [1.0, 5.0, 0.1], [0.0, 0.3, 0.0]):
        fit = model.fit(start=start)
        assert fit.converged, start
        assert fit.objective == pytest.approx(best.objective, abs=1e-7), start


def test_a_column_of_zeros_has_a_variance_of_zero() -> None:
    frame = CASES["dyestuff_ml"].frame().assign(x=0.0)
    with pytest.warns(bigmm.IdentificationWarning, match="depend on one another"):
        fit = bigmm.lmer("Yield ~ 1 + (1 | Batch) + (0 + x | Batch)", frame, reml=False, client=0)
    assert fit.converged
    assert fit.objective == pytest.approx(327.32705988, abs=1e-7)


def test_terms_that_say_the_same_share_the_variance() -> None:
    frame = CASES["dyestuff_ml"].frame()
    with pytest.warns(bigmm.IdentificationWarning, match="how they share their variance is arbitrary"):
        fit = bigmm.lmer("Yield ~ 1 + (1 | Batch) + (1 | Batch)", frame, reml=False, client=0)
    assert fit.objective == pytest.approx(327.32705988, abs=1e-7)


def test_out_of_evaluations() -> None:
    model = model_of(CASES["penicillin_ml"], False)
    fit = model.fit(optimizer=Optimizer(maxeval=3))
    assert not fit.converged
    assert fit.optimization.reason == "maxeval reached"
    assert "NOT CONVERGED" in fit.summary()


@pytest.mark.parametrize("method", ["newton", "bobyqa"])
@pytest.mark.parametrize("most", [1, 3, 5, 8])
def test_no_evaluation_more_than_allowed(most: int, method: str) -> None:
    rng = np.random.default_rng(3)
    frame = pd.DataFrame({"y": rng.normal(size=200), "g": rng.integers(0, 20, 200), "h": rng.integers(0, 10, 200)})
    model = bigmm.reduce("y ~ 1 + (1 | g) + (1 | h)", frame, client=0).model()
    assert model.fit(start=[1e-2, 1e-2], optimizer=Optimizer(method, maxeval=most)).nevals <= most


def test_several_zeros() -> None:
    rng = np.random.default_rng(3)
    frame = pd.DataFrame(
        {"y": rng.normal(size=300), "a": rng.integers(0, 30, 300), "b": rng.integers(0, 20, 300), "x": rng.normal(size=300)}
    )
    formula = "y ~ x + (1 + x | a) + (1 | b)"
    fit, oracle = (bigmm.lmer(formula, frame, client=0, optimizer=method) for method in ("newton", "bobyqa"))
    assert fit.objective <= oracle.objective + ATOL
    assert fit.converged


@pytest.mark.parametrize("method", ["newton", "bobyqa", "neldermead", "slsqp"])
@pytest.mark.parametrize("start", [[0.0, 0.3, 0.2], [0.0, 0.2, 0.0]], ids=str)
def test_a_start_with_the_wrong_sign_at_an_edge(method: str, start: list[float]) -> None:
    """At a diagonal theta of 0 the sign of the column below is arbitrary, but a correlation of the other sign begins there."""
    rng = np.random.default_rng(5)
    g, x = np.repeat(np.arange(60), 12), rng.normal(size=720)
    b0 = rng.normal(size=60)
    b1 = -0.24 * b0 + 0.1 * rng.normal(size=60)
    frame = pd.DataFrame({"y": 0.3 * b0[g] + b1[g] * x + rng.normal(size=720), "x": x, "g": g})
    model = bigmm.reduce("y ~ x + (x | g)", frame, client=0).model(reml=False)
    fit = model.fit(start=start, optimizer=method)
    assert fit.converged
    assert fit.objective == pytest.approx(model.fit().objective, abs=1e-7)
    assert fit.theta[1] == pytest.approx(-0.268, abs=1e-3)


def test_bobyqa_goes_on_where_newton_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise np.linalg.LinAlgError("Eigenvalues did not converge")

    model = model_of(CASES["sleepstudy_full_ml"], False)
    expected = model.fit()
    with monkeypatch.context() as patched:
        patched.setattr("bigmm.solver.newton.minimize_model", fail)
        fit = model.fit()
    assert fit.converged
    assert "then BOBYQA" in fit.optimization.reason
    assert fit.objective == pytest.approx(expected.objective, abs=1e-7)


@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_objectives_of_any_size_end(scale: float) -> None:
    """A search ends at the rounding of the objective, whatever its size."""
    frame = CASES["penicillin_ml"].frame()
    big = pd.concat([frame.assign(diameter=frame["diameter"] * scale, plate=frame["plate"] + str(i)) for i in range(40)])
    fit = bigmm.lmer("diameter ~ 1 + (1 | plate) + (1 | sample)", big, client=0)
    assert fit.converged
    assert fit.nevals < 40


@pytest.mark.filterwarnings("ignore::bigmm.IdentificationWarning")  # (f | k) + (z | k) has two intercepts
@pytest.mark.parametrize("formula", ["y ~ z + (x * z | g)", "y ~ z + (z * h | s)", "y ~ x + (f | k) + (z | k)", "y ~ x + (x * z | k)"])
@pytest.mark.parametrize("reml", [True, False])
def test_a_singular_covariance_matrix_is_found_in_few_evaluations_too(formula: str, reml: bool) -> None:
    model = bigmm.reduce(formula, CASES["simulated_missing_ml"].frame(), client=0).model(reml=reml)
    fit = model.fit()
    assert fit.converged
    assert fit.singular
    assert fit.nevals <= 60
    for start in mirrored(fit):
        assert fit.objective <= model.fit(start=start, optimizer="bobyqa").objective + ATOL


def mirrored(fit: bigmm.LinearMixedModelFit) -> list[np.ndarray]:
    """Theta with the sign of each column changed whose diagonal entry is zero: the same covariance matrix, but another edge."""
    signs = [np.ones_like(fit.theta)]
    for term in fit.covariance.terms:
        for column in np.flatnonzero(np.diag(fit.covariance.template(term, fit.theta)) == 0.0):
            flip = np.ones((term.size, term.size))
            flip[column + 1 :, column] = -1.0
            sign = np.ones_like(fit.theta)
            sign[term.theta] = fit.covariance.entries_of(flip)
            signs.append(sign)
    return [fit.theta * sign for sign in signs]


def spoil(monkeypatch: pytest.MonkeyPatch, when: Any, how: Any) -> list[int]:
    """From now on the evaluations of every model whose number satisfies `when` go wrong."""
    evaluate, calls = LinearMixedModel.evaluate, [0]

    def spoiled(model: LinearMixedModel, theta: Any) -> tuple[float, Evaluation]:
        calls[0] += 1
        value, evaluation = evaluate(model, theta)
        return how(value, evaluation) if when(calls[0]) else (value, evaluation)

    monkeypatch.setattr(LinearMixedModel, "evaluate", spoiled)
    return calls


def no_factor(value: float, evaluation: Evaluation) -> tuple[float, Evaluation]:
    raise NotPositiveDefiniteError("no")


def not_finite(value: float, evaluation: Evaluation) -> tuple[float, Evaluation]:
    return np.nan, evaluation


@pytest.mark.parametrize("how", [no_factor, not_finite])
@pytest.mark.parametrize("bad", [{2}, {2, 3, 4}, {3, 5}])
def test_a_failure_shortens_the_step(bad: set[int], how: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(CASES["sleepstudy_full_ml"], False)
    expected = model.fit()
    spoil(monkeypatch, bad.__contains__, how)
    fit = model.fit()
    assert fit.converged
    assert fit.optimization.reason == "no step can lower the objective"
    assert fit.objective == pytest.approx(expected.objective, abs=1e-7)
    assert {i + 1 for i, (_, value) in enumerate(fit.optimization.trace) if np.isnan(value)} == bad
    steps = [np.linalg.norm(theta - fit.optimization.trace[min(bad) - 2][0]) for theta, _ in fit.optimization.trace]
    assert steps[min(bad)] < steps[min(bad) - 1]


@pytest.fixture
def dear(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every evaluation counts, as it does with thousands of random effects."""
    monkeypatch.setattr(LinearMixedModel, "is_dear", True)


def test_evaluations_are_dear_with_many_random_effects_and_a_root() -> None:
    frame = pd.DataFrame({"y": np.arange(6000) % 7.0, "g": np.arange(6000) % 2001, "h": np.arange(6000) % 10, "i": np.arange(6000) % 1500})
    models = [bigmm.reduce(f"y ~ 1 + {terms}", frame, client=0).model() for terms in ("(1 | g)", "(1 | g) + (1 | h)", "(1 | i) + (1 | h)")]
    assert [model.is_dear for model in models] == [False, True, False]


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_a_short_search_has_all_digits_of_the_objective(case: Case, request: pytest.FixtureRequest) -> None:
    model = model_of(case, case.reml)
    full = model.fit()
    request.getfixturevalue("dear")
    fit = model.fit()
    assert fit.converged
    assert fit.optimization.reason == "no step can lower the objective"
    assert fit.nevals <= full.nevals
    assert fit.objective == pytest.approx(full.objective, rel=1e-13, abs=2e-9)
    # A decrement of d leaves theta sqrt(2 d) standard errors from its place.
    assert fit.theta == pytest.approx(full.theta, rel=1e-4, abs=1e-6)


def test_a_short_search_goes_on_when_its_last_step_does_not_bring_what_it_promised(dear: None, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(CASES["sleepstudy_full_ml"], False)
    short = model.fit()
    spoil(monkeypatch, {short.nevals}.__contains__, lambda value, evaluation: (value + 1.0, evaluation))
    fit = model.fit()
    assert fit.nevals > short.nevals
    assert fit.converged
    assert fit.objective == pytest.approx(short.objective, abs=1e-9)


@pytest.mark.parametrize("how", [no_factor, not_finite])
@pytest.mark.parametrize("method", ["newton", "bobyqa"])
def test_no_objective_at_the_start(method: str, how: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(CASES["sleepstudy_full_ml"], False)
    spoil(monkeypatch, lambda number: True, how)
    with pytest.raises(bigmm.ModelError, match="give another start"):
        model.fit(optimizer=method)


def test_an_objective_that_is_not_finite_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(CASES["sleepstudy_full_ml"], False)
    spoil(monkeypatch, lambda number: True, not_finite)
    with pytest.raises(bigmm.ModelError, match="the objective is nan at theta"):
        model.objective([1.0, 0.0, 1.0])


def test_the_last_evaluation_gives_the_estimates(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(CASES["penicillin_ml"], False)
    calls = spoil(monkeypatch, lambda number: False, no_factor)
    fit = model.fit()
    assert calls[0] == fit.nevals
    theta = fit.theta.copy()
    again = model.fit(start=theta)  # other evaluations in between do not leave their estimates behind
    assert again.sigma == pytest.approx(fit.sigma, rel=1e-8)


def crossed(seed: int) -> tuple[str, pd.DataFrame]:
    """Unbalanced levels, slopes, and covariance matrices of which some are singular or zero."""
    rng = np.random.default_rng(seed)
    n = int(rng.choice([150, 400, 900]))
    frame = pd.DataFrame({"x": rng.normal(1.0, 1.0, n), "z": rng.normal(size=n), "v": rng.normal(size=n)})
    for name, levels in (("g", n // 10), ("h", n // 25)):
        frame[name] = rng.choice(levels, n, p=rng.dirichlet(np.full(levels, 2.0)))
    columns = {"g": ["x", "z"][: rng.integers(1, 3)], "h": ["x", "z", "v"][: rng.integers(0, 4)]}
    y = frame["x"] * 0.3 + rng.normal(size=n)
    for name, slopes in columns.items():
        k = len(slopes) + 1
        T = rng.normal(size=(k, k)) * rng.choice([0.0, 0.2, 1.0], p=[0.15, 0.35, 0.5])
        T[:, k - int(rng.integers(0, k)) :] = 0.0
        b = (rng.normal(size=(n, k)) @ T.T)[frame[name].to_numpy()]
        y = y + (b * np.column_stack([np.ones(n), frame[slopes]])).sum(axis=1)
    random = " + ".join(f"({' + '.join(['1', *slopes])} | {name})" for name, slopes in columns.items())
    return f"y ~ x + {random}", frame.assign(y=y)


@pytest.mark.parametrize("seed", range(16))
def test_random_models(seed: int) -> None:
    """4 to 16 thetas: never worse than BOBYQA, which takes hundreds of evaluations."""
    formula, frame = crossed(seed)
    model = bigmm.reduce(formula, frame, client=0).model(reml=bool(seed % 2))
    fit, oracle = model.fit(), model.fit(optimizer=Optimizer("bobyqa", maxeval=1500))
    assert fit.converged
    assert fit.optimization.reason == "no step can lower the objective"
    assert fit.objective <= oracle.objective + ATOL
    assert fit.nevals <= 25


@pytest.mark.parametrize("seed", [19, 53, 64, 75, 89, 91, 115, 118])
def test_every_start_ends_at_the_same_singular_covariance(seed: int) -> None:
    """Four effects with variances in two of them: minima of a triangular factor that are none of the covariance are not taken."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(rng.normal(size=(1500, 3)), columns=["x", "z", "w"]).assign(g=np.repeat(np.arange(300), 5))
    b = rng.normal(size=(300, 2)) * [1.0, 0.5]
    frame["y"] = 1.0 + (0.5 + b[frame["g"], 1]) * frame["x"] + b[frame["g"], 0] + rng.normal(size=1500)
    model = bigmm.reduce("y ~ x + (1 + x + z + w | g)", frame, client=0).model(reml=False)
    best = model.fit()
    for _ in range(8):
        start = rng.normal(size=10) * rng.choice([0.05, 0.5, 2.0])
        fit = model.fit(start=np.where(model.lower == 0.0, np.abs(start), start))
        assert fit.converged
        assert fit.nevals <= 25
        assert fit.objective == pytest.approx(best.objective, abs=1e-9, rel=0.0)


@pytest.mark.parametrize("mean", [300.0, 2000.0])
@pytest.mark.parametrize("seed", range(3))
def test_a_slope_far_from_its_zero(seed: int, mean: float) -> None:
    """Years, say: the model is that of the centred slope, its covariance in the data's units all but singular."""
    rng = np.random.default_rng(seed)
    g, x = rng.integers(0, 20, 600), rng.normal(size=600).round(1)
    frame = pd.DataFrame({"y": rng.normal(size=20)[g] * x + rng.normal(size=600), "g": g, "x": x, "far": x + mean})
    centred = bigmm.lmer("y ~ x + (x | g)", frame, client=0)
    model = bigmm.reduce("y ~ far + (far | g)", frame, client=0).model()
    for start in (None, model.theta0):
        fit = model.fit(start=start)
        assert fit.converged
        assert fit.nevals <= 25
        assert fit.objective == pytest.approx(centred.objective, abs=1e-6, rel=0.0)


@pytest.mark.parametrize("part", [1e-2, 1e-3, 1e-4])
@pytest.mark.parametrize("seed", range(3))
def test_slopes_that_nearly_say_the_same(seed: int, part: float) -> None:
    """The second slope is the first but for a small part: from starts of any size the fit is that of the part alone."""
    rng = np.random.default_rng(seed)
    g, (x, part_of_z) = rng.integers(0, 20, 800), rng.normal(size=(2, 800))
    b = rng.normal(size=(20, 3)) * [1.0, 0.5, 0.3 * (seed % 2)]
    y = b[g, 0] + b[g, 1] * x + b[g, 2] * part_of_z + rng.normal(size=800)
    frame = pd.DataFrame({"y": y, "g": g, "x": x, "z": x + part * part_of_z, "d": part_of_z})
    apart = bigmm.lmer("y ~ x + d + (x + d | g)", frame, client=0)
    model = bigmm.reduce("y ~ x + z + (x + z | g)", frame, client=0).model()
    for start in (None, model.theta0, model.theta0 * 1e5, model.theta0 * 1e-3):
        fit = model.fit(start=start)
        assert fit.converged
        assert fit.nevals <= 30
        # a column of X is scaled by the part, by which the REML criterion moves; rounding is divided by its square
        assert fit.objective - 2.0 * np.log(part) == pytest.approx(apart.objective, abs=max(1e-8, 1e-13 / part**2), rel=0.0)


@pytest.mark.parametrize("scale", [1e2, 1e3, 1e5, 1e7])
def test_a_start_that_is_far_off_in_one_column(scale: float) -> None:
    """Of variances of 1e12 units, beside others of one, the information is all rounding: EM's step brings them back."""
    rng = np.random.default_rng(0)
    g, x = rng.integers(0, 20, 500), rng.normal(size=500)
    v = 0.3 * x + rng.normal(size=500)
    y = rng.normal(size=500) + rng.normal(size=20)[g] + rng.normal(size=20)[g] * x
    frame = pd.DataFrame({"y": y, "g": g, "x": x * scale, "v": v})
    model = bigmm.reduce("y ~ 1 + (x + v | g)", frame, client=0).model()
    fit, far = model.fit(), model.fit(start=model.theta0)
    assert fit.converged
    assert far.converged
    assert far.nevals <= 25
    assert far.objective == pytest.approx(fit.objective, abs=1e-7, rel=0.0)


def test_rounding_that_hides_the_minimum_is_warned_of() -> None:
    rng = np.random.default_rng(0)
    g, x = rng.integers(0, 20, 600), rng.normal(size=600).round(1)
    frame = pd.DataFrame({"y": 1e3 * rng.normal(size=20)[g] * x + rng.normal(size=600), "g": g, "far": x + 3000.0})
    with pytest.warns(bigmm.PrecisionWarning, match="rounding hides about .* of the objective: .* subtract a number"):
        bigmm.lmer("y ~ far + (far | g)", frame, client=0)


def almost_noiseless(scale: float, seed: int = 3) -> LinearMixedModel:
    """Three effects of rank 2, of `scale` residual standard deviations."""
    rng = np.random.default_rng(seed)
    g, (x, z), b = np.repeat(np.arange(300), 10), rng.normal(size=(2, 3000)), rng.normal(size=300)
    y = scale * (b[g] + 0.5 * b[g] * x + 0.2 * rng.normal(size=300)[g] * z) + rng.normal(size=3000)
    return bigmm.reduce("y ~ x + z + (1 + x + z | g)", pd.DataFrame({"x": x, "z": z, "g": g, "y": y}), client=0).model()


def test_a_singular_covariance_of_large_variances() -> None:
    """Both starts end at one minimum; rounding, which differs from processor to processor, leaves the end of some searches to BOBYQA."""
    evaluations = []
    for seed in range(9):
        model = almost_noiseless(1e3, seed)
        fit, other = model.fit(), model.fit(start=[1.0, 0.0, 0.0, 1.0, 0.0, 1.0])
        assert fit.objective == pytest.approx(other.objective, abs=1e-5, rel=0.0)
        evaluations += [found.nevals for found in (fit, other) if found.converged]
    assert len(evaluations) >= 16
    assert np.median(evaluations) <= 30
    assert max(evaluations) < 250


@pytest.mark.filterwarnings("ignore::bigmm.PrecisionWarning")  # which the data deserve
@pytest.mark.parametrize("scale", [1e5, 1e6])
def test_a_search_that_rounding_defeats_says_so(scale: float) -> None:
    """Variances of 1e10 residual ones in a singular matrix: no digits are left to find the minimum by, which BOBYQA does not notice."""
    model = almost_noiseless(scale)
    fits = [
        model.fit(),
        model.fit(start=[1.0, 0.0, 0.0, 1.0, 0.0, 1.0]),
        model.fit(start=np.array([1.0, 0.5, 0.0, 1e-4, 0.0, 0.2]) * scale),
    ]
    best = min(fit.objective for fit in fits)
    for fit in fits:
        assert not fit.converged or fit.objective <= best + 1e-5


@pytest.mark.parametrize("seed", range(8))
def test_zeros_are_exact(seed: int) -> None:
    """Where the optimum is singular, theta says so with a zero, and a variance there would make the fit worse."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({"g": np.repeat(np.arange(40), 6), "x": rng.normal(size=240)})
    frame["y"] = rng.normal(size=40)[frame["g"]] * (1.0 + 0.5 * frame["x"]) + rng.normal(size=240)
    model = bigmm.reduce("y ~ x + (1 + x | g)", frame, client=0).model()
    fit = model.fit()
    assert fit.converged
    small = (model.lower == 0.0) & (fit.theta < 1e-3)
    assert (fit.theta[small] == 0.0).all()
    for i in np.flatnonzero(small):
        inside = fit.theta.copy()
        inside[i] = 0.02
        assert model.objective(inside) > fit.objective


@pytest.mark.parametrize("seed", [4, 8, 11, 15])
def test_few_levels_of_many_effects(seed: int) -> None:
    """Six levels of four effects: by the average information alone these take 14, 16, 65 and 16 evaluations."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {"k": rng.integers(0, 6, 600), "g": rng.integers(0, 40, 600), "x": rng.normal(size=600), "z": rng.normal(size=600)}
    )
    b = rng.normal(size=(6, 4)) * [1.0, 0.5, 0.3, 0.1]
    Z = np.column_stack([np.ones(600), frame["x"], frame["z"], frame["x"] * frame["z"]])
    frame["y"] = (Z * b[frame["k"]]).sum(axis=1) + rng.normal(size=40)[frame["g"]] + rng.normal(size=600)
    model = bigmm.reduce("y ~ x * z + (x * z | k) + (1 | g)", frame, client=0).model()
    fit, oracle = model.fit(), model.fit(optimizer=Optimizer("bobyqa", maxeval=1500))
    assert fit.converged
    assert fit.nevals <= 13
    assert fit.objective <= oracle.objective + ATOL


@pytest.mark.parametrize("seed", [10, 128])
def test_where_the_objective_falls_straight_on_steps_become_longer(seed: int) -> None:
    """Outliers without end: of steps as long as the average information has them these took 69 and 57."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({"g": rng.integers(0, 60, 600), "x": rng.normal(size=600), "c": rng.integers(0, 2, 600)})
    frame["y"] = rng.normal(size=60)[frame["g"]] + rng.standard_cauchy(600)
    model = bigmm.reduce("y ~ x + (x + c | g)", frame, client=0).model()
    fit, oracle = model.fit(), model.fit(optimizer=Optimizer("bobyqa", maxeval=3000))
    assert fit.converged
    assert fit.nevals <= 30
    assert fit.objective <= oracle.objective + ATOL


@pytest.mark.parametrize("weights", [None, "w"])
@pytest.mark.parametrize("seed", range(4))
def test_a_variance_that_the_fixed_effects_take_up_changes_nothing(seed: int, weights: str | None) -> None:
    """REML's objective does not depend on it: where rounding alone has a say, the search neither wanders off nor goes on."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({"g": rng.integers(0, 12, 300), "h": rng.choice(list("abcd"), 300), "w": rng.uniform(0.5, 2.0, 300)})
    frame["x"] = rng.normal(size=300)
    frame["y"] = frame["x"] + rng.normal(size=12)[frame["g"]] + rng.normal(size=300)
    cp = bigmm.reduce("y ~ x * h + (x | g) + (1 | h)", frame, weights=weights, client=0)
    fit, expected = cp.fit(), cp.fit("y ~ x * h + (x | g)")
    assert fit.converged
    assert fit.nevals <= 25
    assert fit.objective == pytest.approx(expected.objective, abs=1e-8, rel=0.0)
    np.testing.assert_allclose(fit.theta[:3], expected.theta, atol=1e-5)
    assert fit.theta[3] < 1e3


@pytest.mark.parametrize("seed", [1, 4])
def test_a_short_search_does_not_believe_a_far_step(seed: int, dear: None) -> None:
    """The first step goes far, and the curvature that it shows is ten times that of the end: what is left to gain was taken for 1e-6."""
    rng = np.random.default_rng(seed)
    levels = 5003
    g, x = np.repeat(np.arange(levels), 6), rng.normal(size=6 * levels)
    y = 1 + 0.5 * x + rng.normal(size=levels)[g] + 0.5 * rng.normal(size=levels)[g] * x + rng.normal(size=6 * levels)
    model = bigmm.reduce("y ~ x + (1 | g)", pd.DataFrame({"y": y, "x": x, "g": g}), client=0).model()
    far, best = model.fit(start=[0.1225]), model.fit(optimizer="bobyqa")
    assert far.objective <= best.objective + 1e-8
    np.testing.assert_allclose(far.theta, best.theta, rtol=1e-6)


@pytest.mark.filterwarnings("ignore::bigmm.PrecisionWarning")
@pytest.mark.parametrize("seed", [2, 25, 37])
def test_random_effects_that_could_explain_every_row(seed: int) -> None:
    """15 of them and 14 rows. From a start without a residual the search ended 3 or 22 higher, or took 485 evaluations."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({"x": rng.normal(size=14), "g": np.arange(14) % 6, "h": rng.integers(0, 3, 14)})
    frame["y"] = rng.normal(size=14) + rng.choice([0, 1, 5]) * rng.normal(size=6)[frame["g"]]
    model = bigmm.reduce("y ~ 1 + (x | g) + (1 | h)", frame, client=0).model()
    others = [model.fit(start=scale * model.theta0) for scale in (0.3, 1.0)]
    fit = model.fit()
    assert fit.converged
    assert fit.nevals <= 30
    assert fit.objective <= min(other.objective for other in others) + ATOL


@pytest.mark.filterwarnings("ignore::bigmm.PrecisionWarning")  # which the data deserve
@pytest.mark.parametrize("size", [1e3, 1e4, 1e5, 1e6])
@pytest.mark.parametrize("seed", range(6))
def test_fixed_effects_that_explain_nearly_all_make_no_search_long(seed: int, size: float) -> None:
    """What rounding of the residual sum of squares hides is not looked for: theta is known to the square root of it."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({"x": size * rng.normal(size=200), "g": np.repeat(np.arange(20), 10)})
    frame["small"] = 3.0 * rng.normal(size=20)[frame["g"]] + rng.normal(size=200)
    frame["y"] = frame["x"] + frame["small"]
    fit = bigmm.lmer("y ~ x + (1 | g)", frame, client=0)
    plain = bigmm.lmer("small ~ x + (1 | g)", frame, client=0)
    assert fit.converged
    assert fit.nevals <= 25
    hidden = 200 * np.finfo(float).eps * size**2
    np.testing.assert_allclose([*fit.theta, fit.sigma], [*plain.theta, plain.sigma], rtol=np.sqrt(hidden))
