"""Categorical columns become sorted levels and codes, of the types that a plan has."""

from __future__ import annotations

import datetime
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from bigmm.errors import DataError
from bigmm.reduction.keys import column_levels, group_levels


def decoded(values: Any, *, whole: bool = True, chunks: int = 2) -> tuple[list[Any], pd.Index]:
    """Labels of all rows by way of codes and levels, and the levels."""
    array = values if isinstance(values, pa.Array) else pa.array(values)
    cut = len(array) // chunks
    refs, levels = column_levels(pa.chunked_array([array[:cut], array[cut:]]), "g", whole=whole)
    return [levels[ref] for ref in refs], levels


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (pa.array([3, 1, 2, 1], pa.int64()), "int64"),
        (pa.array([3.0, 1.0, 2.0, 1.0], pa.float64()), "int64"),
        (pa.array(["b", "a", "é", "B"], pa.string()), "str"),
        (pa.array(["b", "a", "é", "B"], pa.large_string()), "str"),
        (pa.array(["b", "a", "é", "B"]).dictionary_encode(), "str"),
        (pa.array([7, 5, 7, 6]).dictionary_encode(), "int64"),
        (pa.array([True, False, True, True]), "bool"),
    ],
)
def test_types(values: pa.Array, dtype: str) -> None:
    labels, levels = decoded(values)
    assert labels == values.to_pylist()
    assert levels.dtype == dtype
    assert levels.is_monotonic_increasing
    assert levels.is_unique


def test_large_unsigned_integers_keep_their_value() -> None:
    labels, _ = decoded(pa.array([2**63 + 1, 2**63 + 3, 5, 5], pa.uint64()))
    assert [int(label) for label in labels] == [2**63 + 1, 2**63 + 3, 5, 5]


@pytest.mark.parametrize("kind", [pa.date32(), pa.date64(), pa.timestamp("s"), pa.timestamp("ns")])
def test_dates(kind: pa.DataType) -> None:
    days = [datetime.datetime(2024, 3, 1), datetime.datetime(1969, 12, 31), datetime.datetime(2024, 3, 1)]
    labels, levels = decoded(pa.array(days).cast(kind, safe=False))
    assert labels == [pd.Timestamp(day) for day in days]
    assert str(levels.dtype) == "datetime64[us]"


def test_text_sorts_by_bytes() -> None:
    assert decoded(["b", "a", "é", "B", "10", "9"])[1].tolist() == ["10", "9", "B", "a", "b", "é"]


def test_dictionaries_in_any_order_give_the_same_levels() -> None:
    one = pa.DictionaryArray.from_arrays([0, 1, 2, 1], ["c", "a", "b"])
    two = pa.DictionaryArray.from_arrays([3, 1, 0, 1], ["b", "a", "unused", "c"])
    assert decoded(one, chunks=1)[0] == decoded(two, chunks=1)[0] == ["c", "a", "b", "a"]
    assert decoded(one, chunks=1)[1].equals(decoded(two, chunks=1)[1])


def test_chunks_with_dictionaries_of_their_own() -> None:
    chunked = pa.chunked_array([pa.array(["z", "y"]).dictionary_encode(), pa.array(["x", "z"]).dictionary_encode()])
    refs, levels = column_levels(chunked, "g", whole=True)
    assert [levels[ref] for ref in refs] == ["z", "y", "x", "z"]


def test_fractions_are_no_levels_of_a_grouping_factor() -> None:
    with pytest.raises(DataError, match=r"grouping factor 'g' holds the fraction 1\.5: expected text, whole numbers"):
        decoded([1.0, 1.5, 2.0])
    assert decoded([1.0, 1.5, 2.0], whole=False)[0] == [1.0, 1.5, 2.0]


def test_numbers_that_are_no_categories() -> None:
    with pytest.raises(DataError, match="category 'g' holds infinite values: expected numbers; replace them by missing values"):
        decoded([1.5, float("inf")], whole=False)
    with pytest.raises(DataError, match=r"category 'g' holds floating-point numbers such as 9007199254740992: from 2\^53 on"):
        decoded([1.5, 2.0**53], whole=False)
    refs, levels = column_levels(pa.chunked_array([[-0.0, 0.0, 1.5]]), "g", whole=False)
    assert (refs.tolist(), [str(level) for level in levels]) == ([0, 0, 1], ["0.0", "1.5"])


@pytest.mark.parametrize("kind", [pa.int64(), pa.float64(), pa.large_string(), pa.dictionary(pa.int32(), pa.large_string()), pa.bool_()])
def test_no_rows(kind: pa.DataType) -> None:
    refs, levels = column_levels(pa.chunked_array([], type=kind), "g", whole=True)
    assert (len(refs), len(levels)) == (0, 0)


def test_combined_factors() -> None:
    encoded = {
        name: column_levels(pa.chunked_array([values]), name, whole=True) for name, values in {"a": [2, 1, 2], "b": ["x", "x", "y"]}.items()
    }
    refs, levels = group_levels(("a", "b"), encoded)
    assert levels.tolist() == [(1, "x"), (2, "x"), (2, "y")]
    assert refs.tolist() == [1, 0, 2]
    refs, levels = group_levels(("b", "a"), encoded)
    assert levels.tolist() == [("x", 1), ("x", 2), ("y", 2)]


@pytest.mark.parametrize(
    "values",
    [
        pa.array([1.0, float("inf")]),
        pa.array([1.0, 1e300]),
        pa.array([1, 1_001], pa.timestamp("ns")),
        pa.array([1, 1_001], pa.timestamp("ns", "UTC")),
    ],
    ids=str,
)
def test_keys_that_do_not_fit(values: pa.Array) -> None:
    with pytest.raises(DataError, match=r"^column 'g' does not fit .*: round it or convert it to text$"):
        decoded(values, chunks=1)
