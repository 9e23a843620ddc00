"""Sums and differences of crossproducts: any cut, order and labels of the rows give the same statistics and the same fit."""

from __future__ import annotations

import itertools
import operator
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bigmm
from bigmm.addition import add, merge, reshift
from bigmm.crossproducts import CrossProducts
from bigmm.design import Design
from bigmm.errors import LabelError, PrecisionWarning
from bigmm.formula import parse_formula
from bigmm.reduction.partial import partial_crossproducts
from bigmm.subtraction import subtract

#: Sums of some dozen products of numbers up to 10, in another order.
RTOL, ATOL = 1e-11, 1e-10
#: Invariance of the objective at a fixed theta, relative.
OBJECTIVE_RTOL = 1e-9
KINDS: dict[str, Any] = dict.fromkeys(("y", "x", "z", "w", "h"), "number") | dict.fromkeys(("g", "a", "b"), "category")
FORMULA = "y ~ a * b * x + I(x^2) + (a + x | g) + (1 | h) + (z | g:h)"
FIT = "y ~ x + (x | g) + (1 | h)"
THETA = np.array([0.8, -0.3, 0.5, 0.6])

settings.register_profile("addition", max_examples=40, deadline=None, derandomize=True)
PROFILE = settings.get_profile("addition")


def design_of(formula: str = FORMULA, **others: Any) -> Design:
    return Design(parse_formula(formula), KINDS, **others)


def reduced(frame: pd.DataFrame, design: Design) -> CrossProducts:
    """Crossproducts of these rows alone."""
    types = {"y": pa.float64(), "x": pa.float64(), "z": pa.float64(), "w": pa.float64(), "h": pa.int64()}
    schema = pa.schema([(name, types.get(name, pa.large_string())) for name in design.names])
    return partial_crossproducts(pa.Table.from_pandas(frame[list(design.names)], schema=schema, preserve_index=False), design)


def rows(n: int, seed: int = 0, gaps: float = 0.0) -> pd.DataFrame:
    """Rows in which levels, cells and categories are rare enough for some chunks to miss them."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "g": rng.choice([f"g{i}" for i in range(9)], n),
            "h": rng.integers(0, 6, n),
            "a": rng.choice(list("pqr"), n, p=[0.7, 0.2, 0.1]),
            "b": rng.choice(list("uv"), n, p=[0.8, 0.2]),
            "x": rng.normal(1.0, 1.0, n).round(3),
            "z": rng.normal(0.0, 1.0, n).round(3),
            "w": rng.uniform(0.3, 3.0, n),
        }
    )
    frame["y"] = 2 + frame["x"] + rng.normal(size=9)[pd.factorize(frame["g"])[0]] + rng.normal(size=n)
    if gaps:
        for name in ("y", "x", "g", "a"):
            frame.loc[rng.random(n) < gaps, name] = None
    return frame


def assert_same(one: CrossProducts, other: CrossProducts, *, rtol: float = RTOL, atol: float = ATOL) -> None:
    """Labels and counts are equal, sums are close."""
    assert one.columns == other.columns
    assert (one.rows.read, one.rows.used, dict(one.rows.missing)) == (other.rows.read, other.rows.used, dict(other.rows.missing))
    assert one.sum_log_weights == pytest.approx(other.sum_log_weights, rel=rtol, abs=atol)
    np.testing.assert_allclose(one.XytXy, other.XytXy, rtol=rtol, atol=atol)
    for mine, theirs in zip(one.groups, other.groups, strict=True):
        assert (mine.names, mine.columns) == (theirs.names, theirs.columns)
        assert mine.levels.tolist() == theirs.levels.tolist()
        np.testing.assert_array_equal(mine.rows, theirs.rows)
        np.testing.assert_allclose(mine.ZtZ, theirs.ZtZ, rtol=rtol, atol=atol)
        np.testing.assert_allclose(mine.ZtXy, theirs.ZtXy, rtol=rtol, atol=atol)
    assert one.pairs.keys() == other.pairs.keys()
    for key, pair in one.pairs.items():
        np.testing.assert_array_equal(pair.g_refs, other.pairs[key].g_refs)
        np.testing.assert_array_equal(pair.h_refs, other.pairs[key].h_refs)
        np.testing.assert_allclose(pair.ZtZ, other.pairs[key].ZtZ, rtol=rtol, atol=atol)
        assert np.issubdtype(pair.ZtZ.dtype, np.integer) == np.issubdtype(other.pairs[key].ZtZ.dtype, np.integer)


def bits(cp: CrossProducts) -> list[bytes]:
    arrays = [
        cp.XytXy,
        *(a for g in cp.groups for a in (g.rows, g.ZtZ, g.ZtXy)),
        *(a for p in cp.pairs.values() for a in (p.g_refs, p.h_refs, p.ZtZ)),
    ]
    return [array.tobytes() for array in arrays]


@st.composite
def cuts(draw: st.DrawFn, n: int = 60) -> list[list[int]]:
    """The rows 0..n-1 dealt into chunks, some of them empty."""
    owners = draw(st.lists(st.integers(0, 5), min_size=n, max_size=n))
    order = draw(st.permutations(range(6)))
    return [[row for row, owner in enumerate(owners) if owner == chunk] for chunk in order]


class TestSums:
    @settings(PROFILE)
    @given(cuts(), st.integers(0, 10_000), st.sampled_from([0.0, 0.1, 0.6]), st.sampled_from([None, "w"]))
    def test_any_cut_in_any_order(self, chunks: list[list[int]], seed: int, gaps: float, weights: str | None) -> None:
        frame, design = rows(60, seed, gaps), design_of(weights=weights)
        whole = reduced(frame, design)
        assert_same(add([reduced(frame.iloc[chunk], design) for chunk in chunks]), whole)

    @settings(PROFILE)
    @given(cuts(), st.integers(0, 10_000))
    def test_merges_are_associative_and_commutative(self, chunks: list[list[int]], seed: int) -> None:
        frame, design = rows(60, seed), design_of()
        a, b, c, *rest = (reduced(frame.iloc[chunk], design) for chunk in chunks)
        reference = add([a, b, c, *rest])
        assert_same(add([add([a, b]), add([c, *rest])]), reference)
        assert_same(add([add([c, a]), add([*rest, b])]), reference)

    @settings(PROFILE)
    @given(cuts(), st.integers(0, 10_000), st.floats(-5, 5), st.floats(-5, 5))
    def test_parts_with_other_shifts(self, chunks: list[list[int]], seed: int, y_shift: float, x_shift: float) -> None:
        frame, design = rows(60, seed), design_of()
        other = replace(design, y_shift={"y": y_shift}, shift={"x": x_shift, "I(x^2)": -x_shift})
        parts = [reduced(frame.iloc[chunk], design if i % 2 else other) for i, chunk in enumerate(chunks)]
        assert_same(add(parts), reduced(frame, parts[0].design), atol=1e-8)

    def test_bits_are_those_of_the_plan(self) -> None:
        frame, design = rows(200, gaps=0.05), design_of(weights="w")
        parts = [reduced(frame.iloc[start : start + 17], design) for start in range(0, 200, 17)]
        assert bits(add(parts)) == bits(add([replace(part) for part in parts]))

    def test_chunks_without_a_complete_row(self) -> None:
        frame, design = rows(40), design_of()
        empty, dropped = frame.iloc[:0], frame.assign(y=np.nan)
        total = add([reduced(empty, design), reduced(dropped, design), reduced(frame, design), reduced(dropped.iloc[:3], design)])
        assert (total.rows.read, total.rows.used, dict(total.rows.missing)) == (83, 40, {"y": 43})
        whole = reduced(frame, design)
        assert_same(replace(total, rows=whole.rows), whole)

    def test_nothing_but_incomplete_rows(self) -> None:
        dropped, design = rows(10).assign(x=np.nan), design_of()
        total = add([reduced(dropped, design), reduced(dropped, design)])
        assert total.nobs == 0
        assert [len(group.levels) for group in total.groups] == [0, 0, 0]
        np.testing.assert_array_equal(total.XytXy, 0.0)

    def test_counts_of_scalar_factors_are_small_integers(self) -> None:
        frame, design = rows(50), design_of("y ~ x + (1 | g) + (1 | h)")
        for cp in (reduced(frame, design), add([reduced(frame[:20], design), reduced(frame[20:], design)])):
            assert cp.pairs[0, 1].ZtZ.dtype == np.int32
        table = pd.crosstab(frame["g"], frame["h"]).to_numpy()
        pair = cp.pairs[0, 1]
        np.testing.assert_array_equal(table[pair.g_refs, pair.h_refs], pair.ZtZ[:, 0, 0])

    def test_large_counts_do_not_overflow(self) -> None:
        cp = reduced(rows(50), design_of("y ~ x + (1 | g) + (1 | h)"))
        pair = replace(cp.pairs[0, 1], ZtZ=cp.pairs[0, 1].ZtZ + np.int32(2**31 - 100))
        total = add([replace(cp, pairs={(0, 1): pair})] * 3)
        np.testing.assert_array_equal(total.pairs[0, 1].ZtZ, 3 * pair.ZtZ.astype(np.int64))

    def test_operator(self) -> None:
        frame, design = rows(50), design_of()
        assert_same(reduced(frame[:20], design) + reduced(frame[20:], design), reduced(frame, design))

    def test_one_part_is_itself(self) -> None:
        cp = reduced(rows(20), design_of())
        assert add([cp]) is cp


class TestDifferences:
    # A cell with two similar x left has lost digits; what is lost is asked below.
    @pytest.mark.filterwarnings("ignore:subtraction leaves:bigmm.errors.PrecisionWarning")
    @settings(PROFILE)
    @given(cuts(), st.integers(0, 10_000), st.sampled_from([None, "w"]))
    def test_undoes_addition(self, chunks: list[list[int]], seed: int, weights: str | None) -> None:
        frame, design = rows(60, seed), design_of(weights=weights)
        first, second = (frame.iloc[list(itertools.chain(*half))] for half in (chunks[:3], chunks[3:]))
        one, two = reduced(first, design), reduced(second, design)
        assert_same(_pruned((one + two) - two), _pruned(one), atol=1e-8)
        assert_same(_pruned((one + two) - one), _pruned(two), atol=1e-8)

    def test_levels_and_cells_vanish(self) -> None:
        frame, design = rows(60), design_of("y ~ a * x + (a | g)")
        rare = (frame["a"] == "r") | (frame["g"] == "g3")
        left = reduced(frame, design) - reduced(frame[rare], design)
        assert_same(left, reduced(frame[~rare], design), atol=1e-8)
        assert "g3" not in left.groups[0].levels
        assert not any(("a", "r") in column.cell for column in (*left.columns, *left.groups[0].columns))

    def test_cells_vanish_with_weights_that_leave_a_rounding(self) -> None:
        frame, design = rows(60), design_of("y ~ a * x + (a | g)", weights="w")
        rare = frame["a"] == "r"
        left = reduced(frame, design) - reduced(frame[rare], design)
        assert_same(left, reduced(frame[~rare], design), atol=1e-8)

    def test_fits_after_subtraction(self) -> None:
        frame, design = rows(200), design_of("y ~ a * x + (1 | g) + (1 | h)", weights="w")
        gone = (frame["a"] == "p") | (frame["h"] == 2)  # the reference level
        left, direct = reduced(frame, design) - reduced(frame[gone], design), reduced(frame[~gone], design)
        one, two = left.fit(), direct.fit()
        assert one.objective == pytest.approx(two.objective, rel=1e-8)
        assert (one.coef_names, one.dropped) == (two.coef_names, two.dropped)
        np.testing.assert_allclose(one.fixef, two.fixef, rtol=1e-5)

    def test_all_of_it(self) -> None:
        cp = reduced(rows(30), design_of())
        nothing = cp - cp
        assert nothing.nobs == 0
        assert [len(group.levels) for group in nothing.groups] == [0, 0, 0]

    @pytest.mark.parametrize(
        ("formula", "column"),
        [("y ~ z + (1 | g)", "z"), ("y ~ 1 + (z | g)", "z"), ("y ~ 1 + (1 | g)", "y"), ("I(2 * y) ~ a + (1 | g)", "y")],
    )
    def test_little_is_left(self, formula: str, column: str) -> None:
        """The squares of what is left keep the rounding of what was there, such as a missing code: estimates lose their digits."""
        frame, design = rows(30), design_of(formula)
        left = reduced(frame, design)
        large = reduced(frame[:3].assign(**{column: 999999999.0}), design)
        name = re.escape(formula.partition(" ~")[0] if column == "y" else column)
        with pytest.warns(
            PrecisionWarning, match=rf"subtraction leaves (0e\+00|.e-1.) of the squares of '{name}', and as many fewer digits"
        ):
            assert ((left + large) - large).nobs == 30
        assert ((left + left) - left).nobs == 30  # half of them: no warning, which would be an error

    @pytest.mark.parametrize("column", ["y", "x"])
    def test_little_is_left_about_its_mean(self, column: str) -> None:
        """The whole may have the shift of what is taken away: the squares left are large, and say nothing of what varies."""
        frame, design = rows(30), design_of("y ~ x + (1 | g)")
        far = replace(design, **{"y_shift": {"y": 1e8}} if column == "y" else {"shift": {"x": 1e8}})
        left, gone = (reduced(part, far) for part in (frame, frame[:9].assign(**{column: frame[column][:9] + 1e8})))
        with pytest.warns(PrecisionWarning, match=rf"subtraction leaves (0e\+00|.e-1.) of the squares of '{column}'"):
            assert ((gone + left) - gone).nobs == 30

    @pytest.mark.parametrize("weights", [None, "w"])
    @pytest.mark.parametrize("formula", ["y ~ 0 + a + x + (1 | g)", "y ~ a + x:a + (1 | g)"])
    def test_little_is_left_in_cells(self, formula: str, weights: str | None) -> None:
        frame, design = rows(60), design_of(formula, weights=weights, shift={"x": 1e8})
        left, gone = (reduced(part, design) for part in (frame, frame[:30].assign(x=frame["x"][:30] + 1e8)))
        with pytest.warns(PrecisionWarning, match=r"subtraction leaves (0e\+00|-?.e-1.) of the squares of 'x(:a.*)?'"):
            assert ((gone + left) - gone).nobs == 60

    @pytest.mark.parametrize("other", [None, 3, "cp"])
    def test_no_crossproducts(self, other: Any) -> None:
        cp = reduced(rows(10), design_of())
        with pytest.raises(LabelError, match=f"expected crossproducts, found {type(other).__name__}: pass what"):
            merge([cp, other])
        with pytest.raises(LabelError, match=f"expected crossproducts, found {type(other).__name__}: pass what"):
            subtract(cp, other)
        for operate in (operator.add, operator.sub):
            with pytest.raises(TypeError, match="unsupported operand"):
                operate(cp, other)

    def test_sum(self) -> None:
        frame, design = rows(20), design_of()
        parts = [reduced(frame[start : start + 5], design) for start in range(0, 20, 5)]
        assert sum(parts).digest == merge(parts).digest

    def test_more_than_there_is(self) -> None:
        frame, design = rows(30), design_of()
        with pytest.raises(LabelError, match=r"cannot subtract: level .* would have -\d+ rows"):
            subtract(reduced(frame[:10], design), reduced(frame, design))

    def test_levels_that_were_never_there(self) -> None:
        frame, design = rows(30), design_of("y ~ x + (1 | g)")
        with pytest.raises(LabelError, match="level 'new' of 'g' would have -1 rows"):
            subtract(reduced(frame, design), reduced(frame[:1].assign(g="new"), design))


def _pruned(cp: CrossProducts) -> CrossProducts:
    """Without pairs whose sums are only rounding: weighted sums cannot tell that two levels no longer meet."""
    pairs = {}
    for key, pair in cp.pairs.items():
        keep = np.abs(pair.ZtZ).max(axis=(1, 2), initial=0) > 1e-9
        pairs[key] = replace(pair, g_refs=pair.g_refs[keep], h_refs=pair.h_refs[keep], ZtZ=pair.ZtZ[keep])
    return replace(cp, pairs=pairs)


class TestErrors:
    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"formula": parse_formula("y ~ a + x + (1 | g)")}, "crossproducts of different formulas cannot be combined"),
            ({"weights": "w"}, "crossproducts of different weights cannot be combined: None and 'w'"),
            ({"offset": "z"}, "crossproducts of different offsets"),
            ({"kinds": {**KINDS, "h": "category"}}, "crossproducts of different kinds of columns"),
        ],
    )
    def test_other_designs(self, changed: dict[str, Any], message: str) -> None:
        cp = reduced(rows(20), design_of("y ~ x + (1 | g)"))
        other = replace(cp, design=replace(cp.design, **changed))
        for combine in (lambda: cp + other, lambda: cp - other):
            with pytest.raises(LabelError, match=message):
                combine()

    def test_spelling_does_not_matter(self) -> None:
        frame = rows(40)
        one, two = reduced(frame[:20], design_of("y ~ x+(1|g)")), reduced(frame[20:], design_of("y ~ 1 + x + (1 | g)"))
        assert (one + two).nobs == 40

    def test_levels_of_another_type(self) -> None:
        frame = rows(40)
        one = bigmm.reduce("y ~ x + (1 | h)", frame[:20], client=0)
        two = bigmm.reduce("y ~ x + (1 | h)", frame[20:].assign(h=lambda d: d["h"].astype(str)), client=0)
        with pytest.raises(LabelError):
            one + two


class TestShift:
    @settings(PROFILE)
    @given(st.floats(-50, 50), st.floats(-50, 50), st.integers(0, 10_000))
    def test_reshift_is_a_pass_with_that_shift(self, y_shift: float, x_shift: float, seed: int) -> None:
        frame, design = rows(50, seed), design_of(weights="w")
        shifted = replace(design, y_shift={"y": y_shift}, shift={"x": x_shift, "I(x^2)": x_shift / 2})
        assert_same(reshift(reduced(frame, design), shifted), reduced(frame, shifted), rtol=1e-9, atol=1e-7)
        assert_same(reshift(reduced(frame, shifted), design), reduced(frame, design), rtol=1e-9, atol=1e-6)


BASE = rows(150, seed=3)


def objective(frame: pd.DataFrame, formula: str = FIT, *, reml: bool = False, theta: np.ndarray = THETA, **arguments: Any) -> float:
    return bigmm.reduce(formula, frame, client=0, **arguments).model(reml=reml).objective(theta)


class TestInvariances:
    """The objective at a fixed theta, under what must not change it or changes it by a known amount."""

    @pytest.mark.parametrize("reml", [False, True])
    @settings(PROFILE, max_examples=10)
    @given(cuts(150))
    def test_split_and_order(self, reml: bool, chunks: list[list[int]]) -> None:
        design = bigmm.reduce(FIT, BASE, client=0).design
        total = add([reduced(BASE.iloc[chunk], design) for chunk in chunks])
        assert total.model(reml=reml).objective(THETA) == pytest.approx(objective(BASE, reml=reml), rel=OBJECTIVE_RTOL)

    @pytest.mark.parametrize("reml", [False, True])
    def test_relabelling(self, reml: bool) -> None:
        rng = np.random.default_rng(0)
        names = dict(zip(sorted(BASE["g"].unique()), rng.permutation([f"level {i}" for i in range(9)]), strict=True))
        changed = BASE.assign(g=BASE["g"].map(names), h=-7 * BASE["h"] + 3)
        assert objective(changed, reml=reml) == pytest.approx(objective(BASE, reml=reml), rel=OBJECTIVE_RTOL)

    @pytest.mark.parametrize("reml", [False, True])
    @pytest.mark.parametrize("constant", [-3.0, 1e4, 1e8])
    def test_shift_of_y(self, constant: float, reml: bool) -> None:
        tolerance = max(OBJECTIVE_RTOL, constant * 1e-16)  # y itself is rounded
        assert objective(BASE.assign(y=BASE["y"] + constant), reml=reml) == pytest.approx(objective(BASE, reml=reml), rel=tolerance)

    @pytest.mark.parametrize("reml", [False, True])
    @pytest.mark.parametrize("factor", [1e-6, -2.0, 1e6])
    def test_scale_of_y(self, factor: float, reml: bool) -> None:
        nu = len(BASE) - 2 * reml
        expected = objective(BASE, reml=reml) + 2 * nu * np.log(abs(factor))
        assert objective(BASE.assign(y=BASE["y"] * factor), reml=reml) == pytest.approx(expected, rel=OBJECTIVE_RTOL)

    @pytest.mark.parametrize("reml", [False, True])
    @pytest.mark.parametrize("constant", [-3.0, 1e4, 1e7])
    def test_shift_of_x(self, constant: float, reml: bool) -> None:
        """T' = A T with (1, x + c) = (1, x) [[1, c], [0, 1]]; random intercepts alone do not see it."""
        tolerance = max(OBJECTIVE_RTOL, constant * 1e-15)
        formula, theta = "y ~ x + (1 | g) + (1 | h)", np.array([0.8, 0.6])
        changed = BASE.assign(x=BASE["x"] + constant)
        assert objective(changed, formula, reml=reml, theta=theta) == pytest.approx(
            objective(BASE, formula, reml=reml, theta=theta), rel=tolerance
        )

    def test_shift_of_x_with_a_random_slope(self) -> None:
        T, c = np.array([[0.8, 0.0], [-0.3, 0.5]]), 2.5
        moved = np.linalg.cholesky(np.array([[1, -c], [0, 1]]) @ T @ T.T @ np.array([[1, 0], [-c, 1]]))
        theta = np.array([moved[0, 0], moved[1, 0], moved[1, 1], 0.6])
        assert objective(BASE.assign(x=BASE["x"] + c), theta=theta) == pytest.approx(objective(BASE), rel=OBJECTIVE_RTOL)

    @pytest.mark.parametrize("reml", [False, True])
    @pytest.mark.parametrize("factor", [1e-5, -3.0, 1e5])
    def test_scale_of_x(self, factor: float, reml: bool) -> None:
        """The slopes shrink; REML's log|R_X|^2 grows by 2 log c."""
        theta = np.array([0.8, -0.3 / factor, 0.5 / abs(factor), 0.6])
        expected = objective(BASE, reml=reml) + (2 * np.log(abs(factor)) if reml else 0.0)
        assert objective(BASE.assign(x=BASE["x"] * factor), reml=reml, theta=theta) == pytest.approx(expected, rel=OBJECTIVE_RTOL)

    @pytest.mark.parametrize("reml", [False, True])
    def test_order_of_the_factors(self, reml: bool) -> None:
        formula = "y ~ x + (1 | h) + (x | g)"
        assert objective(BASE, formula, reml=reml) == pytest.approx(objective(BASE, reml=reml), rel=OBJECTIVE_RTOL)

    @pytest.mark.parametrize("factor", [2.0, 1e-3])
    @pytest.mark.parametrize("reml", [False, True])
    def test_scale_of_the_weights(self, factor: float, reml: bool) -> None:
        """Weights c w and theta / sqrt(c) are w and theta with sigma^2 c times as large."""
        plain = objective(BASE, reml=reml, weights="w")
        scaled = objective(BASE.assign(w=factor * BASE["w"]), reml=reml, weights="w", theta=THETA / np.sqrt(factor))
        assert scaled == pytest.approx(plain, rel=OBJECTIVE_RTOL)

    def test_weights_of_one_are_no_weights(self) -> None:
        assert objective(BASE.assign(w=1.0), weights="w") == pytest.approx(objective(BASE), rel=OBJECTIVE_RTOL)

    def test_twice_the_rows_with_half_the_weights(self) -> None:
        """The likelihood's quadratic form and log|L|^2 are the same; n and sum(log w) are known to change."""
        once, twice = (
            bigmm.reduce(FIT, data, weights="w", client=0).model(reml=False)
            for data in (BASE, pd.concat([BASE, BASE]).assign(w=lambda d: d["w"] / 2))
        )
        n, (_, evaluation) = len(BASE), once.evaluate(THETA)
        pwrss, logw = evaluation.pwrss, float(np.log(BASE["w"]).sum())
        expected = evaluation.logdet + 2 * n * (1 + np.log(2 * np.pi * pwrss / (2 * n))) - 2 * (logw - n * np.log(2.0))
        assert twice.objective(THETA) == pytest.approx(expected, rel=OBJECTIVE_RTOL)

    def test_offset_is_part_of_the_response(self) -> None:
        changed = BASE.assign(y=BASE["y"] + BASE["z"])
        assert objective(changed, offset="z") == pytest.approx(objective(BASE), rel=OBJECTIVE_RTOL)
        assert objective(changed, "y ~ offset(z) + x + (x | g) + (1 | h)") == pytest.approx(objective(BASE), rel=OBJECTIVE_RTOL)


def test_orders_of_categories_that_disagree() -> None:
    frame = pd.DataFrame({"y": np.arange(40.0) % 7, "c": list("abca") * 10, "g": np.arange(40) % 5})
    formula = "y ~ c + (1 | g)"
    plain = bigmm.reduce(formula, frame, client=0)
    declared = bigmm.reduce(formula, frame.assign(c=pd.Categorical(frame["c"], ["c", "a", "b"])), client=0)
    other = bigmm.reduce(formula, frame.assign(c=pd.Categorical(frame["c"], ["b", "a", "c"])), client=0)
    for total in (plain + declared, declared + plain):
        assert total.fit().coef_names == ("(Intercept)", "ca", "cb")
    with pytest.raises(bigmm.LabelError, match="two orders of the categories of 'c'"):
        declared + other


def test_too_little_weight_left_to_tell_from_rounding() -> None:
    frame = pd.DataFrame({"y": np.arange(60.0) % 7, "s": list("pqr") * 20, "g": np.arange(60) % 5})
    frame["w"] = np.where((frame["s"] == "p") & (frame.index < 30), 1e11, 1.0)
    whole, part = (bigmm.reduce("y ~ s + (1 | g)", data, weights="w", client=0) for data in (frame, frame[:30]))
    with pytest.raises(bigmm.LabelError, match="too little to tell from rounding"):
        whole - part


@pytest.mark.parametrize("formula", ["y ~ k + (1 | g)", "y ~ 1 + (k | g)"])
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([0, 1, 2], [False, True, True]),
        (["p", "q", "r"], [False, True, True]),
        ([0, 1, 2], ["p", "q", "r"]),
        ([pd.Timestamp(2024, 1, day) for day in (1, 2, 3)], ["p", "q", "r"]),
    ],
)
def test_one_category_of_two_types(formula: str, one: list[Any], other: list[Any]) -> None:
    """True and 1 are the same key of a dict: their rows were pooled without a word; text and numbers cannot be sorted."""
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"y": rng.normal(size=120), "g": rng.integers(0, 6, 120)})
    columns = pd.Categorical(one * 40), other * 40
    parts = [bigmm.reduce(formula, rows.assign(k=column), client=0) for column in columns]
    with pytest.raises(bigmm.LabelError, match=r"'k' are .* and .*: write the column with one type"):
        parts[0] + parts[1]


def test_loaded_parts_add_up_in_the_hour_that_comes_twice(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    times = pd.to_datetime([f"2023-10-29 0{hour}:30" for hour in (0, 1, 3)], utc=True).tz_convert("Europe/Paris")
    frame = pd.DataFrame({"g": rng.integers(0, 10, 200), "t": times[rng.integers(0, 3, 200)], "y": rng.normal(size=200)})
    first, second = (bigmm.reduce("y ~ t + (t | g)", part, client=0) for part in (frame[:100], frame[100:]))
    first.save(tmp_path / "first")
    loaded = bigmm.load(tmp_path / "first")
    assert isinstance(loaded, bigmm.CrossProducts)
    whole = loaded + second
    assert whole.digest == (first + second).digest
    assert len(whole.columns) == 3
    assert (whole - loaded).nobs == 100
    fit = whole.fit("y ~ t + (1 | g)")
    fit.save(tmp_path / "fit")
    pd.testing.assert_series_equal(fit.predict(frame), bigmm.load(tmp_path / "fit").predict(frame))  # type: ignore[union-attr]


def test_one_is_no_list() -> None:
    cp = bigmm.reduce("y ~ x + (1 | g)", pd.DataFrame({"y": [1.0, 2.0, 4.0], "x": [0.0, 1.0, 3.0], "g": ["a", "a", "b"]}), client=0)
    with pytest.raises(LabelError, match="expected a list of crossproducts, found one"):
        merge(cp)  # type: ignore[arg-type]
    with pytest.raises(LabelError, match="expected crossproducts, found str: pass what"):
        bigmm.reduce("y ~ x + (1 | g)", "more.parquet", into="saved.cp")  # type: ignore[arg-type]


def test_no_pair_has_fewer_than_no_rows() -> None:
    whole, part = (
        bigmm.reduce("y ~ 1 + (1 | g) + (1 | h)", pd.DataFrame({"y": np.arange(len(g)) + 1.0, "g": g, "h": h}), client=0)
        for g, h in [([1, 1, 2, 2] * 2, [1, 1, 2, 2] * 2), ([1, 2], [2, 1])]
    )
    with pytest.raises(LabelError, match="a level of 'g' with one of 'h' would have -1 rows; only rows that were added before"):
        whole - part


def test_a_column_is_not_shifted_like_a_product_of_its_name() -> None:
    rng = np.random.default_rng(5)
    frame = pd.DataFrame(
        {"p": rng.normal(size=150), "q": rng.normal(size=150), "t": 1e7 + rng.normal(size=150), "g": rng.integers(0, 6, 150)}
    )
    frame["y"] = frame["p"] - frame["q"] + 2 * frame["p"] * frame["q"] + 0.5 * (frame["t"] - 1e7) + 0.1 * rng.normal(size=150)
    plain = bigmm.lmer("y ~ p * q + t + (1 | g)", frame, client=0)
    named = bigmm.lmer("y ~ p * q + `p:q` + (1 | g)", frame.rename(columns={"t": "p:q"}), client=0)
    assert named.coef_names == ("(Intercept)", "p", "q", "p:q", "p:q.1")
    np.testing.assert_allclose(named.beta, plain.beta, rtol=1e-9)
    assert named.sigma == pytest.approx(plain.sigma, rel=1e-9)


@pytest.mark.parametrize("fixed", ["1", "f"])
def test_a_slope_in_other_units_is_not_taken_for_gone(fixed: str) -> None:
    """Squares that are left beside 1e16 times as many do not tell whether rows are; an indicator in X does."""
    rng = np.random.default_rng(8)
    parts = []
    for unit in (1e8, 1.0):
        frame = pd.DataFrame({name: rng.normal(size=200) for name in ("x", "y")})
        frame = frame.assign(f=rng.choice(list("abc"), 200), g=rng.integers(0, 8, 200))
        frame.loc[frame["f"] == "b", "x"] *= unit
        parts.append(bigmm.reduce(f"y ~ {fixed} + (1 | g) + (0 + x:f | g)", frame, client=0))
    whole = parts[0] + parts[1]
    if fixed == "1":
        with pytest.raises(LabelError, match=r"of the squares of 'x:f\[b\]' would be left, too little to tell"):
            whole - parts[0]
    else:
        with pytest.warns(PrecisionWarning):
            left = whole - parts[0]
        assert left.groups[0].columns == parts[1].groups[0].columns


def test_a_slope_that_is_zero_wherever_it_is_stays() -> None:
    frame = pd.DataFrame({"y": np.arange(60.0) % 7, "x": np.arange(60.0) % 5, "f": list("abc") * 20, "g": np.arange(60) % 4})
    frame.loc[frame["f"] == "b", "x"] = 0.0
    whole, part, rest = (bigmm.reduce("y ~ 1 + (1 | g) + (0 + x:f | g)", rows, client=0) for rows in (frame, frame[:30], frame[30:]))
    assert (whole - part).groups[0].columns == rest.groups[0].columns
