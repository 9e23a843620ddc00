"""Settings of Dask's configuration: where they come from, what is refused, and that none of them changes a result unseen."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import dask
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import bigmm
from bigmm.errors import SettingError, StorageError
from bigmm.reduction import settings
from bigmm.reduction.sources import plan_data

FORMULA = "y ~ x + (1 | g)"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"g": rng.integers(0, 9, 4000), "x": rng.normal(size=4000), "y": rng.normal(size=4000)})
    (tmp_path / "data").mkdir()
    for number in range(5):
        pq.write_table(
            pa.Table.from_pandas(frame[number * 800 : number * 800 + 800]), tmp_path / f"data/{number}.parquet", row_group_size=100
        )
    return tmp_path / "data"


def test_every_default_is_read() -> None:
    assert settings.byte_count("chunk-bytes") == 32 * 2**20
    assert (settings.count("batches"), settings.resources(), settings.setting("forward-logs")) == (256, {}, True)
    times = {name: settings.seconds(f"timeouts.{name}") for name in settings.setting("timeouts")}
    assert times == {"connect": 10, "first-worker": 60, "ask": 20, "no-answer": 60, "no-workers": 300}
    assert settings.setting("local-cluster") == {"workers": None, "memory-limit": "auto", "dashboard-address": "127.0.0.1:0"}
    assert settings.seconds("progress.interval") == 30
    assert list(settings.changed()) == []


def test_the_environment_and_files_come_first(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("bigmm: {chunk-bytes: 1 MiB, batches: 7}\n")
    environment = os.environ | {"DASK_CONFIG": str(tmp_path), "DASK_BIGMM__CHUNK_BYTES": "2 MiB", "DASK_BIGMM__TIMEOUTS__NO_WORKERS": "1h"}
    environment["DASK_BIGMM__WORKER_RESOURCES"] = "{'GPU': 1}"
    code = (
        "from bigmm.reduction.settings import *; print(byte_count('chunk-bytes'), count('batches'), seconds('timeouts.no-workers'),"
        " resources(), sorted(name.replace('_', '-') for name, _, known in changed() if known))"
    )
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True).stdout
    assert found == ("2097152 7 3600.0 {'GPU': 1.0} ['batches', 'chunk-bytes', 'timeouts.no-workers', 'worker-resources.GPU']\n")


@pytest.mark.parametrize("wrong", ["soon", "-3 s", 0, None, float("inf")])
def test_no_time(wrong: object) -> None:
    with (
        dask.config.set({"bigmm.timeouts.ask": wrong}),
        pytest.raises(SettingError, match=r"setting bigmm\.timeouts\.ask is .*: expected a time"),
    ):
        settings.seconds("timeouts.ask")


@pytest.mark.parametrize("wrong", ["much", "0", -1, None, "64 parsecs"])
def test_no_size(wrong: object, folder: Path) -> None:
    with (
        dask.config.set({"bigmm.chunk-bytes": wrong}),
        pytest.raises(SettingError, match=r"setting bigmm\.chunk-bytes is .*: expected a size"),
    ):
        bigmm.reduce(FORMULA, folder)


@pytest.mark.parametrize("wrong", ["GPU", ["GPU"], {"GPU": "one"}, {"GPU": 0}])
def test_no_resources(wrong: object) -> None:
    with dask.config.set({"bigmm.worker-resources": wrong}), pytest.raises(SettingError, match="expected amounts by name"):
        settings.resources()


@pytest.mark.parametrize("wrong", [0, "many", True, 1.5])
def test_no_count(wrong: object) -> None:
    with dask.config.set({"bigmm.batches": wrong}), pytest.raises(SettingError, match="expected a number of at least 1"):
        settings.count("batches")


def test_a_name_that_is_none() -> None:
    with dask.config.set({"bigmm.no-worker-timeout": "5 s", "bigmm.batches": 3}):
        assert sorted(settings.changed()) == [("batches", 3, True), ("no-worker-timeout", "5 s", False)]


def test_the_cut_is_part_of_the_plan(folder: Path, tmp_path: Path) -> None:
    """Chunk bytes decide how the data are cut, and so the last bits: another cut is another plan, which a checkpoint refuses."""
    usual = plan_data(str(folder), ["y", "x", "g"])
    cp = bigmm.reduce(FORMULA, folder, checkpoint=tmp_path / "checkpoint")
    with dask.config.set({"bigmm.chunk-bytes": "2 kiB"}):
        fine = plan_data(str(folder), ["y", "x", "g"])
        assert len(fine.chunks) > len(usual.chunks) == 5
        assert fine.digest != usual.digest
        assert bigmm.reduce(FORMULA, folder).plan_digest == fine.digest != cp.plan_digest
        with pytest.raises(StorageError, match=r"made for other data, .*, or for another bigmm\.chunk-bytes"):
            bigmm.reduce(FORMULA, folder, checkpoint=tmp_path / "checkpoint")


@pytest.mark.parametrize("changes", [{"bigmm.batches": 1}, {"bigmm.forward-logs": False}, {"bigmm.progress.interval": "1 s"}])
def test_what_changes_no_bit(folder: Path, changes: dict[str, object]) -> None:
    expected = bigmm.reduce(FORMULA, folder).digest
    with dask.config.set(changes):
        assert bigmm.reduce(FORMULA, folder).digest == expected


def test_loaded_inside_a_change() -> None:
    """Dask forgets what was not there when a change began."""
    code = "import dask\nwith dask.config.set({'bigmm.batches': 3}):\n    from bigmm.reduction import settings\n"
    code += "    assert settings.count('batches') == 3\nassert settings.count('batches') == 256\n"
    code += "assert settings.seconds('timeouts.ask') == 20\nassert list(settings.changed()) == []"
    subprocess.run([sys.executable, "-c", code], check=True)
