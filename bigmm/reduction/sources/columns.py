"""Columns as they were read, brought to the types of the plan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from bigmm.errors import DataError
from bigmm.reduction.sources.files import reason
from bigmm.reduction.sources.kinds import kind_of
from bigmm.reduction.sources.schema import ENCODED_TEXT, TEXT, common_type, describe, settled, widened

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Column: TypeAlias = "pa.ChunkedArray[Any]"
#: Decimals of 15 digits are different doubles when they differ.
_TOLD_APART = 1e15


def fit_table(
    read: pa.Table | Mapping[str, Column], columns: Sequence[str], schema: pa.Schema, where: str, encode: bool = False
) -> pa.Table:
    """Columns as they were read in the types of the plan.

    Parameters
    ----------
    read : pyarrow.Table or mapping of str to pyarrow.ChunkedArray
        Holds `columns`, perhaps others.
    columns : sequence of str
        Columns of the result, in order.
    schema : pyarrow.Schema
        The plan's.
    where : str
        What the table was read from, for messages.
    encode : bool, default False
        Dictionary-encode all text, so that tables of several files have one schema.

    Returns
    -------
    pyarrow.Table
        Every column in the plan's type, or for text in a dictionary of it. The dictionaries hold each value
        once and no null, and are the same for all blocks of a column.
    """
    fitted = [_fit_named(read[name], name, schema.field(name).type, where, encode) for name in columns]
    return pa.Table.from_arrays(fitted, names=list(columns))


def _fit_named(column: Column, name: str, target: pa.DataType, where: str, encode: bool) -> Column:
    if column.null_count == len(column):  # a partition in which all are missing tells no type
        return fit_column(pa.chunked_array([pa.array([None] * len(column), target)]), target, encode)
    if not _fits(column.type, target):
        raise DataError(
            f"column {name!r} is {describe(column.type)} in {where}, but {describe(target)} in the plan: write it with one type or cast it"
        )
    try:
        return fit_column(column, target, encode)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        text = f"column {name!r} in {where} does not fit {describe(target)}: {reason(error)}; cast it"
        raise DataError(text) from error


def _fits(dtype: pa.DataType, target: pa.DataType) -> bool:
    """Whether a cast is meaningful; whether it is exact is known only from the values."""
    wide = widened(dtype)
    if wide is None:
        return False
    both = common_type(wide, target)
    return both is not None and (settled(both) == target or {kind_of(wide), kind_of(target)} == {"number"})


def fit_column(column: Column, target: pa.DataType, encode: bool = False) -> Column:
    """Column in the type `target`; text that is dictionary-encoded stays so.

    Casts are checked: a value that the target cannot hold exactly is an `ArrowInvalid`.
    """
    if pt.is_dictionary(column.type):
        column = _fit_dictionary(column, target)
    elif column.type != target:
        column = _cast(column, target)
    if encode and target == TEXT and not pt.is_dictionary(column.type):
        column = column.dictionary_encode()
    return column.unify_dictionaries()


def _fit_dictionary(column: Column, target: pa.DataType) -> Column:
    blocks: list[Any] = column.chunks
    if target == TEXT and all(_is_clean(block.dictionary) for block in blocks):
        return column.cast(ENCODED_TEXT)
    return _cast(column.cast(column.type.value_type), target)


def _cast(column: Column, target: pa.DataType) -> Column:
    numbers = column.cast(target)
    if pt.is_decimal(column.type) and pt.is_floating(target):
        _check_told_apart(column, numbers)
    return numbers


def _check_told_apart(decimals: Column, numbers: Any) -> None:
    """Refuse decimals that double precision makes one, as Arrow does not: they may be levels, or all that varies."""
    low, high = (value.as_py() or 0.0 for value in pc.min_max(numbers).values())
    scale: int = getattr(decimals.type, "scale", 0)
    if max(-low, high) * 10.0**scale < _TOLD_APART:
        return
    differ, told_apart = (pc.count_distinct(values).as_py() for values in (decimals, numbers))
    if told_apart < differ:
        raise pa.ArrowInvalid(f"{differ:,} different values are {told_apart:,} in double precision; subtract a constant")


def _is_clean(dictionary: pa.Array[Any]) -> bool:
    """Whether a dictionary holds each value once and no null: Arrow allows both, and cannot unify such ones."""
    return bool(pc.count_distinct(dictionary, mode="only_valid").as_py() == len(dictionary))


def first_rows(batches: Iterable[pa.RecordBatch], rows: int, schema: pa.Schema | None = None) -> pa.Table:
    """First rows of a stream of batches, of which no more are taken than needed."""
    taken: list[pa.RecordBatch] = []
    have = 0
    for batch in batches:
        taken.append(batch)
        have += batch.num_rows
        if have >= rows:
            break
    return pa.Table.from_batches(taken, schema).slice(0, rows)
