"""Tables in memory: pandas, polars and Arrow."""

from __future__ import annotations

import datetime as dt
import pickle
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

import bigmm
from bigmm.errors import DataError
from bigmm.reduction.sources import frames, plan_data

pl = pytest.importorskip("polars")


def rows(data: Any, *columns: str) -> list[tuple[Any, ...]]:
    plan = plan_data(data, columns)
    assert plan.in_memory
    read = [chunk.read(columns) for chunk in plan.chunks]
    return [tuple(row.values()) for part in read for row in part.to_pylist()]


SERIES = [
    (pd.Series([1, 2], dtype="int8"), "int64", [1, 2]),
    (pd.Series([1, None], dtype="Int32"), "int64", [1, None]),
    (pd.Series([1.5, np.nan], dtype="float32"), "double", [1.5, None]),
    (pd.Series([1, None], dtype="int16[pyarrow]"), "int64", [1, None]),
    (pd.Series([True, False]), "bool", [True, False]),
    (pd.Series([True, None], dtype="boolean"), "bool", [True, None]),
    (pd.Series(["a", None]), "large_string", ["a", None]),
    (pd.Series(["a", np.nan, None, pd.NA], dtype=object), "large_string", ["a", None, None, None]),
    (pd.Series(["a", pd.NA], dtype="string[python]"), "large_string", ["a", None]),
    (pd.Series(["a", pd.NA], dtype="string[pyarrow]"), "large_string", ["a", None]),
    (pd.Series([1, 2.5], dtype=object), "double", [1.0, 2.5]),
    (pd.Series([None, None], dtype=object), "double", [None, None]),
    (pd.Series([dt.date(2024, 1, 2)]), "date32[day]", [dt.date(2024, 1, 2)]),
    (pd.Series(pd.to_datetime(["2024-01-02"])).astype("datetime64[s]"), "timestamp[s]", [dt.datetime(2024, 1, 2)]),
    (pd.Series(["b", "a", None], dtype="category"), "large_string", ["b", "a", None]),
    (pd.Series([3, 1], dtype="category"), "int64", [3, 1]),
    (pd.Series(pd.cut([1, 9], [0, 5, 10])), "large_string", ["(0, 5]", "(5, 10]"]),
]


@pytest.mark.parametrize(("series", "type", "expected"), SERIES, ids=lambda value: str(getattr(value, "dtype", "")))
def test_pandas(series: pd.Series, type: str, expected: list[Any]) -> None:
    frame = series.to_frame("x").assign(other=object())
    assert str(plan_data(frame, ["x"]).schema.field("x").type) == type
    assert rows(frame, "x") == [(value,) for value in expected]


def test_pandas_categories_keep_their_order() -> None:
    frame = pd.DataFrame(
        {
            "u": pd.Categorical(["a", "b"], categories=["c", "b", "a"]),
            "o": pd.Categorical(["lo", "hi"], categories=["lo", "mid", "hi"], ordered=True),
            "n": pd.Categorical([2, 1], categories=[2, 1]),
            "cut": pd.cut([1, 9], [0, 5, 10]),
            "s": ["x", "y"],
        }
    )
    plan = plan_data(frame, ["o", "n", "u", "cut", "s"])
    assert plan.categories == {
        "o": ("lo", "mid", "hi"),
        "n": (2, 1),
        "u": ("c", "b", "a"),
        "cut": ("(0, 5]", "(5, 10]"),
    }
    assert rows(frame, "o", "u") == [("lo", "a"), ("hi", "b")]


def test_pandas_index_and_odd_names_are_no_columns() -> None:
    frame = pd.DataFrame({"x": [1], 5: [2], ("a", "b"): [3]}, index=pd.Index([7], name="i"))
    assert rows(frame, "x") == [(1,)]
    with pytest.raises(DataError, match="unknown column 'i'; the data have x"):
        plan_data(frame, ["i"])


@pytest.mark.parametrize("values", [[1, "a"], ["a", 1.5], [True, 1], [1 + 2j, 1], [pd.Period("2024-01"), 1]], ids=lambda v: str(v[0]))
def test_pandas_objects_of_mixed_types(values: list[Any]) -> None:
    frame = pd.DataFrame({"x": pd.Series(values, dtype=object)})
    with pytest.raises(DataError, match=r"column 'x' of the data has values of no single type \(object: .*cast it"):
        plan_data(frame, ["x"])


@pytest.mark.parametrize(
    "series",
    [pd.Series([[1], [2]]), pd.Series(pd.to_timedelta([1], unit="s")), pd.Series(pd.period_range("2024", periods=1))],
    ids=["list", "timedelta", "period"],
)
def test_pandas_unusable_types(series: pd.Series) -> None:
    with pytest.raises(DataError, match=r"column 'x' in the data is .*, expected numbers"):
        plan_data(series.to_frame("x"), ["x"])


def test_pandas_repeated_names() -> None:
    frame = pd.DataFrame([[1, 2, 3]], columns=["x", "x", "y"])
    assert rows(frame, "y") == [(3,)]
    with pytest.raises(DataError, match="the data have 2 columns 'x', expected one: rename them"):
        plan_data(frame, ["x"])


def test_polars() -> None:
    frame = pl.DataFrame(
        {
            "n": pl.Series([1, None], dtype=pl.UInt8),
            "g": ["a", None],
            "c": pl.Series(["v", "u"], dtype=pl.Categorical),
            "e": pl.Series(["lo", None], dtype=pl.Enum(["hi", "lo"])),
            "unused": [object(), object()],
        }
    )
    names = ["g", "n", "c", "e"]
    plan = plan_data(frame, names)
    assert [str(type) for type in plan.schema.types] == ["large_string", "int64", "large_string", "large_string"]
    assert plan.categories == {"e": ("hi", "lo")}
    assert rows(frame, *names) == [("a", 1, "v", "lo"), (None, None, "u", None)]


def test_lazy_polars_collects_the_needed_columns_only() -> None:
    def fail(series: Any) -> Any:
        raise AssertionError(series.name)

    lazy = pl.LazyFrame({"x": [1, 2], "bad": [1, 2]}).with_columns(pl.col("bad").map_batches(fail, pl.Int64))
    assert rows(lazy, "x") == [(1,), (2,)]


def test_polars_unknown_column() -> None:
    for frame in (pl.DataFrame({"Days": [1]}), pl.LazyFrame({"Days": [1]})):
        with pytest.raises(DataError, match="unknown column 'dayz'; the data have Days: did you mean 'Days'"):
            plan_data(frame, ["dayz"])


def test_arrow() -> None:
    ordered = pa.DictionaryArray.from_arrays(pa.array([1, 0], pa.int8()), pa.array(["lo", "hi"]), ordered=True)
    table = pa.table({"x": pa.array([1, 2], pa.int8()), "o": ordered, "d": pa.array(["b", "a"]).dictionary_encode()})
    for data in (table, table.to_batches()[0]):
        assert plan_data(data, ["x", "o", "d"]).categories == {"o": ("lo", "hi")}
        assert rows(data, "d", "o", "x") == [("b", "hi", 1), ("a", "lo", 2)]


def test_dictionaries_with_nulls_and_repeats_are_decoded() -> None:
    odd = pa.DictionaryArray.from_arrays(pa.array([0, 1, 2, None], pa.int8()), pa.array(["a", "a", None]))
    read = plan_data(pa.table({"d": odd}), ["d"]).chunks[0].read(["d"])
    assert read.column("d").type == pa.large_string()
    assert read.column("d").to_pylist() == ["a", "a", None, None]


def test_dictionaries_that_differ_are_unified() -> None:
    blocks = [pa.array(["b", "a"]).dictionary_encode(), pa.array(["c", "a"]).dictionary_encode()]
    column = plan_data(pa.table({"d": pa.chunked_array(blocks)}), ["d"]).chunks[0].read(["d"]).column("d")
    assert {tuple(block.dictionary.to_pylist()) for block in column.chunks} == {("b", "a", "c")}
    assert column.to_pylist() == ["b", "a", "c", "a"]


def test_chunks_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "_CHUNK_ROWS", 4)
    frame = pd.DataFrame({"n": range(10), "g": [str(number) for number in range(10)]})
    plan = plan_data(frame, ["n", "g"])
    assert [chunk.name for chunk in plan.chunks] == ["rows 0-3", "rows 4-7", "rows 8-9"]
    assert [chunk.rows for chunk in plan.chunks] == [4, 4, 2]
    assert rows(frame, "n", "g") == [(number, str(number)) for number in range(10)]
    assert plan.chunks[1].head(["n"], 1).to_pylist() == [{"n": 4}]


def test_pickled_chunk_holds_its_own_rows_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "_CHUNK_ROWS", 10)
    chunk = plan_data(pd.DataFrame({"n": range(100_000), "g": "some text"}), ["n", "g"]).chunks[3]
    pickled = pickle.dumps(chunk)
    assert len(pickled) < 5000
    assert pickle.loads(pickled).read(["g", "n"]) == chunk.read(["g", "n"])


def test_digest_of_a_table() -> None:
    frame = pd.DataFrame({"n": [1, 2], "x": [1.0, 2.0]})
    assert plan_data(frame, ["n"]).digest == plan_data(frame.copy(), ["n"]).digest
    assert plan_data(frame, ["n"]).digest != plan_data(frame[:1], ["n"]).digest
    assert plan_data(frame, ["n"]).digest != plan_data(frame.astype("float64"), ["n"]).digest


@pytest.mark.parametrize("data", [pd.DataFrame({"x": [1]})[:0], pa.table({"x": pa.array([], pa.int64())})])
def test_no_rows(data: Any) -> None:
    with pytest.raises(DataError, match="no rows in the data: expected at least one"):
        plan_data(data, ["x"])


def test_dictionaries_of_numbers_are_categories() -> None:
    frame = pd.DataFrame({"q": pd.Categorical([2, 0, 1]), "r": pd.Categorical([2, 0, 1], [2, 1, 0], ordered=True), "x": [1, 2, 3]})
    table = pa.Table.from_pandas(frame)
    assert plan_data(table, ["q", "r", "x"]).categories == {"q": (), "r": (2, 1, 0)}
    assert plan_data(frame, ["q", "r", "x"]).categories == {"q": (0, 1, 2), "r": (2, 1, 0)}
    assert rows(table, "q", "r") == [(2, 2), (0, 0), (1, 1)]


@pytest.mark.parametrize("form", ["pandas", "arrow", "parquet", "dataset"])
def test_one_model_of_a_categorical_of_integers(tmp_path: Path, form: str) -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"q": pd.Categorical([2, 0, 1] * 20), "g": np.arange(60) % 10, "y": rng.normal(size=60)})
    table = pa.Table.from_pandas(frame)
    pq.write_table(table, tmp_path / "q.parquet")
    data: dict[str, Any] = {"pandas": frame, "arrow": table, "parquet": tmp_path, "dataset": ds.dataset(tmp_path)}
    fixed = bigmm.reduce("y ~ q + (1 | g)", data[form], client=0).model().selected.fixed
    assert fixed.names == ("(Intercept)", "q1", "q2")


def test_an_ordered_dictionary_with_nulls_and_repeats() -> None:
    odd = pa.DictionaryArray.from_arrays(pa.array([0, 1, 2, 3], pa.int8()), pa.array(["b", None, "a", "b"]), ordered=True)
    assert plan_data(pa.table({"d": odd}), ["d"]).categories == {"d": ("b", "a")}


def test_decimals_that_double_precision_does_not_tell_apart() -> None:
    """They may be levels, or all that varies in a covariate."""
    base = Decimal("170000000012345.00")
    close = pa.table({"d": pa.array([base + Decimal(i) / 100 for i in range(5)], pa.decimal128(20, 2))})
    for data in (close, close.set_column(0, "d", close.column("d").dictionary_encode())):
        with pytest.raises(DataError, match=r"'d' in .* does not fit double: 5 different values are 2 in double precision; subtract"):
            rows(data, "d")
    thirds = pa.table({"d": pa.array([Decimal("0.333333333333333333"), None, Decimal("0.666666666666666667")], pa.decimal128(38, 18))})
    assert rows(thirds, "d") == [(1 / 3,), (None,), (2 / 3,)]
