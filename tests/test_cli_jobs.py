"""The command line in a batch system: stopped and resumed, exit codes that say which, what a job stands on."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import dask
import numpy as np
import pandas as pd
import pytest
from distributed import Client

import bigmm
from bigmm.crossproducts import CrossProducts
from bigmm.reduction import versions
from bigmm.reduction.cluster import local_cluster
from tests.test_cli import finish, run, run_well, spawn

FORMULA = "y ~ x + (x | g) + (1 | h)"
FILES = 160


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parquet")
    rng = np.random.default_rng(1)
    for number in range(FILES):
        part = pd.DataFrame({"g": rng.integers(0, 50, 40), "h": rng.choice(list("abc"), 40), "x": rng.normal(size=40)})
        part.assign(y=part["x"] + rng.normal(size=40)).to_parquet(folder / f"{number}.parquet", index=False)
    return folder


def assert_same(path: Path, expected: CrossProducts) -> None:
    found = bigmm.load(path)
    assert isinstance(found, CrossProducts)
    np.testing.assert_array_equal(found.XytXy, expected.XytXy)
    for mine, theirs in zip(found.groups, expected.groups, strict=True):
        np.testing.assert_array_equal(mine.ZtXy, theirs.ZtXy)


def test_out_of_time_and_resumed(files: Path, tmp_path: Path) -> None:
    """As a batch system does it: the same command again and again until it is done."""
    codes = []
    while not codes or codes[-1] == os.EX_TEMPFAIL:
        seconds = f"{0.1 * 2.0 ** len(codes):.2f}"
        command = ["reduce", FORMULA, files, "--workers", "0", "--out", tmp_path / "cp", "--checkpoint", tmp_path / "ck", "--resume"]
        code, _, err = finish(spawn(*command, "--max-time", seconds))
        codes.append(code)
        if code == os.EX_TEMPFAIL:
            place = f"'{tmp_path}/ck'"
            done = f"what is done is in {place}" if (tmp_path / "ck/pass/checkpoint.json").exists() else f"nothing is in {place} yet"
            assert f"bigmm: out of time (--max-time); {done}: run again with --resume" in err
    assert codes[-1] == 0
    assert len(codes) > 1
    assert_same(tmp_path / "cp", bigmm.reduce(FORMULA, files))


def test_terminated_with_a_checkpoint(files: Path, tmp_path: Path) -> None:
    process = spawn("fit", FORMULA, files, "--workers", "0", "--checkpoint", tmp_path / "ck", "--out", tmp_path / "fit")
    while not (tmp_path / "ck/pass/checkpoint.json").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    code, out, err = finish(process)
    assert (code, out) == (os.EX_TEMPFAIL, "")
    assert err.endswith(f"bigmm: terminated; what is done is in '{tmp_path}/ck': run again with --resume\n")
    refused = run("fit", FORMULA, files, "--checkpoint", tmp_path / "ck")
    assert refused.exit_code == 2
    assert "holds a checkpoint: resume from it (resume=True, --resume)" in refused.stderr
    resumed = run_well("fit", FORMULA, files, "--checkpoint", tmp_path / "ck", "--resume", "--out", tmp_path / "fit")
    assert resumed.stdout == bigmm.lmer(FORMULA, files).summary() + "\n"


def test_resume_needs_a_checkpoint(files: Path) -> None:
    result = run("fit", FORMULA, files, "--resume")
    assert (result.exit_code, result.stderr) == (
        2,
        "bigmm: error: --resume needs --checkpoint DIR, the checkpoint to go on from; see 'bigmm fit --help'\n",
    )


@pytest.mark.parametrize("wrong", ["", "0", "-3", "1d", "nan", "soon"])
def test_times_that_are_none(files: Path, wrong: str) -> None:
    result = run("fit", FORMULA, files, "--max-time", wrong)
    assert result.exit_code == 2
    assert f"'--max-time': {wrong!r}, expected a time such as 90, 45m or 12h" in result.stderr


@pytest.fixture
def client() -> Iterator[Client]:
    with local_cluster(1) as started:
        yield started


class TestDoctor:
    def test_all_is_well(self) -> None:
        result = run_well("doctor")
        assert f"bigmm                      {bigmm.__version__}\n" in result.stdout
        assert "CHOLMOD                    3." in result.stdout
        assert "a fit with a known answer  right\n" in result.stdout

    def test_memory_is_what_a_fit_counts_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("BIGMM_MEMORY", "3 GiB")
        assert f"memory{'':20} 3.0 GiB available, " in run_well("doctor").stdout
        monkeypatch.setenv("BIGMM_MEMORY", "much")
        result = run("doctor")
        assert result.exit_code == 2
        assert "bigmm: error: BIGMM_MEMORY='much' is no amount of memory: expected bytes, or" in result.stderr

    def test_settings(self) -> None:
        with dask.config.set({"bigmm.batches": 7, "bigmm.batch": 7}):
            result = run("doctor")
        assert result.exit_code == 2
        assert "bigmm.batches              7\n" in result.stdout
        assert f"bigmm.batch                7\n{'':26} -> there is no such setting" in result.stdout

    def test_nobody_answers(self) -> None:
        with dask.config.set({"bigmm.timeouts.connect": "500 ms"}):
            result = run("doctor", "--scheduler", "tcp://127.0.0.1:1")
        assert (result.exit_code, result.stderr) == (2, "bigmm: error: 1 of these need attention\n")
        assert "-> check the address and that the scheduler runs\n" in result.stdout

    @pytest.mark.cluster
    def test_a_cluster(self, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        address = client.scheduler.address
        assert "workers                    1 with 1 threads\n" in run_well("doctor", "--scheduler", address).stdout
        real = versions.version_of
        monkeypatch.setattr(versions, "version_of", lambda name: "1.0" if name == "pyarrow" else real(name))
        result = run("doctor", "--scheduler", address)
        assert result.exit_code == 2
        assert "pyarrow                    1.0 here, but " in result.stdout
        assert "install the same version everywhere" in result.stdout
