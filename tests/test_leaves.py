"""Where leaves live: chosen by memory, or as they were asked for; and what a plan, a log and the command line say of it."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from distributed import Client

import bigmm
from bigmm.cli import main
from bigmm.errors import ClusterError, ModelError, StorageError
from bigmm.leaves import reduced
from bigmm.reduction.reduce import blank_design, plan_pass
from bigmm.remote import RemoteCrossProducts
from bigmm.solver.residence import LeafSizes, LeavesChoice, choose_residence, count_bytes, needed_at_most

FORMULA = "y ~ x + (x | g) + (1 | h)"
ROWS = 3000
#: Of the slices of FORMULA: less than a fit here takes, more than that but less than all rows could take, and plenty.
TOO_LITTLE, MEASURED, PLENTY = "100 kB", "2 MB", "8 GiB"


def frame() -> pd.DataFrame:
    rng = np.random.default_rng(11)
    g, h, x = rng.integers(0, 200, ROWS), rng.integers(0, 12, ROWS), rng.normal(size=ROWS)
    y = x + rng.normal(size=200)[g] + 0.5 * rng.normal(size=200)[g] * x + rng.normal(size=12)[h] + rng.normal(size=ROWS)
    return pd.DataFrame({"g": g, "h": h, "x": x, "y": y, "f": np.array(["p", "q"])[g % 2]})


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    for number, rows in enumerate(np.array_split(np.arange(ROWS), 4)):
        frame().iloc[rows].to_parquet(folder / f"{number}.parquet", index=False)
    return folder


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("memory", "leaves", "where", "reason"),
    [
        (TOO_LITTLE, "auto", "workers", r"memory will not hold them: .* kB at the peak of a fit here, 100 kB available"),
        (MEASURED, "auto", "local", r"memory holds them: .* kB at the peak of a fit here, 2 MB available"),
        (PLENTY, "auto", "local", r"memory holds them: .* MB at most, 8.59 GB available"),
        (TOO_LITTLE, "workers", "workers", "asked for"),
        (PLENTY, "workers", "workers", "asked for"),
        (PLENTY, "local", "local", "asked for"),
    ],
)
def test_chosen_by_memory(
    client: Client, files: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any, memory: str, leaves: Any, where: str, reason: str
) -> None:
    expected = bigmm.lmer(FORMULA, files, client=0)
    monkeypatch.setenv("BIGMM_MEMORY", memory)
    with caplog.at_level(logging.INFO, "bigmm.leaves"), reduced(FORMULA, files, leaves, client) as found:
        assert isinstance(found.cp, RemoteCrossProducts) == (where == "workers")
        assert found.residence.where == where
        model = found.cp.model()
        model.residence = found.residence
        text = str(model.plan())
    assert f"leaves live: {found.residence}" in text
    assert model.plan().leaves.startswith(where)
    (line,) = [record.getMessage() for record in caplog.records if record.name == "bigmm.leaves"]
    assert line.startswith(f"leaves live: {where}, ")
    assert re.search(reason, line)
    fit = bigmm.lmer(FORMULA, files, client=client, leaves=leaves)
    assert (fit.model is None) == (where == "workers")
    assert fit.objective == pytest.approx(expected.objective, abs=1e-7)
    np.testing.assert_allclose(fit.beta, expected.beta, rtol=1e-6)


@pytest.mark.cluster
def test_uncounted_columns_are_measured(client: Client, files: Path) -> None:
    """How many columns a category makes is known after the pass alone."""
    formula = "y ~ f + (1 | g)"
    with reduced(formula, files, "auto", client) as found:
        assert found.residence.where == "local"
        assert "at the peak of a fit here" in found.residence.reason
    whole = bigmm.reduce(formula, files, client=0)
    assert isinstance(found.cp, bigmm.CrossProducts)
    assert found.cp.plan_digest == whole.plan_digest
    assert list(found.cp.sources.urls) == list(whole.sources.urls)
    assert found.cp.fit().objective == pytest.approx(bigmm.lmer(formula, files, client=0).objective, abs=1e-8)


@pytest.mark.parametrize("memory", [TOO_LITTLE, PLENTY])
def test_without_workers_they_are_local(files: Path, monkeypatch: pytest.MonkeyPatch, memory: str) -> None:
    monkeypatch.setenv("BIGMM_MEMORY", memory)
    with reduced(FORMULA, files, "auto", 0) as found:
        assert str(found.residence) == "local, there are no workers"


@pytest.mark.cluster
def test_checkpoints_are_local(client: Client, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIGMM_MEMORY", TOO_LITTLE)
    with reduced(FORMULA, files, "auto", client, checkpoint=tmp_path / "ck") as found:
        assert str(found.residence) == "local, a checkpoint is kept here"
    with (
        pytest.raises(StorageError, match="leave it out, or choose leaves='local'"),
        reduced(FORMULA, files, "workers", client, checkpoint=tmp_path / "ck"),
    ):
        pass


@pytest.mark.cluster
@pytest.mark.parametrize("leaves", ["auto", "workers"])
def test_several_responses(client: Client, files: Path, monkeypatch: pytest.MonkeyPatch, leaves: LeavesChoice) -> None:
    formula = "cbind(y, x) ~ 1 + (1 | g) + (1 | h)"
    here = bigmm.reduce(formula, files, client=0).fits()
    monkeypatch.setenv("BIGMM_MEMORY", TOO_LITTLE)
    with reduced(formula, files, leaves, client) as found:
        assert found.residence.where == "workers"
        there = found.cp.fits()
    assert list(there) == ["y", "x"]
    for response, fit in there.items():
        assert fit.objective == pytest.approx(here[response].objective, abs=1e-6)
        np.testing.assert_allclose(fit.beta, here[response].beta, rtol=1e-6)
        np.testing.assert_allclose(fit.varcorr["vcov"], here[response].varcorr["vcov"], rtol=1e-4, atol=1e-6)
        assert fit.formula.text == here[response].formula.text


def test_refused(files: Path) -> None:
    wrong: Any = "driver"
    with pytest.raises(ModelError, match="leaves='driver': expected 'auto', 'workers' or 'local'"):
        bigmm.lmer(FORMULA, files, leaves=wrong)
    with pytest.raises(ClusterError, match="leaves='workers' needs a cluster"):
        bigmm.lmer(FORMULA, files, client=0, leaves="workers")


@pytest.mark.parametrize(
    "formula", ["y ~ x + (x | g) + (1 | h)", "y ~ 1 + (1 | g)", "y ~ x + (x | g)", "y ~ x + (1 | g) + (1 | h) + (x | f)"]
)
def test_the_bound_bounds(formula: str) -> None:
    """Rows that each have new levels take what was said, and others less."""
    data = frame().assign(g=np.arange(ROWS), h=np.arange(ROWS) // 2)
    _, design = plan_pass(blank_design(formula, None, None, "omit", "raise"), data, None)
    cp = bigmm.reduce(formula, data, client=0)
    ((levels, entries, nbytes),) = count_bytes(cp, 0)
    _, k, width = cp.groups[0].ZtXy.shape
    assert levels == ROWS
    assert LeafSizes(levels, k, width, entries, nbytes).needed <= needed_at_most(design, ROWS) < np.inf
    assert needed_at_most(design, None) == np.inf


def test_the_limit_itself_is_enough() -> None:
    assert choose_residence(1e6, 1e6).where == "local"
    assert choose_residence(1e6 + 1, 1e6).where == "workers"


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("leaves", "memory", "where"), [("auto", TOO_LITTLE, "workers"), ("workers", PLENTY, "workers"), ("local", PLENTY, "local")]
)
def test_command(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leaves: str, memory: str, where: str) -> None:
    expected = bigmm.lmer(FORMULA, files, client=0)
    monkeypatch.setenv("BIGMM_MEMORY", memory)
    log, out = tmp_path / "log.json", tmp_path / "fit"
    words = ["fit", FORMULA, str(files), "--workers", "2", "--leaves", leaves, "--log-json", str(log), "--out", str(out)]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    records = [json.loads(line) for line in log.read_text().splitlines()]
    (pass_over,) = [record for record in records if record["event"] == "reduced"]
    assert pass_over["leaves"].startswith(where)
    assert (pass_over["digest"] is None) == (where == "workers")
    assert ("leaves live on workers" in result.output) == (where == "workers")
    saved = bigmm.load(out)
    assert saved.objective == pytest.approx(expected.objective, abs=1e-7)
    np.testing.assert_allclose(saved.ranef()["g"], expected.ranef()["g"], atol=1e-5)


def test_command_refuses(files: Path, tmp_path: Path) -> None:
    bigmm.reduce(FORMULA, files, client=0).save(tmp_path / "cp")
    for words, text in [
        ([str(tmp_path / "cp"), "--leaves", "workers"], "is for a pass over rows"),
        ([str(files), "--leaves", "workers", "--workers", "0"], "needs a cluster"),
        ([str(files), "--leaves", "driver"], "'driver' is not one of"),
    ]:
        result = CliRunner().invoke(main, ["fit", "-" if "cp" in words[0] else FORMULA, *words])
        assert (result.exit_code, text in result.output) == (2, True), result.output
