"""A pass on real worker processes: the same bits, the right errors, no solver on a worker."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar

import cloudpickle
import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dask.sizeof import sizeof
from dask.utils import Dispatch
from distributed import Client, wait

import bigmm
from bigmm.crossproducts import CrossProducts
from bigmm.design import Design
from bigmm.errors import ClusterError, DataError
from bigmm.formula import parse_formula
from bigmm.reduction.cluster import local_cluster
from bigmm.reduction.progress import Progress
from bigmm.reduction.sizes import register
from bigmm.reduction.slices import Slicing
from bigmm.reduction.sources import plan_data
from bigmm.reduction.tally import Tally
from bigmm.reduction.tree import batch_results
from bigmm.reduction.work import ChunkTask, Work, reduce_chunk
from bigmm.reduction.workers import Workers

# The functions below reach the workers by value: these need not find the tests.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

pytestmark = pytest.mark.cluster

FORMULA = "y ~ a * x + (x | g) + (1 | h) + (1 | g:h)"
FORBIDDEN = ("sksparse", "nlopt", "bigmm.solver", "bigmm.inference")


def rows(n: int = 1200, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "g": rng.choice([f"group {i}" for i in range(30)], n),
            "h": rng.integers(0, 12, n),
            "a": rng.choice(["p", "q", "r"], n),
            "x": rng.normal(1e3, 1.0, n),
            "w": rng.uniform(0.5, 2.0, n),
        }
    )
    frame["y"] = frame["x"] + rng.normal(size=n)
    frame.loc[rng.random(n) < 0.02, "y"] = np.nan
    return frame


FRAME = rows()


def bits(cp: CrossProducts) -> dict[str, Any]:
    """Everything that a pass computes, to the bit."""
    found: dict[str, Any] = {"columns": cp.columns, "XytXy": cp.XytXy.tobytes(), "rows": cp.rows, "weights": cp.sum_log_weights}
    found |= {"shift": dict(cp.design.shift), "y_shift": cp.design.y_shift, "digest": cp.digest, "plan_digest": cp.plan_digest}
    for group in cp.groups:
        found[group.name] = (group.levels.tolist(), group.columns, *(a.tobytes() for a in (group.rows, group.ZtZ, group.ZtXy)))
    for key, pair in cp.pairs.items():
        found[str(key)] = tuple(a.tobytes() for a in (pair.g_refs, pair.h_refs, pair.ZtZ))
    return found


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """More chunks than a merge takes and than a batch holds, some of them empty or incomplete."""
    folder = tmp_path_factory.mktemp("parquet")
    for number, start in enumerate(range(0, len(FRAME), 15)):
        part = FRAME.iloc[start : start + 15]
        part = part.assign(y=np.nan) if number == 3 else part.iloc[:0] if number == 5 else part
        pq.write_table(pa.Table.from_pandas(part, preserve_index=False), folder / f"part-{number}.parquet")
    return folder


class TestSameBits:
    def test_parquet(self, client: Client, files: Path) -> None:
        here = bigmm.reduce(FORMULA, files, weights="w", client=0)
        there = bigmm.reduce(FORMULA, files, weights="w", client=client)
        assert here.rows.read == len(FRAME) - 15
        assert bits(here) == bits(there)

    def test_again_and_again(self, client: Client, files: Path) -> None:
        first = bits(bigmm.reduce(FORMULA, files, client=client))
        for _ in range(3):
            assert bits(bigmm.reduce(FORMULA, files, client=client)) == first

    def test_any_number_of_workers(self, client: Client, files: Path) -> None:
        one = bigmm.reduce(FORMULA, files, client=1)
        assert bits(one) == bits(bigmm.reduce(FORMULA, files, client=client))

    def test_pandas(self, client: Client) -> None:
        assert bits(bigmm.reduce(FORMULA, FRAME, client=0)) == bits(bigmm.reduce(FORMULA, FRAME, client=client))

    VARIANTS: ClassVar[dict[str, Callable[[pd.DataFrame], pd.DataFrame]]] = {
        "object": lambda frame: frame.astype({"g": object, "a": object}),
        "str": lambda frame: frame.astype({"g": "str", "a": "str"}),
        "string[python]": lambda frame: frame.astype({"g": "string[python]", "a": "string[python]"}),
        "string[pyarrow]": lambda frame: frame.astype({"g": "string[pyarrow]", "a": "string[pyarrow]"}),
        "arrow": lambda frame: frame.astype({"g": pd.ArrowDtype(pa.string()), "h": pd.ArrowDtype(pa.int32())}),
        "known categories": lambda frame: frame.astype({"g": "category", "a": "category"}),
        "nullable": lambda frame: frame.astype({"h": "Int16", "x": "Float64", "w": "Float64"}),
    }

    @pytest.mark.parametrize("variant", VARIANTS)
    def test_dask(self, client: Client, variant: str) -> None:
        """The same plan here and there; and the same statistics as of the plain frame in one piece."""
        frame = dd.from_pandas(self.VARIANTS[variant](FRAME), npartitions=11, sort=False)
        here, there = (bigmm.reduce(FORMULA, frame, weights="w", client=where) for where in (0, client))
        assert bits(here) == bits(there)
        whole = bigmm.reduce(FORMULA, FRAME, weights="w", client=0)
        assert here.columns == whole.columns
        assert [group.levels.tolist() for group in here.groups] == [group.levels.tolist() for group in whole.groups]
        np.testing.assert_allclose(here.XytXy, whole.XytXy, rtol=1e-11, atol=1e-8)
        np.testing.assert_allclose(here.groups[0].ZtXy, whole.groups[0].ZtXy, rtol=1e-11, atol=1e-7)

    @pytest.mark.parametrize("values", [[1, 2], [0.5, 2.5], [True, False], pd.to_datetime(["2020-01-01", "2021-01-01"])], ids=str)
    def test_unknown_categories_that_are_no_text(self, values: Any) -> None:
        frame = dd.from_pandas(pd.DataFrame({"g": [1, 2, 1, 2] * 5, "a": np.tile(values, 10), "y": np.arange(20.0)}), npartitions=2)
        unknown = frame.astype({"a": "category"})
        with pytest.raises(DataError, match=r"the categories of 'a' are \w+(\[\w+\])?, which Dask did not know: .*as_known"):
            bigmm.reduce("y ~ a + (1 | g)", unknown, client=0)

    def test_dask_with_unknown_categories(self, client: Client) -> None:
        """Each partition has codes of its own."""
        plain = dd.from_pandas(FRAME, npartitions=7, sort=False)
        unknown = plain.astype({"g": "category", "a": "category"})
        assert not unknown["g"].cat.known
        one, other = (bigmm.reduce(FORMULA, frame, client=client) for frame in (plain, unknown))
        np.testing.assert_array_equal(one.XytXy, other.XytXy)
        for mine, theirs in zip(one.groups, other.groups, strict=True):
            assert mine.levels.tolist() == theirs.levels.tolist()
            np.testing.assert_array_equal(mine.ZtXy, theirs.ZtXy)

    def test_dask_persisted_on_another_cluster(self, client: Client) -> None:
        frame = dd.from_pandas(FRAME, npartitions=3, sort=False)
        with Client(processes=False, n_workers=1, dashboard_address=None, set_as_default=False) as other:
            with other.as_current():
                persisted = frame.persist()
                wait(persisted)
            with pytest.raises(DataError, match="partition 0 was persisted on another cluster"):
                bigmm.reduce(FORMULA, persisted, client=client)

    def test_declared_order_of_categories_survives(self, client: Client) -> None:
        ordered = FRAME.assign(a=pd.Categorical(FRAME["a"], categories=["r", "p", "q"]))
        cp = bigmm.reduce(FORMULA, dd.from_pandas(ordered, npartitions=5, sort=False), client=client)
        assert cp.model().selected.fixed.names[:3] == ("(Intercept)", "ap", "aq")

    def test_running_client_is_found(self, client: Client, files: Path) -> None:
        with client.as_current():
            assert bits(bigmm.reduce(FORMULA, files)) == bits(bigmm.reduce(FORMULA, files, client=0))


class TestWorkers:
    def test_never_load_the_solver(self, client: Client, files: Path) -> None:
        bigmm.reduce(FORMULA, files, client=client)
        design = bigmm.reduce(FORMULA, files, client=0).design
        task = ChunkTask(plan_data(str(files), design.names).chunks[0], 0, design, Slicing(("g",), 2))
        # The pass need not have given every worker a chunk.
        parts = client.run(reduce_chunk, task, print)
        assert [sum(part.rows.read for part in slices) for slices in parts.values()] == [15, 15]

        def loaded() -> list[str]:
            return [name for name in sys.modules if name.startswith(FORBIDDEN)]

        assert set(map(tuple, client.run(loaded).values())) == {()}

    def test_a_killed_worker_changes_nothing(self, client: Client, tmp_path: Path) -> None:
        flag = str(tmp_path / "killed")

        def kill_once(part: pd.DataFrame, partition_info: Any = None) -> pd.DataFrame:
            if len(part) and partition_info is not None and partition_info["number"] == 4 and not os.path.exists(flag):
                with open(flag, "x"):
                    pass
                os.kill(os.getpid(), signal.SIGKILL)
            return part

        plain = dd.from_pandas(FRAME, npartitions=9, sort=False)
        deadly = plain.map_partitions(kill_once, meta=plain._meta)
        expected = bigmm.reduce(FORMULA, plain, client=0)
        found = bigmm.reduce(FORMULA, deadly, client=client)
        assert os.path.exists(flag)
        np.testing.assert_array_equal(found.XytXy, expected.XytXy)
        for mine, theirs in zip(found.groups, expected.groups, strict=True):
            assert mine.levels.tolist() == theirs.levels.tolist()
            np.testing.assert_array_equal(mine.ZtXy, theirs.ZtXy)

    def test_nothing_is_left_on_the_cluster(self, client: Client, files: Path) -> None:
        bigmm.reduce(FORMULA, files, client=client)

        def held(dask_scheduler: Any) -> list[str]:
            return [key for key in dask_scheduler.tasks if str(key).startswith("bigmm")]

        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            if not client.run_on_scheduler(held):
                return
            time.sleep(0.05)
        pytest.fail(f"tasks are left: {client.run_on_scheduler(held)}")

    def test_progress_ends_at_all_chunks(self, client: Client, files: Path) -> None:
        seen: list[Progress] = []
        bigmm.reduce(FORMULA, files, client=client, progress=seen.append)
        assert {report.stage for report in seen} == {"reduce"}
        assert (seen[-1].done, seen[-1].total) == (79, 79)  # a file has no rows
        assert [report.done for report in seen] == sorted(report.done for report in seen)


class TestErrors:
    def test_bad_values_name_the_chunk(self, client: Client, tmp_path: Path) -> None:
        for number in range(12):
            part = rows(20, number)
            if number == 9:
                part.loc[7, "x"] = np.inf
            part.to_parquet(tmp_path / f"part-{number}.parquet", index=False)
        with pytest.raises(DataError, match=r"1 infinite values of 'x' in .*part-9\.parquet.* \(the first in its row 7\)"):
            bigmm.reduce(FORMULA, tmp_path, client=client)

    def test_bad_values_name_the_partition(self, client: Client) -> None:
        frame = FRAME.assign(w=np.where(np.arange(len(FRAME)) == 1100, -1.0, 1.0))
        with pytest.raises(DataError, match=r"1 weights in partition 5 are missing, infinite or not positive \(for example -1\)"):
            bigmm.reduce(FORMULA, dd.from_pandas(frame, npartitions=6, sort=False), weights="w", client=client)

    def test_the_cluster_goes_on_afterwards(self, client: Client, files: Path) -> None:
        assert bigmm.reduce(FORMULA, files, client=client).nobs > 0


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A scheduler in a process of its own, and its file."""
    file = tmp_path / "scheduler.json"
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
    command += ["--dashboard-address", "127.0.0.1:0", "--scheduler-file", str(file)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=tmp_path) as process:
        try:
            deadline = time.monotonic() + 60
            while not (file.exists() and file.read_text().rstrip().endswith("}")):
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
            yield process, json.loads(file.read_text())["address"]
        finally:
            process.kill()


def test_scheduler_that_is_stopped(scheduler: tuple[subprocess.Popen[bytes], str]) -> None:
    """Nothing reaches the client then, no failure either: only a question without an answer tells."""
    process, address = scheduler

    def wait(part: pd.DataFrame) -> pd.DataFrame:
        time.sleep(60 if len(part) else 0)
        return part

    plain = dd.from_pandas(FRAME, npartitions=2, sort=False)
    plan = plan_data(plain.map_partitions(wait, meta=plain._meta), ["y", "g"])
    design = Design(parse_formula("y ~ 1 + (1 | g)"), {"y": "number", "g": "category"})
    patience = dask.config.set({"bigmm.timeouts.ask": "500 ms", "bigmm.timeouts.no-answer": "2 s"})
    with patience, Client(address, set_as_default=False) as client:
        threading.Timer(2.0, process.send_signal, [signal.SIGSTOP]).start()
        started = time.monotonic()
        batches = batch_results(Workers(client, Tally(plan.chunks, None)), Work(plan.chunks, design, Slicing(("g",))))
        with pytest.raises(ClusterError, match=r"^the scheduler at 'tcp://127.* has not answered for 2 s: see that it runs"):
            next(batches)
        assert 3.0 < time.monotonic() - started < 30.0
        process.kill()
        process.wait()


def answer_as_http(server: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" + b"x" * 100)
                connection.recv(10_000)


class TestConnections:
    def test_address_and_cluster(self, client: Client, files: Path, tmp_path: Path) -> None:
        expected = bits(bigmm.reduce(FORMULA, files, client=client))
        scheduler_file = tmp_path / "scheduler.json"
        scheduler_file.write_text(json.dumps({"type": "Scheduler", "address": client.scheduler.address, "workers": {}}))
        for where in (client.scheduler.address, client.cluster, str(scheduler_file)):
            assert bits(bigmm.reduce(FORMULA, files, client=where)) == expected

    def test_asynchronous_client(self, client: Client, files: Path) -> None:
        """It is refused, whether given or found, and the advice holds."""
        expected = bits(bigmm.reduce(FORMULA, files, client=client))

        async def from_a_loop() -> CrossProducts:
            async with Client(client.scheduler.address, asynchronous=True) as waiting:
                for given in (waiting, None):
                    with pytest.raises(ClusterError, match=r"the client is asynchronous, .*: expected a synchronous one"):
                        bigmm.reduce(FORMULA, files, client=given)
                return await asyncio.to_thread(bigmm.reduce, FORMULA, files, client=waiting.scheduler.address)

        assert bits(asyncio.run(from_a_loop())) == expected

    def test_nobody_answers(self, files: Path) -> None:
        patience = dask.config.set({"bigmm.timeouts.connect": "500 ms"})
        with patience, pytest.raises(ClusterError, match=r"no Dask scheduler answers at 'tcp://127\.0\.0\.1:1'"):
            bigmm.reduce(FORMULA, files, client="tcp://127.0.0.1:1")

    @pytest.mark.parametrize("content", ["no JSON", "{}", "[]", '{"address": 3}'])
    def test_no_scheduler_file(self, tmp_path: Path, content: str) -> None:
        path = tmp_path / "scheduler.json"
        path.write_text(content)
        for where in (path, tmp_path):
            with pytest.raises(ClusterError, match=r"is no scheduler file \(.*\): expected JSON with an address$"):
                bigmm.reduce(FORMULA, FRAME, client=str(where))

    @pytest.mark.parametrize("wrong", ["foo", ""])
    def test_no_such_file(self, wrong: str) -> None:
        with pytest.raises(ClusterError, match=rf"^'{wrong}' does not exist: expected the file that a scheduler writes, or its address"):
            bigmm.reduce(FORMULA, FRAME, client=wrong)

    @pytest.mark.parametrize("wrong", ["foo:x", "zork://x:1"])
    def test_no_address(self, wrong: str) -> None:
        with pytest.raises(ClusterError, match=rf"^no Dask scheduler answers at '{wrong}' \(.*\): check the address and .*$"):
            bigmm.reduce(FORMULA, FRAME, client=wrong)
        gc.collect()  # Client.__del__ has nothing to say

    def test_something_else_answers(self) -> None:
        with dask.config.set({"bigmm.timeouts.connect": "2 s"}), socket.create_server(("127.0.0.1", 0)) as server:
            server.settimeout(20)
            threading.Thread(target=answer_as_http, args=[server], daemon=True).start()
            with pytest.raises(ClusterError, match=r"^no Dask scheduler answers at '127.*$"):
                bigmm.reduce(FORMULA, FRAME, client=f"127.0.0.1:{server.getsockname()[1]}")
        gc.collect()

    def test_a_local_cluster_is_quiet_and_the_callers_log_is_not(self, caplog: pytest.LogCaptureFixture) -> None:
        """A handler may serve several loggers: a local cluster must not silence it, but Dask's own loggers."""
        caplog.set_level(logging.INFO, "distributed")
        said = io.StringIO()
        handler = logging.StreamHandler(said)
        loggers = [logging.getLogger(name) for name in ("distributed", "bigmm")]
        for logger in loggers:
            logger.addHandler(handler)
        try:
            with local_cluster(1):
                loggers[1].warning("heard")
            logging.getLogger("distributed.worker").info("heard afterwards")
        finally:
            for logger in loggers:
                logger.removeHandler(handler)
        assert said.getvalue() == "heard\nheard afterwards\n"

    def test_local_cluster_that_does_not_start(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(**_: Any) -> None:
            raise RuntimeError("Nanny failed to start.")

        monkeypatch.setattr("bigmm.reduction.cluster.LocalCluster", fail)
        with pytest.raises(ClusterError, match=r"did not start .*; in a script, put the call under `if __name__ == '__main__':`$"):
            bigmm.reduce(FORMULA, FRAME, client=1)

    @pytest.mark.parametrize("wrong", [1.5, object(), ["tcp://127.0.0.1:1"], -1])
    def test_no_client(self, files: Path, wrong: Any) -> None:
        with pytest.raises(ClusterError, match="expected a Dask client, a cluster, a scheduler's address"):
            bigmm.reduce(FORMULA, files, client=wrong)


class TestSizes:
    def test_registered_size_is_its_bytes(self) -> None:
        cp = bigmm.reduce(FORMULA, FRAME, client=0)
        sizes = Dispatch("sizes")
        register(sizes)
        assert sizes(cp) == cp.nbytes > cp.XytXy.nbytes

    def test_entry_point(self) -> None:
        pyproject = Path(__file__).parents[2] / "pyproject.toml"
        points = tomllib.loads(pyproject.read_text())["project"]["entry-points"]["dask.sizeof"]
        assert points == {"bigmm": f"{register.__module__}:{register.__name__}"}

    @pytest.mark.skipif(not entry_points(group="dask.sizeof", name="bigmm"), reason="bigmm is on the path, not installed")
    def test_dask_knows_it(self, client: Client, files: Path) -> None:
        cp = bigmm.reduce(FORMULA, files, client=client)
        assert sizeof(cp) == cp.nbytes

        def size_there() -> int:
            from dask.sizeof import sizeof  # this process's own would travel with all types that it has met, the solver's among them

            return int(sizeof(cp))

        for size in client.run(size_there).values():
            assert size == pytest.approx(cp.nbytes, rel=1e-2)  # pandas counts text a little differently once it has travelled


def test_exact_answer_from_many_chunks(client: Client, tmp_path: Path) -> None:
    """The SmLs generator (design, section 7) at 1e5 rows in 50 chunks: sigma_a^2 = 0.01 (1 - 1/n), at an offset of 1e6."""
    groups, replicates = 101, 991
    centre = np.full(groups, 0.5)
    centre[1::2], centre[0] = 0.3, 0.4
    inside = np.zeros(replicates)
    inside[1::2], inside[2::2] = -0.1, 0.1
    frame = pd.DataFrame({"g": np.repeat(np.arange(groups), replicates), "y": 1e6 + np.add.outer(centre, inside).ravel()})
    frame = frame.sample(frac=1.0, random_state=0)
    for number, part in enumerate(np.array_split(np.arange(len(frame)), 50)):
        frame.iloc[part].to_parquet(tmp_path / f"{number}.parquet", index=False)
    fit = bigmm.lmer("y ~ 1 + (1 | g)", tmp_path, client=client)
    assert fit.nobs == groups * replicates
    assert fit.sigma**2 == pytest.approx(0.01, rel=1e-8)
    assert fit.theta[0] ** 2 * fit.sigma**2 == pytest.approx(0.01 * (1 - 1 / replicates), rel=5e-6)  # flat to sqrt(rounding)
