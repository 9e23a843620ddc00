"""The order of a dense root's columns, and a matrix that is put into it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import bigmm
from bigmm.solver.costs import cheapest_inverse, panel_products
from bigmm.solver.dense_root import DenseRoot
from bigmm.solver.layout import Leaves, lay_out
from bigmm.solver.root_order import RootOrder, root_order
from bigmm.solver.traces import PANEL


def _popular(n: int = 4000) -> pd.DataFrame:
    """Two factors of the root, whose levels differ widely in how many leaves meet them."""
    rng = np.random.default_rng(5)
    frame = pd.DataFrame({"a": rng.integers(0, 400, n), "x": rng.normal(size=n)})
    frame["b"] = rng.permutation(150)[np.minimum(rng.geometric(0.03, n), 149)]
    frame["c"] = rng.permutation(40)[np.minimum(rng.geometric(0.1, n), 39)]
    return frame.assign(y=rng.normal(size=n))


def _leaves(formula: str) -> Leaves:
    found = lay_out(bigmm.reduce(formula, _popular(), client=0).model().selected.blocks).leaves
    assert found is not None
    return found


@pytest.mark.parametrize("r", [1, 2, 63, 64, 65, 200])
def test_a_matrix_is_permuted_in_place(r: int) -> None:
    """Below the diagonal there may be anything."""
    rng = np.random.default_rng(r)
    for columns in (rng.permutation(r), np.roll(np.arange(r), 1), np.arange(r)[::-1].copy(), np.arange(r)):
        whole = rng.normal(size=(r, r))
        whole = whole + whole.T
        S = np.triu(whole) + np.tril(np.full((r, r), np.nan), -1)
        RootOrder(columns.astype(np.int32), np.argsort(columns).astype(np.int32), np.zeros(0, np.uint16), few_leaves_first=True).permute(S)
        np.testing.assert_array_equal(np.triu(S), np.triu(whole[np.ix_(columns, columns)]))


@pytest.mark.parametrize("few_leaves_first", [False, True])
@pytest.mark.parametrize("formula", ["y ~ x + (1 | a) + (1 | b)", "y ~ x + (x | a) + (x | b) + (1 | c)"])
def test_levels_of_many_leaves_stand_last_in_their_factor(formula: str, few_leaves_first: bool) -> None:
    leaves = _leaves(formula)
    order, counts = root_order(leaves, few_leaves_first=few_leaves_first), np.diff(leaves.root_indptr)
    assert sorted(order.columns) == list(range(len(counts)))
    np.testing.assert_array_equal(order.columns[order.places], np.arange(len(counts)))
    first = [pair.first for pair in leaves.pairs]
    for start, end, pair in zip(first, [*first[1:], len(counts)], leaves.pairs, strict=True):
        columns = order.columns[start:end].reshape(-1, pair.k)
        assert columns.min() == start
        np.testing.assert_array_equal(columns - columns[:, :1], np.tile(np.arange(pair.k), (len(columns), 1)))
        assert (np.diff(counts[columns[:, 0]]) >= 0).all() == few_leaves_first
    for j in range(len(leaves.indptr) - 1):
        own = leaves.indices[leaves.indptr[j] : leaves.indptr[j + 1]]
        entries = order.entries[leaves.indptr[j] : leaves.indptr[j + 1]]
        np.testing.assert_array_equal(order.places[own[entries]], np.sort(order.places[own]))


@pytest.mark.parametrize("first", [False, True])
def test_products_are_counted_by_panels(first: bool) -> None:
    """Each entry of a leaf meets the panel in which its column begins and all after it; each leaf's rows meet one another in each."""
    leaves = _leaves("y ~ x + (x | a) + (x | b) + (1 | c)")
    r, k = len(leaves.root_indptr) - 1, 2
    places = root_order(leaves, few_leaves_first=first).places
    panels = [range(start, min(start + PANEL, r)) for start in range(0, r, PANEL)]
    expected = 0.0
    for own in np.split(leaves.indices, leaves.indptr[1:-1]):
        expected += sum(PANEL * (k * (places[own] < panel.stop).sum() + k + k * (k + 1) / 2) for panel in panels)
    assert panel_products(leaves, few_leaves_first=first) == expected


def test_few_products_are_left_where_few_levels_have_most_entries() -> None:
    rng = np.random.default_rng(4)
    popular = rng.permutation(2000)[(2000 * rng.random(100_000) ** 3).astype(int)]
    frame = pd.DataFrame({"a": rng.integers(0, 2500, 100_000), "b": popular, "y": rng.normal(size=100_000)})
    leaves = lay_out(bigmm.reduce("y ~ 1 + (1 | a) + (1 | b)", frame, client=0).model().selected.blocks).leaves
    assert leaves is not None
    natural, ordered = (panel_products(leaves, few_leaves_first=first) for first in (False, True))
    assert ordered < 2 / 3 * natural


def test_short_leaves_are_looked_up_in_the_inverse() -> None:
    """Where every leaf has an entry or two, the panels of L^-1 would be gone through for next to nothing."""
    rng = np.random.default_rng(3)
    frame = pd.DataFrame({"a": np.arange(40_000) // 2, "b": rng.integers(0, 200, 40_000), "y": rng.normal(size=40_000)})
    leaves = lay_out(bigmm.reduce("y ~ 1 + (1 | a) + (1 | b)", frame, client=0).model().selected.blocks).leaves
    assert leaves is not None
    assert cheapest_inverse(200, leaves) == "S^-1"


def test_the_plan_says_in_which_order(monkeypatch: pytest.MonkeyPatch) -> None:
    cp = bigmm.reduce("y ~ x + (1 | a) + (1 | b)", _popular(), client=0)
    for way, name in (("L^-1", "natural"), ("L^-1, few leaves first", "few leaves first")):
        for place in ("planning", "dense_root"):
            monkeypatch.setattr(f"bigmm.solver.{place}.cheapest_inverse", lambda *_, way=way: way)
        model = cp.model()
        assert model.plan().chosen.order == name
        assert isinstance(model.pls.factor, DenseRoot)
        assert model.pls.factor._order is not None
        assert model.pls.factor._order.few_leaves_first == (name != "natural")
