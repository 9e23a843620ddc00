"""Complete rows: what is dropped and why, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from bigmm.design import Design
from bigmm.errors import DataError, FormulaError
from bigmm.formula import parse_formula
from bigmm.reduction.rows import Rows, evaluate_rows

KINDS: dict[str, Any] = {"y": "number", "x": "number", "w": "number", "o": "number", "a": "category", "g": "category", "h": "number"}
NAN, INF = float("nan"), float("inf")


def table(**columns: Any) -> pa.Table:
    base: dict[str, Any] = {
        "y": [1.0, 2.0, 3.0, 4.0],
        "x": [1.0, 2.0, 3.0, 4.0],
        "w": [1.0, 2.0, 1.0, 0.5],
        "o": [0.0, 1.0, 0.0, 1.0],
        "a": ["p", "q", "p", "q"],
        "g": ["u", "u", "v", "v"],
        "h": [1, 2, 1, 2],
    }
    return pa.table({**base, **columns})


def evaluate(formula: str = "y ~ x + a + (1 | g)", data: pa.Table | None = None, **design: Any) -> Rows:
    return evaluate_rows(table() if data is None else data, Design(parse_formula(formula), KINDS, **design), "chunk 7")


def test_complete() -> None:
    rows = evaluate()
    assert rows.complete.all()
    assert (rows.counts.read, rows.counts.used, rows.counts.dropped, dict(rows.counts.missing)) == (4, 4, 0, {})
    np.testing.assert_array_equal(rows.y[0], [1, 2, 3, 4])
    assert {name: (refs.tolist(), levels.tolist()) for name, (refs, levels) in rows.encoded.items()} == {
        "a": ([0, 1, 0, 1], ["p", "q"]),
        "g": ([0, 0, 1, 1], ["u", "v"]),
    }


def test_missing_by_column_a_row_with_two_gaps_counts_twice() -> None:
    data = table(
        y=[None, 2.0, 3.0, 4.0], x=[NAN, NAN, 3.0, 4.0], a=["p", None, "p", "q"], g=pa.array(["u", "u", None, "v"]).dictionary_encode()
    )
    rows = evaluate(data=data)
    assert dict(rows.counts.missing) == {"y": 1, "x": 2, "a": 1, "g": 1}
    assert (rows.counts.used, rows.counts.dropped) == (1, 3)
    np.testing.assert_array_equal(rows.complete, [False, False, False, True])
    np.testing.assert_array_equal(rows.y[0], [4])
    assert rows.encoded["g"][1].tolist() == ["v"]


def test_columns_that_are_not_named_do_not_matter() -> None:
    assert evaluate(data=table(w=[None] * 4, h=[None] * 4, o=[NAN] * 4)).counts.used == 4


def test_integers_with_gaps() -> None:
    assert evaluate("y ~ h + (1 | g)", table(h=pa.array([1, None, 3, 4]))).counts.missing == {"h": 1}
    assert evaluate("y ~ x + (1 | h)", table(h=pa.array([1, None, 3, 4]))).counts.missing == {"h": 1}


def test_nan_of_a_grouping_factor_is_missing() -> None:
    assert evaluate("y ~ x + (1 | h)", table(h=[1.0, NAN, 3.0, None])).counts.missing == {"h": 2}


def test_undefined_expressions_count_under_their_text() -> None:
    rows = evaluate("log(y) ~ log(x) + (1 | g)", table(y=[1.0, -1.0, 3.0, None], x=[1.0, -2.0, -3.0, -4.0]))
    assert dict(rows.counts.missing) == {"y": 1, "log(y)": 1, "log(x)": 1}
    assert rows.counts.used == 1


def test_a_column_named_like_an_expression_keeps_its_gaps() -> None:
    """A formula and a design refuse such a name; whoever has another way here must not read codes of missing keys."""
    formula = parse_formula("y ~ log(x) + (1 | g)")
    (random,) = formula.random
    named = replace(formula, random=(replace(random, group=("log(x)",)),))
    data = table(x=[-1.0, 1.0, 2.0, 3.0]).append_column("log(x)", pa.array(["u", None, "v", "v"]))
    rows = evaluate_rows(data, Design(named, {**KINDS, "log(x)": "category"}))
    assert dict(rows.counts.missing) == {"log(x)": 2}
    assert rows.complete.tolist() == [False, False, True, True]


@pytest.mark.parametrize("role", ["weights", "offset"])
def test_weights_and_offset_named_like_an_expression(role: str) -> None:
    design = Design(parse_formula("y ~ log(x) + (1 | g)"), {**KINDS, "log(x)": "number"}, **{role: "log(x)"})  # type: ignore[arg-type]
    with pytest.raises(FormulaError, match=rf"the {role} column is named 'log\(x\)' like an expression of the formula: rename"):
        design.check()


def test_na_action_fail() -> None:
    with pytest.raises(DataError, match=r"2 incomplete rows in chunk 7 \(y: 1, a: 1\): remove them, or use na_action='omit'"):
        evaluate(data=table(y=[None, 2.0, 3.0, 4.0], a=["p", None, "p", "q"]), na_action="fail")
    assert evaluate(na_action="fail").counts.used == 4


@pytest.mark.parametrize(
    ("formula", "columns", "name", "row"),
    [
        ("y ~ x + (1 | g)", {"x": [1.0, INF, 3.0, -INF]}, "x", 1),
        ("y ~ x + (1 | g)", {"y": [1.0, 2.0, INF, 4.0]}, "y", 2),
        ("y ~ log(x) + (1 | g)", {"x": [0.0, 1.0, 2.0, 3.0]}, "log(x)", 0),
        ("y ~ I(1/x) + (1 | g)", {"x": [3.0, 1.0, 2.0, 0.0]}, "I(1/x)", 3),
        ("y ~ exp(x) + (1 | g)", {"x": [3.0, 1e4, 2.0, 0.0]}, "exp(x)", 1),
        ("y ~ offset(x) + (1 | g)", {"x": [1.0, INF, 3.0, 4.0]}, "x", 1),
    ],
)
def test_infinite_values(formula: str, columns: dict[str, Any], name: str, row: int) -> None:
    with pytest.raises(DataError) as caught:
        evaluate(formula, table(**columns))
    assert f"infinite values of {name!r} in chunk 7 (the first in its row {row})" in str(caught.value)


def test_an_infinite_value_in_an_incomplete_row_is_dropped_with_it() -> None:
    assert evaluate(data=table(x=[INF, 2.0, 3.0, 4.0], y=[None, 2.0, 3.0, 4.0])).counts.used == 3


def test_an_infinite_offset_column_is_refused() -> None:
    with pytest.raises(DataError, match="infinite"):
        evaluate(data=table(o=[1.0, INF, 0.0, 0.0]), offset="o")


def test_weights() -> None:
    rows = evaluate(data=table(x=[1.0, None, 3.0, 4.0]), weights="w")
    assert rows.weights is not None
    np.testing.assert_array_equal(rows.weights, [1.0, 1.0, 0.5])


@pytest.mark.parametrize("bad", [0.0, -1.0, INF, NAN, None])
def test_bad_weights(bad: float | None) -> None:
    with pytest.raises(
        DataError, match=r"1 weights in chunk 7 are missing, infinite or not positive \(for example (0|-1|inf|nan)\) in column 'w'"
    ):
        evaluate(data=table(w=[1.0, bad, 1.0, 1.0]), weights="w")


def test_bad_weights_of_dropped_rows_do_not_matter() -> None:
    assert evaluate(data=table(w=[1.0, 0.0, 1.0, 1.0], y=[1.0, None, 3.0, 4.0]), weights="w").counts.used == 3


def test_offsets_and_shift_leave_the_response() -> None:
    rows = evaluate("y ~ offset(x) + (1 | g)", offset="o", y_shift={"y": 10.0})
    np.testing.assert_array_equal(rows.y[0], [-10, -11, -10, -11])
    missing = evaluate("y ~ 1 + (1 | g)", table(o=[None, 1.0, 0.0, 1.0]), offset="o")
    assert dict(missing.counts.missing) == {"o": 1}


def test_products_of_numeric_factors() -> None:
    rows = evaluate("y ~ x:w + x:a + (1 | g)")
    np.testing.assert_array_equal(rows.numeric["w", "x"], [1, 4, 3, 2])
    np.testing.assert_array_equal(rows.numeric["x",], [1, 2, 3, 4])


def test_no_rows() -> None:
    rows = evaluate(data=table()[:0])
    assert (rows.counts.read, rows.counts.used, len(rows.y[0])) == (0, 0, 0)


def test_dictionaries_with_unused_values() -> None:
    encoded = pa.chunked_array([pa.DictionaryArray.from_arrays([1, 1, 2, 2], ["unused", "q", "p"])])
    assert evaluate(data=table(a=encoded)).encoded["a"][1].tolist() == ["p", "q"]
