"""Inside other people's clusters: their versions, workers that come late, adapt, differ, or have little memory."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dask.sizeof import sizeof
from dask.utils import key_split
from distributed import Client, LocalCluster

import bigmm
from bigmm.errors import ClusterError
from bigmm.reduction.progress import ChunkReport, Progress
from tests.foreign_cluster import NO_BIGMM, OTHER_BIGMM, Cluster

pytestmark = pytest.mark.cluster

FORMULA = "y ~ x + (1 | g)"
#: A bigmm that has not all that a task of today is made of.
OLDER_BIGMM = f"{OTHER_BIGMM}; import sys; sys.modules['bigmm.reduction.guarded'] = None"
OTHER_PYARROW = """
from importlib.metadata import version
from bigmm.reduction import versions
versions.version_of = lambda package: "1.0" if package == "pyarrow" else version(package)
"""
#: A new worker contributes within so many seconds of its start.
LATE = 30.0


def frame(n: int, seed: int = 0, groups: int = 50) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    return pd.DataFrame({"g": rng.integers(0, groups, n), "x": x, "y": x + rng.normal(size=n)})


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parquet")
    for number in range(40):
        pq.write_table(pa.Table.from_pandas(frame(50, number), preserve_index=False), folder / f"{number}.parquet")
    return folder


def wait(part: pd.DataFrame, until: str) -> pd.DataFrame:
    """Take a while, until a file is there."""
    time.sleep(0.3 if len(part) and not os.path.exists(until) else 0.0)
    return part


def slow_frame(chunks: int, until: Path) -> Any:
    plain = dd.from_pandas(frame(chunks * 10), npartitions=chunks, sort=False)
    return plain.map_partitions(by_value(wait), str(until), meta=plain._meta)


def by_value(function: Any) -> Any:
    """A function that travels as a whole: the workers do not find the tests."""
    import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    return function


def local(**options: Any) -> LocalCluster:
    return LocalCluster(threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=False, **options)


# versions


class TestVersions:
    def test_no_bigmm_on_a_worker(self, cluster: Cluster, files: Path) -> None:
        cluster.scheduler()
        cluster.worker(preload=NO_BIGMM)
        with pytest.raises(ClusterError, match=rf"^bigmm {bigmm.__version__} here, but none on tcp://127.*: install the same version"):
            bigmm.reduce(FORMULA, files, client=str(cluster.file))

    def test_no_bigmm_on_the_scheduler(self, cluster: Cluster, files: Path) -> None:
        cluster.scheduler(preload=NO_BIGMM)
        cluster.worker()
        with pytest.raises(ClusterError, match=r"^bigmm .* here, but none on the scheduler: install the same version"):
            bigmm.reduce(FORMULA, files, client=str(cluster.file))

    def test_another_bigmm(self, cluster: Cluster, files: Path) -> None:
        cluster.scheduler()
        cluster.worker(preload=OTHER_BIGMM)
        with pytest.raises(ClusterError, match=rf"^bigmm {bigmm.__version__} here, but 0\.0\.9 on tcp://127.*: install the same version"):
            bigmm.reduce(FORMULA, files, client=str(cluster.file))

    def test_another_bigmm_that_comes_late(self, cluster: Cluster, tmp_path: Path) -> None:
        """The versions have been compared when it joins; it refuses the first task that it gets."""
        text = rf"^bigmm {bigmm.__version__} here, but 0\.0\.9 on worker tcp://127.*: install the same version"
        with pytest.raises(ClusterError, match=text):
            self.reduce_with_a_late_worker(cluster, tmp_path, OTHER_BIGMM)

    @pytest.mark.parametrize(("preload", "missing"), [(NO_BIGMM, "bigmm"), (OLDER_BIGMM, "bigmm.reduction.guarded")])
    def test_a_late_worker_that_cannot_unpack_a_task(self, cluster: Cluster, tmp_path: Path, preload: str, missing: str) -> None:
        """It leaves, nanny and all, its log says why, and the pass ends as if it had never been there."""
        found = self.reduce_with_a_late_worker(cluster, tmp_path, preload, "--nanny")
        assert f"import of {missing} halted" in (tmp_path / "2.log").read_text()
        (tmp_path / "no more waiting").touch()
        assert found.digest == bigmm.reduce(FORMULA, slow_frame(30, tmp_path / "no more waiting"), client=1).digest

    def reduce_with_a_late_worker(self, cluster: Cluster, tmp_path: Path, preload: str, *options: str) -> bigmm.CrossProducts:
        cluster.scheduler()
        cluster.worker()
        late: list[str] = []

        def watch(progress: Progress) -> None:
            if progress.reports and not late:
                late.append(preload)
                cluster.worker(*options, preload=preload)

        return bigmm.reduce(FORMULA, slow_frame(30, tmp_path / "no more waiting"), client=str(cluster.file), progress=watch)

    def test_another_pyarrow_is_a_warning(self, cluster: Cluster, files: Path, caplog: pytest.LogCaptureFixture) -> None:
        cluster.scheduler()
        cluster.worker(preload=OTHER_PYARROW)
        cp = bigmm.reduce(FORMULA, files, client=str(cluster.file))
        assert cp.digest == bigmm.reduce(FORMULA, files).digest
        (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING and record.name.startswith("bigmm")]
        assert warning.getMessage().startswith(f"pyarrow {pa.__version__} here, but 1.0 on tcp://127.0.0.1:")


# workers that come and go


def test_a_new_worker_contributes_soon(cluster: Cluster, tmp_path: Path) -> None:
    """The second worker is started while the first is at work; its chunks are reported within LATE seconds of that."""
    cluster.scheduler()
    cluster.worker()
    started: list[float] = []
    first_of: dict[str, float] = {}

    def watch(progress: Progress) -> None:
        for report in progress.reports:
            first_of.setdefault(report.worker, report.stopped)
        if progress.reports and not started:
            started.append(time.time())
            cluster.worker()
        if len(first_of) == 2:
            (tmp_path / "seen").touch()

    cp = bigmm.reduce(FORMULA, slow_frame(100, tmp_path / "seen"), client=str(cluster.file), progress=watch)
    assert cp.rows.read == 1000
    assert len(first_of) == 2
    assert 0.0 < max(first_of.values()) - started[0] < LATE


def test_a_cluster_that_adapts_from_nothing(tmp_path: Path) -> None:
    """No worker is there before there is a task, more come while a pass runs, and all of them take part."""
    workers: set[str] = set()

    def watch(progress: Progress) -> None:
        workers.update(report.worker for report in progress.reports)
        if len(workers) == 2:
            (tmp_path / "seen").touch()

    with local(n_workers=0) as own:
        own.adapt(minimum=0, maximum=2, interval="200ms", target_duration="50ms")
        cp = bigmm.reduce(FORMULA, slow_frame(100, tmp_path / "seen"), client=own, progress=watch)
    assert cp.rows.read == 1000
    assert len(workers) == 2


def test_nobody_ever_comes(cluster: Cluster, files: Path) -> None:
    cluster.scheduler()
    with (
        dask.config.set({"bigmm.timeouts.first-worker": "500 ms"}),
        pytest.raises(ClusterError, match=r"has had no worker for 0\.5 s: start workers and run again"),
    ):
        bigmm.reduce(FORMULA, files, client=str(cluster.file))


# workers that differ


def test_chunks_go_where_the_resources_are(cluster: Cluster, files: Path) -> None:
    cluster.scheduler()
    cluster.worker("--name", "plain")
    cluster.worker("--name", "large", "--resources", "BIGMM=1")
    reports: list[ChunkReport] = []
    with (
        Client(scheduler_file=str(cluster.file), set_as_default=False) as client,
        dask.config.set({"bigmm.worker-resources": {"BIGMM": 1}}),
    ):
        client.wait_for_workers(2, timeout=60)
        names = {address: worker["name"] for address, worker in client.scheduler_info()["workers"].items()}
        cp = bigmm.reduce(FORMULA, files, client=client, progress=lambda progress: reports.extend(progress.reports))
    assert {names[report.worker] for report in reports} == {"large"}
    assert cp.digest == bigmm.reduce(FORMULA, files).digest


def test_resources_that_nobody_has(cluster: Cluster, files: Path) -> None:
    cluster.scheduler()
    cluster.worker()
    wanted = {"bigmm.worker-resources": {"BIGMM": 1}, "bigmm.timeouts.ask": "500 ms", "bigmm.timeouts.no-workers": "2 s"}
    with dask.config.set(wanted), pytest.raises(ClusterError, match=r"no worker with the resources \{'BIGMM': 1\.0\} .* for 2 s"):
        bigmm.reduce(FORMULA, files, client=str(cluster.file))


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with local(n_workers=1) as own, Client(own, set_as_default=False) as started:
        yield started


def test_keys_are_clear(client: Client, files: Path) -> None:
    """What Dask's dashboard groups tasks by."""
    client.get_task_stream(start=0, stop=0)  # the scheduler notes tasks from now on
    bigmm.reduce(FORMULA, files, client=client)
    names = {key_split(task["key"]) for task in client.get_task_stream(count=10_000)}
    assert {"bigmm-reduce", "bigmm-merge"} <= names
    assert {name for name in names if "bigmm" in name} == {"bigmm-reduce", "bigmm-merge"}


def test_every_chunk_is_reported_once(client: Client, files: Path) -> None:
    reports: list[ChunkReport] = []
    bigmm.reduce(FORMULA, files, client=client, progress=lambda progress: reports.extend(progress.reports))
    assert sorted(report.number for report in reports) == list(range(40))
    assert all(report.rows == 50 and report.nbytes > 0 and report.stopped >= report.started for report in reports)


class TestLogs:
    """What bigmm's tasks log on workers is heard by the driver that sent them, while its pass runs."""

    @pytest.fixture(autouse=True)
    def talkative(self, client: Client, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
        """Every chunk says a word, for it logs what it did at this level."""
        caplog.set_level(logging.DEBUG, "bigmm.reduction.work")
        client.run(lambda: logging.getLogger("bigmm.reduction.work").setLevel(logging.DEBUG))
        yield
        client.run(lambda: logging.getLogger("bigmm.reduction.work").setLevel(logging.NOTSET))

    def test_forwarded(self, client: Client, files: Path, caplog: pytest.LogCaptureFixture) -> None:
        bigmm.reduce(FORMULA, files, client=client)
        assert sorted(heard(caplog)) == list(range(40))
        (worker,) = client.scheduler_info()["workers"]
        assert {record.worker for record in caplog.records if record.name == "bigmm.reduction.work"} == {worker}

    def test_two_drivers_hear_their_own_tasks(self, client: Client, files: Path, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
        """A pass of another process begins and ends while this one runs."""
        other: list[subprocess.CompletedProcess[str]] = []

        def watch(progress: Progress) -> None:
            if progress.reports and not other:
                other.append(self.other_driver(client, files))
                (tmp_path / "seen").touch()

        bigmm.reduce(FORMULA, slow_frame(60, tmp_path / "seen"), client=client, progress=watch)
        assert sorted(heard(caplog)) == list(range(60))
        assert other[0].returncode == 0, other[0].stderr
        assert sorted(map(int, other[0].stdout.split())) == list(range(40))

    def other_driver(self, client: Client, files: Path) -> subprocess.CompletedProcess[str]:
        """Prints the numbers of the chunks that it hears of."""
        script = f"""
import logging, bigmm
class Print(logging.Handler):
    def emit(self, record):
        print(record.getMessage().split()[1].rstrip(","))
logging.getLogger("bigmm.reduction.work").addHandler(Print())
logging.getLogger("bigmm.reduction.work").setLevel(logging.DEBUG)
bigmm.reduce({FORMULA!r}, {str(files)!r}, client={client.scheduler.address!r})
"""
        return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)

    def test_undone(self, client: Client, files: Path) -> None:
        bigmm.reduce(FORMULA, files, client=client)
        (handlers,) = client.run(lambda: len(logging.getLogger("bigmm").handlers)).values()
        assert handlers == 0

    def test_not_wanted(self, client: Client, files: Path, caplog: pytest.LogCaptureFixture) -> None:
        with dask.config.set({"bigmm.forward-logs": False}):
            bigmm.reduce(FORMULA, files, client=client)
        time.sleep(0.5)
        assert not heard(caplog)


def heard(caplog: pytest.LogCaptureFixture) -> list[int]:
    """Numbers of the chunks that were spoken of."""
    texts = [record.getMessage() for record in caplog.records if record.name == "bigmm.reduction.work"]
    return [int(text.split()[1].rstrip(",")) for text in texts]


# little memory


def test_spilling(tmp_path: Path) -> None:
    """A worker that may keep far less than the partial crossproducts of a batch writes them to disk, and the result is the same."""
    for number in range(48):
        pq.write_table(pa.Table.from_pandas(frame(20_000, number, 40_000), preserve_index=False), tmp_path / f"{number}.parquet")
    expected = bigmm.reduce(FORMULA, tmp_path, client=0)
    memory = {"distributed.worker.memory.target": 0.002, "distributed.worker.memory.spill": False, "distributed.worker.memory.pause": False}
    with dask.config.set(memory), local(n_workers=1, memory_limit="1 GiB") as own, Client(own, set_as_default=False) as client:
        found = bigmm.reduce(FORMULA, tmp_path, client=client)
        (written,) = client.run(lambda dask_worker: dict(dask_worker.data.cumulative_metrics)).values()
    assert found.digest == expected.digest
    on_disk = sum(amount for key, amount in written.items() if "disk-write" in str(key) and "bytes" in str(key))
    assert on_disk > 10e6


def test_a_tuple_of_crossproducts_has_its_size(files: Path) -> None:
    cp = bigmm.reduce(FORMULA, files)
    for count in (1, 3, 9):
        assert sizeof((cp,) * count) == pytest.approx(count * cp.nbytes, rel=0.1, abs=1000)
