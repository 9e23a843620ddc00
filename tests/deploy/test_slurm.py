"""Batch jobs on a real Slurm of three nodes on this machine: deploy/slurm/, run as its users run it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import csv

from bigmm.reduction.work import BATCH
from tests.deploy import slurm

MISSING = slurm.missing_programs()
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(MISSING), reason=f"no {', '.join(MISSING)} on this machine: tests/deploy/setup.sh"),
]

DEPLOY = Path(__file__).parents[2] / "deploy"
INSTEVAL = DEPLOY.parent / "tests/data/insteval.csv"
FORMULA = "y ~ 1 + service + (1|s) + (1|d) + (1|dept)"
OBJECTIVE = 237721.76877450
#: Small files, so that a pass has batches enough to be stopped among them.
FILES = 4000


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    """The environment of Slurm's commands."""
    with slurm.running_slurm() as configuration:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        yield {**os.environ, "PATH": path, "SLURM_CONF": configuration}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all nodes share, with InstEval's ratings in many files and in few."""
    folder = tmp_path_factory.mktemp("shared")
    table = csv.read_csv(
        INSTEVAL, convert_options=csv.ConvertOptions(column_types=dict.fromkeys(["s", "d", "service", "dept"], pa.string()))
    )
    for name, count in (("few", 8), ("many", FILES)):
        (folder / name).mkdir()
        rows = -(-table.num_rows // count)
        for number in range(count):
            pq.write_table(table.slice(number * rows, rows), folder / name / f"{number}.parquet")
    return folder


def submit(cluster: dict[str, str], shared: Path, *arguments: str) -> str:
    """Submit a job from the shared folder; its number."""
    done = subprocess.run(
        ["sbatch", "--parsable", *arguments],
        cwd=shared,
        env={**cluster, "SBATCH_CPUS_PER_TASK": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def shown(cluster: dict[str, str], job: str) -> dict[str, str]:
    """What Slurm knows of a job."""
    text = subprocess.run(["scontrol", "show", "job", job], env=cluster, capture_output=True, text=True, check=True).stdout
    return dict(re.findall(r"(\w+)=(\S*)", text))


def wait_until(condition: Callable[[], bool], seconds: float, log: Path) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, log.read_text() if log.exists() else "no log"
        time.sleep(0.25)


def finish(cluster: dict[str, str], shared: Path, job: str, seconds: float = 240) -> str:
    """Wait for a job; its log."""
    log = shared / f"bigmm-{job}.log"
    wait_until(lambda: shown(cluster, job)["JobState"] in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT"), seconds, log)
    text = log.read_text()
    assert shown(cluster, job)["ExitCode"] == "0:0", text
    return text


def done_batches(folder: Path) -> int:
    """Batches that a checkpoint has; 0 while it has none."""
    index = folder / "pass/checkpoint.json"
    return json.loads(index.read_text())["segments"][-1]["stop"] if index.exists() else 0


@pytest.fixture(scope="module")
def undisturbed(shared: Path) -> Path:
    """The crossproducts of one process that nothing happened to."""
    command = [sys.executable, "-m", "bigmm", "reduce", FORMULA, "many", "--workers", "0", "--out", "undisturbed.cp"]
    subprocess.run(command, cwd=shared, check=True, capture_output=True)
    return shared / "undisturbed.cp"


def test_three_nodes_from_submission_to_estimates(cluster: dict[str, str], shared: Path) -> None:
    started = time.monotonic()
    job = submit(cluster, shared, "--nodes=3", str(DEPLOY / "slurm/bigmm.sbatch"), "fit", FORMULA, "few", "--ml", "--out", "ratings.fit")
    log = finish(cluster, shared, job)
    seconds = time.monotonic() - started
    estimates = json.loads((shared / "ratings.fit/estimates.json").read_text())
    assert estimates["objective"] == pytest.approx(OBJECTIVE, abs=1e-6)
    assert estimates["converged"]
    dask_log = (shared / f"bigmm-{job}.dask.log").read_text()
    assert len(set(re.findall(r"Register worker addr: (tls://[0-9.]+:[0-9]+)", dask_log))) == 3
    assert "tcp://" not in log + dask_log
    assert not (shared / f"bigmm-{job}").exists()  # neither keys nor checkpoint stay behind
    print(f"{seconds:.1f} s from sbatch to written estimates")
    assert seconds < 60


def test_preempted_twice(cluster: dict[str, str], shared: Path, undisturbed: Path) -> None:
    """Jobs of a partition that comes first take the nodes twice; the crossproducts are the same to the bit."""
    job = submit(cluster, shared, str(DEPLOY / "slurm/bigmm.sbatch"), "reduce", FORMULA, "many", "--out", "preempted.cp")
    checkpoint, log = shared / f"bigmm-{job}/checkpoint", shared / f"bigmm-{job}.log"
    seen = [0]
    for preemptions in (1, 2):
        wait_until(lambda: done_batches(checkpoint) > seen[-1], 120, log)
        submit(cluster, shared, "--partition=urgent", "--nodes=3", "--exclusive", "--output=/dev/null", "--wrap", "sleep 1")
        wait_until(lambda before=preemptions: shown(cluster, job)["Restarts"] == str(before), 60, log)  # type: ignore[misc]
        seen.append(done_batches(checkpoint))
    finish(cluster, shared, job)
    assert 0 < seen[1] < seen[2] < FILES // BATCH
    assert (shared / "preempted.cp/crossproducts.json").read_bytes() == (undisturbed / "crossproducts.json").read_bytes()
    estimates = []
    for name in ("undisturbed", "preempted"):
        subprocess.run(
            [sys.executable, "-m", "bigmm", "fit", "-", f"{name}.cp", "--ml", "--out", f"{name}.fit"],
            cwd=shared,
            check=True,
            capture_output=True,
        )
        estimates.append((shared / f"{name}.fit/estimates.json").read_bytes())
    assert estimates[0] == estimates[1]
    assert json.loads(estimates[0])["objective"] == pytest.approx(OBJECTIVE, abs=1e-6)


def test_requeued_before_its_time_is_up(cluster: dict[str, str], shared: Path, undisturbed: Path) -> None:
    """What Slurm sends two minutes before the limit (--signal) stops the driver, and the job comes back by itself."""
    job = submit(cluster, shared, str(DEPLOY / "slurm/bigmm.sbatch"), "reduce", FORMULA, "many", "--out", "requeued.cp")
    log = shared / f"bigmm-{job}.log"
    wait_until(lambda: done_batches(shared / f"bigmm-{job}/checkpoint") > 0, 120, log)
    subprocess.run(["scancel", "--batch", "--signal=USR1", job], env=cluster, check=True)
    wait_until(lambda: shown(cluster, job)["Restarts"] == "1", 60, log)
    text = finish(cluster, shared, job)
    assert "--resume" in text  # what the driver said when it was stopped
    assert (shared / "requeued.cp/crossproducts.json").read_bytes() == (undisturbed / "crossproducts.json").read_bytes()


def test_a_cancelled_job_stays_cancelled(cluster: dict[str, str], shared: Path) -> None:
    """Its checkpoint stays too, for another job; the keys do not."""
    job = submit(cluster, shared, str(DEPLOY / "slurm/bigmm.sbatch"), "reduce", FORMULA, "many", "--out", "cancelled.cp")
    log = shared / f"bigmm-{job}.log"
    wait_until(lambda: done_batches(shared / f"bigmm-{job}/checkpoint") > 0, 120, log)
    subprocess.run(["scancel", job], env=cluster, check=True)
    wait_until(lambda: not squeue(cluster, f"--jobs={job}"), 60, log)
    assert shown(cluster, job)["JobState"] == "CANCELLED"
    assert shown(cluster, job)["Restarts"] == "0"
    assert done_batches(shared / f"bigmm-{job}/checkpoint") > 0
    assert not (shared / "cancelled.cp").exists()
    wait_until(lambda: not (shared / f"bigmm-{job}/run").exists(), 30, log)


def test_adaptive_workers(cluster: dict[str, str], shared: Path, undisturbed: Path) -> None:
    """A driver's job asks for worker jobs; one that is cancelled is replaced and changes no bit."""
    job, log = submit_adaptive(cluster, shared, shared / "adaptive")
    wait_until(lambda: done_batches(shared / f"bigmm-{job}/checkpoint") > 0, 120, log)
    workers = worker_jobs(cluster)
    assert workers
    subprocess.run(["scancel", workers[0]], env=cluster, check=True)
    finish(cluster, shared, job)
    assert (shared / "adaptive.cp/crossproducts.json").read_bytes() == (undisturbed / "crossproducts.json").read_bytes()
    wait_until(lambda: not worker_jobs(cluster), 30, log)  # none is left behind


def test_workers_whose_lifetime_ends(cluster: dict[str, str], shared: Path, undisturbed: Path) -> None:
    """Each ends by itself after seconds instead of an hour, hands its work over, is replaced, and changes no bit."""
    job, log = submit_adaptive(cluster, shared, shared / "lifetime", ('"55m"', '"3s"'), ('"4m"', '"1s"'))
    finish(cluster, shared, job)
    assert (shared / "lifetime.cp/crossproducts.json").read_bytes() == (undisturbed / "crossproducts.json").read_bytes()
    logs = [path.read_text() for path in (shared / "lifetime").glob("*.err")]
    ended = [text for text in logs if "worker-lifetime-reached" in text]
    print(f"{len(ended)} of {len(logs)} worker jobs ended by themselves")
    assert ended
    assert len(logs) > 1  # others go on
    wait_until(lambda: not worker_jobs(cluster), 30, log)


def submit_adaptive(cluster: dict[str, str], shared: Path, folder: Path, *changes: tuple[str, str]) -> tuple[str, Path]:
    """A driver's job, with up to two worker jobs whose logs are in the folder, and the job's own log."""
    pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is not installed: tests/deploy/setup.sh")
    folder.mkdir()
    settings = (DEPLOY / "slurm/jobqueue.yaml").read_text()
    ours = (
        ("cores: 4", "cores: 1"),
        ("processes: 4", "processes: 1"),
        ("16GiB", "1GiB"),
        ("log-directory: null", f"log-directory: {folder}"),
    )
    for theirs, replacement in (*ours, *changes):
        assert theirs in settings
        settings = settings.replace(theirs, replacement)
    (shared / f"{folder.name}.yaml").write_text(settings)
    job = submit(
        {**cluster, "BIGMM_JOBQUEUE": f"{folder.name}.yaml"},
        shared,
        str(DEPLOY / "slurm/driver.sbatch"),
        "2",
        *("reduce", FORMULA, "many", "--out", f"{folder.name}.cp"),
    )
    return job, shared / f"bigmm-{job}.log"


def worker_jobs(cluster: dict[str, str]) -> list[str]:
    """Jobs of workers that are running or waiting."""
    return squeue(cluster, "--name=bigmm-worker", "--states=PD,R")


def squeue(cluster: dict[str, str], *selection: str) -> list[str]:
    """Numbers of jobs that Slurm has not done with."""
    found = subprocess.run(["squeue", "--noheader", "--format=%i", *selection], env=cluster, capture_output=True, text=True, check=True)
    return found.stdout.split()
