"""The raw columns of a model matrix, and which of them a formula needs.

A raw column is a product of numeric expressions times the indicator of one cell of categorical columns:
``x:f[b]`` is x where f is b, and 0 elsewhere. Contrasts, reference levels and centring are linear combinations of raw
columns, applied after the pass (`bigmm.formula.coding`).
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from bigmm.errors import FormulaError, LabelError
from bigmm.formula.expression import Expression
from bigmm.formula.terms import Term

Level: TypeAlias = str | int | float | bool | datetime.date
ColumnKind: TypeAlias = Literal["number", "category"]
Array: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Column:
    """Label of one raw column.

    Attributes
    ----------
    numeric : tuple of str
        Texts of the numeric factors, sorted; empty for an indicator.
    cell : tuple of (column, level)
        The cell that it indicates, sorted by column; empty for all rows.
    """

    numeric: tuple[str, ...] = ()
    cell: tuple[tuple[str, Level], ...] = ()

    @property
    def name(self) -> str:
        """For people: ``x:f[b]``; the column of ones is ``1``."""
        cells = [f"{column}[{level}]" for column, level in self.cell]
        return ":".join([*self.numeric, *cells]) or "1"

    @property
    def categories(self) -> tuple[str, ...]:
        """The categorical columns of the cell."""
        return tuple(column for column, _ in self.cell)


@dataclass(frozen=True, slots=True)
class Block:
    """All raw columns that share their numeric factors and their categorical columns; one cell is one column.

    Attributes
    ----------
    numeric : tuple of Expression
        Sorted by text.
    categories : tuple of str
        Sorted.
    """

    numeric: tuple[Expression, ...] = ()
    categories: tuple[str, ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        """Texts of the numeric factors: with a cell, a column's label."""
        return tuple(expression.text for expression in self.numeric)

    def covers(self, other: Block) -> bool:
        """Whether sums of this block's columns give every column of `other`."""
        return self.numeric == other.numeric and set(self.categories) >= set(other.categories)


def is_category(factor: Expression, kinds: Mapping[str, ColumnKind]) -> bool:
    """Whether a factor of a term is categorical: declared so, or a column of text, truth values or dates."""
    return factor.categorical or (factor.is_column and kinds[factor.text] == "category")


def term_block(term: Term, kinds: Mapping[str, ColumnKind]) -> Block:
    """The block of raw columns that spans a term.

    Raises
    ------
    FormulaError
        For arithmetic on a column that holds no numbers.
    """
    numeric, categories = set(), set()
    for factor in term:
        if is_category(factor, kinds):
            categories.add(factor.names[0])
        else:
            numeric.add(factor)
            check_numeric(factor, kinds)
    return Block(tuple(sorted(numeric, key=lambda factor: factor.text)), tuple(sorted(categories)))


def check_numeric(expression: Expression, kinds: Mapping[str, ColumnKind], role: str = "") -> None:
    """See that an expression computes with numbers only.

    Raises
    ------
    FormulaError
        Naming the column.
    """
    for name in expression.names:
        if kinds[name] == "category":
            raise FormulaError(
                f"{role}{expression.text!r} needs numbers, but column {name!r} holds text, truth values or dates: "
                "convert it to numbers in the data"
            )


def x_blocks(terms: Iterable[Term], kinds: Mapping[str, ColumnKind]) -> tuple[Block, ...]:
    """Raw blocks of the fixed part.

    The indicators that belong to each numeric block, and the column of ones, are always among them: a constant shift
    of a numeric column is then a linear combination of stored columns and can be undone.
    """
    blocks = [term_block(term, kinds) for term in terms]
    return _maximal([Block(), *blocks, *(Block((), block.categories) for block in blocks)])


def z_blocks(terms: Iterable[Term], kinds: Mapping[str, ColumnKind]) -> tuple[Block, ...]:
    """Raw blocks of all random-effects terms on one grouping factor."""
    return _maximal([term_block(term, kinds) for term in terms])


def _maximal(blocks: list[Block]) -> tuple[Block, ...]:
    """Blocks that no other covers, in a fixed order."""
    distinct = list(dict.fromkeys(blocks))
    kept = [block for block in distinct if not any(other.covers(block) for other in distinct if other != block)]
    return tuple(sorted(kept, key=lambda block: (block.texts, block.categories)))


def product_name(texts: tuple[str, ...]) -> str:
    """Numeric factors joined by colons; a column that is called ``p:q`` is no product of p and q."""
    return ":".join(f"`{text}`" if ":" in text else text for text in texts)


def cell_columns(block: Block, cells: pd.Index) -> tuple[Column, ...]:
    """Labels of a block's columns, one for each cell; `cells` is a MultiIndex when the block has several categories."""
    labels = cells.tolist() if len(block.categories) > 1 else [(label,) for label in cells.tolist()]
    return tuple(Column(block.texts, tuple(zip(block.categories, map(as_level, label), strict=True))) for label in labels)


def as_level(label: Level) -> Level:
    """A label that equal ones hash like: of the hour that comes twice when clocks go back, pandas hashes the second as the first."""
    return pd.Timestamp(label.isoformat()) if isinstance(label, pd.Timestamp) and label.fold else label


def sort_columns(columns: Iterable[Column]) -> tuple[Column, ...]:
    """Columns in the one order that does not depend on how the data were cut.

    Raises
    ------
    LabelError
        When the levels of one category are of several types, as True and 1, which Python takes for the same.
    """
    listed = list(columns)
    _check_level_types(listed)
    return tuple(sorted(set(listed), key=lambda column: (column.numeric, column.categories, [level for _, level in column.cell])))


def _check_level_types(columns: Iterable[Column]) -> None:
    types: dict[str, str] = {}
    for name, level in (pair for column in columns for pair in column.cell):
        found = _level_type(level)
        if types.setdefault(name, found) != found:
            raise LabelError(f"levels of {name!r} are {types[name]} and {found}: write the column with one type and reduce again")


def _level_type(level: Level) -> str:
    if isinstance(level, bool):
        return "bool"
    return "numbers" if isinstance(level, (int, float)) else "text" if isinstance(level, str) else "dates"


def covering(columns: tuple[Column, ...], numeric: tuple[str, ...], categories: Iterable[str]) -> list[int]:
    """Positions of the columns of one block with these numeric factors whose cells know these categories.

    Several blocks may qualify; the smallest serves. Empty when none does.
    """
    wanted = set(categories)
    found: dict[tuple[str, ...], list[int]] = {}
    for position, column in enumerate(columns):
        if column.numeric == numeric and wanted <= set(column.categories):
            found.setdefault(column.categories, []).append(position)
    return min(found.values(), key=len) if found else []


def expansion(columns: tuple[Column, ...], column: Column) -> Array:
    """Coefficients, shape (P,), that write `column` as a sum of stored columns; zeros when there is none."""
    coefficients = np.zeros(len(columns))
    for position in covering(columns, column.numeric, column.categories):
        if set(column.cell) <= set(columns[position].cell):
            coefficients[position] = 1.0
    return coefficients
