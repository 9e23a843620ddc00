"""What is accepted as data, and what is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bigmm.errors import DataError
from bigmm.reduction.sources import plan_data


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (5, "data of type int: expected a path, glob or URL"),
        (None, "data of type NoneType"),
        ({"x": [1]}, "data of type dict"),
        (pd.Series([1]), r"data of type pandas\.\S*Series: expected"),
        ([pd.DataFrame(), "a.csv"], "data of type list of DataFrame, str: expected"),
    ],
)
def test_refused(data: Any, name: str) -> None:
    with pytest.raises(DataError, match=name):
        plan_data(data, ["x"])


def test_parquet_by_its_first_bytes(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1]}), tmp_path / "part-0")
    pq.write_table(pa.table({"x": [2]}), tmp_path / "part-1.snappy")
    chunks = plan_data(tmp_path, ["x"]).chunks
    assert [chunk.read(["x"]).column("x").to_pylist() for chunk in chunks] == [[1], [2]]


def test_neither_parquet_nor_csv(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("notes")
    with pytest.raises(DataError, match=r"notes\.txt' is neither Parquet nor named \.csv or \.tsv: rename it or leave"):
        plan_data(tmp_path, ["x"])


def test_mixed_files(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1]}), tmp_path / "a.parquet")
    (tmp_path / "b.csv").write_text("x\n1\n")
    with pytest.raises(DataError, match=r"the files mix CSV \('.*b\.csv'\) and Parquet \('.*a\.parquet'\), expected one"):
        plan_data(tmp_path, ["x"])


def test_chunk_bytes_must_be_positive() -> None:
    with pytest.raises(DataError, match="chunk_bytes is 0, expected at least 1"):
        plan_data(pd.DataFrame({"x": [1]}), ["x"], chunk_bytes=0)
