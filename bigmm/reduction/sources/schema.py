"""One schema for all the files, fragments or partitions of a source.

A plan knows few types: int64, uint64, float64, text (large_string, so that no chunk is too long for its
offsets), bool, date32 and timestamp. Whatever a source holds is widened to one of them or refused.
"""

from __future__ import annotations

from difflib import get_close_matches
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.types as pt

from bigmm.errors import DataError
from bigmm.reduction.sources.kinds import is_bytes, is_text, kind_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

TEXT = pa.large_string()
ENCODED_TEXT: pa.DataType = pa.dictionary(pa.int32(), TEXT)

# uint32 stands for every unsigned type whose values int64 holds, until all files have been seen.
_COMMON: dict[frozenset[pa.DataType], pa.DataType] = {
    frozenset({pa.uint32(), pa.int64()}): pa.int64(),
    frozenset({pa.uint32(), pa.uint64()}): pa.uint64(),
    frozenset({pa.uint32(), pa.float64()}): pa.float64(),
    frozenset({pa.int64(), pa.float64()}): pa.float64(),
    frozenset({pa.uint64(), pa.float64()}): pa.float64(),
}
_UNITS = ("s", "ms", "us", "ns")
_MOST_NAMES = 12


@lru_cache(maxsize=1024)
def widened(dtype: pa.DataType) -> pa.DataType | None:
    """Widest type of the family of `dtype`, None for a type that no model can use.

    Decimals without a fraction are integers (databases export keys so), with one they are floats.
    """
    if isinstance(dtype, pa.DictionaryType):
        return widened(dtype.value_type)
    if pt.is_decimal(dtype):
        return pa.float64() if getattr(dtype, "scale", 0) > 0 else pa.int64()
    if pt.is_unsigned_integer(dtype):
        return pa.uint64() if dtype == pa.uint64() else pa.uint32()
    if pt.is_integer(dtype):
        return pa.int64()
    if pt.is_floating(dtype):
        return pa.float64()
    return _widened_category(dtype)


def _widened_category(dtype: pa.DataType) -> pa.DataType | None:
    if is_text(dtype) or is_bytes(dtype):
        return TEXT
    if pt.is_date(dtype):
        return pa.date32()
    if pt.is_boolean(dtype) or pt.is_timestamp(dtype) or pt.is_null(dtype):
        return dtype
    return None


@lru_cache(maxsize=1024)
def common_type(left: pa.DataType, right: pa.DataType) -> pa.DataType | None:
    """Narrowest type that holds the values of two widened types, None when there is none."""
    if left == right or pt.is_null(right):
        return left
    if pt.is_null(left):
        return right
    if isinstance(left, pa.TimestampType) and isinstance(right, pa.TimestampType):
        return _common_timestamp(left, right)
    return _COMMON.get(frozenset({left, right}))


def _common_timestamp(left: pa.TimestampType, right: pa.TimestampType) -> pa.DataType | None:
    zones: set[str | None] = {left.tz, right.tz}
    if len(zones) > 1 and None in zones:
        return None
    unit = max(left.unit, right.unit, key=_UNITS.index)
    return pa.timestamp(unit, "UTC" if len(zones) > 1 else zones.pop())


def settled(dtype: pa.DataType) -> pa.DataType:
    """Plan's type for what is known when all files have been seen: a column without any value is float64."""
    if pt.is_null(dtype):
        return pa.float64()
    return pa.int64() if dtype == pa.uint32() else dtype


def is_number_dictionary(dtype: pa.DataType) -> bool:
    """Whether a type is a dictionary of numbers: a category, as pandas writes its categoricals of integers."""
    wide = widened(dtype) if isinstance(dtype, pa.DictionaryType) else None
    return wide is not None and kind_of(settled(wide)) == "number"


def number_categories(columns: Sequence[str], schemas: Iterable[pa.Schema]) -> dict[str, tuple[Any, ...]]:
    """Columns that are dictionaries of numbers in any part of a source: categories in the order of their values."""
    found = {field.name for schema in set(schemas) for field in schema if is_number_dictionary(field.type)}
    return {name: () for name in columns if name in found}


def describe(dtype: pa.DataType) -> str:
    """Name of a type as a user knows it: layouts of text do not matter."""
    return "string" if widened(dtype) == TEXT else str(dtype)


def unify(column: str, found: Iterable[tuple[str, pa.DataType]], parts: str = "files") -> pa.DataType:
    """One type for a column from the types it has in the parts of a source.

    Parameters
    ----------
    column : str
        Its name, for messages.
    found : iterable of (str, pyarrow.DataType)
        Name of the part, type of the column there.
    parts : str, default "files"
        What the parts are, for messages.

    Returns
    -------
    pyarrow.DataType
        A plan's type.
    """
    kept: pa.DataType = pa.null()
    first = ""
    for where, dtype in found:
        wide = _usable(column, where, dtype)
        both = common_type(kept, wide)
        if both is None:
            raise DataError(
                f"{parts} disagree: column {column!r} is {describe(kept)} in {first} but {describe(dtype)} in {where}; "
                "write it with one type or cast it"
            )
        first = where if pt.is_null(kept) else first
        kept = both
    return settled(kept)


def _usable(column: str, where: str, dtype: pa.DataType) -> pa.DataType:
    wide = widened(dtype)
    if wide is None:
        raise DataError(f"column {column!r} in {where} is {dtype}, expected numbers, text, booleans, dates or timestamps: cast it")
    return wide


def unify_schemas(columns: Sequence[str], schemas: Sequence[tuple[str, pa.Schema]], parts: str = "files") -> pa.Schema:
    """Find the schema of the needed columns over all parts of a source.

    Parameters
    ----------
    columns : sequence of str
        Needed columns.
    schemas : sequence of (str, pyarrow.Schema)
        Name and schema of each part.
    parts : str, default "files"
        What the parts are, for messages.

    Returns
    -------
    pyarrow.Schema
        The needed columns, in their order, with a plan's types.
    """
    distinct = _distinct(schemas)
    check_known(columns, dict.fromkeys(name for _, schema in distinct for name in schema.names))
    return pa.schema([(name, unify(name, _types(name, distinct), parts)) for name in columns])


def _distinct(schemas: Sequence[tuple[str, pa.Schema]]) -> list[tuple[str, pa.Schema]]:
    """One part of each schema, the first: ten thousand files usually have one between them."""
    seen: dict[pa.Schema, str] = {}
    for where, schema in schemas:
        seen.setdefault(schema.remove_metadata(), where)
    return [(where, schema) for schema, where in seen.items()]


def _types(name: str, schemas: Sequence[tuple[str, pa.Schema]]) -> Iterator[tuple[str, pa.DataType]]:
    for where, schema in schemas:
        positions = schema.get_all_field_indices(name)
        if not positions:
            holder = next(other for other, held in schemas if name in held.names)
            raise DataError(f"column {name!r} is in {holder} but not in {where}: write it there or leave that out")
        if len(positions) > 1:
            raise DataError(f"{where} has {len(positions)} columns {name!r}, expected one: rename them")
        yield where, schema.field(positions[0]).type


def check_known(columns: Iterable[str], available: Iterable[str]) -> None:
    """Refuse a column that the data do not have, with the names that are close to it."""
    names = list(available)
    for column in columns:
        if column not in names:
            raise DataError(f"unknown column {column!r}; the data have {_listing(names)}{_hint(column, names)}")


def _listing(names: Sequence[str]) -> str:
    shown = ", ".join(sorted(names)[:_MOST_NAMES]) or "no columns"
    rest = len(names) - _MOST_NAMES
    return f"{shown} and {rest} more" if rest > 0 else shown


def _hint(column: str, names: Sequence[str]) -> str:
    delimiter = next((mark for mark in ";\t|" if len(names) == 1 and mark in names[0]), None)
    if delimiter:  # one column that holds them all
        return f": is the file delimited by {delimiter!r}? A .csv has commas, a .tsv has tabs"
    by_lower = {name.lower(): name for name in names}
    close = get_close_matches(column.lower(), by_lower, n=1)
    return f": did you mean {by_lower[close[0]]!r}?" if close else ": check the spelling"
