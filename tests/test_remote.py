"""Slices that stay on the workers: the same numbers as on the driver, to rounding; lost workers do their part again."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import threading
import time
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pandas as pd
import pytest
from distributed import Client, Status

import bigmm
from bigmm.errors import ClusterError, LabelError, ModelError
from bigmm.inference.estimate import estimate
from bigmm.reduction.cluster import local_cluster

pytestmark = pytest.mark.cluster

ROWS = 4000


def frame() -> pd.DataFrame:
    rng = np.random.default_rng(5)
    g, h = rng.integers(0, 300, ROWS), rng.integers(0, 25, ROWS)
    f, x = rng.integers(0, 3, ROWS), rng.normal(10.0, 1.0, ROWS)
    y = 1e3 + x + rng.normal(size=300)[g] + 0.3 * rng.normal(size=300)[g] * x + 0.5 * rng.normal(size=25)[h] + rng.normal(size=ROWS)
    names = np.array([f"group {number}" for number in range(300)])
    return pd.DataFrame({"g": names[g], "h": h, "f": np.array(["p", "q", "r"])[f], "x": x, "y": y, "w": rng.uniform(0.5, 2.0, ROWS)})


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parquet")
    for number, rows in enumerate(np.array_split(np.arange(ROWS), 40)):
        frame().iloc[rows].to_parquet(folder / f"{number}.parquet", index=False)
    return folder


FORMULAS = [
    "y ~ f * x + (1 | g) + (1 | h)",
    "y ~ x + (x | g) + (1 | h)",
    "y ~ x + (1 | g) + (0 + x | g) + (x | h)",
    "y ~ f + (f | g)",
    "y ~ 1 + (1 | g)",
    "y ~ x + (1 | g) + (1 | h) + (1 | f:h)",
    "y ~ x + (x | h) + (1 | f)",  # some slices have no levels
    "y ~ x + (1 | f)",
]


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("formula", FORMULAS)
def test_same_numbers(client: Client, files: Path, formula: str, reml: bool) -> None:
    here = bigmm.reduce(formula, files, client=0, weights="w").model(reml=reml)
    remote = bigmm.reduce_on_workers(formula, files, client, weights="w")
    there = remote.model(reml=reml)
    theta = 0.7 * here.theta0 + 0.1
    assert there.objective(theta) == pytest.approx(here.objective(theta), rel=1e-12)
    np.testing.assert_allclose(there.gradient(theta), here.gradient(theta), rtol=1e-7, atol=1e-7)
    one, other = here.fit(), remote.fit(reml=reml)
    assert other.objective == pytest.approx(one.objective, abs=1e-7)
    np.testing.assert_allclose(other.beta, one.beta, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(other.stderr, one.stderr, rtol=1e-6)
    for name, table in one.ranef().items():
        np.testing.assert_array_equal(other.ranef()[name].index, table.index)
        np.testing.assert_allclose(other.ranef()[name], table, atol=1e-4)
    assert other.nobs == one.nobs == ROWS
    assert other.model is None


@pytest.mark.parametrize("formula", FORMULAS)
def test_everything_of_a_fit_at_one_theta(client: Client, files: Path, formula: str) -> None:
    """At the same theta: random effects, their conditional variances and fitted values to rounding; the text to the letter."""
    one = bigmm.reduce(formula, files, client=0).fit()
    model = bigmm.reduce_on_workers(formula, files, client).model()
    other = estimate(model, one.optimization)
    assert other.summary() == one.summary()
    assert list(other.ranef()) == list(one.ranef())
    for name, table in one.ranef().items():
        pd.testing.assert_frame_equal(other.ranef()[name], table, rtol=1e-7, atol=1e-9)
    for name, expected in one.condvar().items():
        found = other.condvar()[name]
        assert list(found["levels"]) == list(expected["levels"])
        assert found["names"] == expected["names"]
        np.testing.assert_allclose(found["vcov"], expected["vcov"], rtol=1e-8, atol=1e-12)
    new = frame()
    pd.testing.assert_series_equal(other.predict(new), one.predict(new), rtol=1e-10)
    pd.testing.assert_series_equal(other.predict(new, "~0"), one.predict(new, "~0"), rtol=1e-12)


def test_a_fit_that_has_left_its_workers(client: Client, files: Path, tmp_path: Path) -> None:
    """What needs the leaves says what to do; the rest is there."""
    fit = bigmm.reduce_on_workers("y ~ x + (x | g)", files, client).model().fit()
    pickled = pickle.loads(pickle.dumps(fit))
    fit.save(tmp_path / "fit")
    for other in (pickled, bigmm.load(tmp_path / "fit")):
        assert other.summary() == fit.summary()
        pd.testing.assert_frame_equal(other.ranef()["g"], fit.ranef()["g"])
        with pytest.raises(ModelError, match=r"leaves were on workers.*reduce_on_workers\(formula, data, client\)\.model\(\)\.fit"):
            other.condvar()


def test_conditional_variances_when_the_cluster_is_gone(files: Path) -> None:
    with local_cluster(1) as client:
        fit = bigmm.reduce_on_workers("y ~ x + (x | g)", files, client).model().fit()
    started = time.monotonic()
    with pytest.raises(ClusterError, match="on a cluster that is closed: keep it open"):
        fit.condvar()
    assert time.monotonic() - started < 30


def test_sub_models_and_collect(client: Client, files: Path) -> None:
    formula = "y ~ f * x + (x | g) + (1 | h)"
    whole = bigmm.reduce(formula, files, client=0)
    remote = bigmm.reduce_on_workers(formula, files, client)
    assert remote.fit("y ~ x + (1 | g)").objective == pytest.approx(whole.fit("y ~ x + (1 | g)").objective, abs=1e-7)
    assert remote.rest.fit("y ~ x + (1 | h)").objective == pytest.approx(whole.fit("y ~ x + (1 | h)").objective, abs=1e-7)
    with pytest.raises(LabelError, match=r"the leaves on the workers are the levels of 'g': name it, or use rest\.model\(\.\.\.\)"):
        remote.model("y ~ x + (1 | h)")
    collected = remote.collect()
    np.testing.assert_allclose(collected.XytXy, whole.XytXy, rtol=1e-12, atol=1e-9)
    assert collected.groups[0].levels.tolist() == whole.groups[0].levels.tolist()
    assert collected.sources.read.sum() == ROWS


def test_lmer(client: Client, files: Path) -> None:
    formula = "y ~ x + (x | g) + (1 | h)"
    one = bigmm.lmer(formula, files, client=0)
    other = bigmm.lmer(formula, files, client=client, leaves="workers")
    assert other.summary().partition("optimizer")[0] == one.summary().partition("optimizer")[0]
    with pytest.raises(ModelError, match="holds no crossproducts"):
        other.condvar()
    with pytest.raises(ClusterError, match="leaves='workers' needs a cluster"):
        bigmm.lmer(formula, files, client=0, leaves="workers")
    wrong: Any = "elsewhere"
    with pytest.raises(ModelError, match="leaves='elsewhere': expected 'auto', 'workers' or 'local'"):
        bigmm.lmer(formula, files, leaves=wrong)


def test_a_worker_is_lost_between_evaluations(files: Path) -> None:
    formula = "y ~ x + (x | g) + (1 | h)"
    expected = bigmm.reduce(formula, files, client=0).model()
    with local_cluster(2) as client:
        model = bigmm.reduce_on_workers(formula, files, client).model()
        before = model.objective(model.theta0)
        os.kill(next(iter(client.run(os.getpid).values())), signal.SIGKILL)
        assert model.objective(model.theta0) == before == pytest.approx(expected.objective(model.theta0), rel=1e-12)


@pytest.mark.parametrize("small", [8e6, 0.0])
def test_workers_are_lost_during_the_search(files: Path, monkeypatch: pytest.MonkeyPatch, small: float) -> None:
    """Slices are made again; large arguments, which nobody can make again, are sent again: the same bits at the end."""
    monkeypatch.setattr("bigmm.slice_map._SMALL", small)
    formula, shots, killed = "y ~ x + (x | g) + (1 | h)", dict[int, threading.Timer](), list[int]()
    with local_cluster(2) as client:
        remote = bigmm.reduce_on_workers(formula, files, client)
        expected = remote.fit()

        def shoot(number: int, theta: Any, value: float) -> None:
            """Before an evaluation is over, and without waiting for the worker that is started instead."""
            if number in {2, 3, 5}:
                shots[number] = threading.Timer(0.02 * number, kill_a_worker, [client, killed])
                shots[number].start()

        fit = remote.model().fit(on_evaluation=shoot)
        for shot in shots.values():  # while the cluster is there
            shot.join()
    assert list(shots) == [2, 3, 5]
    assert killed
    assert fit.objective == expected.objective
    np.testing.assert_array_equal(fit.theta, expected.theta)
    np.testing.assert_array_equal(fit.ranef()["g"], expected.ranef()["g"])


def test_a_worker_that_cannot_be_reached(client: Client, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large arguments are sent again when the connection is not made, which takes a lost worker the right moment."""
    monkeypatch.setattr("bigmm.slice_map._SMALL", 0.0)
    model = bigmm.reduce_on_workers("y ~ x + (x | g)", files, client).model()
    expected, scatter, refusals = model.objective(model.theta0), client.scatter, [2]

    def sometimes(*arguments: Any, **options: Any) -> Any:
        refusals[0] -= 1
        if refusals[0] >= 0:
            raise OSError("Timed out trying to connect to tcp://127.0.0.1:1 after 10 s")
        return scatter(*arguments, **options)

    monkeypatch.setattr(client, "scatter", sometimes)
    assert model.objective(1.1 * model.theta0) != expected
    assert model.objective(model.theta0) == expected
    refusals[0] = 100
    with pytest.raises(ClusterError, match=r"lost again and again \(.*Timed out trying to connect"):
        model.objective(1.2 * model.theta0)


def kill_a_worker(client: Client, killed: list[int]) -> None:
    """One that the scheduler has, by the signal that cannot be caught; none while all of them are being started again."""
    known = client.scheduler_info(n_workers=-1)["workers"]
    pids = [nanny.pid for nanny in client.cluster.workers.values() if nanny.worker_address in known and nanny.pid is not None]
    for pid in pids[:1]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)


def kill_all_for_good(client: Client) -> None:
    """Nobody starts others in their place."""

    async def refuse() -> Status:
        return Status.failed

    for nanny in client.cluster.workers.values():
        nanny.instantiate = refuse
        os.kill(nanny.pid, signal.SIGKILL)


@pytest.mark.parametrize("small", [8e6, 0.0])
def test_all_workers_are_lost_during_the_search(files: Path, monkeypatch: pytest.MonkeyPatch, small: float) -> None:
    """The fit ends, with an error that says why, within a bounded time."""
    monkeypatch.setattr("bigmm.slice_map._SMALL", small)
    monkeypatch.setattr("bigmm.slice_map._WAIT_SECONDS", 2.0)
    killed: list[float] = []

    def shoot(number: int, theta: Any, value: float) -> None:
        if number == 2:
            kill_all_for_good(client)
            killed.append(time.monotonic())

    patience = dask.config.set({"bigmm.timeouts.ask": "500 ms", "bigmm.timeouts.no-workers": "2 s"})
    with patience, local_cluster(2) as client:
        model = bigmm.reduce_on_workers("y ~ x + (x | g) + (1 | h)", files, client).model()
        with pytest.raises(ClusterError, match="no worker has been there for 2 s: start workers and run again"):
            model.fit(on_evaluation=shoot)
    assert time.monotonic() - killed[0] < 60
