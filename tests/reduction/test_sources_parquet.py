"""Parquet files: chunks, projection, types, keys of folders, damage."""

from __future__ import annotations

import os
import pickle
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bigmm.errors import DataError, UnreadableError
from bigmm.reduction.sources import Plan, kind_of, parquet, plan_data
from bigmm.reduction.sources.cuts import MOST_ROWS, balanced_runs
from bigmm.reduction.sources.files import DataFile
from bigmm.reduction.sources.footers import as_written

ROWS = 1000


def table(start: int = 0, rows: int = ROWS) -> pa.Table:
    numbers = range(start, start + rows)
    return pa.table(
        {
            "y": pa.array([float(number) for number in numbers]),
            "g": pa.array([f"g{number % 7}" for number in numbers]),
            "unused": pa.array([f"text {number}" for number in numbers]),
            "n": pa.array(list(numbers), pa.int32()),
        }
    )


def write(path: Path, content: pa.Table | None = None, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table() if content is None else content, path, **options)
    return path


def values(plan: Plan, columns: Sequence[str]) -> list[dict[str, Any]]:
    read = [chunk.read(columns) for chunk in plan.chunks]
    assert all(part.column_names == list(columns) for part in read)
    return [row for part in read for row in part.to_pylist()]


def test_one_file(tmp_path: Path) -> None:
    plan = plan_data(write(tmp_path / "a.parquet"), ["n", "g", "y", "g"])
    (chunk,) = plan.chunks
    assert plan.schema == pa.schema({"n": pa.int64(), "g": pa.large_string(), "y": pa.float64()})
    assert (chunk.name, chunk.rows, plan.in_memory, plan.categories) == ("a.parquet, row group 0", ROWS, False, {})
    assert values(plan, ["g", "n"]) == table().select(["g", "n"]).to_pylist()


def test_text_is_dictionary_encoded_and_clean(tmp_path: Path) -> None:
    plan = plan_data(write(tmp_path / "a.parquet", row_group_size=100), ["g"])
    column = plan.chunks[0].read(["g"]).column("g")
    assert column.type == pa.dictionary(pa.int32(), pa.large_string())
    dictionaries = [block.dictionary.to_pylist() for block in column.chunks]
    assert all(found == dictionaries[0] for found in dictionaries)
    assert len(set(dictionaries[0])) == len(dictionaries[0]) == 7


@pytest.mark.parametrize("options", [{}, {"use_dictionary": False}, {"dictionary_pagesize_limit": 1000}], ids=str)
def test_text_of_many_values(tmp_path: Path, options: dict[str, Any]) -> None:
    content = pa.table({"g": [f"user {number * 7919 % 90_000}" for number in range(100_000)]})
    path = write(tmp_path / "a.parquet", content, row_group_size=30_000, **options)
    column = plan_data(path, ["g"]).chunks[0].read(["g"]).column("g")
    assert column.type == pa.dictionary(pa.int32(), pa.large_string())
    assert {len(block.dictionary) for block in column.chunks} == {90_000}
    assert column.cast(pa.string()).combine_chunks() == content.column("g").combine_chunks()


def test_chunks_are_runs_of_row_groups(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", row_group_size=100, compression=None)
    plan = plan_data(path, ["y", "g"], chunk_bytes=plan_data(path, ["y", "g"]).chunks[0].nbytes // 3)
    assert len(plan.chunks) in (3, 4)
    assert plan.chunks[0].name == "a.parquet, row groups 0-2"
    assert sum(chunk.rows or 0 for chunk in plan.chunks) == ROWS
    assert values(plan, ["y", "g"]) == table().select(["y", "g"]).to_pylist()


def test_bytes_are_those_of_the_needed_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet")
    group = pq.ParquetFile(path).metadata.row_group(0)
    assert plan_data(path, ["y", "n"]).chunks[0].nbytes == sum(group.column(i).total_compressed_size for i in (0, 3))


@pytest.mark.parametrize("chunk_bytes", [1, 10, 25, 100, 10**9])
def test_runs_cover_everything_once(chunk_bytes: int) -> None:
    sizes = [(10, size) for size in (3, 50, 1, 1, 1, 20, 0, 7)]
    runs = balanced_runs(sizes, chunk_bytes)
    assert [index for run in runs for index in run] == list(range(len(sizes)))


def test_runs_have_limits() -> None:
    assert balanced_runs([], 10) == []
    assert balanced_runs([(1, 10)] * 6, 20) == [range(2), range(2, 4), range(4, 6)]
    assert balanced_runs([(1, 10)] * 5, 100, longest=2) == [range(2), range(2, 4), range(4, 5)]
    assert balanced_runs([(MOST_ROWS // 2, 0)] * 4 + [(2 * MOST_ROWS, 0)], 10) == [range(2), range(2, 4), range(4, 5)]


def test_unused_columns_are_not_decoded(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet")
    group = pq.ParquetFile(path).metadata.row_group(0)
    damaged = group.column(2)
    content = bytearray(path.read_bytes())
    start = damaged.dictionary_page_offset or damaged.data_page_offset
    content[start : start + damaged.total_compressed_size] = b"\xff" * damaged.total_compressed_size
    path.write_bytes(content)
    assert values(plan_data(path, ["n", "g"]), ["n", "g"]) == table().select(["n", "g"]).to_pylist()
    plan = plan_data(path, ["unused"])
    for read in (plan.chunks[0].read, lambda columns: plan.chunks[0].head(columns, 2)):
        with pytest.raises(DataError, match=r"cannot read .*a\.parquet.*: .*may be damaged"):
            read(["unused"])


def test_names_with_dots_and_nested_neighbours(tmp_path: Path) -> None:
    content = pa.table(
        {
            "s": [{"q": [1], "b": 2}, {"q": [], "b": 3}],
            "a": [1, 2],
            "a.b": ["x", "y"],
            "s.b": [7.5, 8.5],
            "m": pa.array([[("k", 1)], []], pa.map_(pa.string(), pa.int64())),
            "last": [True, None],
        }
    )
    plan = plan_data(write(tmp_path / "a.parquet", content), ["a.b", "s.b", "last", "a"])
    expected = content.select(["a.b", "s.b", "last", "a"]).to_pylist()
    assert values(plan, ["a.b", "s.b", "last", "a"]) == expected
    assert values(plan, ["a"]) == [{"a": 1}, {"a": 2}]
    assert plan.chunks[0].head(["s.b", "a.b"], 1).to_pylist() == [{"s.b": 7.5, "a.b": "x"}]
    with pytest.raises(DataError, match=r"column 's' in .*a\.parquet' is struct<.*expected numbers"):
        plan_data(tmp_path / "a.parquet", ["s"])


def test_types_over_files(tmp_path: Path) -> None:
    one = pa.table(
        {
            "i": pa.array([1], pa.int8()),
            "f": pa.array([1], pa.int64()),
            "t": pa.array(["a"]).dictionary_encode(),
            "u": pa.array([None], pa.null()),
            "d": pa.array([Decimal("1.5")], pa.decimal128(9, 1)),
            "k": pa.array([Decimal(12)], pa.decimal128(38, 0)),
            "b": pa.array([b"z"]),
        }
    )
    two = pa.table(
        {
            "b": pa.array(["z"], pa.large_string()),
            "k": pa.array([13]),
            "d": pa.array([2.5]),
            "u": pa.array(["b"]),
            "t": pa.array(["a"], pa.large_string()),
            "f": pa.array([1.5], pa.float32()),
            "i": pa.array([2], pa.uint32()),
        }
    )
    paths = [write(tmp_path / "1.parquet", one), write(tmp_path / "2.parquet", two)]
    names = list("iftudkb")
    plan = plan_data(paths, names)
    assert [str(type) for type in plan.schema.types] == [
        *("int64", "double", "large_string", "large_string", "double", "int64", "large_string")
    ]
    assert values(plan, names) == [
        {"i": 1, "f": 1.0, "t": "a", "u": None, "d": 1.5, "k": 12, "b": "z"},
        {"i": 2, "f": 1.5, "t": "a", "u": "b", "d": 2.5, "k": 13, "b": "z"},
    ]


def test_value_that_the_common_type_does_not_hold(tmp_path: Path) -> None:
    write(tmp_path / "1.parquet", pa.table({"x": [2**53 + 1]}))
    write(tmp_path / "2.parquet", pa.table({"x": [0.5]}))
    plan = plan_data(tmp_path, ["x"])
    with pytest.raises(DataError, match=r"column 'x' in .*1\.parquet' does not fit double: Integer value"):
        plan.chunks[0].read(["x"])


def test_files_disagree(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", pa.table({"g": [1]}))
    write(tmp_path / "b.parquet", pa.table({"g": ["1"]}))
    with pytest.raises(DataError, match=r"files disagree: column 'g' is int64 in '.*a\.parquet' but string in '.*b\.parquet'; write it"):
        plan_data(tmp_path, ["g"])


def test_column_missing_from_a_later_file(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", pa.table({"g": [1], "x": [1]}))
    write(tmp_path / "b.parquet", pa.table({"g": [1]}))
    assert len(plan_data(tmp_path, ["g"]).chunks) == 2
    with pytest.raises(DataError, match=r"column 'x' is in '.*a\.parquet' but not in '.*b\.parquet'"):
        plan_data(tmp_path, ["x"])


def test_keys_of_folders_are_columns(tmp_path: Path) -> None:
    for year, site in ((2023, "b"), (2024, "a"), (2024, "__HIVE_DEFAULT_PARTITION__")):
        write(tmp_path / f"year={year}" / f"site={site}" / "x.parquet", pa.table({"n": [1, 2]}))
    plan = plan_data(tmp_path, ["site", "n", "year"])
    assert plan.schema == pa.schema({"site": pa.large_string(), "n": pa.int64(), "year": pa.int64()})
    assert plan.chunks[0].name == "year=2023/site=b/x.parquet, row group 0"
    assert values(plan, ["site", "year", "n"])[::2] == [
        {"site": "b", "year": 2023, "n": 1},
        {"site": None, "year": 2024, "n": 1},
        {"site": "a", "year": 2024, "n": 1},
    ]
    assert plan.chunks[0].head(["site"], 1).to_pylist() == [{"site": "b"}]
    assert values(plan, ["year"])[:2] == [{"year": 2023}] * 2
    assert kind_of(plan.schema.field("year").type) == "number"


def test_column_of_the_file_hides_the_key(tmp_path: Path) -> None:
    write(tmp_path / "n=9" / "x.parquet", pa.table({"n": [1]}))
    assert values(plan_data(tmp_path, ["n"]), ["n"]) == [{"n": 1}]


def test_head(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", row_group_size=3)
    chunk = plan_data(path, ["g", "y"]).chunks[0]
    for rows in (1, 3, 5, 2 * ROWS):
        assert chunk.head(["y", "g"], rows).to_pylist() == table().select(["y", "g"]).slice(0, rows).to_pylist()


def test_many_small_files_share_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "_MANY_PIECES", 5)
    monkeypatch.setattr(parquet, "_MOST_PIECES", 4)
    for number in range(10):
        write(tmp_path / f"p-{number}.parquet", table(number * 3, 3))
    plan = plan_data(tmp_path, ["n", "g"])
    assert [chunk.rows for chunk in plan.chunks] == [12, 12, 6]
    assert plan.chunks[0].name == "p-0.parquet, row group 0 to p-3.parquet, row group 0"
    assert values(plan, ["n", "g"]) == table(0, 30).select(["n", "g"]).to_pylist()
    assert plan.chunks[0].head(["n"], 5).column("n").to_pylist() == [0, 1, 2, 3, 4]
    assert plan.chunks[0].read(["g"]).column("g").type == pa.dictionary(pa.int32(), pa.large_string())


def test_natural_order_of_files(tmp_path: Path) -> None:
    for number in (10, 9, 1):
        write(tmp_path / f"part-{number}.parquet", pa.table({"n": [number]}))
    assert values(plan_data(str(tmp_path / "*.parquet"), ["n"]), ["n"]) == [{"n": 1}, {"n": 9}, {"n": 10}]


def test_remote_files(tmp_path: Path) -> None:
    filesystem = fsspec.filesystem("memory")
    filesystem.pipe("/parquet-test/k=1/a.parquet", write(tmp_path / "a.parquet").read_bytes())
    plan = plan_data("memory://parquet-test", ["n", "g", "k"])
    assert values(plan, ["n", "g"]) == table().select(["n", "g"]).to_pylist()
    assert plan.chunks[0].head(["k", "n"], 1).to_pylist() == [{"k": 1, "n": 0}]


def test_chunks_pickle(tmp_path: Path) -> None:
    chunk = plan_data(write(tmp_path / "a.parquet"), ["n"]).chunks[0]
    pickled = pickle.dumps(chunk)
    assert len(pickled) < 2000
    assert pickle.loads(pickled).read(["n"]) == chunk.read(["n"])


def test_digest_identifies_the_data(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", row_group_size=100)
    digest = plan_data(path, ["n"]).digest
    assert digest == plan_data(str(path), ["n"]).digest
    assert digest != plan_data(path, ["n"], chunk_bytes=1).digest
    write(path, table(1), row_group_size=100)
    assert digest != plan_data(path, ["n"]).digest


def test_empty_row_groups_and_files_are_left_out(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", table(0, 0))
    with pytest.raises(DataError, match=r"no rows in 1 Parquet file\(s\), the first .*a\.parquet': expected at least"):
        plan_data(tmp_path, ["n"])
    write(tmp_path / "b.parquet", table(0, 2))
    assert [chunk.name for chunk in plan_data(tmp_path, ["n"]).chunks] == ["b.parquet, row group 0"]


def test_file_that_is_no_parquet(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_bytes(b"x,y\n1,2\n" * 100)
    with pytest.raises(DataError, match=r"cannot read '.*b\.parquet': Parquet magic bytes not found") as caught:
        plan_data(tmp_path, ["n"])
    assert "\n" not in str(caught.value)


def test_truncated_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"cannot read '.*a\.parquet': .*; the file may be damaged: write it again"):
        plan_data(path, ["n"])


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").touch()
    with pytest.raises(DataError, match=r"'.*a\.parquet' is empty, expected a Parquet file"):
        plan_data(tmp_path, ["n"])


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, mode: str) -> None:
        raise PermissionError(13, "Permission denied", path, mode)

    path = write(tmp_path / "a.parquet")
    monkeypatch.setattr(pa, "OSFile", refuse)
    with pytest.raises(DataError, match=r"no permission to read '.*a\.parquet': change its permissions"):
        plan_data(path, ["n"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pa.table({"x": [1] * ROWS}), "has no longer column 'n': it changed after it was planned"),
        (table(0, 5), "has no longer 1000 rows in a.parquet, row group 0: it changed"),
        (pa.table({"n": ["a"] * ROWS}), "column 'n' is string in .*, but int64 in the plan"),
    ],
)
def test_file_that_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: pa.Table, message: str) -> None:
    path = write(tmp_path / "a.parquet")
    chunk = plan_data(path, ["n"]).chunks[0]
    write(path, content)
    with pytest.raises(DataError, match=r"a\.parquet' has changed after it was planned: start again"):
        chunk.read(["n"])
    monkeypatch.setattr(DataFile, "has_changed", lambda _: False)  # a filesystem that tells neither size nor time
    with pytest.raises(DataError, match=message):
        chunk.read(["n"])


def test_file_that_is_touched(tmp_path: Path) -> None:
    """The same bytes with another time: nobody has looked at them."""
    path = write(tmp_path / "a.parquet")
    chunk = plan_data(path, ["n"]).chunks[0]
    os.utime(path, (0, 0))
    with pytest.raises(DataError, match="has changed after it was planned"):
        chunk.head(["n"], 3)


def test_links(tmp_path: Path) -> None:
    """A link is the file that it points at, whose change counts."""
    path = write(tmp_path / "data" / "a.parquet")
    os.utime(path, (10**9, 10**9))
    link = tmp_path / "linked.parquet"
    link.symlink_to(path)
    chunk = plan_data(link, ["n"]).chunks[0]
    assert chunk.read(["n"]).num_rows == ROWS
    os.utime(path, (10**9 + 1, 10**9 + 1))
    with pytest.raises(DataError, match="has changed after it was planned"):
        chunk.read(["n"])


def test_damaged_row_group_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(table(0, ROWS), path, row_group_size=ROWS // 4, compression="snappy", use_dictionary=False)
    group = pq.ParquetFile(path).metadata.row_group(2).column(0)
    content = bytearray(path.read_bytes())
    content[group.data_page_offset : group.data_page_offset + group.total_compressed_size] = b"\xff" * group.total_compressed_size
    path.write_bytes(content)
    chunks = plan_data(path, ["y"], chunk_bytes=1).chunks
    assert [chunks[position].read(["y"]).num_rows for position in (0, 1, 3)] == [ROWS // 4] * 3
    with pytest.raises(UnreadableError, match=r"^cannot read '.*a\.parquet', row group 2: .*; the file may be damaged"):
        chunks[2].read(["y"])


def test_file_that_went_away(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet")
    chunk = plan_data(path, ["n"]).chunks[0]
    path.unlink()
    with pytest.raises(DataError, match=r"a\.parquet' does not exist: check the path"):
        chunk.read(["n"])


def test_dictionaries_of_numbers_are_categories(tmp_path: Path) -> None:
    """Arrow reads them back as plain numbers; a file in which they are plain does not change that."""
    codes = pa.array([2, 0, 1])
    write(tmp_path / "a.parquet", pa.table({"x": codes, "q": codes, "t": codes.cast(pa.string()).dictionary_encode()}))
    write(tmp_path / "b.parquet", pa.table({"x": codes, "q": codes.dictionary_encode(), "t": ["a", "b", "c"]}))
    plan = plan_data(tmp_path, ["x", "q", "t"])
    assert plan.categories == {"q": ()}
    assert plan.schema.field("q").type == pa.int64()
    assert [row["q"] for row in values(plan, ["q"])] == [2, 0, 1] * 2


def test_damaged_schema_of_arrow_is_passed_over(tmp_path: Path) -> None:
    metadata = pq.ParquetFile(write(tmp_path / "a.parquet")).metadata
    schema = pa.schema({"x": pa.int64()})
    for damaged in (b"AAAA", b"no base64 \xff"):
        assert as_written(schema, SimpleNamespace(metadata={**metadata.metadata, b"ARROW:schema": damaged})) == schema
    assert as_written(schema, SimpleNamespace(metadata=None)) == schema
