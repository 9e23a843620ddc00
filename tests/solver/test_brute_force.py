"""Every number that follows from theta, against dense algebra on the rows."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numba
import numpy as np
import pandas as pd
import pytest

import bigmm
from bigmm.errors import ModelError
from bigmm.inference.estimate import estimate
from bigmm.inference.fit import LinearMixedModelFit
from bigmm.solver.model import LinearMixedModel
from bigmm.solver.optimize import Optimization, Optimizer
from bigmm.solver.pls import PenalizedLeastSquares
from tests.oracle import Dense, Estimates, random_theta

#: Two of the structures have columns twice: how they share their variance is arbitrary, what is evaluated at a theta is not.
pytestmark = pytest.mark.filterwarnings("ignore::bigmm.IdentificationWarning")

#: Dense inverses of order 150 with condition numbers of some thousands.
RTOL = 1e-9


def _frame() -> pd.DataFrame:
    rng = np.random.default_rng(20240229)
    n = 150
    frame = pd.DataFrame(
        {
            "g": rng.choice([f"g{i:02}" for i in range(20)], n),
            "h": rng.integers(0, 7, n),
            "k": rng.choice(list("uvwxyz"), n),
            "a": rng.choice(list("pqrst"), n),
            "b": rng.integers(1, 4, n),
            "f": rng.choice(["lo", "mid", "top"], n),
            "x": rng.normal(2.0, 1.0, n),
            "z": rng.uniform(-1.0, 1.0, n),
            "w": rng.uniform(0.2, 3.0, n),
            "o": rng.normal(5.0, 2.0, n),
        }
    )
    for name in ("g", "h", "k"):
        codes, levels = pd.factorize(frame[name], sort=True)
        frame[f"_{name}"] = rng.normal(size=len(levels))[codes]
    frame["y"] = 3.0 + 0.5 * frame["x"] + frame["_g"] * (1 + 0.3 * frame["x"]) + frame["_h"] + frame["_k"] + rng.normal(0, 0.7, n)
    return frame


FRAME = _frame()


@dataclass(frozen=True)
class Structure:
    """One formula, and the same for the oracle."""

    fixed: str
    random: str
    dense: tuple[tuple[str, str], ...]
    weights: str | None = None
    offset: str | None = None

    @property
    def formula(self) -> str:
        return f"y ~ {self.fixed} + {self.random}"

    @functools.cache  # noqa: B019 (a module's constants live as long)
    def oracle(self) -> Dense:
        return Dense(FRAME, self.fixed, self.dense, weights=self.weights, offset=self.offset)

    @functools.cache  # noqa: B019
    def crossproducts(self) -> bigmm.CrossProducts:
        return bigmm.reduce(self.formula, FRAME, weights=self.weights, offset=self.offset, client=0)

    def model(self, reml: bool) -> LinearMixedModel:
        return self.crossproducts().model(reml=reml)


STRUCTURES = {
    "one factor": Structure("1", "(1 | g)", (("1", "g"),)),
    "one factor, x": Structure("x", "(1 | g)", (("1", "g"),)),
    "vector-valued": Structure("x", "(x | g)", (("x", "g"),)),
    "three columns": Structure("x + z", "(x + z | g)", (("x + z", "g"),)),
    "slope only": Structure("x", "(0 + x | g)", (("0 + x", "g"),)),
    "no correlation": Structure("x", "(x || g)", (("1", "g"), ("0 + x", "g"))),
    "several terms on one factor": Structure("x", "(1 | g) + (0 + x + z | g)", (("1", "g"), ("0 + x + z", "g"))),
    "twice the same": Structure("x", "(1 | g) + (x | g)", (("1", "g"), ("x", "g"))),
    "categorical term": Structure("f", "(f | g)", (("f", "g"),)),
    "categorical cells": Structure("f", "(0 + f | g)", (("0 + f", "g"),)),
    "categorical ||": Structure("f", "(f || g)", (("1", "g"), ("0 + f", "g"))),
    "categorical slopes": Structure("x", "(0 + f:x | g)", (("0 + f:x", "g"),)),
    "nested": Structure("x", "(1 | a/b)", (("1", "b:a"), ("1", "a"))),
    "nested vectors": Structure("x", "(x | a/b)", (("x", "b:a"), ("x", "a"))),
    "nested, finer part alone": Structure("x", "(1 | a:b)", (("1", "a:b"),)),
    "crossed": Structure("x", "(1 | g) + (1 | h)", (("1", "g"), ("1", "h"))),
    "crossed, reversed": Structure("x", "(1 | h) + (1 | g)", (("1", "h"), ("1", "g"))),
    "vector-valued leaves": Structure("x", "(x | g) + (1 | h)", (("x", "g"), ("1", "h"))),
    "vector-valued root": Structure("x", "(1 | g) + (x | h)", (("1", "g"), ("x", "h"))),
    "vectors on both": Structure("x", "(x | g) + (z | h)", (("x", "g"), ("z", "h"))),
    "fewer levels lead": Structure("x", "(1 | g) + (0 + f + x | h)", (("1", "g"), ("0 + f + x", "h"))),
    "three crossed": Structure("x", "(1 | g) + (1 | h) + (1 | k)", (("1", "g"), ("1", "h"), ("1", "k"))),
    "three, vector in the root": Structure("x", "(1 | g) + (x | h) + (1 | k)", (("1", "g"), ("x", "h"), ("1", "k"))),
    "three, vector last": Structure("x", "(1 | g) + (1 | h) + (x + z | k)", (("1", "g"), ("1", "h"), ("x + z", "k"))),
    "three, all vectors": Structure("x", "(x | g) + (z | h) + (x | k)", (("x", "g"), ("z", "h"), ("x", "k"))),
    "several terms on each": Structure("x", "(x || g) + (z || h)", (("1", "g"), ("0 + x", "g"), ("1", "h"), ("0 + z", "h"))),
    "crossed and nested": Structure("x", "(1 | g) + (1 | a/b)", (("1", "g"), ("1", "b:a"), ("1", "a"))),
    "no fixed effects": Structure("0", "(1 | g) + (1 | h)", (("1", "g"), ("1", "h"))),
    "no intercept": Structure("0 + x", "(1 | g) + (x | h)", (("1", "g"), ("x", "h"))),
    "cells": Structure("0 + f + x", "(1 | g)", (("1", "g"),)),
    "interaction": Structure("f * x + z", "(1 | g) + (1 | h)", (("1", "g"), ("1", "h"))),
    "weights": Structure("x", "(x | g) + (1 | h)", (("x", "g"), ("1", "h")), weights="w"),
    "offset": Structure("x", "(1 | g) + (x | h)", (("1", "g"), ("x", "h")), offset="o"),
    "weights and offset": Structure("f + x", "(x || g) + (1 | k)", (("1", "g"), ("0 + x", "g"), ("1", "k")), "w", "o"),
}


def thetas(structure: Structure) -> list[np.ndarray]:
    """Random ones, some on the boundary, and zero."""
    model, rng = structure.oracle(), np.random.default_rng(7)
    inside = random_theta(model, rng)
    return [inside, 4.0 * inside, random_theta(model, rng, zeros=True), random_theta(model, rng, zeros=True), np.zeros_like(inside)]


@functools.cache
def dense_at(structure: Structure) -> list[Estimates]:
    """The oracle at each of these thetas."""
    return [structure.oracle().at(theta) for theta in thetas(structure)]


def fit_at(model: LinearMixedModel, theta: np.ndarray) -> LinearMixedModelFit:
    return estimate(model, Optimization(Optimizer(), theta, theta, model.objective(theta), (), "given", True))


@pytest.fixture(params=STRUCTURES)
def structure(request: pytest.FixtureRequest) -> Structure:
    return STRUCTURES[request.param]


@pytest.mark.parametrize("reml", [False, True], ids=["ML", "REML"])
def test_objective(structure: Structure, reml: bool) -> None:
    model = structure.model(reml)
    for theta, dense in zip(thetas(structure), dense_at(structure), strict=True):
        assert model.objective(theta) == pytest.approx(dense.objective(reml), rel=RTOL)


@pytest.mark.parametrize("reml", [False, True], ids=["ML", "REML"])
def test_estimates(structure: Structure, reml: bool) -> None:
    model, oracle = structure.model(reml), structure.oracle()
    for theta, dense in zip(thetas(structure), dense_at(structure), strict=True):
        fit = fit_at(model, theta)
        assert fit.sigma**2 == pytest.approx(dense.sigma2(reml), rel=RTOL)
        if structure.fixed != "f * x + z":  # formulaic orders the columns of interactions in its own way
            np.testing.assert_allclose(fit.fixef, dense.beta, rtol=RTOL, atol=1e-9)
            np.testing.assert_allclose(fit.vcov, dense.vcov(reml), rtol=RTOL, atol=1e-10)
        else:
            np.testing.assert_allclose(np.sort(fit.fixef), np.sort(dense.beta), rtol=RTOL)
            np.testing.assert_allclose(np.sort(np.diag(fit.vcov)), np.sort(np.diag(dense.vcov(reml))), rtol=RTOL)
        for group, table in fit.ranef().items():
            expected = np.column_stack([b for b, term in zip(dense.b, oracle.terms, strict=True) if term.group == group])
            np.testing.assert_allclose(table, expected, rtol=1e-7, atol=1e-9)
    assert fit.nobs == len(FRAME)


def test_conditional_variances(structure: Structure) -> None:
    model = structure.model(True)
    for theta, dense in zip(thetas(structure), dense_at(structure), strict=True):
        fit = fit_at(model, theta)
        for group, found in fit.condvar().items():
            np.testing.assert_allclose(found["vcov"], dense.condvar(True, group), rtol=1e-7, atol=1e-10)


def test_variances_and_correlations() -> None:
    structure = STRUCTURES["three, vector in the root"]
    theta = thetas(structure)[0]
    fit, dense = fit_at(structure.model(False), theta), structure.oracle().at(theta)
    table = fit.varcorr
    for term, T in zip(structure.oracle().terms, structure.oracle().templates(theta), strict=True):
        covariance = dense.sigma2(False) * T @ T.T
        rows = table[table["grp"] == term.group]
        np.testing.assert_allclose(rows["vcov"][rows["var2"].isna()], np.diag(covariance), rtol=RTOL)
        off = rows[rows["var2"].notna()]
        if term.size == 2:
            np.testing.assert_allclose(off["vcov"], covariance[1, 0], rtol=RTOL)
            np.testing.assert_allclose(off["sdcor"], covariance[1, 0] / np.sqrt(covariance[0, 0] * covariance[1, 1]), rtol=RTOL)
    assert table["sdcor"].iloc[-1] == pytest.approx(np.sqrt(dense.sigma2(False)), rel=RTOL)


#: (leaves, ordering, simplicial): every way to the same numbers.
PATHS = [
    (True, "natural", False),
    (True, "amd", False),
    (True, "default", True),
    (False, "natural", False),
    (False, "amd", True),
    (False, "default", False),
]


def test_all_paths_agree(structure: Structure) -> None:
    model = structure.model(True)
    reference = model.pls
    others = [
        PenalizedLeastSquares(reference.blocks, reference.covariance, leaves=leaves, ordering=ordering, simplicial=simplicial)
        for leaves, ordering, simplicial in PATHS
    ]
    for theta in thetas(structure):
        expected = reference.evaluate(theta)
        solution, variances = reference.solve(expected), reference.conditional_variances()
        for pls in others:
            found = pls.evaluate(theta)
            assert found.logdet == pytest.approx(expected.logdet, rel=1e-11, abs=1e-11)
            np.testing.assert_allclose(np.abs(found.R), np.abs(expected.R), rtol=1e-9, atol=1e-11)
            for one, other in zip(pls.solve(found).b, solution.b, strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-7, atol=1e-10)
            for one, other in zip(pls.conditional_variances(), variances, strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-7, atol=1e-11)


def test_an_evaluation_leaves_nothing_behind(structure: Structure) -> None:
    model = structure.model(True)
    first, *others = thetas(structure)
    value = model.objective(first)
    for theta in others:
        model.objective(theta)
    assert model.objective(first) == value


def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    structure = STRUCTURES["three, all vectors"]
    theta = thetas(structure)[0]
    alone = structure.model(True).objective(theta)
    numba.set_num_threads(min(2, numba.config.NUMBA_NUM_THREADS))
    assert structure.model(True).objective(theta) == alone


def test_even_in_the_signs_of_columns() -> None:
    """A column of T may change its sign as a whole: the covariance is the same. Bounds forbid it for the diagonal."""
    model = STRUCTURES["vector-valued"].model(False)
    with pytest.raises(ModelError, match="below its bound"):
        model.objective([-1.0, 0.3, 0.5])
    assert model.objective([0.0, 0.3, 0.5]) == pytest.approx(model.objective([0.0, -0.3, 0.5]), rel=1e-12)
