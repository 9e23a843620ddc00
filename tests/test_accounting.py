"""Rows by file: read = used + dropped = what the footers say, through sums, differences, appends and the disk."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

import bigmm
from bigmm.accounting import Origin, RowCounts, SkippedChunk, Source, Sources, add_sources, count_sources, skipped_sources
from bigmm.errors import DataError, LabelError
from bigmm.reduction.accounts import check_accounts
from bigmm.reduction.sources import plan_data

FORMULA = "y ~ x + a + (x | g) + (1 | h)"


def rows(n: int = 600, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {"g": rng.choice(list("pqrstuv"), n), "h": rng.integers(0, 9, n), "x": rng.normal(size=n), "a": rng.choice(list("kl"), n)}
    )
    frame["y"] = frame["x"] + rng.normal(size=n)
    for name in ("y", "x", "a"):
        frame.loc[rng.random(n) < 0.05, name] = None
    return frame


FRAME = rows()


def write(frame: pd.DataFrame, folder: Path, parts: int = 6, row_group_size: int = 30) -> list[Path]:
    folder.mkdir(exist_ok=True)
    paths = []
    for number, part in enumerate(np.array_split(np.arange(len(frame)), parts)):
        paths.append(folder / f"part-{number}.parquet")
        table = pa.Table.from_pandas(frame.iloc[part], preserve_index=False)
        pq.write_table(table, paths[-1], row_group_size=row_group_size)
    return paths


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return write(FRAME, tmp_path / "data")


def assert_adds_up(cp: bigmm.CrossProducts) -> None:
    lines = list(cp.sources)
    assert sum(line.rows.read for line in lines) == cp.rows.read
    assert sum(line.rows.used for line in lines) == cp.rows.used
    names = {name for line in lines for name in line.rows.missing} | set(cp.rows.missing)
    for name in names:
        assert sum(line.rows.missing.get(name, 0) for line in lines) == cp.rows.missing.get(name, 0)


def expected_line(path: Path) -> Source:
    """Counted by pandas."""
    frame, status = pd.read_parquet(path)[["y", "x", "a"]], path.stat()
    gaps = frame.isna()
    missing = {name: int(count) for name, count in gaps.sum().items() if count}
    return Source(str(path), status.st_size, str(status.st_mtime), RowCounts(len(frame), int((~gaps.any(axis=1)).sum()), missing), 0)


# One pass -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk_bytes", [1, 3000, 2**26], ids=["row groups", "several of a file", "files"])
def test_by_file_and_column(files: list[Path], chunk_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from bigmm.reduction import reduce

    monkeypatch.setattr(reduce, "plan_data", lambda *args, **options: plan_data(*args, chunk_bytes=chunk_bytes, **options))
    cp = bigmm.reduce(FORMULA, files[0].parent, client=0)
    assert sorted(cp.sources, key=lambda line: line.url) == [expected_line(path) for path in files]
    assert [line.url for line in cp.sources] == [str(path) for path in files]
    assert_adds_up(cp)
    assert cp.rows.read == sum(pq.read_metadata(path).num_rows for path in files)


def test_chunks_of_many_small_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than a thousand pieces share chunks."""
    paths = write(FRAME, tmp_path / "data", parts=60)
    monkeypatch.setattr("bigmm.reduction.sources.parquet._MANY_PIECES", 10)
    plan = plan_data(tmp_path / "data", ["y"])
    assert max(len(chunk.origins) for chunk in plan.chunks) == 32
    cp = bigmm.reduce(FORMULA, tmp_path / "data", client=0)
    assert list(cp.sources) == [expected_line(path) for path in paths]


def test_csv_and_files_without_rows(tmp_path: Path) -> None:
    for number, part in enumerate((FRAME[:50], FRAME[:0], FRAME[50:80])):
        part.to_csv(tmp_path / f"{number}.csv", index=False)
    cp = bigmm.reduce(FORMULA, tmp_path, client=0)
    assert {Path(line.url).name: line.rows.read for line in cp.sources} == {"0.csv": 50, "1.csv": 0, "2.csv": 30}
    assert_adds_up(cp)
    pq.write_table(pa.Table.from_pandas(FRAME[:0].astype(FRAME.dtypes), preserve_index=False), tmp_path / "empty.parquet")
    FRAME.to_parquet(tmp_path / "full.parquet", index=False)
    cp = bigmm.reduce(FORMULA, [tmp_path / "full.parquet", tmp_path / "empty.parquet"], client=0)
    assert [(Path(line.url).name, line.rows.read) for line in cp.sources] == [("full.parquet", 600), ("empty.parquet", 0)]


@pytest.mark.parametrize("kind", ["pandas", "table", "Dask"])
def test_tables_are_one_source_without_a_name(kind: str) -> None:
    data = {
        "pandas": lambda: FRAME,
        "table": lambda: pa.Table.from_pandas(FRAME),
        "Dask": lambda: dd.from_pandas(FRAME, npartitions=4, sort=False),
    }[kind]()
    cp = bigmm.reduce(FORMULA, data, client=0)
    (line,) = cp.sources
    assert (line.url, line.is_file) == ("<Dask frame>" if kind == "Dask" else "<table>", False)
    assert line.rows == cp.rows
    assert (cp + cp).nobs == 2 * cp.nobs  # nothing tells that they are the same


def test_datasets_are_known_to_be_the_same_files(files: list[Path]) -> None:
    dataset, paths = (bigmm.reduce(FORMULA, data, client=0) for data in (ds.dataset(files[0].parent), files[0].parent))
    assert list(dataset.sources) == list(paths.sources)
    with pytest.raises(LabelError, match="count twice"):
        dataset + paths


def test_a_file_that_lost_rows_is_noticed(files: list[Path]) -> None:
    cp = bigmm.reduce(FORMULA, files, client=0)
    plan = plan_data(files, cp.design.names)
    check_accounts(plan.chunks, cp)
    short = bigmm.reduce(FORMULA, files[:-1], client=0)
    double = bigmm.merge([cp, bigmm.reduce(FORMULA, files[2], client=0)], allow_overlap=True)
    for part in (short, double):
        with pytest.raises(DataError, match=r"^(0|200) rows of '.*part-[25]\.parquet' were read, its footer says 100: did it change"):
            check_accounts(plan.chunks, part)
    lost = skipped_sources([Origin(str(files[-1]), *_identity(files[-1]), 100)])
    with_lines = replace(short, skipped=(SkippedChunk("part-5", "damaged", 100),), sources=add_sources([short.sources, lost]))
    check_accounts(plan.chunks, with_lines)
    with pytest.raises(DataError, match="the counts disagree"):
        check_accounts(plan.chunks, replace(cp, rows=replace(cp.rows, missing={})))


def _identity(path: Path) -> tuple[int, str]:
    return path.stat().st_size, str(path.stat().st_mtime)


def test_a_chunk_with_another_number_of_rows_is_refused() -> None:
    complete = np.ones(5, dtype=bool)
    for origins in ([Origin("a", rows=4)], [Origin("a", rows=4), Origin("b", rows=2)], [Origin("a", rows=4), Origin("b")]):
        with pytest.raises(DataError, match=r"5 rows were read of chunk 3, expected [46]: did it change"):
            count_sources(origins, complete, {}, "chunk 3")


def test_a_hundred_thousand_files_are_small_and_quick() -> None:
    origins = [Origin(f"s3://bucket/year=2024/day={i // 300}/part-{i:06}.parquet", 10**6 + i, f"etag-{i:032}", 1) for i in range(100_000)]
    parts = [count_sources(origins[i : i + 10_000], np.ones(10_000, dtype=bool), {}, "all") for i in range(0, 100_000, 10_000)]
    total = add_sources([*parts, parts[3]])
    assert (len(total), int(total.read.sum()), int(total.read[30_000])) == (100_000, 110_000, 2)
    assert total.urls[99_999] == origins[99_999].url
    assert total.nbytes < 25e6


# Sums and differences -------------------------------------------------------------------------------------------------


def test_sums_and_differences(files: list[Path]) -> None:
    days = [bigmm.reduce(FORMULA, path, client=0) for path in files]
    week, direct = bigmm.merge(days), bigmm.reduce(FORMULA, files, client=0)
    assert list(week.sources) == list(direct.sources)
    assert_adds_up(week)
    left = week - days[2]
    assert list(left.sources) == [line for line in direct.sources if line.url != str(files[2])]
    assert_adds_up(left)
    others = bigmm.reduce(FORMULA, [*files[:2], *files[3:]], client=0)
    assert left.rows == others.rows
    assert list((left + days[2]).sources) == [*left.sources, *days[2].sources]


def test_a_file_in_both_is_refused(files: list[Path]) -> None:
    one, two = bigmm.reduce(FORMULA, files[:3], client=0), bigmm.reduce(FORMULA, files[2:], client=0)
    with pytest.raises(LabelError, match=r"part-2\.parquet' is in several of the crossproducts, and rows would count twice: leave one out"):
        one + two
    with pytest.raises(LabelError, match=r"part-2\.parquet', '.*part-4\.parquet' and 1 more files are in several"):
        bigmm.merge([two, bigmm.reduce(FORMULA, files[0], client=0), two])
    both = bigmm.merge([one, two], allow_overlap=True)
    assert (both.rows.read, [line.rows.read for line in both.sources]) == (700, [100, 100, 200, 100, 100, 100])
    assert_adds_up(both)


def test_a_file_that_changed_is_in_both(files: list[Path]) -> None:
    one = bigmm.reduce(FORMULA, files[0], client=0)
    FRAME[:120].to_parquet(files[0], index=False)
    two = bigmm.reduce(FORMULA, files[0], client=0)
    with pytest.raises(LabelError, match="count twice"):
        one + two
    assert len(bigmm.merge([one, two], allow_overlap=True).sources) == 2


def test_nothing_to_merge() -> None:
    with pytest.raises(LabelError, match="nothing to merge"):
        bigmm.merge([])


def test_files_that_were_not_added_are_not_subtracted(files: list[Path], tmp_path: Path) -> None:
    whole = bigmm.reduce(FORMULA, files[:4], client=0)
    for other in (bigmm.reduce(FORMULA, files[5], client=0), bigmm.reduce(FORMULA, files[3:5], client=0)):
        with pytest.raises(LabelError, match=r"cannot subtract: '.*part-[54]\.parquet' not among the files of the first"):
            whole - other
    copied = write(FRAME, tmp_path / "copied")[3]
    elsewhere = bigmm.reduce(FORMULA, copied, client=0)
    with pytest.raises(LabelError, match="not among the files of the first"):
        whole - elsewhere
    left = bigmm.subtract(whole, elsewhere, allow_unknown=True)
    assert_adds_up(left)
    assert [line.rows.read for line in left.sources] == [100, 100, 100, 100, -100]
    with pytest.raises(LabelError, match="not among"):
        bigmm.subtract(whole - bigmm.reduce(FORMULA, files[0], client=0), bigmm.reduce(FORMULA, files[0], client=0))


def test_rows_of_a_table_are_retracted_from_files(files: list[Path]) -> None:
    whole = bigmm.reduce(FORMULA, files, client=0)
    left = whole - bigmm.reduce(FORMULA, FRAME[FRAME["g"] == "p"], client=0)
    assert_adds_up(left)
    assert list(left.sources)[-1].rows.read == -int((FRAME["g"] == "p").sum())
    assert "p" not in left.groups[0].levels
    direct = bigmm.reduce(FORMULA, FRAME[FRAME["g"] != "p"], client=0)
    assert left.fit().objective == pytest.approx(direct.fit().objective, rel=1e-9)


# Appending ------------------------------------------------------------------------------------------------------------


def test_append(files: list[Path]) -> None:
    first = bigmm.reduce(FORMULA, files[:4], client=0)
    whole = bigmm.reduce(FORMULA, files[0].parent, into=first, client=0)
    assert list(whole.sources) == [expected_line(path) for path in files]
    assert_adds_up(whole)
    assert whole.design.y_shift == first.design.y_shift
    assert whole.fit().objective == pytest.approx(bigmm.reduce(FORMULA, files, client=0).fit().objective, rel=1e-9)
    assert bigmm.reduce(FORMULA, str(files[0].parent / "*.parquet"), into=whole) is whole
    assert whole.plan_digest not in ("", first.plan_digest)


def test_append_is_checked(files: list[Path]) -> None:
    first = bigmm.reduce(FORMULA, files[:2], client=0)
    with pytest.raises(LabelError, match="different formulas"):
        bigmm.reduce("y ~ x + (1 | g)", files, into=first, client=0)
    with pytest.raises(LabelError, match="different weights"):
        bigmm.reduce(FORMULA, files, weights="w", into=first, client=0)
    with pytest.raises(DataError, match=r"into= needs files, .* found DataFrame"):
        bigmm.reduce(FORMULA, FRAME, into=first, client=0)
    FRAME.assign(h=FRAME["h"].astype(str), x="text").to_parquet(files[4], index=False)
    with pytest.raises(bigmm.BigmmError):
        bigmm.reduce(FORMULA, files[4], into=first, client=0)
    os.utime(files[1], (0, 0))
    with pytest.raises(DataError, match=r"part-1\.parquet' changed after it was added"):
        bigmm.reduce(FORMULA, files[:3], into=first, client=0)


def test_what_was_skipped_is_read_again(files: list[Path]) -> None:
    origin = Origin(str(files[2]), *_identity(files[2]), 100)
    damaged = replace(
        (part := bigmm.reduce(FORMULA, files[:2], client=0)),
        skipped=(SkippedChunk("part-2.parquet", "damaged", 100, (origin.url,)), SkippedChunk("elsewhere", "damaged", 3, ("elsewhere",))),
        sources=add_sources([part.sources, skipped_sources([origin])]),
    )
    assert [line.skipped for line in damaged.sources] == [0, 0, 100]
    healed = bigmm.reduce(FORMULA, files[:3], into=damaged, client=0)
    assert list(healed.sources) == [expected_line(path) for path in files[:3]]
    assert [chunk.name for chunk in healed.skipped] == ["elsewhere"]
    assert (damaged + bigmm.reduce(FORMULA, files[3], client=0)).skipped == damaged.skipped


def test_a_file_of_unknown_length_that_was_skipped_is_read_again(tmp_path: Path) -> None:
    """How many rows a CSV file has is not known before it is read."""
    for part in range(2):
        FRAME[part * 50 : part * 50 + 50].to_csv(tmp_path / f"{part}.csv", index=False)
    sound = (tmp_path / "1.csv").read_bytes()
    status = (tmp_path / "1.csv").stat()
    (tmp_path / "1.csv").write_bytes(b"\xff" * len(sound))
    os.utime(tmp_path / "1.csv", ns=(status.st_atime_ns, status.st_mtime_ns))
    first = bigmm.reduce(FORMULA, tmp_path / "0.csv", client=0)
    origin = Origin(str(tmp_path / "1.csv"), *_identity(tmp_path / "1.csv"))
    skipped = SkippedChunk("1.csv", "storage failed", None, (origin.url,))
    first = replace(first, sources=add_sources([first.sources, skipped_sources([origin])]), skipped=(skipped,))
    (tmp_path / "1.csv").write_bytes(sound)
    os.utime(tmp_path / "1.csv", ns=(status.st_atime_ns, status.st_mtime_ns))
    whole = bigmm.reduce(FORMULA, tmp_path, into=first, client=0)
    assert (whole.rows.read, whole.skipped) == (100, ())
    assert [line.rows.read for line in whole.sources] == [50, 50]


def test_what_was_skipped_in_part_is_told(files: list[Path], caplog: pytest.LogCaptureFixture) -> None:
    first = bigmm.reduce(FORMULA, files[:2], client=0)
    first = replace(first, skipped=(SkippedChunk("row group 1", "storage failed", 10, (str(files[1]),)),))
    assert bigmm.reduce(FORMULA, files[:2], into=first, client=0) is first
    assert "part-1.parquet' was skipped when it was added, and is not read now" in caplog.text


def test_new_files_without_a_usable_row_are_added(files: list[Path]) -> None:
    """Every night's job must not fail until a row comes."""
    first = bigmm.reduce(FORMULA, files[:2], client=0)
    pq.write_table(pq.read_table(files[2]).slice(0, 0), files[2])
    second = bigmm.reduce(FORMULA, files[:3], into=first, client=0)
    assert (len(second.sources), second.rows) == (3, first.rows)
    assert bigmm.reduce(FORMULA, files[:3], into=second, client=0) is second
    incomplete = pq.read_table(files[3])
    y = incomplete.column_names.index("y")
    pq.write_table(incomplete.set_column(y, "y", pa.nulls(len(incomplete), pa.float64())), files[3])
    third = bigmm.reduce(FORMULA, files[:4], into=second, client=0)
    assert (third.rows.used, third.rows.read) == (first.rows.used, first.rows.read + len(incomplete))
    assert third.fit().objective == first.fit().objective
    (files[0].parent.parent / "new.csv").write_text(",".join(FRAME.columns) + "\n")
    fourth = bigmm.reduce(FORMULA, files[0].parent.parent / "new.csv", into=third, client=0)
    assert (len(fourth.sources), fourth.rows) == (5, third.rows)
    with pytest.raises(DataError, match="no rows in 1 Parquet file"):
        bigmm.reduce(FORMULA, files[2], client=0)


# Disk -----------------------------------------------------------------------------------------------------------------


def test_round_trip(files: list[Path], tmp_path: Path) -> None:
    cp = replace(bigmm.reduce(FORMULA, files, client=0), skipped=(SkippedChunk("part, row group 3", "why", 12, ("part",)),))
    cp.save(tmp_path / "cp")
    loaded = bigmm.load(tmp_path / "cp")
    assert isinstance(loaded, bigmm.CrossProducts)
    assert list(loaded.sources) == list(cp.sources)
    assert (loaded.skipped, loaded.plan_digest) == (cp.skipped, cp.plan_digest)
    with pytest.raises(LabelError, match="count twice"):
        loaded + cp
    assert list((loaded - bigmm.reduce(FORMULA, files[1], client=0)).sources) == [line for line in cp.sources if line.url != str(files[1])]
    assert bigmm.reduce(FORMULA, files, into=loaded) is loaded


def test_no_sources_at_all(tmp_path: Path) -> None:
    cp = replace(bigmm.reduce(FORMULA, FRAME, client=0), sources=Sources())
    cp.save(tmp_path / "cp")
    loaded = bigmm.load(tmp_path / "cp")
    assert isinstance(loaded, bigmm.CrossProducts)
    assert len(loaded.sources) == 0
    assert len((loaded + cp).sources) == 0
    assert (loaded - loaded).nobs == 0


def test_nothing_is_left_to_fit(files: list[Path]) -> None:
    cp = bigmm.reduce(FORMULA, files[0], client=0)
    with pytest.raises(bigmm.ModelError, match="the crossproducts hold no row, and a model needs some: were all of them subtracted"):
        (cp - cp).fit()
