"""One schema from many: every family of types, every conflict, every message."""

from __future__ import annotations

import pyarrow as pa
import pytest

from bigmm.errors import DataError
from bigmm.reduction.sources import kind_of
from bigmm.reduction.sources.schema import TEXT, check_known, unify, unify_schemas

S, US, NS = pa.timestamp("s"), pa.timestamp("us"), pa.timestamp("ns")
PARIS, TOKYO, UTC = (pa.timestamp("us", tz) for tz in ("Europe/Paris", "Asia/Tokyo", "UTC"))

AGREEING = [
    ([pa.int8(), pa.int32()], pa.int64()),
    ([pa.uint8()], pa.int64()),
    ([pa.uint32(), pa.int16()], pa.int64()),
    ([pa.uint64()], pa.uint64()),
    ([pa.uint64(), pa.uint32()], pa.uint64()),
    ([pa.float16(), pa.float32()], pa.float64()),
    ([pa.int64(), pa.float32()], pa.float64()),
    ([pa.uint64(), pa.float64()], pa.float64()),
    ([pa.decimal128(38, 0)], pa.int64()),
    ([pa.decimal128(10, 2), pa.int32()], pa.float64()),
    ([pa.string(), pa.large_string(), pa.string_view(), pa.binary()], TEXT),
    ([pa.dictionary(pa.int8(), pa.string()), pa.string()], TEXT),
    ([pa.dictionary(pa.int8(), pa.int16())], pa.int64()),
    ([pa.bool_()], pa.bool_()),
    ([pa.date32(), pa.date64()], pa.date32()),
    ([S, US, NS], NS),
    ([PARIS, PARIS], PARIS),
    ([PARIS, TOKYO], UTC),
    ([pa.null(), pa.string()], TEXT),
    ([pa.int64(), pa.null(), pa.float64()], pa.float64()),
    ([pa.null()], pa.float64()),
]
CONFLICTS = [
    (pa.int64(), pa.string()),
    (pa.uint64(), pa.int32()),
    (pa.bool_(), pa.int64()),
    (pa.date32(), S),
    (US, UTC),
    (pa.string(), pa.float64()),
]
UNUSABLE = [pa.list_(pa.int64()), pa.struct({"a": pa.int64()}), pa.time32("s"), pa.duration("us"), pa.binary(16)]


@pytest.mark.parametrize(("types", "expected"), AGREEING, ids=str)
def test_types_agree_in_any_order(types: list[pa.DataType], expected: pa.DataType) -> None:
    found = [(f"part {number}", type) for number, type in enumerate(types)]
    assert unify("x", found) == expected
    assert unify("x", found[::-1]) == expected


@pytest.mark.parametrize(("left", "right"), CONFLICTS, ids=str)
def test_types_disagree(left: pa.DataType, right: pa.DataType) -> None:
    with pytest.raises(DataError, match=r"files disagree: column 'x' is .* in a but .* in b; write it with one type"):
        unify("x", [("a", left), ("b", right)])


def test_message_names_the_first_part_with_a_value() -> None:
    found = [("a", pa.null()), ("b", pa.int32()), ("c", pa.large_string())]
    with pytest.raises(DataError, match="column 'g' is int64 in b but string in c; write it with one type or cast it"):
        unify("g", found)


@pytest.mark.parametrize("type", UNUSABLE, ids=str)
def test_unusable_type(type: pa.DataType) -> None:
    with pytest.raises(DataError, match=r"column 'x' in a is .*, expected numbers, text"):
        unify("x", [("a", type)])


def test_only_needed_columns_must_agree() -> None:
    one = pa.schema({"x": pa.int32(), "unused": pa.int64()})
    two = pa.schema({"unused": pa.list_(pa.string()), "x": pa.float32()})
    assert unify_schemas(["x"], [("a", one), ("b", two)]) == pa.schema({"x": pa.float64()})


def test_column_missing_from_a_part() -> None:
    with pytest.raises(DataError, match="column 'y' is in a but not in b"):
        unify_schemas(["y"], [("a", pa.schema({"y": pa.int64()})), ("b", pa.schema({"x": pa.int64()}))])


def test_column_twice() -> None:
    twice = pa.schema([("x", pa.int64()), ("x", pa.int64()), ("y", pa.int64())])
    assert unify_schemas(["y"], [("a", twice)]).names == ["y"]
    with pytest.raises(DataError, match="a has 2 columns 'x', expected one"):
        unify_schemas(["x"], [("a", twice)])


@pytest.mark.parametrize(
    ("column", "names", "message"),
    [
        ("dayz", ["Reaction", "Days", "Subject"], "unknown column 'dayz'; the data have Days, Reaction, Subject: "),
        ("dayz", ["Reaction", "Days", "Subject"], "did you mean 'Days'?"),
        ("days", ["Days"], "did you mean 'Days'?"),
        ("q", ["Days"], "the data have Days: check the spelling"),
        ("q", [], "the data have no columns"),
        ("days", ["days;subject"], "the data have days;subject: is the file delimited by ';'?"),
        ("days", ["days\tsubject"], r"is the file delimited by '\\t'?"),
        ("q", [f"x{number:02}" for number in range(20)], "x00, x01, .*, x11 and 8 more"),
    ],
)
def test_unknown_column(column: str, names: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message.replace("?", r"\?")):
        check_known([column], names)


@pytest.mark.parametrize(
    ("type", "kind"),
    [
        *[(type, "number") for type in (pa.int8(), pa.uint64(), pa.float32(), pa.decimal128(5, 2))],
        *[(type, "category") for type in (pa.string(), TEXT, pa.string_view(), pa.bool_(), pa.date32(), UTC)],
        (pa.dictionary(pa.int8(), pa.int64()), "category"),
    ],
    ids=str,
)
def test_kind(type: pa.DataType, kind: str) -> None:
    assert kind_of(type) == kind


def test_no_kind() -> None:
    with pytest.raises(DataError, match="neither numbers nor categories"):
        kind_of(pa.list_(pa.int64()))
