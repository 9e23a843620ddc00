"""Categorical columns of a chunk as sorted levels and integer codes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from bigmm.errors import DataError
from bigmm.levels import Refs, combine, factorize

#: Beyond this a float64 no longer names one whole number.
_LARGEST_EXACT = 2.0**53


def column_levels(column: pa.ChunkedArray[Any], name: str, *, whole: bool) -> tuple[Refs, pd.Index]:
    """Codes and sorted levels of one complete column.

    Parameters
    ----------
    column : ChunkedArray
        Of a type that plans have, perhaps dictionary-encoded, without nulls.
    name : str
        For messages.
    whole : bool
        The column is a grouping factor: floats must be whole numbers and become integers.

    Raises
    ------
    DataError
        For a grouping factor with fractions, and for values that no level can hold exactly.
    """
    if len(column) == 0:
        kind: Any = column.type
        empty = pa.array([], kind.value_type if pa.types.is_dictionary(kind) else kind)
        return np.zeros(0, dtype=np.int32), _index(empty, name, whole=whole)
    if pa.types.is_int64(column.type):
        return factorize(pd.Index(number_values(column)))
    encoded: Any = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    array = encoded.unify_dictionaries().combine_chunks()
    indices = array.indices.to_numpy()
    seen = np.bincount(indices, minlength=len(array.dictionary)) > 0  # a dictionary can hold more than its column
    refs, levels = factorize(_index(array.dictionary.filter(pa.array(seen)), name, whole=whole))
    code_of = np.zeros(len(seen), dtype=np.int32)
    code_of[seen] = refs
    return code_of[indices], levels


def number_values(column: pa.ChunkedArray[Any]) -> npt.NDArray[Any]:
    """Numbers of a column without nulls; not copied if they lie together."""
    array: Any = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    return np.asarray(array.to_numpy(zero_copy_only=False))


def present(refs: Refs, levels: pd.Index) -> tuple[Refs, pd.Index]:
    """Without the levels that no row has: a dictionary can hold more than its column."""
    seen = np.zeros(len(levels), dtype=bool)
    seen[refs] = True
    if seen.all():
        return refs, levels
    return (np.cumsum(seen, dtype=np.int32) - 1)[refs], levels[seen]


def _index(values: Any, name: str, *, whole: bool) -> pd.Index:
    """Labels as an Index of one of few types, the same for every chunk: int64, text, bool, datetime64[us], float64."""
    kind = values.type
    if pa.types.is_floating(kind):
        values = _whole_numbers(values, name) if whole else _exact_numbers(values, name)
    elif pa.types.is_date(kind):
        values = _cast(values, pa.timestamp("us"), name)
    elif pa.types.is_timestamp(kind):
        values = _cast(values, pa.timestamp("us", tz=kind.tz), name)
    if pa.types.is_integer(values.type):
        return cast("pd.Index", pd.Index(values.to_numpy()))
    text = pa.types.is_large_string(values.type) or pa.types.is_string(values.type)
    return cast("pd.Index", pd.Index(values.to_pandas(), dtype="str" if text else None))


def _exact_numbers(values: Any, name: str) -> Any:
    """Levels in floating point: finite, each one number, and one zero."""
    if not pc.all(pc.is_finite(values)).as_py():
        raise DataError(f"category {name!r} holds infinite values: expected numbers; replace them by missing values to drop those rows")
    _check_exact(values, f"category {name!r}")
    return pc.add(values, 0.0)  # makes 0 of -0


def _whole_numbers(values: Any, name: str) -> Any:
    fractions = pc.not_equal(values, pc.floor(values))
    if pc.any(fractions).as_py():
        example = values.filter(fractions)[0].as_py()
        raise DataError(
            f"grouping factor {name!r} holds the fraction {example!r}: expected text, whole numbers, truth values or dates; "
            "round it or convert it to text"
        )
    whole = _cast(values, pa.int64(), name)
    _check_exact(values, f"grouping factor {name!r}")
    return whole


def _check_exact(values: Any, what: str) -> None:
    large = pc.greater_equal(pc.abs(values), pa.scalar(_LARGEST_EXACT))
    if pc.any(large).as_py():
        example = values.filter(large)[0].as_py()
        raise DataError(
            f"{what} holds floating-point numbers such as {example:.17g}: from 2^53 on they stand for several whole "
            "numbers, and levels may have been merged; write the column as integers (pandas: dtype 'Int64') or text"
        )


def _cast(values: Any, target: pa.DataType, name: str) -> Any:
    try:
        return values.cast(target)
    except pa.ArrowInvalid as error:
        raise DataError(f"column {name!r} does not fit {target} ({error}): round it or convert it to text") from error


def group_levels(names: Sequence[str], encoded: dict[str, tuple[Refs, pd.Index]]) -> tuple[Refs, pd.Index]:
    """Codes and levels of a grouping factor: one column, or the combinations of several that occur."""
    parts = [encoded[name] for name in names]
    return combine([refs for refs, _ in parts], [levels for _, levels in parts])
