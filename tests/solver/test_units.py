"""Units: the columns of a term made orthogonal, whatever their scale and zero; derivatives in them are those in theta, transformed."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import bigmm
from bigmm.solver.conic import Model, minimize_model
from bigmm.solver.model import LinearMixedModel
from bigmm.solver.templates import Blocks
from bigmm.solver.units import FLOOR, floors, own_sizes, row_sizes


def frame_of(mean: float) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"g": rng.integers(0, 30, 600), "h": rng.integers(0, 9, 600), "z": rng.normal(size=600)})
    frame["x"] = rng.normal(size=600) + mean
    frame["y"] = rng.normal(size=30)[frame["g"]] * (1.0 + frame["x"]) + rng.normal(size=600)
    return frame


def model_of(mean: float = 2.0, formula: str = "y ~ x + (1 + x | g) + (0 + z | g) + (1 + z | h)") -> LinearMixedModel:
    return bigmm.reduce(formula, frame_of(mean), client=0).model()


@pytest.mark.parametrize("mean", [0.0, 2.0, 1000.0])
def test_columns_are_orthogonal_in_units(mean: float) -> None:
    model = model_of(mean)
    for term, W in zip(model.selected.covariance.terms, model.units, strict=True):
        group = model.selected.blocks.groups[term.group]
        M = group.total()[term.columns, term.columns] / group.q
        np.testing.assert_array_equal(W, np.tril(W))
        np.testing.assert_allclose(W.T @ M @ W, np.eye(term.size), atol=1e-15 * max(1.0, mean) ** 2 * 100.0)


@pytest.mark.filterwarnings("ignore::bigmm.IdentificationWarning")
def test_columns_that_depend_on_others_and_columns_of_zeros_have_units_of_their_own() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"g": rng.integers(0, 30, 600), "x": rng.normal(size=600), "y": rng.normal(size=600), "o": 0.0})
    model = bigmm.reduce("y ~ x + (x + twice + o | g)", frame.assign(twice=2.0 * frame["x"]), client=0).model()
    (W,) = model.units
    assert np.isfinite(W).all()
    assert np.linalg.cond(W) < 100.0
    assert W[3, 3] == pytest.approx(np.sqrt(30 / 600))


def test_floors_and_sizes() -> None:
    model = model_of(formula="y ~ x + (0 + z | g) + (1 | h)")
    lengths = [np.sqrt(group.total()[0, 0]) for group in model.selected.blocks.groups]
    counts = np.array([group.q for group in model.selected.blocks.groups])
    np.testing.assert_allclose(row_sizes(model.units), np.sqrt(counts) / lengths)
    np.testing.assert_allclose(floors(model.units), FLOOR * np.sqrt(counts) / lengths)
    np.testing.assert_allclose(own_sizes(model.selected.blocks, model.selected.covariance), np.sqrt(600) / np.array(lengths))
    assert floors(model_of().units)[1] == -np.inf


def test_derivatives_in_units_are_those_in_theta_transformed() -> None:
    model = model_of()
    rng = np.random.default_rng(1)
    theta = model.theta0 * rng.uniform(0.3, 1.2, len(model.lower)) + rng.uniform(0.0, 0.2, len(model.lower))
    plain = model.differentiate(model.evaluate(theta)[1])
    found = model.differentiate(model.evaluate(theta)[1], model.units)
    W = model.selected.covariance.by_group(model.units)
    np.testing.assert_allclose(found.gradient, plain.gradient, rtol=1e-10)
    for of in ("K", "Q"):
        for inside, outside, Wg in zip(getattr(found, of), getattr(plain, of), W, strict=True):
            np.testing.assert_allclose(inside, Wg.T @ outside @ Wg, rtol=1e-10, atol=1e-10)
    jacobian = np.array([entries_after(model, W, direction) for direction in np.eye(len(theta))]).T
    np.testing.assert_allclose(found.information, jacobian.T @ plain.information @ jacobian, rtol=1e-9, atol=1e-9)


def entries_after(model: LinearMixedModel, W: list[np.ndarray], direction: np.ndarray) -> np.ndarray:
    """Entries of W S W' where S has a one at one entry of theta and its mirror."""
    covariance = model.selected.covariance
    S = [M + np.tril(M, -1).T for M in covariance.templates(direction)]
    return covariance.gather([Wg @ M @ Wg.T for Wg, M in zip(W, S, strict=True)])


@pytest.mark.parametrize("reml", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_the_em_step_keeps_what_it_promises(seed: int, reml: bool) -> None:
    """Near the minimum and far from it; at the minimum it promises nothing."""
    rng = np.random.default_rng(seed)
    model = bigmm.reduce("y ~ x + (1 + x | g) + (0 + z | g) + (1 + z | h)", frame_of(2.0), client=0).model(reml=reml)
    blocks = Blocks(model.selected.covariance, model.units)
    theta = model.theta0 * np.exp(2.0 * rng.normal(size=len(model.lower))) + np.where(
        model.lower == 0.0, 0.01, rng.normal(size=len(model.lower))
    )
    objective, evaluation = model.evaluate(theta)
    step, promise = blocks.em_step(theta, model.differentiate(evaluation, model.units))
    assert promise > 0.0
    assert model.objective(step) <= objective - promise + 1e-9
    best = blocks.within_reach(model.fit().theta)
    assert blocks.em_step(best, model.differentiate(model.evaluate(best)[1], model.units))[1] < 1e-8


@pytest.mark.parametrize("reml", [False, True])
def test_derivatives_along_other_axes(reml: bool) -> None:
    """Theta comes back from them, EM's step does not see them, and slopes in T are those of the objective there."""
    model = bigmm.reduce("y ~ x + (1 + x | g) + (0 + z | g) + (1 + z | h)", frame_of(2.0), client=0).model(reml=reml)
    rng = np.random.default_rng(1)
    theta = model.theta0 * rng.uniform(0.3, 1.2, len(model.lower)) + rng.uniform(0.0, 0.2, len(model.lower))
    plain = Blocks(model.selected.covariance, model.units)
    turned = plain.along_principal_axes(theta)
    assert turned.axes is not None
    for R, T, along in zip(turned.axes, plain.templates(theta), turned.templates(theta), strict=True):
        np.testing.assert_allclose(R @ along @ along.T @ R.T, T @ T.T, rtol=1e-12)
        np.testing.assert_allclose(along @ along.T, np.diag(np.diag(along @ along.T)), atol=1e-12)
    np.testing.assert_allclose(turned.plain_theta(turned.templates(theta)), theta, rtol=1e-12)
    given = model.differentiate(model.evaluate(theta)[1], model.units)
    found = turned.expressed(theta, given)
    (step, promise), (other, its) = plain.em_step(theta, given), turned.em_step(theta, found)
    np.testing.assert_allclose(other, step, rtol=1e-9)
    assert its == pytest.approx(promise, rel=1e-9)
    x = turned.in_units(theta)

    def objective(entries: np.ndarray) -> float:
        return model.objective(turned.plain_theta(turned.lower.matrices(entries)))

    slopes = [(objective(x + 1e-5 * e) - objective(x - 1e-5 * e)) / 2e-5 for e in np.eye(len(x))]
    np.testing.assert_allclose(turned.gradient(theta, found), slopes, rtol=1e-6, atol=1e-6 * np.abs(slopes).max())


def test_the_second_derivative_along_other_axes() -> None:
    """Of factors of few levels it is exact along any axes."""
    model = bigmm.reduce("y ~ x + (1 + x | h)", frame_of(2.0), client=0).model()
    theta = np.array([0.7, -0.1, 0.3])
    turned = Blocks(model.selected.covariance, model.units).along_principal_axes(theta)

    def slope(entries: np.ndarray) -> np.ndarray:
        (M,) = turned.lower.matrices(entries)
        there = turned.plain_theta([np.linalg.cholesky(M + M.T - np.diag(np.diag(M)))])
        return turned.slope(turned.expressed(there, model.differentiate(model.evaluate(there)[1], model.units)))

    at, found = turned.entries(theta), turned.expressed(theta, model.differentiate(model.evaluate(theta)[1], model.units))
    expected = np.array([(slope(at + 1e-5 * e) - slope(at - 1e-5 * e)) / 2e-5 for e in np.eye(3)])
    np.testing.assert_allclose(found.information + found.gap, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())


def test_a_correction_whose_minimum_is_at_a_negative_standard_deviation() -> None:
    """Mirrored it is no minimum: the step is that of the model without the correction, and what it promises is true."""
    model = model_of(formula="y ~ x + (1 | g)")
    blocks = Blocks(model.selected.covariance, model.units)
    one = blocks.plain_theta([np.ones((1, 1))])
    corrected = Model(np.array([1.0]), np.array([[1.05]]), np.array([[-3.0]]))  # in T: 2 at 1, and lower still at every T below
    theta, gain = minimize_model(corrected, blocks, one)
    assert blocks.in_units(theta)[0] ** 2 == pytest.approx(1.0 - 1.0 / 1.05, rel=0.01)  # where the model is flat
    assert gain == pytest.approx(0.5 / 1.05, rel=1e-4)
