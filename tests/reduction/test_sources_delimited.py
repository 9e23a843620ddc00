"""CSV files: dialects, inference, missing values, values that do not fit."""

from __future__ import annotations

import gzip
import pickle
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pytest

from bigmm.errors import DataError
from bigmm.reduction.sources import plan_data

SMALL = "y,g,n,unused\n1.5,a,1,u\n2.5,b,2,v\n"


def write(path: Path, text: str = SMALL) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def rows(data: Any, *columns: str) -> list[dict[str, Any]]:
    return [row for chunk in plan_data(data, columns).chunks for row in chunk.read(columns).to_pylist()]


def test_one_file(tmp_path: Path) -> None:
    plan = plan_data(write(tmp_path / "a.csv"), ["n", "g", "y"])
    (chunk,) = plan.chunks
    assert plan.schema == pa.schema({"n": pa.int64(), "g": pa.large_string(), "y": pa.float64()})
    assert (chunk.name, chunk.rows, chunk.nbytes, plan.in_memory) == ("a.csv", None, len(SMALL), False)
    assert chunk.read(["g", "n"]).to_pylist() == [{"g": "a", "n": 1}, {"g": "b", "n": 2}]
    assert chunk.read(["g"]).column("g").type == pa.dictionary(pa.int32(), pa.large_string())


@pytest.mark.parametrize("name", ["a.tsv", "a.TAB", "b.csv.tsv"])
def test_tabs(tmp_path: Path, name: str) -> None:
    assert rows(write(tmp_path / name, SMALL.replace(",", "\t")), "n") == [{"n": 1}, {"n": 2}]


@pytest.mark.parametrize("ending", ["gz", "bz2", "zst", "lz4"])
def test_compressed(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.csv.{ending}"
    codec = {"gz": "gzip", "bz2": "bz2", "zst": "zstd", "lz4": "lz4"}[ending]
    with pa.OSFile(str(path), "wb") as raw, pa.CompressedOutputStream(raw, codec) as sink:
        sink.write(SMALL.encode())
    assert rows(path, "g", "y") == [{"g": "a", "y": 1.5}, {"g": "b", "y": 2.5}]


@pytest.mark.parametrize("spelling", ["", "NA", "NaN", "nan", "null", "NULL", "N/A", "n/a", '"NA"'])
def test_missing_values(tmp_path: Path, spelling: str) -> None:
    path = write(tmp_path / "a.csv", f"x,g,k\n1.5,a,1\n{spelling},{spelling},2\n")
    assert rows(path, "x", "g")[1] == {"x": None, "g": None}


@pytest.mark.parametrize("n", [20, 200_000], ids=["one block", "many blocks"])
@pytest.mark.parametrize("stray", ['"', '"never closed', '"two\nlines"'])
@pytest.mark.parametrize("column", ["g", "unused"])
def test_a_row_is_a_line(stray: str, column: str, n: int, tmp_path: Path) -> None:
    """A quote that is not closed makes one of many rows, of which Arrow says nothing."""
    lines = [f"{number},g{number % 3},n{number}" for number in range(n)]
    for number in (n // 2, n - 10, n - 5):
        lines[number] = f"{number},{stray},n" if column == "g" else f"{number},g,{stray}"
    path = write(tmp_path / "a.csv", "y,g,unused\n" + "\n".join(lines) + "\n")
    with pytest.raises(
        DataError, match=r"(after its header|in a value); a quote is not closed, or values or names have line breaks|cannot read"
    ):
        rows(path, "y", "g")


@pytest.mark.parametrize(
    "text",
    [
        'y,g\n1,a\n2,"b\n',
        'y,g\r\n1,a\r\n2,"b\r\n',
        'y,g,"n\n1,a,u\n2,b,v"\n',
        'y,g,n\n1,a,u\r2,b,u\n3,c,"v\n4,d,w"\n',
        'y,g\n1,"a\rz"\n',
        'y,g,"n\nm"\n1,a,b\n',
        "".join(f"{line}\r" for line in ["y,g,n", *["1,a,k"] * 9, '1,a,"k\n2,a,k\n']) + "1,a,k\n" * 9,
    ],
)
def test_line_breaks_that_change_no_count(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(text.encode())
    with pytest.raises(DataError, match="a quote is not closed, or values or names have line breaks"):
        rows(tmp_path / "a.csv", "y", "g")


def test_names_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("y,g,é\n1,a,2\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"cannot read '.*a.csv': 'utf-8' codec can't decode"):
        rows(tmp_path / "a.csv", "y", "g")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    "text", ["\ufeff\ny,g\n1,a\n2,b\n", "y,g\n1,a\n2,b\n", "y,g\n1,a\n2,b", "\ny,g\n\n1,a\n\n\n2,b\n\n", 'y,g\n1,"a"\n2,b\n']
)
def test_ends_of_lines_and_empty_lines(text: str, end: str, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(text.replace("\n", end).encode())
    assert rows(path, "y", "g") == [{"y": 1, "g": "a"}, {"y": 2, "g": "b"}]


def test_one_is_not_true(tmp_path: Path) -> None:
    """In a column that has both they are other levels; Arrow takes one for the other."""
    mixed = write(tmp_path / "mixed.csv", "g,n,b\ntrue,1,true\n1,0,FALSE\nfalse,1,True\n0,0,false\n")
    assert [row["g"] for row in rows(mixed, "g")] == ["true", "1", "false", "0"]
    assert [row["n"] for row in rows(mixed, "n")] == [1, 0, 1, 0]
    assert [row["b"] for row in rows(mixed, "b")] == [True, False, True, False]


def test_types_over_files(tmp_path: Path) -> None:
    write(tmp_path / "1.csv", "x,g,t,d\n1,NA,12:30,2024-01-02\n")
    write(tmp_path / "2.csv", "d,t,g,x\n2024-01-03,12:45,b,1.5\n")
    plan = plan_data(tmp_path, ["x", "g", "t", "d"])
    assert [str(type) for type in plan.schema.types] == ["double", "large_string", "large_string", "date32[day]"]
    found = rows(tmp_path, "x", "g", "t")
    assert found == [{"x": 1.0, "g": None, "t": "12:30"}, {"x": 1.5, "g": "b", "t": "12:45"}]


def test_files_disagree(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", "g\n1\n")
    write(tmp_path / "b.csv", "g\nx\n")
    with pytest.raises(DataError, match=r"column 'g' is int64 in '.*a\.csv' but string in '.*b\.csv'"):
        plan_data(tmp_path, ["g"])


def test_value_that_does_not_fit_later(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "x,g\n" + "1,a\n" * 300_000 + "3.5,b\n")
    plan = plan_data(path, ["x", "g"])
    assert plan.chunks[0].read(["g"]).num_rows == 300_001
    with pytest.raises(DataError, match=r"conversion error to int64: invalid value '3.5'; write the column with one"):
        plan.chunks[0].read(["x"])


def test_large_file_keeps_one_dictionary(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "g\n" + "".join(f"level {number % 100}\n" for number in range(200_000)))
    column = plan_data(path, ["g"]).chunks[0].read(["g"]).column("g")
    assert column.num_chunks > 1
    assert {len(block.dictionary) for block in column.chunks} == {100}


def test_head(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "x,g\n" + "1,a\n" * 300_000 + "bad,b\n")
    assert plan_data(path, ["x", "g"]).chunks[0].head(["g", "x"], 2).to_pylist() == [{"g": "a", "x": 1}] * 2


def test_keys_of_folders(tmp_path: Path) -> None:
    write(tmp_path / "site=a" / "x.csv")
    write(tmp_path / "site=b" / "x.csv")
    assert rows(tmp_path, "n", "site")[1:3] == [{"n": 2, "site": "a"}, {"n": 1, "site": "b"}]
    assert plan_data(tmp_path, ["n", "site"]).chunks[0].read(["site"]).to_pylist() == [{"site": "a"}] * 2
    assert rows(tmp_path, "site")[:2] == [{"site": "a"}] * 2


def test_remote_and_pickled() -> None:
    fsspec.filesystem("memory").pipe("/delimited-test/a.csv.gz", gzip.compress(SMALL.encode()))
    (chunk,) = plan_data("memory://delimited-test/*.csv.gz", ["n"]).chunks
    assert pickle.loads(pickle.dumps(chunk)).read(["n"]).to_pylist() == [{"n": 1}, {"n": 2}]


def test_file_without_rows_is_left_out(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", "y,g\n")
    with pytest.raises(DataError, match=r"no rows in 1 CSV file\(s\), the first .*a\.csv': expected at least one"):
        plan_data(tmp_path, ["y"])
    write(tmp_path / "b.csv", "y,g\n1,a\n")
    assert [chunk.name for chunk in plan_data(tmp_path, ["y"]).chunks] == ["b.csv"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"a\.csv' is empty, expected a CSV file with a header"),
        ("x,g\n1,a\n1,a,b\n", "cannot read .*: CSV parse error: .*Expected 2 columns, got 3: 1,a,b; the file may be"),
        ("x,x,g\n1,2,a\n", r"a\.csv' has 2 columns 'x', expected one"),
        ("xs,g\n1,a\n", r"unknown column 'x'; the data have g, xs: did you mean 'xs'\?"),
    ],
)
def test_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        plan_data(write(tmp_path / "a.csv", text), ["x"])


def test_text_in_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"x,g\n1,caf\xe9\n")
    with pytest.raises(DataError, match=r"a\.csv': .*invalid UTF8 data; write the column .*, as UTF-8"):
        plan_data(tmp_path / "a.csv", ["x", "g"]).chunks[0].read(["g"])
