"""A pass on several hosts whose links are cut and restored: it ends right, or with a clear error and a checkpoint to go on from."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bigmm.reduction.work import BATCH
from tests.deploy.hosts import Hosts, hosts, why_not

REASON = why_not()
pytestmark = [
    pytest.mark.netns,
    pytest.mark.timeout(600),
    pytest.mark.skipif(REASON is not None, reason=str(REASON)),
]

FORMULA = "y ~ x + (x | g) + (1 | h)"
CHUNKS = 4000
#: Dask gives up a silent connection after this; its default is 30 s, and less than 12 s it refuses.
ENVIRONMENT = {"DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "12s"}
PYTHON = [sys.executable, "-m"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What all hosts share: rows in many files, and the crossproducts of a pass that nothing happened to."""
    folder = tmp_path_factory.mktemp("shared")
    (folder / "rows").mkdir()
    rng = np.random.default_rng(1)
    for number in range(CHUNKS):
        x = rng.normal(size=200)
        columns = {"g": rng.integers(0, 400, 200), "h": rng.choice(list("abcdef"), 200), "x": x, "y": x + rng.normal(size=200)}
        pq.write_table(pa.table(columns), folder / f"rows/{number}.parquet")
    subprocess.run(
        [*PYTHON, "bigmm", "reduce", FORMULA, "rows", "--workers", "0", "--out", "undisturbed"], cwd=folder, check=True, capture_output=True
    )
    return folder


class Network:
    """A scheduler, two workers that are started again when they end, and a driver, each on its host."""

    def __init__(self, hosts: Hosts, folder: Path, logs: Path) -> None:
        self.hosts, self.folder, self.logs = hosts, folder, logs
        self.scheduler = f"tcp://{hosts.address('head')}:8786"
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, host: str, *command: str) -> subprocess.Popen[bytes]:
        process = self.hosts.start(host, command, self.logs / f"{host}.log", PWD=str(self.folder), **ENVIRONMENT)
        self.processes.append(process)
        return process

    def start_cluster(self) -> None:
        flags = ["--dashboard-address", "127.0.0.1:0", "--host"]
        self.start("head", *PYTHON, "dask", "scheduler", "--port", "8786", *flags, self.hosts.address("head"))
        for host in ("one", "two"):
            worker = [
                *PYTHON,
                "dask",
                "worker",
                self.scheduler,
                "--nthreads",
                "1",
                "--death-timeout",
                "20",
                *flags,
                self.hosts.address(host),
            ]
            again = 'while :; do "$@"; sleep 1; done'  # as the scripts in deploy/ do
            self.start(host, "sh", "-c", again, "worker", *worker, "--local-directory", str(self.logs))

    def start_driver(self) -> subprocess.Popen[bytes]:
        command = f'cd "{self.folder}" && exec "$@"'  # the digest knows the rows by this name
        driver = [*PYTHON, "bigmm", "reduce", FORMULA, "rows", "--scheduler", self.scheduler, "--out", str(self.logs / "found")]
        return self.start("driver", "sh", "-c", command, "driver", *driver, "--checkpoint", str(self.logs / "ck"), "--resume")

    def done(self) -> int:
        """Batches in the checkpoint."""
        index = self.logs / "ck/pass/checkpoint.json"
        return json.loads(index.read_text())["segments"][-1]["stop"] if index.exists() else 0

    def log(self, host: str) -> str:
        return (self.logs / f"{host}.log").read_text()

    def is_right(self) -> bool:
        """Whether the crossproducts are those of the undisturbed pass, to the bit."""
        return (self.logs / "found/crossproducts.json").read_bytes() == (self.folder / "undisturbed/crossproducts.json").read_bytes()

    def forget(self) -> None:
        """Remove what a pass has left."""
        shutil.rmtree(self.logs / "found")
        shutil.rmtree(self.logs / "ck")

    def stop(self) -> None:
        for process in reversed(self.processes):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture
def network(folder: Path, tmp_path: Path) -> Iterator[Network]:
    with hosts("head", "one", "two", "driver") as made:
        found = Network(made, folder, tmp_path)
        try:
            found.start_cluster()
            yield found
        finally:
            found.stop()


def wait_until(condition: Callable[[], bool], seconds: float, network: Network) -> float:
    """Wait; the seconds that it took."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds, "\n".join(network.log(host)[-3000:] for host in ("head", "one", "driver"))
        time.sleep(0.2)
    return time.monotonic() - started


def test_a_worker_is_cut_off_and_comes_back(network: Network) -> None:
    """It comes back by itself within 30 s, so that the other one can be cut off then."""
    driver = network.start_driver()
    address = f"tcp://{network.hosts.address('one')}:"
    wait_until(lambda: network.done() >= 3, 120, network)
    network.hosts.cut("one")
    lost = wait_until(lambda: f"Remove worker addr: {address}" in network.log("head"), 120, network)
    before = network.log("head").count(f"Register worker addr: {address}")
    network.hosts.restore("one")
    back = wait_until(lambda: network.log("head").count(f"Register worker addr: {address}") > before, 30, network)
    assert driver.wait() == 0, network.log("driver")
    assert network.is_right()
    print(f"the loss was noticed after {lost:.1f} s, and the worker was back {back:.1f} s after the link")
    network.hosts.cut("two")
    network.forget()
    assert network.start_driver().wait() == 0, network.log("driver")
    assert network.is_right()


@pytest.mark.parametrize("host", ["one", "head", "driver"])
def test_a_short_cut_is_survived_or_explained(network: Network, host: str) -> None:
    """Of one second, which connections outlive, at any of the hosts."""
    driver = network.start_driver()
    wait_until(lambda: network.done() >= 3, 120, network)
    network.hosts.cut(host)
    time.sleep(1)
    network.hosts.restore(host)
    assert driver.wait() == 0, network.log("driver")
    assert network.is_right()


def test_the_driver_is_cut_off(network: Network) -> None:
    """It ends with an error that says what to do; run again, it goes on from the checkpoint."""
    driver = network.start_driver()
    wait_until(lambda: network.done() >= 3, 120, network)
    network.hosts.cut("driver")
    code = driver.wait(timeout=240)
    last = network.log("driver").splitlines()[-1]
    print(last)
    assert code == 75  # resume me
    assert last.startswith("bigmm: error: ")
    assert "scheduler" in last
    assert "run again" in last
    assert not (network.logs / "found").exists()
    kept = network.done()
    assert 3 <= kept < CHUNKS // BATCH
    network.hosts.restore("driver")
    again = network.start_driver()
    seen: list[int] = []
    while again.poll() is None:
        seen.append(network.done())
        time.sleep(0.2)
    assert again.returncode == 0, network.log("driver")
    assert min(seen) >= kept  # nothing was thrown away
    assert network.is_right()
