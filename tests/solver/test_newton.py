"""Newton's steps: few evaluations, the optimum that BOBYQA finds, and right at the boundary."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import bigmm
from bigmm.solver.optimize import Optimizer
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


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_units_of_a_slope_do_not_matter(factor: float) -> None:
    frame = CASES["sleepstudy_full_ml"].frame()
    scaled = frame.assign(Days=frame["Days"] * factor)
    formula = "Reaction ~ Days + (Days | Subject)"
    one, other = bigmm.lmer(formula, frame, client=0), bigmm.lmer(formula, scaled, client=0)
    assert other.converged
    assert other.nevals <= one.nevals + 3
    assert other.theta[2] * factor == pytest.approx(one.theta[2], rel=1e-6)


def test_l_bfgs_of_nlopt_uses_the_gradient() -> None:
    model = model_of(CASES["sleepstudy_full_ml"], False)
    assert model.fit(optimizer="lbfgs").objective == pytest.approx(model.fit().objective, abs=1e-6)


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


def test_several_zeros() -> None:
    rng = np.random.default_rng(3)
    frame = pd.DataFrame(
        {"y": rng.normal(size=300), "a": rng.integers(0, 30, 300), "b": rng.integers(0, 20, 300), "x": rng.normal(size=300)}
    )
    formula = "y ~ x + (1 + x | a) + (1 | b)"
    fit, oracle = (bigmm.lmer(formula, frame, client=0, optimizer=method) for method in ("newton", "bobyqa"))
    assert fit.objective <= oracle.objective + ATOL
    assert fit.converged


def test_bobyqa_goes_on_where_newton_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise np.linalg.LinAlgError("Eigenvalues did not converge")

    model = model_of(CASES["sleepstudy_full_ml"], False)
    expected = model.fit()
    with monkeypatch.context() as patched:
        patched.setattr("bigmm.solver.newton._step", fail)
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
