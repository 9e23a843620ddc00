"""One more pass over the rows, at the final estimates."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from distributed import Client, LocalCluster, get_task_stream

import bigmm


def rows(offset: float = 0.0) -> pd.DataFrame:
    rng = np.random.default_rng(5)
    n = 300
    frame = pd.DataFrame(
        {"g": rng.integers(0, 12, n), "h": rng.choice(list("abcd"), n), "x": rng.normal(size=n), "w": rng.uniform(0.5, 2, n)}
    )
    frame["y"] = offset + frame["x"] + rng.normal(size=12)[frame["g"]] + rng.normal(size=n)
    frame.loc[3, "x"] = np.nan
    return frame


@pytest.mark.parametrize("formula", ["y ~ x + (1 | g)", "y ~ x * h + (x | g) + (1 | h)", "y ~ 1 + (x || g) + offset(x)"])
@pytest.mark.parametrize("weights", [None, "w"])
def test_residuals_of_the_rows(formula: str, weights: str | None) -> None:
    frame = rows()
    fit = bigmm.lmer(formula, frame, weights=weights, client=0)
    found = fit.verify(frame, client=0)
    assert found.rows == fit.nobs
    assert abs(found.relative) < 1e-9
    if weights is None:
        assert found.from_rows == pytest.approx(((frame["y"] - fit.predict(frame)) ** 2).sum(), rel=1e-10)


def test_files_and_partitions(tmp_path: Path) -> None:
    frame = rows()
    for part in range(3):
        frame.iloc[100 * part : 100 * part + 100].to_parquet(tmp_path / f"{part}.parquet")
    fit = bigmm.lmer("y ~ x + (1 | g)", tmp_path, client=0)
    expected = fit.verify(frame, client=0).from_rows
    assert fit.verify(tmp_path, client=0).from_rows == pytest.approx(expected, rel=1e-12)
    assert fit.verify(dd.from_pandas(frame, npartitions=3)).from_rows == pytest.approx(expected, rel=1e-12)


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    options = {"dashboard_address": "127.0.0.1:0", "silence_logs": False}
    with LocalCluster(n_workers=2, threads_per_worker=1, **options) as started:
        yield started


@pytest.mark.cluster
@pytest.mark.parametrize("weights", [None, "w"])
def test_on_workers(cluster: LocalCluster, tmp_path: Path, weights: str | None) -> None:
    """The same bits as here, and every chunk is read by a worker."""
    frame = rows()
    for part in range(6):
        frame.iloc[50 * part : 50 * part + 50].to_parquet(tmp_path / f"{part}.parquet")
    fit = bigmm.lmer("y ~ x * h + (x | g)", tmp_path, weights=weights, client=0)
    here = fit.verify(tmp_path, client=0)
    with Client(cluster) as client:
        with get_task_stream(client) as stream:
            assert fit.verify(tmp_path, client=client) == here
        assert len(stream.data) == 6
        assert fit.verify(dd.from_pandas(frame, npartitions=6), client=client).from_rows == pytest.approx(here.from_rows, rel=1e-12)
        with pytest.raises(bigmm.DataError, match="give the same data"):
            fit.verify(tmp_path / "0.parquet", client=client)
    assert fit.verify(tmp_path, client=cluster) == here
    assert here.rows == 299
    assert abs(here.relative) < 1e-9


@pytest.mark.cluster
def test_an_error_of_a_worker_is_that_of_the_data(cluster: LocalCluster, tmp_path: Path) -> None:
    frame = rows()
    frame.to_parquet(tmp_path / "0.parquet")
    fit = bigmm.lmer("y ~ x + (1 | g)", tmp_path, client=0)
    frame.assign(x=np.where(np.arange(300) == 7, np.inf, frame["x"])).to_parquet(tmp_path / "0.parquet")
    with Client(cluster) as client, pytest.raises(bigmm.DataError, match="1 infinite values of 'x'"):
        fit.verify(tmp_path, client=client)


def test_what_crossproducts_lose_is_seen() -> None:
    """Without an intercept nothing undoes the shift of y."""
    frame = rows(1e5)
    with pytest.warns(bigmm.PrecisionWarning):
        fit = bigmm.lmer("y ~ 0 + (1 | g)", frame, client=0)
    assert 1e-12 < abs(fit.verify(frame, client=0).relative) < 1e-1


def test_other_rows_are_refused() -> None:
    frame = rows()
    with pytest.raises(bigmm.DataError, match="give the same data"):
        bigmm.lmer("y ~ x + (1 | g)", frame, client=0).verify(frame.iloc[:200], client=0)


def test_lmer_verifies(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="bigmm"):
        bigmm.lmer("y ~ x + (1 | g)", rows(), client=0, verify=True)
    assert "residual sum of squares of 299 rows" in caplog.text
