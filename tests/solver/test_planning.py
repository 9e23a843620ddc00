"""Each plan is chosen where it is the best, all give the same numbers, and the figures are those of the real factor."""

from __future__ import annotations

import functools
import gc
import json
import pickle
import tracemalloc
import weakref
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import pandas as pd
import pytest

import bigmm
from bigmm.solver import planning
from bigmm.solver.cholmod import SparseFactor
from bigmm.solver.dense_root import DenseRoot
from bigmm.solver.layout import Layout, lay_out
from bigmm.solver.model import LinearMixedModel
from bigmm.solver.pattern import closed_pattern, own_pattern
from bigmm.solver.plan import Plan
from bigmm.solver.planning import make_plan
from bigmm.solver.pls import PenalizedLeastSquares
from bigmm.solver.sparse_root import SparseRoot

#: Levels of the ring; vectors there have k times the columns.
RING, SHORT_RING = 900, 150


def crossed(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Everybody may meet everybody: the root is full."""
    return rng.integers(0, 260, 20000), rng.integers(0, 150, 20000)


def ring(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Leaves meet two neighbours on a ring: the root is a ring."""
    a = rng.permutation(np.repeat(np.arange(2 * size), 3))
    return a, (a // 2 + rng.integers(0, 2, len(a))) % size


def hub(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The same, and one leaf that meets the whole ring: it fills the root, unless it goes last."""
    a, b = ring(rng, size)
    return np.concatenate([a, np.full(size, 7)]), np.concatenate([b, np.arange(size)])


PROBLEMS: dict[str, Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]]] = {
    "leaves + dense root": crossed,
    "leaves + sparse root": ring,
    "whole matrix": hub,
}


@functools.cache
def crossproducts(name: str, slopes: bool = False) -> bigmm.CrossProducts:
    rng = np.random.default_rng(11)
    a, b = PROBLEMS[name](rng, SHORT_RING if slopes else RING)
    x = rng.normal(size=len(a))
    y = 1.0 + rng.normal(size=2 * RING)[a] + 0.5 * rng.normal(size=RING)[b] * (1 + x) + rng.normal(size=len(a))
    frame = pd.DataFrame({"a": a, "b": b, "x": x, "y": y})
    return bigmm.reduce("y ~ x + (x | a) + (x | b)" if slopes else "y ~ x + (1 | b) + (1 | a)", frame, client=0)


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_planner_chooses(name: str) -> None:
    plan = crossproducts(name).plan(memory=1e10)
    assert plan.chosen.name == name
    assert plan.fits
    assert {plan.chosen.name, *(other.name for other in plan.rejected)} == set(PROBLEMS)
    assert all(other.reason for other in (plan.chosen, *plan.rejected))


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_chosen_plan_is_carried_out(name: str) -> None:
    model = crossproducts(name).model()
    factor, layout = model.pls.factor, model.pls.layout
    assert isinstance(factor, DenseRoot if name == "leaves + dense root" else SparseRoot)
    assert (layout.leaves is None) == (name == "whole matrix")
    assert layout.root.r == model.plan().chosen.root


@pytest.mark.parametrize("slopes", [False, True], ids=["scalar", "vector"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_all_plans_give_the_same_numbers(name: str, slopes: bool) -> None:
    model = crossproducts(name, slopes).model()
    theta = model.theta0 * 0.7 + 0.1
    expected, gradient = model.objective(theta), model.gradient(theta)
    for how in ({}, {"ordering": "default"}, {"leaves": False}, {"leaves": False, "ordering": "metis"}):
        model._pls = PenalizedLeastSquares(model.selected.blocks, model.selected.covariance, **how)  # type: ignore[arg-type]
        assert model.objective(theta) == pytest.approx(expected, rel=1e-12)
        np.testing.assert_allclose(model.gradient(theta), gradient, rtol=1e-8, atol=1e-8 * np.abs(gradient).max())


def _simplicial(model: LinearMixedModel, leaves: bool) -> tuple[int, float]:
    """Entries of a factor that CHOLMOD has computed, and its sum of squared column counts; leaf rows and leaf factors added."""
    pls = PenalizedLeastSquares(model.selected.blocks, model.selected.covariance, leaves=leaves, simplicial=True)
    pls.evaluate(model.theta0)
    assert isinstance(pls.factor, SparseRoot)
    L = pls.factor.factor.L()
    leaves = pls.eliminated
    beside = 0 if leaves is None else leaves.B.size + sum(len(np.tril_indices(len(V))[0]) for V in leaves.V)
    return L.nnz + beside, float((np.diff(L.indptr).astype(float) ** 2).sum())


@pytest.mark.parametrize("slopes", [False, True], ids=["scalar", "vector"])
@pytest.mark.parametrize("name", ["leaves + sparse root", "whole matrix"])
def test_figures_of_a_sparse_factor(name: str, slopes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bigmm.solver.planning._ORDERING", 0.0)  # small problems, too, are analysed
    model = crossproducts(name, slopes).model()
    plan = model.plan()
    found = next(other for other in (plan.chosen, *plan.rejected) if other.name == name)
    entries, flops = _simplicial(model, name != "whole matrix")
    assert found.nnz_L == entries
    assert found.flops is not None
    assert found.flops >= flops
    if name == "whole matrix":
        assert found.flops == flops


def test_figures_of_a_dense_factor() -> None:
    """Every entry of L, leaves first, that a dense factorization of the whole matrix finds."""
    model = crossproducts("leaves + dense root").model()
    assert model.plan().chosen.nnz_L == _simplicial(model, leaves=True)[0]  # the root of this problem fills up


def test_one_factor_has_no_alternative() -> None:
    plan = crossproducts("leaves + dense root").plan("y ~ x + (1 | a)")
    assert plan.chosen.name == "leaves"
    assert plan.rejected == ()
    assert plan.chosen.nnz_L == 260


def test_whole_matrix_is_not_ordered_where_that_costs_more_than_it_can_gain() -> None:
    plan = crossproducts("leaves + dense root").plan()
    whole = next(other for other in plan.rejected if other.name == "whole matrix")
    assert whole.nnz_L is None
    assert "takes longer" in whole.reason


def test_less_memory_makes_another_plan() -> None:
    """The ring's dense root is out of the question; so is everything, with less."""
    model = crossproducts("whole matrix").model()
    dense = next(other for other in model.plan(1e10).rejected if other.name == "leaves + dense root")
    chosen = model.plan().chosen
    assert dense.nbytes is not None
    assert chosen.nbytes is not None
    assert chosen.nbytes < dense.nbytes
    between = model.plan((chosen.nbytes + dense.nbytes) / 2)
    assert between.fits
    assert next(other for other in between.rejected if other.name == dense.name).reason == "memory will not hold it"
    nothing = model.plan(chosen.nbytes - 1.0)
    assert not nothing.fits
    assert "need more" in nothing.chosen.reason


def test_what_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    cp = crossproducts("leaves + dense root")
    monkeypatch.setenv("BIGMM_MEMORY", "50 kB")
    assert not cp.plan().fits
    with pytest.raises(bigmm.ModelError, match=r"needs .*kB .*50 kB are available: .*BIGMM_MEMORY"):
        cp.fit()
    with pytest.raises(bigmm.ModelError, match="are available"):
        cp.model().objective([1.0, 1.0])
    monkeypatch.setenv("BIGMM_MEMORY", "1 GiB")
    assert cp.model().objective([1.0, 1.0]) > 0.0


def test_plan_is_text_and_data() -> None:
    plan = crossproducts("whole matrix").plan(memory=1e10)
    text = str(plan)
    assert text.count("\n") > 6
    assert f"{plan.chosen.nnz_L:,}" in text
    assert "chosen: whole matrix: " in text
    assert "rejected: leaves + dense root: slower" in text
    assert "available memory 10 GB" in text
    data = json.loads(json.dumps(plan.to_dict()))
    assert data["chosen"]["nnz_L"] == plan.chosen.nnz_L
    assert [other["name"] for other in data["rejected"]] == [other.name for other in plan.rejected]
    again: Plan = pickle.loads(pickle.dumps(plan))
    assert again == plan


def test_a_planned_model_pickles() -> None:
    model = crossproducts("leaves + sparse root").model()
    value = model.objective(model.theta0)
    again: LinearMixedModel = pickle.loads(pickle.dumps(model))
    assert again.plan().chosen == model.plan().chosen
    assert again.objective(model.theta0) == value


@pytest.mark.parametrize("slopes", [False, True], ids=["scalar", "vector"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_bits_do_not_depend_on_threads(name: str, slopes: bool) -> None:
    model = crossproducts(name, slopes).model()
    blocks, covariance = model.selected.blocks, model.selected.covariance
    theta, found = model.theta0 * 0.7, []
    for threads in sorted({1, min(2, numba.config.NUMBA_NUM_THREADS)}):
        numba.set_num_threads(threads)
        pls = PenalizedLeastSquares(blocks, covariance, make_plan(blocks, len(theta), 1e10)[1]())
        pls._threads = threads
        evaluation = pls.evaluate(theta)
        found.append((evaluation.logdet, evaluation.R.tobytes()))
    assert found[0] == found[-1]


@pytest.mark.parametrize("of", ["matrix", "factor"])
def test_places_beyond_32_bits(of: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the matrix is too large for them, or its factor alone: the same numbers with 64-bit places."""
    model = crossproducts("whole matrix").model()
    theta = model.theta0 * 0.7
    objective, gradient, root = model.objective(theta), model.gradient(theta), model.pls.factor
    assert isinstance(root, SparseRoot)
    assert root.indices.dtype == np.int32
    matrix, factor = len(root.indices), int(root.factor.counts.sum())
    assert matrix < factor
    monkeypatch.setattr("bigmm.solver.cholmod._INT32_ENTRIES", matrix if of == "matrix" else factor)
    model = crossproducts("whole matrix").model()
    assert model.objective(theta) == pytest.approx(objective, rel=1e-13)
    np.testing.assert_allclose(model.gradient(theta), gradient, rtol=1e-9, atol=1e-9)
    assert isinstance(model.pls.factor, SparseRoot)
    assert model.pls.factor.indices.dtype == np.int64


@pytest.mark.parametrize("name", PROBLEMS)
def test_closed_pattern(name: str) -> None:
    """The pattern is that of |Z|'|Z| after elimination, for scalar and vector-valued terms."""
    for slopes in (False, True):
        blocks = crossproducts(name, slopes).model().selected.blocks
        layout = lay_out(blocks)
        root, leaves = layout.root, layout.leaves
        assert leaves is not None
        own, r = own_pattern(root), root.r
        dense = np.zeros((r, r), dtype=bool)
        dense[own.indices, np.repeat(np.arange(r), np.diff(own.indptr))] = True
        C = np.zeros((len(leaves.ZtZ), r), dtype=np.float32)
        C[np.repeat(np.arange(len(C)), np.diff(leaves.indptr)), leaves.indices] = 1.0
        dense |= np.tril(C.T @ C > 0)
        closed = closed_pattern(own, leaves)
        columns, rows = np.nonzero(dense.T)
        np.testing.assert_array_equal(closed.indices, rows)
        np.testing.assert_array_equal(np.repeat(np.arange(r), np.diff(closed.indptr)), columns)


@pytest.mark.parametrize("name", PROBLEMS)
def test_own_pattern_of_everything_is_that_of_the_crossproducts(name: str) -> None:
    blocks = crossproducts(name).model().selected.blocks
    pattern = own_pattern(lay_out(blocks, leaves=False).root)
    (pair,) = blocks.pairs.values()
    assert len(pattern.indices) == len(pair.g_refs) + sum(group.q for group in blocks.groups)
    factor = SparseFactor(pattern.indptr, pattern.indices, "natural", simplicial=True)
    np.testing.assert_array_equal(factor.permutation, np.arange(pattern.r))


def test_leaves_alone_take_no_more_than_planned() -> None:
    """Where no root needs them, borders of leaves are summed and not kept: they would be another 48 bytes a level here."""
    levels = 50_000
    rng = np.random.default_rng(1)
    g, x = np.repeat(np.arange(levels), 3), np.tile([-1.0, 0.0, 1.0], levels)
    y = 1.0 + x + rng.normal(size=levels)[g] + x * rng.normal(size=levels)[g] + rng.normal(size=3 * levels)
    cp = bigmm.reduce("y ~ x + (x | g)", pd.DataFrame({"y": y, "x": x, "g": g}), client=0)
    cp.fit()  # compiles
    model = cp.model()
    planned = model.plan().chosen.nbytes
    assert planned is not None
    tracemalloc.start()
    try:
        model.fit()
        assert model.pls.eliminated is not None
        pages = model.pls.eliminated.V.nbytes  # of their own, which are not traced
        assert 0.4 * planned < tracemalloc.get_traced_memory()[1] + pages < planned
    finally:
        tracemalloc.stop()
    assert planned < 120 * levels


@pytest.mark.parametrize("name", PROBLEMS)
def test_what_a_plan_has_looked_at_goes_when_it_is_chosen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layouts and analyses of rejected plans, at once, and everything of a model with its last fit: no cycle waits for a collection."""
    looked_at, lay_out_any = list[weakref.ref[np.ndarray]](), planning.lay_out

    def lay_out(*args: Any, **kwargs: Any) -> Layout:
        layout = lay_out_any(*args, **kwargs)
        looked_at.append(weakref.ref(layout.root.ZtXy))
        return layout

    monkeypatch.setattr(planning, "lay_out", lay_out)
    monkeypatch.setattr(planning, "_ORDERING", 0.0)  # small problems, too, are analysed in all ways
    cp = crossproducts(name)
    cp.fit()  # compiling leaves cycles that hold its arguments
    looked_at.clear()
    gc.collect()
    gc.disable()
    try:
        fit = cp.fit()
        assert len(looked_at) == 2
        assert sum(array() is not None for array in looked_at) == 1
        del fit
        assert all(array() is None for array in looked_at)
    finally:
        gc.enable()
