"""The exact gradient against finite differences, for every structure; the information matrix against its definition."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import bigmm
from bigmm.solver.dense_root import DenseRoot
from bigmm.solver.model import LinearMixedModel
from bigmm.solver.pls import PenalizedLeastSquares
from bigmm.solver.templates import Blocks
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


@pytest.mark.parametrize(
    "formula",
    [
        "y ~ x + (1 | g) + (1 | h)",
        "y ~ x + (1 + x | g) + (1 | h)",
        "y ~ x + (1 | g) + (1 + x | h) + (0 + z | h)",
        "y ~ 1 + (x | g) + (z | h) + (1 | i)",
    ],
)
@pytest.mark.parametrize("reml", [False, True])
def test_the_root_by_its_inverse_and_by_that_of_its_factor(formula: str, reml: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several panels of the root's columns, the last one not full; of i a level is met by few leaves."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"g": rng.integers(0, 200, 2000), "h": rng.integers(0, 90, 2000), "x": rng.normal(size=2000), "z": rng.normal(size=2000)}
    )
    frame["i"] = np.minimum(rng.geometric(0.2, 2000), 9)
    frame["y"] = rng.normal(size=200)[frame["g"]] + rng.normal(size=90)[frame["h"]] * frame["x"] + rng.normal(size=2000)
    cp = bigmm.reduce(formula, frame, client=0)
    found, effects = [], []
    for way in ("S^-1", "L^-1", "L^-1, few leaves first"):
        monkeypatch.setattr("bigmm.solver.dense_root.cheapest_inverse", lambda *_, way=way: way)
        model = cp.model(reml=reml)
        model.pls.factor = DenseRoot(model.pls.layout.root, model.pls.layout.leaves)
        _, evaluation = model.evaluate(somewhere(model))
        effects.append([*model.pls.solve(evaluation).b, *model.pls.conditional_variances()])
        found.append(model.differentiate(evaluation, model.units))
    whole, *by_factor = found
    for derivatives in by_factor:
        np.testing.assert_allclose(derivatives.gradient, whole.gradient, rtol=1e-10, atol=1e-10 * np.abs(whole.gradient).max())
        for one, other in zip(derivatives.K, whole.K, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-11 * np.abs(other).max())
    for others in effects[1:]:
        for one, other in zip(others, effects[0], strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-10 * np.abs(other).max())


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


def test_information_by_its_definition() -> None:
    """f_i'P f_j nu / pwrss - (f_i'e)(f_j'e) nu / pwrss^2, with V, P and Z as dense matrices."""
    frame = CASES["sleepstudy_full_ml"].frame()
    model = bigmm.reduce("Reaction ~ Days + (Days | Subject)", frame, client=0).model()
    theta = np.array([0.9, 0.05, 0.25])
    X = np.column_stack([np.ones(len(frame)), frame["Days"]])
    codes = np.unique(frame["Subject"], return_inverse=True)[1]
    Z = (np.eye(codes.max() + 1)[codes][:, :, None] * X[:, None, :]).reshape(len(frame), -1)

    def random(sigma: np.ndarray) -> np.ndarray:
        return Z @ np.kron(np.eye(codes.max() + 1), sigma) @ Z.T

    T = np.array([[theta[0], 0.0], [theta[1], theta[2]]])
    inverse = np.linalg.inv(np.eye(len(frame)) + random(T @ T.T))
    P = inverse - inverse @ X @ np.linalg.solve(X.T @ inverse @ X, X.T @ inverse)
    e = P @ frame["Reaction"].to_numpy(float)
    pwrss, nu = float(frame["Reaction"].to_numpy(float) @ e), len(frame) - 2
    directions = [np.diag([1.0, 0.0]), np.array([[0.0, 1.0], [1.0, 0.0]]), np.diag([0.0, 1.0])]
    F = np.column_stack([random(d) @ e for d in directions])
    expected = nu / pwrss * (F.T @ P @ F - np.outer(F.T @ e, F.T @ e) / pwrss)
    found = model.differentiate(model.evaluate(theta)[1]).information
    np.testing.assert_allclose(found, expected, rtol=1e-7)


@pytest.mark.parametrize("reml", [False, True])
@pytest.mark.parametrize("small", [1e-2, 1e-3])
def test_slopes_next_to_singular(small: float, reml: bool) -> None:
    """K - Q along a direction in which Sigma all but vanishes decides whether a correlation of one stays."""
    rng = np.random.default_rng(5)
    n = 600
    frame = pd.DataFrame({"g": rng.integers(0, 50, n), "h": rng.integers(0, 20, n), "x": rng.normal(1.0, 1.0, n)})
    frame["y"] = rng.normal(size=50)[frame["g"]] * (1.0 + frame["x"]) + rng.normal(size=20)[frame["h"]] + rng.normal(size=n)
    model = bigmm.reduce("y ~ x + (1 + x | g) + (1 + x | h)", frame, client=0).model(reml=reml)
    unit = model.units[0][1, 1]
    theta = np.array([0.8, 1.1, small * unit, 0.9, 0.2, 0.3])
    derivatives = model.differentiate(model.evaluate(theta)[1])
    T = np.array([[0.8, 0.0], [1.1, theta[2]]])
    direction = np.array([-T[1, 0], T[0, 0]])  # where Sigma vanishes as T[1, 1] does
    step = 0.2 * theta[2] ** 2 * T[0, 0] ** 2 / float(direction @ direction) ** 2

    def at(change: float) -> float:
        moved = np.linalg.cholesky(T @ T.T + change * np.outer(direction, direction))
        return model.objective(np.concatenate([moved[np.triu_indices(2)[::-1]], theta[3:]]))

    expected = (at(step) - at(-step)) / (2.0 * step)
    found = direction @ (derivatives.K[0] - derivatives.Q[0]) @ direction
    assert found == pytest.approx(expected, rel=1e-3 if small == 1e-2 else 3e-2)  # the differences' own rounding


def hessian_by_differences(model: LinearMixedModel, theta: np.ndarray) -> np.ndarray:
    """Second derivatives in the entries of all Sigma, in units."""
    blocks = Blocks(model.selected.covariance, model.units)

    def slope(entries: np.ndarray) -> np.ndarray:
        lower = [np.linalg.cholesky(M + M.T - np.diag(np.diag(M))) for M in blocks.lower.matrices(entries)]
        there = blocks.plain_theta(lower)
        return blocks.slope(model.differentiate(model.evaluate(there)[1], model.units))

    at = blocks.entries(theta)
    return np.array([(slope(at + STEP * e) - slope(at - STEP * e)) / (2 * STEP) for e in np.eye(len(at))])


@pytest.mark.parametrize("reml", [False, True])
@pytest.mark.parametrize("how", [{}, {"leaves": False}, {"ordering": "amd"}], ids=str)
@pytest.mark.parametrize(
    "formula",
    [
        "y ~ x + (x | g)",
        "y ~ x + (x | g) + (x | h)",
        "y ~ x + (1 | g) + (0 + x | g) + (1 | h) + (1 + z | i)",
        "y ~ x + (x || g) + (1 | j)",
    ],
)
def test_the_exact_second_derivative_among_few_levels(formula: str, how: dict[str, object], reml: bool) -> None:
    """Factors of few levels that are leaves, that are in the root, and beside one of many; of which nothing is said."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({name: rng.integers(0, levels, 500) for name, levels in {"g": 7, "h": 5, "i": 11, "j": 90}.items()})
    frame["x"], frame["z"] = rng.normal(1.0, 1.0, 500), rng.normal(size=500)
    frame["y"] = rng.normal(size=7)[frame["g"]] + rng.normal(size=5)[frame["h"]] * frame["x"] + rng.normal(size=500)
    model = bigmm.reduce(formula, frame, client=0).model(reml=reml)
    if how:
        model._pls = PenalizedLeastSquares(model.selected.blocks, model.selected.covariance, **how)  # type: ignore[arg-type]
    theta = somewhere(model)
    found = model.differentiate(model.evaluate(theta)[1], model.units)
    names = [group.name for group in model.selected.blocks.groups]
    few = np.array([names[g] != "j" for g, _, _ in model.selected.covariance.entries])
    both = np.outer(few, few)
    expected = hessian_by_differences(model, theta)
    np.testing.assert_allclose((found.information + found.gap)[both], expected[both], rtol=1e-6, atol=1e-6 * np.abs(expected[both]).max())
    assert np.abs(found.gap[both]).max() > 0.01 * np.abs(expected[both]).max()
    assert not found.gap[~both].any()


def test_few_levels_beside_a_long_root_are_left_to_the_average(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(CASES["penicillin_ml"], False)
    assert model.differentiate(model.evaluate(somewhere(model))[1]).gap.any()
    monkeypatch.setattr("bigmm.solver.few_levels._ROOM", 5)
    assert not model.differentiate(model.evaluate(somewhere(model))[1]).gap.any()
