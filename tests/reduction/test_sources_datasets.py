"""Arrow datasets: fragments, row groups, partition keys."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from bigmm.errors import DataError
from bigmm.reduction.sources import Plan, plan_data

TABLE = pa.table({"n": pa.array(range(10), pa.int16()), "g.h": [str(number) for number in range(10)], "u": [None] * 10})


def rows(plan: Plan, *columns: str) -> list[tuple[Any, ...]]:
    read = [chunk.read(columns) for chunk in plan.chunks]
    return [tuple(row.values()) for part in read for row in part.to_pylist()]


def test_row_groups(tmp_path: Path) -> None:
    for name in ("a", "b"):
        pq.write_table(TABLE, tmp_path / f"{name}.parquet", row_group_size=4)
    dataset = ds.dataset(tmp_path)
    plan = plan_data(dataset, ["n", "g.h"], chunk_bytes=1)
    assert plan.schema == pa.schema({"n": pa.int64(), "g.h": pa.large_string()})
    assert [chunk.rows for chunk in plan.chunks] == [4, 4, 2] * 2
    assert plan.chunks[1].name.endswith("a.parquet, row group 1")
    assert plan.chunks[0].nbytes > 0
    assert not plan.in_memory
    assert rows(plan, "g.h", "n") == [(str(number), number) for number in range(10)] * 2
    assert len(plan_data(dataset, ["n"]).chunks) == 2
    assert plan.chunks[0].head(["n"], 2).to_pylist() == [{"n": 0}, {"n": 1}]
    assert pickle.loads(pickle.dumps(plan.chunks[2])).read(["n"]).to_pylist() == [{"n": 8}, {"n": 9}]


def test_partition_keys(tmp_path: Path) -> None:
    for key in ("x", "y"):
        (tmp_path / f"k={key}").mkdir()
        pq.write_table(TABLE.slice(0, 1), tmp_path / f"k={key}" / "a.parquet")
    plan = plan_data(ds.dataset(tmp_path, partitioning="hive"), ["k", "n"])
    assert rows(plan, "n", "k") == [(0, "x"), (0, "y")]


def test_fragments_of_other_formats(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,g\n1,a\n2,b\n")
    plan = plan_data(ds.dataset(tmp_path, format="csv"), ["g", "x"])
    assert [(chunk.rows, chunk.nbytes) for chunk in plan.chunks] == [(None, 12)]
    assert rows(plan, "g", "x") == [("a", 1), ("b", 2)]


def test_dataset_in_memory_is_a_table() -> None:
    plan = plan_data(ds.dataset(TABLE), ["n"])
    assert plan.in_memory
    assert rows(plan, "n") == [(number,) for number in range(10)]


def test_column_missing_from_a_file(tmp_path: Path) -> None:
    pq.write_table(TABLE, tmp_path / "a.parquet")
    pq.write_table(TABLE.select(["u"]), tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"column 'n' is in the dataset but not in '.*b\.parquet'"):
        plan_data(ds.dataset(tmp_path), ["n"])


def test_filtered_dataset(tmp_path: Path) -> None:
    pq.write_table(TABLE, tmp_path / "a.parquet")
    with pytest.raises(DataError, match="the dataset is filtered, which its fragments are not: pass"):
        plan_data(ds.dataset(tmp_path).filter(ds.field("n") > 3), ["n"])


def test_no_rows(tmp_path: Path) -> None:
    pq.write_table(TABLE.slice(0, 0), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"no rows in the 1 fragment\(s\) of the dataset"):
        plan_data(ds.dataset(tmp_path), ["n"])


def test_unknown_column(tmp_path: Path) -> None:
    pq.write_table(TABLE, tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"unknown column 'N'; the data have g.h, n, u: did you mean 'n'"):
        plan_data(ds.dataset(tmp_path), ["N"])


def test_digest(tmp_path: Path) -> None:
    pq.write_table(TABLE, tmp_path / "a.parquet")
    digest = plan_data(ds.dataset(tmp_path), ["n"]).digest
    assert digest == plan_data(ds.dataset(tmp_path), ["n"]).digest
    pq.write_table(pa.concat_tables([TABLE, TABLE]), tmp_path / "a.parquet")
    assert digest != plan_data(ds.dataset(tmp_path), ["n"]).digest


def test_digest_knows_what_folders_say_and_how_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "1" / "2").mkdir(parents=True)
    pq.write_table(TABLE, tmp_path / "1" / "2" / "a.parquet")
    parts = [ds.DirectoryPartitioning(pa.schema([(name, pa.int64()) for name in names])) for names in ("ab", "ba", "ab")]
    digests = [plan_data(ds.dataset(tmp_path, format="parquet", partitioning=part), ["n", "a", "b"]).digest for part in parts]
    assert digests[0] == digests[2] != digests[1]
    (tmp_path / "b.csv").write_text("x;n\n1,5;2\n")
    formats = [ds.CsvFileFormat(pc.ParseOptions(delimiter=delimiter)) for delimiter in ";|;"]
    schema = pa.schema([("x", pa.string()), ("n", pa.string())])
    semicolon, _, again = (ds.dataset(tmp_path / "b.csv", format=format, schema=schema) for format in formats)
    one = plan_data(semicolon, ["n"])
    assert one.digest == plan_data(again, ["n"]).digest
    commas = ds.CsvFileFormat(pc.ParseOptions(delimiter=";"), convert_options=pc.ConvertOptions(null_values=["2"]))
    assert one.digest != plan_data(ds.dataset(tmp_path / "b.csv", format=commas, schema=schema), ["n"]).digest


@pytest.mark.parametrize("format", ["parquet", "feather"])
def test_dictionaries_of_numbers_are_categories(tmp_path: Path, format: str) -> None:
    table = pa.table({"x": [2, 0, 1], "q": pa.array([2, 0, 1]).dictionary_encode()})
    ds.write_dataset(table, tmp_path, format=format)
    plan = plan_data(ds.dataset(tmp_path, format=format), ["x", "q"])
    assert plan.categories == {"q": ()}
    assert rows(plan, "x", "q") == [(2, 2), (0, 0), (1, 1)]


def test_a_file_that_was_written_anew_is_read_as_it_is_now(tmp_path: Path) -> None:
    """Arrow's fragments keep the footer of when they were first used."""
    pq.write_table(TABLE, tmp_path / "a.parquet")
    dataset = ds.dataset(tmp_path)
    assert len(rows(plan_data(dataset, ["n"]), "n")) == 10
    again = pa.concat_tables([TABLE, TABLE]).select(["u", "g.h", "n"])
    pq.write_table(again, tmp_path / "a.parquet", row_group_size=5)
    assert rows(plan_data(dataset, ["n", "g.h"]), "n", "g.h") == [(number, str(number)) for number in range(10)] * 2


def test_row_groups_of_a_file_that_was_written_anew(tmp_path: Path) -> None:
    pq.write_table(TABLE, tmp_path / "a.parquet", row_group_size=4)
    whole = ds.dataset(tmp_path)
    (fragment,) = whole.get_fragments()
    part = ds.FileSystemDataset([fragment.subset(row_group_ids=[1])], whole.schema, fragment.format)  # type: ignore[arg-type,attr-defined]
    assert rows(plan_data(part, ["n"]), "n") == [(number,) for number in range(4, 8)]
    pq.write_table(TABLE.slice(1), tmp_path / "a.parquet", row_group_size=4)
    with pytest.raises(DataError, match=r"a\.parquet' has changed after its row groups were chosen: make the dataset again"):
        plan_data(part, ["n"])


@pytest.mark.parametrize("name", ["a.parquet", "a.csv"])
def test_a_file_that_changes_after_the_plan(name: str, tmp_path: Path) -> None:
    write: Any = pq.write_table if name.endswith("parquet") else pc.write_csv
    write(TABLE.select(["n"]), tmp_path / name)
    plan = plan_data(ds.dataset(tmp_path, format=name.partition(".")[2]), ["n"])
    write(TABLE.slice(2).select(["n"]), tmp_path / name)
    for read in (lambda: plan.chunks[0].read(["n"]), lambda: plan.chunks[0].head(["n"], 1)):
        with pytest.raises(DataError, match="has changed after it was planned: start again"):
            read()


def test_files_are_read_by_threads_whatever_their_format(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,g\n1,a\n2,b\n")
    assert plan_data(ds.dataset(tmp_path, format="csv"), ["x"]).readable_here


def test_row_groups_of_a_collected_footer(tmp_path: Path) -> None:
    """A `_metadata` file has footers that are not those of the files to the letter."""
    found: list[Any] = []
    for name in ("a.parquet", "b.parquet"):
        pq.write_table(TABLE, tmp_path / name, row_group_size=4, metadata_collector=found)
        found[-1].set_file_path(name)
    found[0].append_row_groups(found[1])
    found[0].write_metadata_file(str(tmp_path / "_metadata"))
    whole = ds.parquet_dataset(tmp_path / "_metadata")
    assert len(rows(plan_data(whole, ["n"]), "n")) == 20
    parts = [fragment.subset(row_group_ids=[0, 2]) for fragment in whole.get_fragments()]
    part: Any = ds.FileSystemDataset(parts, whole.schema, whole.format, whole.filesystem)  # type: ignore[attr-defined]
    assert rows(plan_data(part, ["n"]), "n") == [(number,) for number in (0, 1, 2, 3, 8, 9)] * 2


def test_doubles_in_a_dataset_that_begins_with_single_precision(tmp_path: Path) -> None:
    """A dataset has the types of its first file."""
    values = [1e7 + 0.1, 1e7 + 0.2]
    pq.write_table(pa.table({"x": pa.array([0.5], pa.float32())}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"x": values}), tmp_path / "b.parquet")
    assert rows(plan_data(ds.dataset(tmp_path), ["x"]), "x") == [(0.5,), *((value,) for value in values)]
