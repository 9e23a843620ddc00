"""One chunk of rows, evaluated: complete rows only, numbers as float64, categories as codes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from bigmm.accounting import RowCounts
from bigmm.columns import Array, Block
from bigmm.design import Design
from bigmm.errors import DataError
from bigmm.formula.expression import Expression
from bigmm.levels import Refs
from bigmm.reduction.keys import column_levels, number_values
from bigmm.sums import all_finite

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Rows:
    """The complete rows of one chunk.

    Attributes
    ----------
    y : tuple of (n,) float64
        Each response minus offset minus shift.
    weights : (n,) float64 or None
    numeric : dict of {numeric factors of a block: (n,) float64}
        Products of numeric expressions, unshifted.
    encoded : dict of {column: (codes, levels)}
        Categorical columns, codes (n,) into sorted levels.
    complete : (rows read,) bool
        Which rows of the chunk these are.
    missing : dict of {column: (rows read,) bool}
        Which rows lack a value; without the columns that lack none.
    counts : RowCounts
    """

    y: tuple[Array, ...]
    weights: Array | None
    numeric: Mapping[tuple[str, ...], Array]
    encoded: Mapping[str, tuple[Refs, pd.Index]]
    complete: Mask
    missing: Mapping[str, Mask]
    counts: RowCounts

    @property
    def count(self) -> int:
        """Their number, n."""
        return len(self.y[0])


def evaluate_rows(table: pa.Table, design: Design, where: str = "the data") -> Rows:
    """Evaluate a chunk's columns and keep its complete rows.

    Parameters
    ----------
    table : Table
        The design's columns.
    design : Design
    where : str
        The chunk's name, for messages.

    Raises
    ------
    DataError
        For infinite values, weights that are missing or not positive, and, where `na_action` is "fail",
        for incomplete rows.
    """
    numbers = _numbers(table, design)
    values = {e.text: e.evaluate(numbers, len(table)) for e in _numeric_expressions(design)}
    missing = _missing(table, numbers, values, design)
    complete = ~np.logical_or.reduce(list(missing.values())) if missing else np.ones(len(table), dtype=bool)
    counts = RowCounts(len(table), int(complete.sum()), {name: int(mask.sum()) for name, mask in missing.items()})
    if design.na_action == "fail" and counts.dropped:
        raise DataError(f"{counts.dropped} incomplete rows in {where} ({_shown(counts)}): remove them, or use na_action='omit'")
    offset = {} if design.offset is None else {design.offset: numbers[design.offset]}
    _check_finite({**values, **offset}, complete, where)
    weights = _weights(numbers, design, complete, where)
    values = values if complete.all() else {text: value[complete] for text, value in values.items()}
    y = _responses(values, numbers, design, complete)
    numeric = {block.texts: _product(block, values) for block in _numeric_blocks(design)}
    return Rows(y, weights, numeric, _encoded(table, design, complete), complete, missing, counts)


def numeric_values(table: pa.Table, design: Design) -> tuple[dict[tuple[str, ...], Array], dict[str, Array]]:
    """Numeric products of X, and the responses less the offset, at every row of a table; NaN or infinity where there is none."""
    numbers = _numbers(table, design)
    values = {e.text: e.evaluate(numbers, len(table)) for e in _numeric_expressions(design)}
    y = _responses(values, numbers, design, np.ones(len(table), dtype=bool))
    responses = {response.text: at for response, at in zip(design.formula.responses, y, strict=True)}
    return {block.texts: _product(block, values) for block in design.x_blocks if block.numeric}, responses


def _shown(counts: RowCounts) -> str:
    return ", ".join(f"{name}: {number}" for name, number in counts.missing.items())


def _numbers(table: pa.Table, design: Design) -> dict[str, Array]:
    """Numeric columns as float64, null as NaN."""
    numbers: dict[str, Array] = {}
    numeric_names = {name for expression in design.formula.expressions if not expression.categorical for name in expression.names}
    for name in design.names:
        if design.kinds[name] == "number" and (name in numeric_names or name in (design.weights, design.offset)):
            numbers[name] = _floats(table.column(name), name)
    return numbers


def _floats(column: pa.ChunkedArray[Any], name: str) -> Array:
    if pa.types.is_float64(column.type) and column.null_count == 0:
        return number_values(column)
    numbers: Any = column.cast(pa.float64(), safe=False)
    if pa.types.is_integer(column.type):
        _check_exact(column, numbers, name)
    return np.asarray(numbers.to_numpy())


def _check_exact(column: pa.ChunkedArray[Any], numbers: Any, name: str) -> None:
    """See that no integer is so large that a float64 rounds it: its last digits may be all that varies."""
    low, high = (value.as_py() for value in pc.min_max(column).values())
    if low is None or max(abs(low), abs(high)) <= 2**53:
        return
    if high >= 2**63 - 512 or not pc.all(pc.equal(numbers.cast(column.type, safe=False), column)).as_py():
        raise DataError(
            f"column {name!r} holds integers beyond 2^53, which double precision rounds: subtract a constant in the data, or convert it to "
            "floating point if its last digits do not matter"
        )


def _numeric_expressions(design: Design) -> Iterator[Expression]:
    for expression in design.formula.expressions:
        if not expression.categorical and all(design.kinds[name] == "number" for name in expression.names):
            yield expression


def _missing(table: pa.Table, numbers: Mapping[str, Array], values: Mapping[str, Array], design: Design) -> dict[str, Mask]:
    """Rows that lack a value, by column; by expression where it is undefined though its columns are there."""
    missing: dict[str, Mask] = {}
    for name in design.names:
        if name == design.weights:
            continue
        mask = _nan(numbers[name]) if name in numbers else _null(table.column(name))
        if mask is not None and mask.any():
            missing[name] = mask
    for text, value in values.items():
        undefined = _nan(value)
        if undefined is None:
            continue
        known = [missing[name] for name in missing]
        undefined &= ~np.logical_or.reduce(known) if known else True
        if undefined.any():
            missing[text] = missing[text] | undefined if text in missing else undefined
    return missing


def _nan(values: Array) -> Mask | None:
    """Where there is no number; None if, as usual, all are finite."""
    return None if all_finite(values) else np.isnan(values)


def _null(column: pa.ChunkedArray[Any]) -> Mask | None:
    nan = pa.types.is_floating(column.type)
    if column.null_count == 0 and not nan:
        return None
    return np.asarray(pc.is_null(column, nan_is_null=nan).to_numpy())


def _check_finite(values: Mapping[str, Array], complete: Mask, where: str) -> None:
    for text, value in values.items():
        if all_finite(value):
            continue
        infinite = np.isinf(value) & complete
        if infinite.any():
            row = int(np.argmax(infinite))
            raise DataError(
                f"{int(infinite.sum())} infinite values of {text!r} in {where} (the first in its row {row}): "
                "expected finite numbers; replace them by missing values to drop those rows"
            )


def _weights(numbers: Mapping[str, Array], design: Design, complete: Mask, where: str) -> Array | None:
    if design.weights is None:
        return None
    weights = numbers[design.weights][complete]
    good = np.isfinite(weights) & (weights > 0)
    if not good.all():
        bad = weights[~good]
        raise DataError(
            f"{len(bad)} weights in {where} are missing, infinite or not positive (for example {bad[0]:g}) in column "
            f"{design.weights!r}: expected precision weights > 0; drop those rows or repair the column"
        )
    return weights


def _responses(values: Mapping[str, Array], numbers: Mapping[str, Array], design: Design, complete: Mask) -> tuple[Array, ...]:
    offsets = [] if design.offset is None else [numbers[design.offset][complete]]
    offsets += [values[offset.text] for offset in design.formula.offsets]
    shifted = [values[response.text] - design.y_shift.get(response.text, 0.0) for response in design.formula.responses]
    for offset in offsets:
        shifted = [y - offset for y in shifted]
    return tuple(shifted)


def _numeric_blocks(design: Design) -> dict[Block, None]:
    blocks = [*design.x_blocks, *(block for group in design.groups for block in group.blocks)]
    return dict.fromkeys(Block(block.numeric) for block in blocks if block.numeric)


def _product(block: Block, values: Mapping[str, Array]) -> Array:
    product = values[block.texts[0]]
    for text in block.texts[1:]:
        product = _without_underflow(product, values[text])
    return product


def _without_underflow(left: Array, right: Array) -> Array:
    """Their product; where it is too small for a double, the smallest normal one.

    That is as near as 0 is, and a column of nothing else is found by its magnitude instead of passing for zeros.
    """
    product = left * right
    if not product.all():
        product[(product == 0.0) & (left != 0.0) & (right != 0.0)] = np.finfo(np.float64).tiny
    return product


def _encoded(table: pa.Table, design: Design, complete: Mask) -> dict[str, tuple[Refs, pd.Index]]:
    """Codes and levels of every categorical column, those of the grouping factors included."""
    grouping = {name for group in design.groups for name in group.names}
    blocks = [*design.x_blocks, *(block for group in design.groups for block in group.blocks)]
    names = dict.fromkeys([*grouping, *(name for block in blocks for name in block.categories)])
    rows = table.select(sorted(names))
    rows = rows if complete.all() else rows.filter(pa.array(complete))
    return {name: column_levels(rows.column(name), name, whole=name in grouping) for name in rows.column_names}
