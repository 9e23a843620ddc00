"""Dask data frames: one chunk a partition, whatever Dask would fuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from dask.dataframe.utils import clear_known_categories

from bigmm.errors import DataError
from bigmm.reduction.sources import plan_data
from bigmm.reduction.sources.partitions import DaskChunk

FRAME = pd.DataFrame(
    {
        "x": range(12),
        "g": list("abcabcabcabc"),
        "c": pd.Categorical(list("abababababab"), categories=["b", "a"]),
        "u1": 1.0,
        "u2": "unused",
    }
)


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    with dask.config.set(scheduler="sync"):
        yield


def rows(data: Any, *columns: str) -> list[tuple[Any, ...]]:
    plan = plan_data(data, columns)
    assert not plan.in_memory
    read = [chunk.read(columns) for chunk in plan.chunks]
    return [tuple(row.values()) for part in read for row in part.to_pylist()]


def test_partitions_in_order() -> None:
    data = dd.from_pandas(FRAME, npartitions=4)
    plan = plan_data(data, ["g", "x", "c"])
    assert plan.schema == pa.schema({"g": pa.large_string(), "x": pa.int64(), "c": pa.large_string()})
    assert [chunk.name for chunk in plan.chunks] == [f"partition {number}" for number in range(4)]
    assert (plan.chunks[0].nbytes, plan.chunks[0].rows) == (0, None)
    assert plan.categories == {"c": ("b", "a")}
    assert rows(data, "x", "g") == list(zip(FRAME["x"], FRAME["g"], strict=True))
    assert plan.chunks[1].head(["x"], 2).to_pylist() == [{"x": 3}, {"x": 4}]


def test_delayed_partition_holds_the_needed_columns() -> None:
    chunk: Any = plan_data(dd.from_pandas(FRAME, npartitions=2), ["x", "g"]).chunks[1]
    frame = chunk.alone().compute()
    assert list(frame.columns) == ["x", "g"]
    assert chunk.read_frame(frame, ["g"]).equals(chunk.read(["g"]))


def test_a_partition_travels_with_its_own_tasks_alone() -> None:
    """The graph of all would go to the scheduler once for each: with 35,000 partitions that took longer than their rows."""
    data = dd.from_pandas(FRAME, npartitions=5)
    data["x"] = data["x"] + 1
    for chunk in plan_data(data, ["x"]).chunks:
        assert isinstance(chunk, DaskChunk)
        assert 5 * len(chunk.alone().dask) == len(chunk.delayed.dask)
    data["x"] += data["x"].max()  # each needs all of the others
    assert rows(data, "x") == [(value + FRAME["x"].max() + 2,) for value in FRAME["x"]]


def test_few_columns_of_many_files_are_not_fused(tmp_path: Path) -> None:
    for number in range(12):
        FRAME.iloc[number : number + 1].to_parquet(tmp_path / f"p-{number}.parquet")
    data = dd.read_parquet(tmp_path)
    data["z"] = data["x"] + 1
    assert len(data[["z"]].to_delayed()) < 12
    assert len(plan_data(data, ["z"]).chunks) == 12
    assert rows(data, "z") == [(number + 1,) for number in range(12)]


def test_unknown_categories_are_not_declared() -> None:
    data = dd.from_pandas(FRAME, npartitions=2)
    data["h"] = data["g"].astype("category")
    assert plan_data(data, ["h"]).categories == {}
    assert rows(data, "h") == [(value,) for value in FRAME["g"]]


def test_partition_of_another_dtype_is_normalised() -> None:
    def holes(part: pd.DataFrame) -> pd.DataFrame:
        return part.assign(x=part["x"].astype("float64").where(part["x"] != 1))

    meta = FRAME[["x"]].iloc[:0]
    data = dd.from_pandas(FRAME[["x"]], npartitions=3).map_partitions(holes, meta=meta)
    assert plan_data(data, ["x"]).schema.field("x").type == pa.int64()
    assert rows(data, "x") == [(None if number == 1 else number,) for number in range(12)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda part: part.astype("str"), "column 'x' is string in partition 0, but int64 in the plan: write it with"),
        (lambda part: part + 0.5, "column 'x' in partition 0 does not fit int64: Float value 0.5.* was truncated"),
    ],
)
def test_partition_that_does_not_fit(change: Any, message: str) -> None:
    data = dd.from_pandas(FRAME[["x"]], npartitions=3).map_partitions(change, meta=FRAME[["x"]].iloc[:0])
    chunk = plan_data(data, ["x"]).chunks[0]
    with pytest.raises(DataError, match=message):
        chunk.read(["x"])


def test_mixed_objects_of_a_partition() -> None:
    with dask.config.set({"dataframe.convert-string": False}):
        frame = pd.DataFrame({"x": pd.Series(["a", "b", 1], dtype=object)})
        chunks = plan_data(dd.from_pandas(frame, npartitions=1), ["x"]).chunks
        with pytest.raises(DataError, match="column 'x' of partition 0 has values of no single type"):
            chunks[0].read(["x"])


@pytest.mark.parametrize("known", [True, False])
def test_intervals_are_known_by_their_names(known: bool) -> None:
    frame = pd.DataFrame({"x": pd.cut(pd.Series([0.5, 1.5, 2.5, 0.2]), [0, 1, 2, 3])})
    data = dd.from_pandas(frame, npartitions=2)
    if not known:
        data = dd.from_delayed(data.to_delayed(), meta=clear_known_categories(frame.iloc[:0]))
    assert rows(data, "x") == [("(0, 1]",), ("(1, 2]",), ("(2, 3]",), ("(0, 1]",)]


def test_a_partition_with_a_column_twice() -> None:
    twice = pd.concat([FRAME[["x"]], FRAME[["x"]]], axis=1)
    data = dd.from_delayed([dask.delayed(twice)], meta=FRAME[["x"]].iloc[:0], verify_meta=False)
    with pytest.raises(DataError, match="the data have 2 columns 'x', expected one: rename them"):
        rows(data, "x")


@pytest.mark.parametrize(
    "missing",
    [
        pd.Categorical([None, None]),
        pd.Categorical([np.nan, np.nan], categories=np.array([], dtype="float64")),
        pd.Categorical([None, None], categories=[1, 2]),
        np.array([np.nan, np.nan]),
        np.array([None, None], dtype=object),
        pd.array([pd.NA, pd.NA], dtype="Int64"),
    ],
)
@pytest.mark.parametrize("text", [pd.Categorical(["a", "b"]), np.array(["a", "b"], dtype=object)])
def test_a_partition_in_which_all_are_missing_tells_no_type(text: Any, missing: Any) -> None:
    parts = [pd.DataFrame({"x": text}), pd.DataFrame({"x": missing}), pd.DataFrame({"x": missing}).iloc[:0]]
    for meta in (parts[0].iloc[:0], parts[0].astype("category").pipe(clear_known_categories).iloc[:0]):
        data = dd.from_delayed([dask.delayed(part) for part in parts], meta=meta, verify_meta=False)
        assert rows(data, "x") == [("a",), ("b",), (None,), (None,)]


def test_digest_is_that_of_the_computation() -> None:
    digest = plan_data(dd.from_pandas(FRAME, npartitions=2), ["x"]).digest
    assert digest == plan_data(dd.from_pandas(FRAME, npartitions=2), ["x"]).digest
    assert digest != plan_data(dd.from_pandas(FRAME.iloc[1:], npartitions=2), ["x"]).digest


def test_unknown_column() -> None:
    with pytest.raises(DataError, match=r"unknown column 'G'; the data have .*: did you mean 'g'\?"):
        plan_data(dd.from_pandas(FRAME, npartitions=2), ["G"])
