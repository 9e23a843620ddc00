"""The two kinds of columns a model knows: numbers and categories."""

from __future__ import annotations

from typing import Literal

import pyarrow as pa
import pyarrow.types as pt

from bigmm.errors import DataError

Kind = Literal["number", "category"]


def kind_of(dtype: pa.DataType) -> Kind:
    """Kind of a column, by its Arrow type.

    Parameters
    ----------
    dtype : pyarrow.DataType
        A type of a plan's schema, or any Arrow type.

    Returns
    -------
    {"number", "category"}
        Integers, floats and decimals are numbers; text, booleans, dates, timestamps and dictionaries are
        categories. A column with declared categories is a category whatever this says: look in
        `Plan.categories` first.
    """
    if pt.is_integer(dtype) or pt.is_floating(dtype) or pt.is_decimal(dtype):
        return "number"
    if is_text(dtype) or any(test(dtype) for test in (pt.is_boolean, pt.is_date, pt.is_timestamp, pt.is_dictionary)):
        return "category"
    raise DataError(f"a column of type {dtype} is neither numbers nor categories: cast it to one of them")


def is_text(dtype: pa.DataType) -> bool:
    """Whether values of `dtype` are text, in any of Arrow's layouts."""
    return pt.is_string(dtype) or pt.is_large_string(dtype) or pt.is_string_view(dtype)


def is_bytes(dtype: pa.DataType) -> bool:
    """Whether values of `dtype` are byte strings of free length, which old writers use for text."""
    return pt.is_binary(dtype) or pt.is_large_binary(dtype) or pt.is_binary_view(dtype)
