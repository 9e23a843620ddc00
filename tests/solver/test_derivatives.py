"""The exact gradient against finite differences, for every structure; the information matrix against its definition."""

from __future__ import annotations

import numpy as np
import pytest

import bigmm
from bigmm.solver.model import LinearMixedModel
from bigmm.solver.pls import PenalizedLeastSquares
from tests.reference.cases import CASES, Case

#: Central differences with this step: their own error is about 1e-10 of the second derivative times the objective's rounding.
STEP = 1e-5
RTOL = 1e-6
SMALL = [case for case in CASES.values() if case.data not in ("insteval", "classroom")]


def model_of(case: Case, reml: bool) -> LinearMixedModel:
    return bigmm.reduce(case.formula, case.frame(), weights=case.weights, offset=case.offset, client=0).model(
        reml=reml, contrasts=case.contrasts
    )


def somewhere(model: LinearMixedModel) -> np.ndarray:
    rng = np.random.default_rng(len(model.lower))
    return model.theta0 * rng.uniform(0.3, 1.2, len(model.lower)) + rng.uniform(0.0, 0.2, len(model.lower))


def differences(model: LinearMixedModel, theta: np.ndarray) -> np.ndarray:
    return np.array([(model.objective(theta + STEP * e) - model.objective(theta - STEP * e)) / (2 * STEP) for e in np.eye(len(theta))])


@pytest.mark.parametrize("reml", [False, True])
@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_gradient(case: Case, reml: bool) -> None:
    model = model_of(case, reml)
    theta = somewhere(model)
    expected = differences(model, theta)
    np.testing.assert_allclose(model.gradient(theta), expected, rtol=RTOL, atol=RTOL * max(1.0, np.abs(expected).max()))


@pytest.mark.parametrize("how", [{"leaves": False}, {"ordering": "amd"}, {"ordering": "natural"}], ids=str)
@pytest.mark.parametrize(
    "case",
    [case for case in SMALL if case.name in ("penicillin_ml", "pastes_nested_reml", "simulated_nested_slopes_reml")],
    ids=lambda c: c.name,
)
def test_sparse_roots_and_roots_of_everything(case: Case, how: dict[str, object]) -> None:
    """Takahashi's equations on CHOLMOD's factor give the gradient that the dense root's inverse gives."""
    model = model_of(case, True)
    theta = somewhere(model)
    expected = model.gradient(theta)
    information = model.differentiate(model.evaluate(theta)[1]).information
    model._pls = PenalizedLeastSquares(model.selected.blocks, model.selected.covariance, **how)  # type: ignore[arg-type]
    found = model.differentiate(model.evaluate(theta)[1])
    np.testing.assert_allclose(found.gradient, expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.information, information, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_information_is_symmetric_and_positive(case: Case) -> None:
    model = model_of(case, True)
    H = model.differentiate(model.evaluate(somewhere(model))[1]).information
    np.testing.assert_allclose(H, H.T, rtol=1e-10, atol=1e-10 * np.abs(H).max())
    assert np.linalg.eigvalsh(H).min() > -1e-9 * np.abs(H).max()


def test_gradient_at_zero_is_refused() -> None:
    model = model_of(CASES["dyestuff_ml"], False)
    with pytest.raises(bigmm.ModelError, match="says nothing"):
        model.gradient([0.0])
