"""What can go wrong during a pass: damaged chunks, workers that die once, again and again, or for good."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from distributed import Client

import bigmm
from bigmm.errors import ClusterError, DataError, UnreadableError
from bigmm.reduction import workers
from bigmm.reduction.cluster import local_cluster
from bigmm.reduction.progress import Progress
from bigmm.reduction.work import BATCH

FORMULA = "y ~ x + (x | g) + (1 | h)"
FILES, GROUP_ROWS, GROUPS = 60, 50, 4


def write(folder: Path, files: int = FILES) -> Path:
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(1)
    for number in range(files):
        n = GROUPS * GROUP_ROWS
        part = pd.DataFrame({"g": rng.integers(0, 500, n), "h": rng.choice(list("abc"), n), "x": rng.normal(size=n)})
        part["y"] = part["x"] + rng.normal(size=n)
        table = pa.Table.from_pandas(part, preserve_index=False)
        pq.write_table(table, folder / f"{number}.parquet", row_group_size=GROUP_ROWS, compression="snappy", use_dictionary=False)
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("parquet"))


def damage(path: Path, group: int) -> None:
    column = pq.ParquetFile(path).metadata.row_group(group).column(3)
    content = bytearray(path.read_bytes())
    content[column.data_page_offset : column.data_page_offset + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(content)


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    folder = write(tmp_path / "damaged", files=20)
    damage(folder / "7.parquet", 2)
    return folder


class TestUnreadable:
    WHERE = r"7\.parquet', row group(s 0-3| 2): "

    @pytest.mark.parametrize("where", ["threads", pytest.param("workers", marks=pytest.mark.cluster)])
    def test_stops_the_pass(self, damaged: Path, where: str, request: pytest.FixtureRequest) -> None:
        client: Any = 0 if where == "threads" else request.getfixturevalue("client")
        with pytest.raises(UnreadableError, match=rf"^cannot read '.*{self.WHERE}.*; the file may be damaged"):
            bigmm.reduce(FORMULA, damaged, client=client)

    @pytest.mark.parametrize("where", ["threads", pytest.param("workers", marks=pytest.mark.cluster)])
    def test_is_skipped_and_said(self, damaged: Path, where: str, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> None:
        client: Any = 0 if where == "threads" else request.getfixturevalue("client")
        cp = bigmm.reduce(FORMULA, damaged, client=client, on_error="skip")
        (skipped,) = cp.skipped
        assert skipped.name == "7.parquet, row groups 0-3"
        assert skipped.rows == GROUPS * GROUP_ROWS
        assert cp.rows.read == 19 * GROUPS * GROUP_ROWS
        line = next(line for line in cp.sources if line.url.endswith("/7.parquet"))
        assert (line.rows.read, line.skipped) == (0, GROUPS * GROUP_ROWS)
        assert "skipped 7.parquet, row groups 0-3: cannot read" in caplog.text
        others = [str(path) for path in damaged.iterdir() if path.name != "7.parquet"]
        assert cp.nobs == bigmm.reduce(FORMULA, others, client=0).nobs

    @staticmethod
    def partitions(number: int, error: type[Exception] = ZeroDivisionError) -> Any:
        """A Dask frame of 20 partitions; the function that makes one of them raises."""

        def part(i: int) -> pd.DataFrame:
            if i == number:
                raise error("no such day")
            rng = np.random.default_rng(i)
            return pd.DataFrame(
                {"y": rng.normal(size=50), "x": rng.normal(size=50), "g": rng.integers(0, 9, 50), "h": rng.choice(["a", "b"], 50)}
            )

        meta = pd.DataFrame({"y": [0.0], "x": [0.0], "g": [0], "h": pd.Series(["a"], dtype="str")}).iloc[:0]
        return dd.from_map(part, range(20), meta=meta)

    @pytest.mark.parametrize("where", ["threads", pytest.param("workers", marks=pytest.mark.cluster)])
    @pytest.mark.parametrize("number", [0, 11])
    def test_a_partition_whose_function_raises(self, number: int, where: str, request: pytest.FixtureRequest) -> None:
        client: Any = 0 if where == "threads" else request.getfixturevalue("client")
        said = rf"^cannot compute partition {number} of the Dask frame: ZeroDivisionError: no such day; see the function"
        with pytest.raises(UnreadableError, match=said):
            bigmm.reduce(FORMULA, self.partitions(number), client=client)

    @pytest.mark.cluster
    @pytest.mark.parametrize("number", [0, 11])
    def test_a_partition_is_skipped_and_said(self, number: int, client: Client) -> None:
        there, here = (bigmm.reduce(FORMULA, self.partitions(number), client=where, on_error="skip") for where in (client, 0))
        (skipped,) = there.skipped
        assert skipped.name == f"partition {number}"
        assert skipped.reason.startswith(f"cannot compute partition {number} of the Dask frame: ZeroDivisionError: no such day")
        assert there.rows.read == 19 * 50
        assert (there.digest, there.skipped) == (here.digest, here.skipped)

    @pytest.mark.cluster
    def test_a_partition_that_fails_once(self, tmp_path: Path, client: Client) -> None:
        def part(i: int) -> pd.DataFrame:
            seen = tmp_path / str(i)
            if i == 5 and not seen.exists():
                seen.touch()
                raise OSError("the storage is busy")
            return pd.DataFrame({"y": np.random.default_rng(i).normal(size=50), "g": np.arange(50) % 9})

        frame = dd.from_map(part, range(20), meta=pd.DataFrame({"y": [0.0], "g": [0]}).iloc[:0])
        assert bigmm.reduce("y ~ 1 + (1 | g)", frame, client=client).rows.read == 20 * 50

    @pytest.mark.cluster
    def test_a_partition_that_fails_in_one_pass_is_computed_in_the_next(self, tmp_path: Path, client: Client) -> None:
        def part(i: int) -> pd.DataFrame:
            if i == 5 and not (tmp_path / "mounted").exists():
                raise OSError("the storage is not there")
            return pd.DataFrame({"y": np.random.default_rng(i).normal(size=50), "g": np.arange(50) % 9})

        frame = dd.from_map(part, range(20), meta=pd.DataFrame({"y": [0.0], "g": [0]}).iloc[:0])
        with pytest.raises(UnreadableError, match="the storage is not there"):
            bigmm.reduce("y ~ 1 + (1 | g)", frame, client=client)
        (tmp_path / "mounted").touch()
        assert bigmm.reduce("y ~ 1 + (1 | g)", frame, client=client).rows.read == 20 * 50

    @pytest.mark.cluster
    def test_a_damaged_file_of_a_dask_frame(self, damaged: Path, client: Client) -> None:
        with pytest.raises(UnreadableError, match=r"^cannot compute partition \d+ of the Dask frame: "):
            bigmm.reduce(FORMULA, dd.read_parquet(damaged), client=client)

    def test_the_first_chunk_too(self, tmp_path: Path) -> None:
        folder = write(tmp_path / "damaged", files=3)
        damage(folder / "0.parquet", 0)
        assert bigmm.reduce(FORMULA, folder, on_error="skip").rows.read == 2 * GROUPS * GROUP_ROWS

    def test_nothing_is_left(self, tmp_path: Path) -> None:
        folder = write(tmp_path / "damaged", files=1)
        damage(folder / "0.parquet", 0)
        with pytest.raises(DataError, match="the data have no rows"):
            bigmm.reduce(FORMULA, folder, on_error="skip")

    def test_bad_values_are_no_damage(self, tmp_path: Path) -> None:
        frame = pd.DataFrame({"g": [1, 2, 1, 2], "y": [1.0, np.inf, 2.0, 3.0]})
        frame.to_parquet(tmp_path / "a.parquet", index=False)
        with pytest.raises(DataError, match="1 infinite values of 'y'"):
            bigmm.reduce("y ~ 1 + (1|g)", tmp_path, on_error="skip")

    def test_unknown_choice(self, files: Path) -> None:
        with pytest.raises(DataError, match="on_error='ignore': expected 'raise' or 'skip'"):
            bigmm.reduce(FORMULA, files, on_error="ignore")  # type: ignore[arg-type]


def _passes_under_fire(files: Path, kills: int) -> None:
    """In each pass one worker is killed, at a moment by chance; its nanny starts another."""
    expected = bigmm.reduce(FORMULA, files).digest
    moments = random.Random(kills)
    with local_cluster(2) as client:
        for _ in range(kills):
            left = [moments.randrange(FILES)]

            def kill(progress: Progress, left: list[int] = left) -> None:
                if left and progress.done >= left[0]:
                    left.clear()
                    moments.choice(_workers()).kill()

            assert bigmm.reduce(FORMULA, files, client=client, progress=kill).digest == expected
            assert not left


def _workers() -> list[psutil.Process]:
    """Worker processes of this one."""
    children = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
    return [child for child in children if any("spawn_main" in word for word in child.cmdline())]


@pytest.mark.cluster
def test_workers_killed_at_random_moments(files: Path) -> None:
    _passes_under_fire(files, kills=2)


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(1200)
def test_workers_killed_twenty_times(files: Path) -> None:
    _passes_under_fire(files, kills=20)


@pytest.mark.cluster
def test_all_workers_gone_with_a_result(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last worker dies when a batch is done and before its result has been fetched."""
    scheduler = _start(["-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"], tmp_path)
    worker = _start(["-m", "distributed.cli.dask_worker", "--no-nanny", "--nthreads", "1", "--no-dashboard"], tmp_path)
    watch, seen = workers.Workers._watch, []

    def killed_after(self: workers.Workers, future: Any) -> None:
        watch(self, future)
        if not seen:
            seen.append(future.status)
            worker.kill()
            worker.wait()

    monkeypatch.setattr(workers.Workers, "_watch", killed_after)
    monkeypatch.setattr(workers, "_FETCH", 1.0)
    patience = dask.config.set({"bigmm.timeouts.ask": "500 ms", "bigmm.timeouts.no-workers": "2 s"})
    try:
        with patience, pytest.raises(ClusterError, match=r"no worker has been there for 2 s|no worker is left|has had no worker"):
            bigmm.reduce(FORMULA, files, client=str(tmp_path / "scheduler.json"))
    finally:
        for process in (scheduler, worker):
            process.kill()
            process.wait()
    assert seen == ["finished"]


@pytest.mark.cluster
def test_all_workers_gone(files: Path, tmp_path: Path) -> None:
    """A worker without a nanny dies for good in the middle of a pass; what was done is kept."""
    scheduler = _start(["-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"], tmp_path)
    try:
        file = tmp_path / "scheduler.json"
        worker = _start(["-m", "distributed.cli.dask_worker", "--no-nanny", "--nthreads", "1", "--no-dashboard"], tmp_path)
        folder = tmp_path / "checkpoint"

        def kill(_: Any) -> None:
            if (folder / "checkpoint.json").exists():
                worker.kill()

        patience = dask.config.set({"bigmm.timeouts.ask": "500 ms", "bigmm.timeouts.no-workers": "2 s"})
        with patience, pytest.raises(ClusterError, match=r"no worker has been there for 2 s|no worker is left|has had no worker"):
            bigmm.reduce(FORMULA, files, client=str(file), checkpoint=folder, progress=kill)
    finally:
        for process in (scheduler, worker):
            process.kill()
            process.wait()
    seen: list[int] = []
    cp = bigmm.reduce(FORMULA, files, checkpoint=folder, progress=lambda progress: seen.append(progress.done))
    assert seen[0] >= BATCH
    assert cp.digest == bigmm.reduce(FORMULA, files).digest


def _start(command: list[str], folder: Path) -> subprocess.Popen[bytes]:
    """A scheduler or a worker, and its file there."""
    file = folder / "scheduler.json"
    more = ["--dashboard-address", "127.0.0.1:0"] if "distributed.cli.dask_scheduler" in command else []
    process = subprocess.Popen(
        [sys.executable, *command, *more, "--scheduler-file", str(file)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=folder,
    )
    deadline = time.monotonic() + 60
    while not (file.exists() and file.read_text().rstrip().endswith("}")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process
