"""Which raw columns a formula needs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from bigmm.columns import (
    Block,
    Column,
    cell_columns,
    check_numeric,
    covering,
    expansion,
    is_category,
    sort_columns,
    term_block,
    x_blocks,
    z_blocks,
)
from bigmm.errors import FormulaError
from bigmm.formula import parse_formula
from bigmm.formula.expression import parse_expression

KINDS: Any = {"x": "number", "z": "number", "k": "number", "y": "number", "a": "category", "b": "category", "g": "category"}


def described(blocks: tuple[Block, ...]) -> set[tuple[tuple[str, ...], tuple[str, ...]]]:
    return {(block.texts, block.categories) for block in blocks}


def fixed(text: str) -> Any:
    return parse_formula(f"y ~ {text} + (1 | g)").fixed


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        ("1", {((), ())}),
        ("x", {((), ()), (("x",), ())}),
        ("0 + x", {((), ()), (("x",), ())}),  # the ones are always there, to undo a shift
        ("a", {((), ("a",))}),
        ("a + b", {((), ("a",)), ((), ("b",))}),
        ("a * b", {((), ("a", "b"))}),
        ("b:a", {((), ("a", "b"))}),
        ("a + x", {((), ("a",)), (("x",), ())}),
        ("a:x", {((), ("a",)), (("x",), ("a",))}),
        ("a * b * x", {((), ("a", "b")), (("x",), ("a", "b"))}),
        ("a:x + b:x", {((), ("a",)), ((), ("b",)), (("x",), ("a",)), (("x",), ("b",))}),
        ("x:z + I(x^2)", {((), ()), (("x", "z"), ()), (("I(x^2)",), ())}),
        ("factor(k) + k", {((), ("k",)), (("k",), ())}),
    ],
)
def test_x_blocks(terms: str, expected: Any) -> None:
    assert described(x_blocks(fixed(terms), KINDS)) == expected


@pytest.mark.parametrize(
    ("terms", "expected"),
    [("x", {((), ()), (("x",), ())}), ("0 + x", {(("x",), ())}), ("a", {((), ("a",))}), ("0 + a:x", {(("x",), ("a",))})],
)
def test_z_blocks(terms: str, expected: Any) -> None:
    assert described(z_blocks(fixed(terms), KINDS)) == expected


def test_blocks_do_not_depend_on_the_order_of_the_terms() -> None:
    assert x_blocks(fixed("a*x + b + z:x"), KINDS) == x_blocks(fixed("x:z + b + x:a + a + x"), KINDS)


def test_declared_and_found_categories() -> None:
    assert is_category(parse_expression("a"), KINDS)
    assert is_category(parse_expression("factor(k)"), KINDS)
    assert not is_category(parse_expression("k"), KINDS)


@pytest.mark.parametrize("text", ["log(a)", "I(x * a)", "I(a == b)"])
def test_arithmetic_on_text(text: str) -> None:
    with pytest.raises(FormulaError, match=r"needs numbers, but column '[ab]' holds text, truth values or dates"):
        term_block((parse_expression(text),), KINDS)
    with pytest.raises(FormulaError, match="the response 'a' needs numbers"):
        check_numeric(parse_expression("a"), KINDS, "the response ")


def test_names() -> None:
    assert Column().name == "1"
    assert Column(("x", "z"), (("a", "p"), ("b", 2))).name == "x:z:a[p]:b[2]"


def test_cells_of_one_and_of_two_categories() -> None:
    assert cell_columns(Block((), ("a",)), pd.Index(["p", "q"])) == (Column((), (("a", "p"),)), Column((), (("a", "q"),)))
    cells = pd.MultiIndex.from_tuples([("p", 1), ("q", 2)])
    assert cell_columns(Block((parse_expression("x"),), ("a", "k")), cells) == (
        Column(("x",), (("a", "p"), ("k", 1))),
        Column(("x",), (("a", "q"), ("k", 2))),
    )


def test_sorted_columns_do_not_depend_on_where_they_come_from() -> None:
    columns = [
        Column(),
        Column(("x",)),
        Column((), (("a", "q"),)),
        Column((), (("a", "p"),)),
        Column((), (("k", 10),)),
        Column((), (("k", 9),)),
    ]
    expected = sort_columns(columns)
    for shift in range(len(columns)):
        assert sort_columns([*columns[shift:], *columns[:shift], columns[0]]) == expected
    assert expected.index(Column((), (("k", 9),))) < expected.index(Column((), (("k", 10),)))


CELLS = tuple(Column((), (("a", a), ("b", b))) for a in "pq" for b in "uv")


def test_covering_takes_the_smallest_block() -> None:
    columns = (*CELLS, Column((), (("a", "p"),)), Column((), (("a", "q"),)), Column(("x",)))
    assert covering(columns, (), ["a"]) == [4, 5]
    assert covering(columns, (), ["b"]) == [0, 1, 2, 3]
    assert covering(columns, ("x",), []) == [6]
    assert covering(columns, ("x",), ["a"]) == []


def test_expansion_writes_a_column_as_a_sum() -> None:
    np.testing.assert_array_equal(expansion(CELLS, Column()), [1, 1, 1, 1])
    np.testing.assert_array_equal(expansion(CELLS, Column((), (("b", "v"),))), [0, 1, 0, 1])
    np.testing.assert_array_equal(expansion(CELLS, Column(("x",))), [0, 0, 0, 0])
    np.testing.assert_array_equal(expansion(CELLS, Column((), (("a", "unseen"),))), [0, 0, 0, 0])
