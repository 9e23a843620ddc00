"""Passes that are killed and go on: the same bits, at most one window of batches done again, no other pass's work taken."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import bigmm
from bigmm.crossproducts import CrossProducts
from bigmm.errors import StorageError
from bigmm.reduction import segments, slicing
from bigmm.reduction.progress import Progress
from bigmm.reduction.work import BATCH

pl = pytest.importorskip("polars")

FORMULA = "y ~ x + (x | g) + (1 | h)"
CHUNKS = 100


def bits(cp: CrossProducts) -> Any:
    arrays = [
        cp.XytXy,
        *(a for g in cp.groups for a in (g.rows, g.ZtZ, g.ZtXy)),
        *(a for p in cp.pairs.values() for a in (p.g_refs, p.ZtZ)),
    ]
    return [cp.columns, cp.rows, *(group.levels.tolist() for group in cp.groups), *(array.tobytes() for array in arrays)]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parquet")
    rng = np.random.default_rng(1)
    for number in range(CHUNKS):
        part = pd.DataFrame({"g": rng.integers(0, 50, 40), "h": rng.choice(list("abc"), 40), "x": rng.normal(size=40)})
        part.assign(y=part["x"] + rng.normal(size=40)).to_parquet(folder / f"{number}.parquet", index=False)
    return folder


@pytest.fixture(autouse=True)
def several_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slicing, "SLICE_ROWS", 1500)


@pytest.fixture(scope="module")
def expected(files: Path) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slicing, "SLICE_ROWS", 1500)
        return bits(bigmm.reduce(FORMULA, files))


class StopError(Exception):
    """What stops a pass in this process."""


def stopped_after(files: Path, folder: Path, batches: int, formula: str = FORMULA, **options: Any) -> None:
    """Run a pass that ends after some batches."""

    def stop(progress: Progress) -> None:
        if (folder / "checkpoint.json").exists() and _batches(folder) >= batches:
            raise StopError

    with pytest.raises(StopError):
        bigmm.reduce(formula, files, checkpoint=folder, progress=stop, **options)


def _batches(folder: Path) -> int:
    stop: int = json.loads((folder / "checkpoint.json").read_text())["segments"][-1]["stop"]
    return stop


def test_a_checkpoint_changes_nothing(files: Path, expected: Any, tmp_path: Path) -> None:
    assert bits(bigmm.reduce(FORMULA, files, checkpoint=tmp_path / "ck")) == expected


@pytest.mark.parametrize("batches", [1, 3, 6])
def test_goes_on_where_it_was(files: Path, expected: Any, tmp_path: Path, batches: int) -> None:
    stopped_after(files, tmp_path / "ck", batches)
    seen: list[Progress] = []
    assert bits(bigmm.reduce(FORMULA, files, checkpoint=tmp_path / "ck", progress=seen.append)) == expected
    assert seen[0].done >= batches * BATCH
    assert seen[-1].done == CHUNKS
    assert seen[-1].rows == CHUNKS * 40


@pytest.mark.parametrize("batches", [6, 7, 9, 15, 22])
def test_goes_on_among_segments_of_the_same_levels(files: Path, tmp_path: Path, batches: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "FAN_IN", 7)
    uninterrupted = bits(bigmm.reduce(FORMULA, files, checkpoint=tmp_path / "whole"))
    assert json.loads((tmp_path / "whole/checkpoint.json").read_text())["segments"][-1]["same_levels"]
    stopped_after(files, tmp_path / "ck", batches)
    assert bits(bigmm.reduce(FORMULA, files, checkpoint=tmp_path / "ck")) == uninterrupted


def test_a_finished_one_reads_nothing(files: Path, expected: Any, tmp_path: Path) -> None:
    bigmm.reduce(FORMULA, files, checkpoint=tmp_path / "ck")
    seen: list[Progress] = []
    assert bits(bigmm.reduce(FORMULA, files, checkpoint=tmp_path / "ck", progress=seen.append)) == expected
    assert [report.done for report in seen] == [CHUNKS]


def test_holds_few_segments(files: Path, tmp_path: Path) -> None:
    bigmm.reduce(FORMULA, files, checkpoint=tmp_path / "ck")
    index = json.loads((tmp_path / "ck/checkpoint.json").read_text())
    named = {name for segment in index["segments"] for name in segment["slices"]}
    assert {path.name for path in (tmp_path / "ck").iterdir()} == named | {"checkpoint.json", "lock"}


def test_what_the_index_does_not_name_is_not_used(files: Path, expected: Any, tmp_path: Path) -> None:
    """A pass for another formula was killed after it had written its first segment and before its index."""
    bigmm.reduce("y ~ 1 + (x | g) + (1 | h)", files, checkpoint=tmp_path / "ck")
    index = json.loads((tmp_path / "ck/checkpoint.json").read_text())
    for number, name in enumerate(index["segments"][0]["slices"]):
        (tmp_path / "ck" / name).rename(tmp_path / "ck" / f"000000-000001.{number}")
    (tmp_path / "ck/checkpoint.json").unlink()
    assert bits(bigmm.reduce(FORMULA, files, checkpoint=tmp_path / "ck")) == expected


SCRIPT = """
import sys
from bigmm.reduction import segments, slicing
slicing.SLICE_ROWS = 1500
import bigmm
print("started", flush=True)
bigmm.reduce(sys.argv[1], sys.argv[2], checkpoint=sys.argv[3], client=int(sys.argv[4]))
print("done", flush=True)
"""


def kill_at_random(files: Path, folder: Path, workers: int, seconds: float) -> bool:
    """Start a driver and kill it; whether it ended before."""
    command = [sys.executable, "-c", SCRIPT, FORMULA, str(files), str(folder), str(workers)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        return process.wait() == 0


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.cluster)])
def test_driver_killed_at_random_moments(files: Path, expected: Any, tmp_path: Path, workers: int) -> None:
    """Fewer kills than in the long form below, for every run of the tests."""
    _kill_and_resume(files, expected, tmp_path / "ck", workers, kills=4)


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(1200)
def test_driver_killed_twenty_times(files: Path, expected: Any, tmp_path: Path) -> None:
    _kill_and_resume(files, expected, tmp_path / "ck", workers=2, kills=20)


def _kill_and_resume(files: Path, expected: Any, folder: Path, workers: int, kills: int) -> None:
    moments = random.Random(kills)
    longest = 1.0 if workers == 0 else 4.0
    finished = 0
    for _ in range(kills):
        done = kill_at_random(files, folder, workers, moments.uniform(0.1, longest))
        if folder.exists():  # whatever a kill has left leads to the same bits
            copy = shutil.copytree(folder, folder.with_name("copy"))
            assert bits(bigmm.reduce(FORMULA, files, checkpoint=copy)) == expected
            shutil.rmtree(copy)
        if done:
            finished += 1
            shutil.rmtree(folder)
    assert finished < kills
    assert bits(bigmm.reduce(FORMULA, files, checkpoint=folder)) == expected


class TestRefusals:
    @pytest.fixture
    def folder(self, files: Path, tmp_path: Path) -> Path:
        stopped_after(files, tmp_path / "ck", 1)
        return tmp_path / "ck"

    def test_without_resume(self, files: Path, folder: Path) -> None:
        with pytest.raises(StorageError, match=r"ck' holds a checkpoint: resume from it \(resume=True, --resume\), remove it"):
            bigmm.reduce(FORMULA, files, checkpoint=folder, resume=False)

    def test_other_formula(self, files: Path, folder: Path) -> None:
        with pytest.raises(
            StorageError, match=r"was made for other formula \('y ~ x \+ \(x \| g\) \+ \(1 \| h\)'; now 'y ~ 1 \+ \(1\|g\)'\)"
        ):
            bigmm.reduce("y ~ 1 + (1|g)", files, checkpoint=folder)

    def test_other_files(self, files: Path, folder: Path) -> None:
        with pytest.raises(
            StorageError,
            match=r"made for other data, for data that have changed, or for another bigmm.chunk-bytes: run",
        ):
            bigmm.reduce(FORMULA, sorted(map(str, files.iterdir()))[:-1], checkpoint=folder)

    def test_changed_file(self, files: Path, folder: Path, tmp_path: Path) -> None:
        copy = shutil.copytree(files, tmp_path / "copy")
        stopped_after(copy, tmp_path / "other", 1)
        os.utime(copy / "99.parquet", (0, 0))
        with pytest.raises(StorageError, match="data that have changed"):
            bigmm.reduce(FORMULA, copy, checkpoint=tmp_path / "other")

    @pytest.mark.parametrize("change", [{"y": 1.0}, {"g": 7}, {"x": None}, {"h": "c"}], ids=str)
    @pytest.mark.parametrize("kind", [pd.DataFrame, pa.Table.from_pandas, pl.from_pandas], ids=["pandas", "arrow", "polars"])
    def test_other_rows_of_a_table(self, kind: Any, change: dict[str, Any], files: Path, tmp_path: Path) -> None:
        """A table has no name and no time: its rows tell which one it is."""
        rows = pd.read_parquet(files)[:200]
        changed = rows.copy()
        changed.loc[17, list(change)] = list(change.values())
        digest = bigmm.reduce(FORMULA, kind(rows), checkpoint=tmp_path).digest
        assert bigmm.reduce(FORMULA, kind(rows.copy()), checkpoint=tmp_path).digest == digest
        with pytest.raises(StorageError, match="data that have changed"):
            bigmm.reduce(FORMULA, kind(changed), checkpoint=tmp_path)

    def test_other_arguments(self, files: Path, folder: Path) -> None:
        with pytest.raises(StorageError, match=r"was made for other offset \(None; now 'x'\)"):
            bigmm.reduce(FORMULA, files, checkpoint=folder, offset="x")

    def test_weights_that_the_formula_does_not_name(self, files: Path, tmp_path: Path) -> None:
        stopped_after(files, tmp_path / "other", 1, formula="y ~ 1 + (1 | g)")
        with pytest.raises(StorageError, match=r"was made for other weights \(None; now 'x'\)"):
            bigmm.reduce("y ~ 1 + (1 | g)", files, checkpoint=tmp_path / "other", weights="x")

    def test_something_else(self, files: Path, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("mine")
        with pytest.raises(StorageError, match="exists and is no checkpoint: choose another place"):
            bigmm.reduce(FORMULA, files, checkpoint=tmp_path)

    @pytest.mark.parametrize("change", ["slice", "cut", "dictionary", "view"])
    def test_a_table_that_is_held_otherwise(self, change: str, tmp_path: Path) -> None:
        """The same rows in other chunks, in a slice of more, with their categories in another order, or with something under nulls."""
        rng = np.random.default_rng(1)
        rows = pd.DataFrame({"g": [f"g{number % 7}" for number in range(90)], "h": list("abc") * 30, "x": rng.normal(size=90)})
        rows["y"] = rows["x"] + rng.normal(size=90)
        rows.loc[40, ["g", "x"]] = None
        schema = pa.schema(
            {"g": pa.string_view() if change == "view" else pa.string(), "h": pa.string(), "x": pa.float64(), "y": pa.float64()}
        )
        whole = pa.Table.from_pandas(rows, schema=schema, preserve_index=False)
        one = whole.slice(30, 41)
        if change == "dictionary":
            one, other = (
                one.set_column(0, "g", pa.chunked_array([pa.DictionaryArray.from_arrays(codes, words)]))
                for codes, words in (
                    (pa.array([n % 2 for n in range(41)]), ["p", "q"]),
                    (pa.array([2 - n % 2 for n in range(41)]), ["r", "q", "p"]),
                )
            )
        elif change == "cut":
            other = pa.concat_tables([one.slice(0, 9), one.slice(9)])
        else:
            other = pa.Table.from_pandas(rows.iloc[30:71], schema=schema, preserve_index=False)
        digest = bigmm.reduce(FORMULA, one, checkpoint=tmp_path).digest
        assert bigmm.reduce(FORMULA, other, checkpoint=tmp_path).digest == digest
        with pytest.raises(StorageError, match="data that have changed"):
            bigmm.reduce(FORMULA, whole.slice(31, 41), checkpoint=tmp_path)

    @pytest.mark.parametrize("name", ["2024-01.15", "1-2.3-release", ".1-2.3", "000000-000001.0"])
    @pytest.mark.parametrize("locked", [False, True])
    def test_folders_of_others(self, name: str, locked: bool, files: Path, tmp_path: Path) -> None:
        """Only where a pass was killed early, which leaves its lock, is what looks like a segment one."""
        (tmp_path / "mine" / name).mkdir(parents=True)
        if locked:
            (tmp_path / "mine" / "lock").touch()
        if locked and name.startswith(("0", ".")):
            bigmm.reduce(FORMULA, files, checkpoint=tmp_path / "mine")
        else:
            with pytest.raises(StorageError, match="exists and is no checkpoint"):
                bigmm.reduce(FORMULA, files, checkpoint=tmp_path / "mine")
        assert (tmp_path / "mine" / name).exists() or name.startswith("0")

    def test_a_lock_of_others_keeps_what_is_in_it(self, files: Path, tmp_path: Path) -> None:
        (tmp_path / "checkpoint.json").write_text("{}")
        (tmp_path / "lock").write_text("mine")
        with pytest.raises(StorageError, match="cannot be read"):
            bigmm.reduce(FORMULA, files, checkpoint=tmp_path)
        assert (tmp_path / "lock").read_text() == "mine"

    def test_null_byte(self, files: Path) -> None:
        with pytest.raises(StorageError, match="with a null byte in it"):
            bigmm.reduce(FORMULA, files, checkpoint="a\0b")

    @pytest.mark.parametrize(
        "text", ["", "[]", "{}", "null", '{"format": 2, "identity": {"data": ""}, "segments": [{"slices": ["../x"]}]}']
    )
    def test_damaged_index_at_a_url(self, text: str, files: Path) -> None:
        url = f"memory://{uuid.uuid4()}/ck"
        store = fsspec.filesystem("memory")
        store.pipe_file(f"{url}/lock", b"")
        store.pipe_file(f"{url}/checkpoint.json", text.encode())
        with pytest.raises(StorageError, match=rf"the checkpoint '{url}' cannot be read \(.*\): remove it and start again"):
            bigmm.reduce(FORMULA, files, checkpoint=url)

    def test_a_file_named_lock_makes_no_checkpoint(self, files: Path, tmp_path: Path) -> None:
        (tmp_path / "mine" / "work").mkdir(parents=True)
        (tmp_path / "mine" / "lock").touch()
        with pytest.raises(StorageError, match="exists and is no checkpoint"):
            bigmm.reduce(FORMULA, files, checkpoint=tmp_path / "mine")

    def test_what_else_lies_there_stays(self, files: Path, folder: Path) -> None:
        bigmm.reduce(FORMULA, files, checkpoint=folder).save(folder / "result.cp")
        bigmm.reduce(FORMULA, files, checkpoint=folder)
        assert bigmm.load(folder / "result.cp").digest == bigmm.reduce(FORMULA, files).digest

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("stop", "1"),
            ("start", None),
            ("same_levels", 1),
            ("slices", []),
            ("slices", ["../lock"]),
            ("slices", ["000000-000001.0-/../lock"]),
        ],
        ids=repr,
    )
    def test_damaged_record(self, name: str, value: Any, files: Path, folder: Path) -> None:
        index = json.loads((folder / "checkpoint.json").read_text())
        index["segments"][0][name] = value
        (folder / "checkpoint.json").write_text(json.dumps(index))
        with pytest.raises(StorageError, match=r"cannot be read \(.*\): remove it and start again"):
            bigmm.reduce(FORMULA, files, checkpoint=folder)

    def test_another_format(self, files: Path, folder: Path) -> None:
        index = json.loads((folder / "checkpoint.json").read_text())
        older = [{name: part for name, part in record.items() if name != "same_levels"} for record in index["segments"]]
        (folder / "checkpoint.json").write_text(json.dumps({**index, "format": 1, "segments": older}))
        with pytest.raises(StorageError, match="has format 1: expected 3; choose another place"):
            bigmm.reduce(FORMULA, files, checkpoint=folder)

    def test_damaged_index(self, files: Path, folder: Path) -> None:
        (folder / "checkpoint.json").write_text("{")
        with pytest.raises(StorageError, match=r"cannot be read \(.*\): remove it and start again"):
            bigmm.reduce(FORMULA, files, checkpoint=folder)

    def test_damaged_segment(self, files: Path, folder: Path) -> None:
        arrays = next(folder.glob("*/arrays.npz"))
        arrays.write_bytes(arrays.read_bytes()[:-100])
        with pytest.raises(StorageError, match=r"the checkpoint .* is damaged \(.* is damaged\): remove it and start again"):
            bigmm.reduce(FORMULA, files, checkpoint=folder)

    def test_place_that_cannot_be_written(self, files: Path, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(StorageError, match=r"cannot write the checkpoint '.*file/ck' \(Not a directory\)"):
            bigmm.reduce(FORMULA, files, checkpoint=tmp_path / "file" / "ck")

    def test_two_processes_at_once(self, files: Path, tmp_path: Path) -> None:
        script = (
            "import sys, time; from bigmm.reduction.checkpoint import open_checkpoint\n"
            "import bigmm, bigmm.reduction.checkpoint as c\n"
            "lock = open(sys.argv[1] + '/lock', 'w'); c._take(lock, sys.argv[1]); print('held', flush=True); time.sleep(60)"
        )
        (tmp_path / "ck").mkdir()
        with subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "ck")], stdout=subprocess.PIPE, text=True) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == "held\n"
            with pytest.raises(StorageError, match="another process uses the checkpoint"):
                bigmm.reduce(FORMULA, files, checkpoint=tmp_path / "ck")
            other.kill()
        started = time.monotonic()
        assert bigmm.reduce(FORMULA, files, checkpoint=tmp_path / "ck").rows.read == CHUNKS * 40  # the lock went with its process
        assert time.monotonic() - started < 60
