"""Slices that stay on the workers: the same numbers as on the driver, to rounding; lost workers do their part again."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from distributed import Client

import bigmm
from bigmm.errors import ClusterError, LabelError, ModelError
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
def client() -> Iterator[Client]:
    with local_cluster(2) as started:
        yield started


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
        worker = next(iter(client.scheduler_info()["workers"]))
        (pid,) = client.run(os.getpid, workers=[worker]).values()
        os.kill(pid, signal.SIGKILL)
        assert model.objective(model.theta0) == before == pytest.approx(expected.objective(model.theta0), rel=1e-12)
