"""What a job says while it runs: lines of progress, and records of JSON."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pandas as pd
import pytest

import bigmm
from bigmm.cli.figures import duration, short, size
from bigmm.cli.journal import Journal
from bigmm.cli.pace import Pace, in_full, in_short
from bigmm.cli.progress import Timer
from bigmm.reduction.progress import Extent, Progress
from bigmm.reduction.work import BATCH
from bigmm.urls import text_without_secrets
from tests.test_cli import SLEEP, finish, run, run_well, spawn

FORMULA = "y ~ x + (x | g)"
FILES = 40


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parquet")
    rng = np.random.default_rng(1)
    for number in range(FILES):
        part = pd.DataFrame({"g": rng.integers(0, 20, 60), "x": rng.normal(size=60)})
        part["y"] = part["x"] + rng.normal(size=60)
        part.loc[: number % 3, "y"] = np.nan
        part.to_parquet(folder / f"{number}.parquet", index=False)
    return folder


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def of(records: list[dict[str, Any]], event: str) -> list[dict[str, Any]]:
    return [record for record in records if record["event"] == event]


class TestRecords:
    def test_a_fit(self, files: Path, tmp_path: Path) -> None:
        log = tmp_path / "log.json"
        run_well("fit", FORMULA, files, "--workers", "0", "--log-json", log)
        records = read(log)
        assert records[0]["event"] == "started"
        assert records[0]["format"] == 1
        assert records[0]["command"] == "fit"
        assert records[0]["arguments"]["formula"] == FORMULA
        assert records[0]["arguments"]["data"] == [str(files)]
        assert records[0]["versions"]["bigmm"] == bigmm.__version__
        assert records[0]["pid"] == os.getpid()
        cp = bigmm.reduce(FORMULA, files)
        nothing = {"files": 0, "chunks": 0, "rows": 0, "bytes": 0}
        (planned,) = of(records, "planned")
        assert {name: planned[name] for name in ("files", "chunks", "rows", "before")} == {
            "files": FILES,
            "chunks": FILES,
            "rows": FILES * 60,
            "before": nothing,
        }
        chunks = of(records, "chunk")
        assert sorted(chunk["number"] for chunk in chunks) == list(range(FILES))
        assert sum(chunk["rows"] for chunk in chunks) == FILES * 60
        assert sum(chunk["bytes"] for chunk in chunks) == planned["bytes"] > 0
        (reduced,) = of(records, "reduced")
        assert (reduced["digest"], reduced["files"], reduced["skipped"]) == (cp.digest, FILES, [])
        assert reduced["rows"] == {
            "read": cp.rows.read,
            "used": cp.rows.used,
            "dropped": cp.rows.dropped,
            "missing": {"y": cp.rows.dropped},
        }
        assert sum(file["read"] - file["used"] for file in reduced["incomplete"]) == cp.rows.dropped
        fit = cp.fit()
        evaluations = of(records, "evaluation")
        assert [evaluation["objective"] for evaluation in evaluations] == [value for _, value in fit.optimization.trace]
        assert evaluations[-1]["theta"] == fit.optimization.trace[-1][0].tolist()
        (fitted,) = of(records, "fitted")
        assert (fitted["objective"], fitted["summary"]) == (fit.objective, fit.summary())
        assert records[-1] == {
            "time": records[-1]["time"],
            "event": "finished",
            "exit_code": 0,
            "seconds": records[-1]["seconds"],
            "rows": reduced["rows"],
            "digest": cp.digest,
        }
        assert [record["time"] for record in records] == sorted(record["time"] for record in records)

    def test_stderr_and_appended(self, tmp_path: Path) -> None:
        result = run_well("fit", "Reaction ~ Days + (1 | Subject)", SLEEP, "--quiet", "--log-json", "-")
        assert [json.loads(line)["event"] for line in result.stderr.splitlines()][:2] == ["started", "planned"]
        log = tmp_path / "log.json"
        for _ in range(2):
            run_well("fit", "Reaction ~ Days + (1 | Subject)", SLEEP, "--log-json", log)
        assert [record["event"] for record in read(log)].count("started") == 2

    def test_a_mistake(self, files: Path, tmp_path: Path) -> None:
        result = run("fit", "y ~ nothing + (1 | g)", files, "--log-json", tmp_path / "log.json")
        *_, error, finished = read(tmp_path / "log.json")
        assert result.stderr.endswith(f"bigmm: error: {error['message']}\n")
        assert (error["event"], error["exit_code"], finished["event"], finished["exit_code"]) == ("error", 2, "finished", 2)

    def test_not_converged(self, files: Path, tmp_path: Path) -> None:
        result = run("fit", FORMULA, files, "--maxeval", "1", "--log-json", tmp_path / "log.json")
        assert result.exit_code == read(tmp_path / "log.json")[-1]["exit_code"] == 3

    def test_a_warning(self, files: Path, tmp_path: Path) -> None:
        (tmp_path / "data").mkdir()
        for path in sorted(files.iterdir())[:3]:
            (tmp_path / "data" / path.name).write_bytes(path.read_bytes())
        damaged = next((tmp_path / "data").iterdir())
        content = bytearray(damaged.read_bytes())
        content[4:400] = b"\xff" * 396
        damaged.write_bytes(content)
        run_well("fit", FORMULA, tmp_path / "data", "--on-error", "skip", "--log-json", tmp_path / "log.json")
        records = read(tmp_path / "log.json")
        (warning,) = of(records, "warning")
        assert (warning["logger"], warning["worker"]) == ("bigmm.reduction.run", None)
        assert warning["message"].startswith(f"skipped {damaged.name}")
        assert [chunk["skipped"] for chunk in of(records, "chunk")].count(True) == 1
        assert [chunk["name"].startswith(damaged.name) for chunk in of(records, "reduced")[0]["skipped"]] == [True]

    def test_terminated_and_resumed(self, files: Path, tmp_path: Path) -> None:
        log, checkpoint = tmp_path / "log.json", tmp_path / "ck"
        command = ["reduce", FORMULA, files, "--workers", "0", "--checkpoint", checkpoint, "--out", tmp_path / "cp", "--log-json", log]
        process = spawn(*command)
        while not (checkpoint / "pass/checkpoint.json").exists():
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(signal.SIGTERM)
        code, _, _ = finish(process)
        if code == 0:
            pytest.skip("the pass was over before the signal")
        first = read(log)
        assert code == first[-1]["exit_code"] == os.EX_TEMPFAIL
        assert first[-2]["message"].startswith("terminated; what is done is in ")
        run_well(*command, "--resume")
        second = read(log)[len(first) :]
        (planned,) = of(second, "planned")
        assert planned["before"]["chunks"] == planned["before"]["files"] >= BATCH
        assert planned["before"]["rows"] == 60 * planned["before"]["chunks"]
        assert {chunk["number"] for chunk in of(second, "chunk")} == set(range(planned["before"]["chunks"], FILES))

    def test_a_full_disk_ends_the_log_and_not_the_job(self, files: Path) -> None:
        result = run_well("fit", FORMULA, files, "--log-json", "/dev/full")
        assert result.stderr.count("bigmm: warning: the log of --log-json ends here ([Errno 28] No space left on device)") == 1

    def test_no_place(self, files: Path, tmp_path: Path) -> None:
        result = run("fit", FORMULA, files, "--log-json", tmp_path / "no" / "log.json")
        assert (result.exit_code, "cannot write the log" in result.stderr) == (2, True)

    def test_what_json_has_no_word_for(self, tmp_path: Path) -> None:
        with (tmp_path / "log.json").open("w") as file:
            Journal(file).note("evaluation", objective=float("nan"), theta=(np.float64(1.0), np.inf), count=np.int64(3), place=tmp_path)
        (record,) = read(tmp_path / "log.json")
        assert record == {
            "time": record["time"],
            "event": "evaluation",
            "objective": None,
            "theta": [1.0, None],
            "count": 3,
            "place": str(tmp_path),
        }


class TestSecrets:
    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("no answer of s3://key:secret@bucket/part?.parquet today", "no answer of s3://bucket/part?.parquet today"),
            ("'https://u:p@host/a.csv?sig=abc' and http://h/b?x=1", "'https://host/a.csv' and http://h/b"),
            ("nothing: here", "nothing: here"),
        ],
    )
    def test_texts(self, text: str, shown: str) -> None:
        assert text_without_secrets(text) == shown

    def test_a_job(self, tmp_path: Path) -> None:
        """They are in the arguments, and in the error."""
        log, report = tmp_path / "log.json", tmp_path / "report.html"
        url = "https://user:hunter2@127.0.0.1:1/data.parquet?token=xyzzy"
        assert run("fit", FORMULA, url, "--log-json", log, "--report", report).exit_code == 2
        for text in (log.read_text(), report.read_text()):
            assert "127.0.0.1:1/data.parquet" in text
            assert "hunter2" not in text
            assert "xyzzy" not in text


class TestProgress:
    WHOLE = Extent(10, 100, 1000, 10_000_000)

    def progress(self, done: int, before: int = 0, whole: Extent = WHOLE) -> Progress:
        earlier = Extent(0, before, before * 10, before * 100_000)
        return Progress("reduce", done, 100, rows=done * 10, nbytes=done * 100_000 * bool(whole.nbytes), whole=whole, before=earlier)

    def test_what_was_done_before_is_no_speed(self) -> None:
        pace = Pace()
        assert pace.speed(self.progress(40, before=40), now=7.0).seconds_left is None
        speed = pace.speed(self.progress(50, before=40), now=12.0)
        assert (speed.rows, speed.nbytes, speed.seconds_left) == (20.0, 200_000.0, 25.0)
        assert in_short(self.progress(50, before=40), speed) == "50/100 chunks, 500 rows, 200.0 kB/s, 40 before"
        assert (
            in_full(self.progress(50, 40), speed) == "50%: 50 of 100 chunks (40 before), 500 rows, 5.0 MB, 20 rows/s, 200.0 kB/s, 25 s left"
        )

    def test_unknown_bytes(self) -> None:
        pace, whole = Pace(), Extent(1, 100, None, 0)
        pace.speed(self.progress(0, whole=whole), now=0.0)
        speed = pace.speed(self.progress(20, whole=whole), now=10.0)
        assert (speed.nbytes, speed.seconds_left) == (0.0, 40.0)

    def test_it_looks_back_two_minutes(self) -> None:
        """One worker for an hour, then ten."""
        pace = Pace()
        for minute in range(60):
            pace.speed(self.progress(minute // 2), now=60.0 * minute)
        for second in range(0, 300, 10):
            speed = pace.speed(self.progress(30 + second // 10), now=3600.0 + second)
        assert speed.seconds_left == pytest.approx((100 - 59) * 10.0, rel=0.1)

    def test_lines_in_a_log(self, files: Path) -> None:
        with dask.config.set({"bigmm.progress.interval": "1 ms"}):
            lines = run_well("fit", FORMULA, files, "--workers", "0").stderr.splitlines()
        assert lines[0] == "bigmm: pass over the rows"
        shown = [line for line in lines if " of 40 chunks, " in line]
        assert shown
        assert f"bigmm: 100%: 40 of 40 chunks, {FILES * 60:,} rows, " in shown[-1]
        assert any("evaluations, objective " in line for line in lines[len(shown) :])
        assert len(run_well("fit", FORMULA, files, "--workers", "0").stderr.splitlines()) == 4

    @pytest.mark.parametrize(("seconds", "shown"), [(61.0, [1, 3]), (59.0, [])])
    def test_what_was_shown_is_shown_to_its_end(self, seconds: float, shown: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
        """Nobody reads 67% last; a pass that is over before the first interval has no such lines."""
        now = [0.0]
        monkeypatch.setattr("bigmm.cli.progress.time.monotonic", lambda: now[0])
        timer = Timer(60.0)
        now[0] = seconds
        assert [done for done in (1, 2, 3) if timer.is_due(Progress("reduce", done, 3))] == shown

    def test_no_interval(self, files: Path) -> None:
        with dask.config.set({"bigmm.progress.interval": "often"}):
            result = run("fit", FORMULA, files)
        assert (result.exit_code, "the setting bigmm.progress.interval is 'often': expected a time" in result.stderr) == (2, True)

    @pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 00 s"), (135, "2 min 15 s"), (7500, "2 h 05 min")])
    def test_times(self, seconds: float, text: str) -> None:
        assert duration(seconds) == text

    def test_amounts(self) -> None:
        assert [size(0), size(999), size(1500), size(3.2e13)] == ["0 B", "999 B", "1.5 kB", "32.0 TB"]
        assert [short(0), short(999), short(12345), short(4.567e9)] == ["0", "999", "12.3 k", "4.57 G"]
