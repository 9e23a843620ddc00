"""The command line: what stands on stdout and stderr, exit codes, mistakes in one line, signals, real processes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import fsspec
import numpy as np
import pandas as pd
import psutil
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

import bigmm
from bigmm.accounting import SkippedChunk
from bigmm.cli import main

DATA = Path(__file__).parent / "data"
SLEEP = str(DATA / "sleepstudy.csv")
FORMULA = "Reaction ~ Days + (Days | Subject)"
ONE = "Reaction ~ Days + (1 | Subject)"
#: REML criterion of lme4 for FORMULA.
OBJECTIVE = "1743.6"
#: A refused connection is tried again for 10 s.
UNREACHABLE_SECONDS = 25


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def run_well(*args: str | Path) -> Result:
    result = run(*args)
    assert result.exit_code == 0, result.stderr
    return result


def spawn(*args: str | Path, options: tuple[str, ...] = ("-W", "error")) -> subprocess.Popen[str]:
    command = [sys.executable, *options, "-m", "bigmm", *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def finish(process: subprocess.Popen[str], timeout: float = 120) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


@pytest.fixture
def sleep() -> pd.DataFrame:
    return pd.read_csv(SLEEP, dtype={"Days": float})


@pytest.fixture
def crossproducts(tmp_path: Path) -> Path:
    bigmm.reduce(FORMULA, SLEEP).save(tmp_path / "sleep.cp")
    return tmp_path / "sleep.cp"


@pytest.fixture
def saved_fit(tmp_path: Path) -> Path:
    bigmm.lmer(FORMULA, SLEEP).save(tmp_path / "sleep.fit")
    return tmp_path / "sleep.fit"


def write_parts(frame: pd.DataFrame, folder: Path, parts: int = 5) -> Path:
    folder.mkdir()
    for part, rows in enumerate(np.array_split(np.arange(len(frame)), parts)):
        frame.iloc[rows].to_parquet(folder / f"part-{part}.parquet", index=False)
    return folder


# plan


def test_plan_prints_the_table(crossproducts: Path) -> None:
    result = run_well("plan", "-", crossproducts)
    found = bigmm.load(crossproducts)
    assert isinstance(found, bigmm.CrossProducts)
    assert result.stdout.splitlines()[:3] == str(found.plan()).splitlines()[:3]
    assert result.stderr == ""


def test_plan_as_json(crossproducts: Path) -> None:
    data = json.loads(run_well("plan", ONE, crossproducts, "--ml", "--json", "--memory", "2GB").stdout)
    assert data["chosen"]["name"] == "leaves"
    assert data["chosen"]["nnz_L"] == 18
    assert data["available"] == 2e9
    assert data["fits"] is True


def test_plan_that_does_not_fit(crossproducts: Path) -> None:
    result = run("plan", "-", crossproducts, "--memory", "100B")
    assert result.exit_code == 2
    assert "leaves" in result.stdout
    assert result.stderr.startswith("bigmm: error: the fit needs ")
    assert "100 B are available" in result.stderr


def test_fit_that_does_not_fit(crossproducts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIGMM_MEMORY", "100B")
    result = run("fit", "-", crossproducts)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "100 B are available" in result.stderr


def test_plan_refuses(crossproducts: Path) -> None:
    for arguments, message in [((crossproducts, "--memory", "lots"), "no amount of memory"), ((SLEEP,), "no saved crossproducts")]:
        result = run("plan", "-", *arguments)
        assert result.exit_code == 2
        assert message in result.stderr


# fit


def test_fit_prints_the_summary_and_nothing_else() -> None:
    result = run_well("fit", FORMULA, SLEEP)
    assert result.stdout == bigmm.lmer(FORMULA, SLEEP).summary() + "\n"
    lines = result.stderr.splitlines()
    assert [line.split()[1] for line in lines] == ["pass", "180", "search", "objective"]
    assert all(line.startswith("bigmm: ") for line in lines)


def test_quiet_says_nothing() -> None:
    assert run_well("fit", FORMULA, SLEEP, "--quiet").stderr == ""


def test_a_loss_of_digits_is_said(tmp_path: Path) -> None:
    g, noise = np.repeat(np.arange(20), 10), np.sin(np.arange(200.0))
    x = 1e6 * np.cos(7.0 * np.arange(200.0))
    pd.DataFrame({"x": x, "g": g, "y": x + np.cos(g) + noise}).to_parquet(tmp_path / "large.parquet")
    code, _, err = finish(spawn("fit", "y ~ x + (1|g)", tmp_path / "large.parquet", "--quiet", options=()))
    assert code == 0
    assert err.startswith("bigmm: warning: the fixed effects leave")
    assert err.count("\n") == 1


def test_fit_options_reach_the_library(tmp_path: Path) -> None:
    formula = "y ~ x + f + (1 | g)"
    data = str(tmp_path / "complete.parquet")
    pd.read_csv(DATA / "simulated.csv").dropna().to_parquet(data)
    run_well(
        *("fit", formula, data, "--ml", "--weights", "w", "--offset", "o", "--contrasts", "f=contr.sum", "--workers", "0"),
        *("--start", "0.5", "--optimizer", "neldermead", "--maxeval", "500", "--out", tmp_path / "m.fit"),
    )
    fit = bigmm.load(tmp_path / "m.fit")
    settings = bigmm.Optimizer("neldermead", maxeval=500)
    expected = bigmm.lmer(
        formula, data, reml=False, weights="w", offset="o", contrasts={"f": "sum"}, start=[0.5], optimizer=settings, client=0
    )
    assert isinstance(fit, bigmm.LinearMixedModelFit)
    assert not fit.reml
    assert fit.optimization.settings == settings
    pd.testing.assert_series_equal(fit.fixef, expected.fixef)
    assert fit.objective == expected.objective


def test_fit_saves(tmp_path: Path) -> None:
    result = run_well("fit", FORMULA, SLEEP, "--out", tmp_path / "new" / "m.fit")
    record = json.loads((tmp_path / "new" / "m.fit" / "estimates.json").read_text(encoding="utf-8"))
    assert f"{record['objective']:.1f}" == OBJECTIVE
    assert run_well("summary", tmp_path / "new" / "m.fit").stdout == result.stdout
    run_well("fit", ONE, SLEEP, "--out", tmp_path / "new" / "m.fit")  # a fit may be replaced


def test_target_is_checked_before_the_pass(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    for out in (tmp_path, tmp_path / "file", tmp_path / "file" / "m.fit"):
        result = run("fit", FORMULA, SLEEP, "--out", out)
        assert result.exit_code == 2
        assert "choose another place" in result.stderr
        assert "pass over" not in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_fit_that_does_not_converge(tmp_path: Path) -> None:
    result = run("fit", FORMULA, SLEEP, "--maxeval", "2", "--out", tmp_path / "m.fit")
    assert result.exit_code == 3
    assert "NOT CONVERGED" in result.stdout
    assert (tmp_path / "m.fit").is_dir()


def test_fit_of_saved_crossproducts(crossproducts: Path) -> None:
    assert run_well("fit", "-", crossproducts).stdout == run_well("fit", FORMULA, SLEEP).stdout
    assert run_well("fit", ONE, crossproducts, "--ml").stdout == run_well("fit", ONE, SLEEP, "--ml").stdout


def test_saved_crossproducts_add_up(tmp_path: Path, sleep: pd.DataFrame) -> None:
    parts = [sleep.iloc[:70], sleep.iloc[70:]]
    folders = [tmp_path / "a.cp", tmp_path / "b.cp"]
    for part, folder in zip(parts, folders, strict=True):
        bigmm.reduce(FORMULA, part).save(folder)
    assert OBJECTIVE in run_well("fit", "-", *folders).stdout
    assert "180" in run_well("reduce", "-", *folders, "--out", tmp_path / "both.cp").stdout
    assert OBJECTIVE in run_well("fit", "-", tmp_path / "both.cp").stdout


# reduce, summary


def test_reduce_says_what_is_inside(tmp_path: Path, sleep: pd.DataFrame) -> None:
    sleep.loc[[3, 5, 40], "Days"] = np.nan
    folder = write_parts(sleep, tmp_path / "parts")
    result = run_well("reduce", FORMULA, folder, "--out", tmp_path / "sleep.cp")
    cp = bigmm.load(tmp_path / "sleep.cp")
    assert isinstance(cp, bigmm.CrossProducts)
    expected = f"""\
formula  {FORMULA}

rows read       180
rows used       177
rows dropped      3
  missing Days    3

5 sources of rows, in {folder}/
  source          read  used  dropped  missing
  part-0.parquet    36    34        2  Days 2
  part-1.parquet    36    35        1  Days 1
  part-2.parquet    36    36        0
  part-3.parquet    36    36        0
  part-4.parquet    36    36        0

grouping factor  levels  labels    rows a level  (median)   bytes  columns of Z
Subject              18  integers       8 to 10        10  1.6 kB  1, Days

raw columns of X  2: 1, Days
shifted by        Reaction {cp.design.y_shift["Reaction"]:g}
in memory         {cp.nbytes / 1000:.1f} kB; of these X'X 72 B
digest            {cp.digest}
plan              {cp.plan_digest}
"""
    assert re.sub(r"(?<=        10  )[0-9.]+ kB", "1.6 kB", result.stdout) == expected
    assert run_well("summary", tmp_path / "sleep.cp").stdout == result.stdout
    assert run_well("inspect", tmp_path / "sleep.cp").stdout.startswith(result.stdout)


# confint


def test_confint_prints_wald_intervals(saved_fit: Path) -> None:
    head, *lines = run_well("confint", saved_fit, "--level", "0.9").stdout.splitlines()
    assert head.split() == ["5", "%", "95", "%"]
    assert [line.split()[0] for line in lines] == ["(Intercept)", "Days"]
    of_lme4 = [[240.179642222, 262.63056747], [7.924688257, 13.00988366]]
    np.testing.assert_allclose([[float(number) for number in line.split()[1:]] for line in lines], of_lme4, rtol=1e-6)


def test_confint_by_profile_needs_only_what_was_saved(saved_fit: Path, crossproducts: Path) -> None:
    names = ["sigma", "sd_Days|Subject"]
    expected = bigmm.lmer(FORMULA, SLEEP).confint(names, method="profile")
    shown = json.loads(run_well("confint", saved_fit, crossproducts, "--parm", names[0], "--parm", names[1], "--json").stdout)
    assert [record["parameter"] for record in shown] == names
    np.testing.assert_allclose(pd.DataFrame(shown).set_index("parameter"), expected, rtol=1e-4)


def test_confint_of_a_name_that_is_asked_for_twice(saved_fit: Path) -> None:
    shown = json.loads(run_well("confint", saved_fit, "--parm", "Days", "--parm", "Days", "--json").stdout)
    assert [list(record) for record in shown] == [["parameter", "2.5 %", "97.5 %"]] * 2


OTHER_ROWS: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "fewer": lambda frame: frame.iloc[1:],
    "nearly the same": lambda frame: frame.assign(Reaction=frame["Reaction"] * 1.0001),
    "with the objective of the others": lambda frame: frame.assign(Reaction=-frame["Reaction"]),
}


@pytest.mark.parametrize("name", OTHER_ROWS)
def test_confint_refuses_crossproducts_of_other_rows(name: str, saved_fit: Path, tmp_path: Path, sleep: pd.DataFrame) -> None:
    bigmm.reduce(FORMULA, OTHER_ROWS[name](sleep)).save(tmp_path / "others.cp")
    result = run("confint", saved_fit, tmp_path / "others.cp")
    assert result.exit_code == 2
    assert "the crossproducts give another fit than the saved one: expected those that it was made from" in result.stderr


def test_confint_refuses_a_fit_that_did_not_converge(tmp_path: Path, crossproducts: Path) -> None:
    bigmm.load(crossproducts).fit(optimizer=bigmm.Optimizer("bobyqa", maxeval=5)).save(tmp_path / "early.fit")
    assert "did not converge" in run("confint", tmp_path / "early.fit", crossproducts).stderr


# inspect


def test_inspect_as_json(tmp_path: Path, sleep: pd.DataFrame) -> None:
    sleep.loc[7, "Days"] = np.nan
    folder = write_parts(sleep, tmp_path / "parts", parts=30)
    shown = run_well("reduce", FORMULA, folder, "--out", tmp_path / "sleep.cp").stdout
    assert "30 sources of rows" in shown
    assert "  ... and 22 more files\n" in shown
    record = json.loads(run_well("inspect", tmp_path / "sleep.cp", "--json").stdout)
    cp = bigmm.load(tmp_path / "sleep.cp")
    assert isinstance(cp, bigmm.CrossProducts)
    assert (record["kind"], record["format"], record["written_by"]) == ("crossproducts", 4, f"bigmm {bigmm.__version__}")
    assert (record["digest"], record["plan_digest"]) == (cp.digest, cp.plan_digest)
    assert record["rows"] == {"read": 180, "used": 179, "dropped": 1, "missing": {"Days": 1}}
    assert [file["url"] for file in record["files"]] == [str(folder / f"part-{number}.parquet") for number in range(30)]
    assert sum(file["read"] for file in record["files"]) == 180
    assert record["files"][1]["missing"] == {"Days": 1}
    assert record["files"][1]["size"] == (folder / "part-1.parquet").stat().st_size
    (group,) = record["groups"]
    assert (group["name"], group["levels"], group["types"], group["columns"]) == ("Subject", 18, ["integers"], ["1", "Days"])
    assert record["skipped"] == []


def test_inspect_pairs_and_skipped_chunks(tmp_path: Path) -> None:
    cp = bigmm.reduce("strength ~ 1 + (1 | batch/cask)", str(DATA / "pastes.csv"))
    skipped = (SkippedChunk("b.parquet, row group 3", "cannot read it", 1200), SkippedChunk("c.csv", "not UTF-8", None))
    replace(cp, skipped=skipped).save(tmp_path / "pastes.cp")
    shown = run_well("inspect", tmp_path / "pastes.cp").stdout
    assert "SKIPPED 2 chunks of 1,200 or more rows, which are in none of the sums\n  b.parquet, row group 3: cannot read it\n" in shown
    assert re.search(r"^cask:batch x batch +30 +\S+ B +a count$", shown, re.MULTILINE)
    assert re.search(r"^cask:batch +30 +text:text +2 to 2 ", shown, re.MULTILINE)
    record = json.loads(run_well("inspect", tmp_path / "pastes.cp", "--json").stdout)
    assert record["skipped"][1] == {"name": "c.csv", "reason": "not UTF-8", "rows": None}


def test_inspect_a_fit(saved_fit: Path) -> None:
    shown = run_well("inspect", saved_fit).stdout
    lines = dict(re.split(r"  +", line, maxsplit=1) for line in shown.splitlines())
    assert lines["fitted by"].startswith(f"REML, objective {OBJECTIVE}")
    assert (lines["rows"], lines["levels"]) == ("180 used", "Subject 18")
    record = json.loads(run_well("inspect", saved_fit, "--json").stdout)
    fit = bigmm.load(saved_fit)
    assert isinstance(fit, bigmm.LinearMixedModelFit)
    assert (record["kind"], record["objective"]) == ("fit", fit.objective)
    assert list(record["theta"].items()) == list(zip(fit.covariance.names, fit.theta, strict=True))


# merge, subtract, reduce --into


@pytest.fixture
def days(tmp_path: Path, sleep: pd.DataFrame) -> Path:
    """Three files and the crossproducts of each."""
    folder = write_parts(sleep, tmp_path / "days", parts=3)
    for number in range(3):
        bigmm.reduce(FORMULA, folder / f"part-{number}.parquet", client=0).save(tmp_path / f"{number}.cp")
    return folder


def test_merge_and_subtract(tmp_path: Path, days: Path) -> None:
    shown = run_well("merge", *(tmp_path / f"{number}.cp" for number in range(3)), "-o", tmp_path / "all.cp").stdout
    assert "3 sources of rows" in shown
    assert run_well("summary", tmp_path / "all.cp").stdout == shown
    assert OBJECTIVE in run_well("fit", "-", tmp_path / "all.cp").stdout
    run_well("subtract", tmp_path / "all.cp", tmp_path / "1.cp", "--out", tmp_path / "rest.cp")
    rest, direct = bigmm.load(tmp_path / "rest.cp"), bigmm.reduce(FORMULA, [days / "part-0.parquet", days / "part-2.parquet"], client=0)
    assert isinstance(rest, bigmm.CrossProducts)
    assert list(rest.sources) == list(direct.sources)
    assert rest.fit().objective == pytest.approx(direct.fit().objective, rel=1e-9)


def test_merge_refuses_a_file_twice(tmp_path: Path, days: Path) -> None:
    run_well("merge", tmp_path / "0.cp", tmp_path / "1.cp", "-o", tmp_path / "all.cp")
    before = (tmp_path / "all.cp" / "crossproducts.json").read_bytes()
    both = (tmp_path / "all.cp", tmp_path / "1.cp")
    for command in (("merge", *both, "-o", tmp_path / "all.cp"), ("fit", "-", *both)):
        result = run(*command)
        assert result.exit_code == 2
        assert "part-1.parquet' is in several of the crossproducts, and rows would count twice" in result.stderr
    assert (tmp_path / "all.cp" / "crossproducts.json").read_bytes() == before
    twice = run_well("merge", tmp_path / "all.cp", tmp_path / "1.cp", "--allow-overlap", "-o", tmp_path / "twice.cp")
    assert "bigmm: in several of the crossproducts, each with its own rows as you say: " in twice.stderr
    assert json.loads(run_well("inspect", tmp_path / "twice.cp", "--json").stdout)["rows"]["read"] == 180


def test_subtract_refuses_what_was_not_added(tmp_path: Path, days: Path) -> None:
    result = run("subtract", tmp_path / "0.cp", tmp_path / "1.cp", "-o", tmp_path / "none.cp")
    assert result.exit_code == 2
    assert "cannot subtract: " in result.stderr
    assert not (tmp_path / "none.cp").exists()


def test_append_reads_new_files_only(tmp_path: Path, days: Path, sleep: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "all.cp"
    run_well("reduce", FORMULA, days, "--out", place)
    before = bigmm.load(place)
    result = run_well("reduce", FORMULA, days, "--into", place)
    assert result.stdout == f"nothing new: {place} has all of these files\n"
    sleep.assign(Subject=sleep["Subject"] + 1000).to_parquet(days / "part-3.parquet", index=False)
    opened = []
    real = bigmm.reduction.sources.files.DataFile.open
    monkeypatch.setattr("bigmm.reduction.sources.files.DataFile.open", lambda self, *args: opened.append(self.label) or real(self, *args))
    run_well("reduce", "-", days, "--into", place, "--quiet")
    assert set(opened) == {"part-3.parquet"}
    after = bigmm.load(place)
    assert isinstance(after, bigmm.CrossProducts)
    assert isinstance(before, bigmm.CrossProducts)
    assert (before.nobs, after.nobs, len(after.sources)) == (180, 360, 4)
    assert after.digest == bigmm.reduce(FORMULA, days, into=before, client=0).digest
    assert run_well("reduce", "-", days, "--into", place).stdout.startswith("nothing new")


def test_append_refuses_changed_files(tmp_path: Path, days: Path, sleep: pd.DataFrame) -> None:
    place = tmp_path / "all.cp"
    run_well("reduce", FORMULA, days, "--out", place)
    before = (place / "crossproducts.json").read_bytes()
    sleep.to_parquet(days / "part-1.parquet", index=False)
    result = run("reduce", FORMULA, days, "--into", place)
    assert result.exit_code == 2
    assert re.search(r"part-1\.parquet' changed after it was added \(another size or time\), or some", result.stderr)
    assert (place / "crossproducts.json").read_bytes() == before


def test_append_notices_another_writer(tmp_path: Path, days: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "all.cp"
    run_well("reduce", FORMULA, days / "part-0.parquet", "--out", place)
    real = bigmm.reduction.reduce.reduce

    def meanwhile(*args: Any, **kwargs: Any) -> bigmm.CrossProducts:
        cp = real(*args, **kwargs)
        bigmm.merge([kwargs["into"], bigmm.load(tmp_path / "1.cp")]).save(place)  # type: ignore[list-item]
        return cp

    monkeypatch.setattr("bigmm.reduction.reduce.reduce", meanwhile)
    result = run("reduce", "-", days, "--into", place)
    assert result.exit_code == 2
    assert "was replaced while the rows were read: run again" in result.stderr
    found = bigmm.load(place)
    assert isinstance(found, bigmm.CrossProducts)
    assert len(found.sources) == 2


def test_fit_of_several_responses(tmp_path: Path, sleep: pd.DataFrame) -> None:
    data = tmp_path / "two.parquet"
    sleep.assign(**{"log y": np.log(sleep["Reaction"])}).to_parquet(data)
    formula = "cbind(Reaction, log(Reaction), `log y`) ~ Days + (1 | Subject)"
    result = run_well("fit", formula, data, "--out", tmp_path / "fits")
    assert sorted(path.name for path in (tmp_path / "fits").iterdir()) == ["Reaction", "log_Reaction", "log_y"]
    alone = run_well("fit", ONE, SLEEP).stdout
    assert result.stdout.startswith(alone.partition("optimizer")[0].replace(ONE, "Reaction ~ Days + (1 | Subject)"))
    assert result.stdout.count("Linear mixed model fit by REML") == 3
    loaded = bigmm.load(tmp_path / "fits" / "log_y")
    assert isinstance(loaded, bigmm.LinearMixedModelFit)
    assert loaded.formula.text == "`log y` ~ Days + (1 | Subject)"
    run_well("fit", formula, data, "--out", tmp_path / "fits")  # may be replaced
    run_well("reduce", formula, data, "--out", tmp_path / "two.cp")
    assert run_well("fit", "-", tmp_path / "two.cp").stdout == result.stdout
    refused = run("fit", formula, data, "--out", tmp_path / "two.cp")
    assert refused.exit_code == 2
    assert "there are several fits to save: choose another place" in refused.stderr
    (tmp_path / "fits" / "log_y" / "notes.txt").write_text("mine")
    refused = run("fit", formula, data, "--out", tmp_path / "fits")
    assert "holds 'notes.txt', which bigmm has not written and would remove: move it" in refused.stderr
    (tmp_path / "fits" / "log_y" / "notes.txt").unlink()
    refused = run("fit", "cbind(Reaction, `log y`) ~ Days + (1 | Subject)", data, "--out", tmp_path / "fits")
    assert refused.exit_code == 2
    assert "holds the fits of other responses, log_Reaction: remove them or choose another place" in refused.stderr
    for left in (".y-abc123", "y.rescued"):  # of a killed process, and of bigmm itself
        shutil.copytree(tmp_path / "fits" / "log_y", tmp_path / "fits" / left)
    run_well("reduce", formula, data, "--out", tmp_path / "fits" / "cp")
    run_well("fit", "-", tmp_path / "fits" / "cp", "--out", tmp_path / "fits")
    for name in ("y.rescued", "cp"):
        shutil.rmtree(tmp_path / "fits" / name)
    unclear = run("summary", tmp_path / "fits")
    assert unclear.exit_code == 2
    inside = ", ".join(repr(str(tmp_path / "fits" / name)) for name in ("Reaction", "log_Reaction", "log_y"))
    assert f"holds neither crossproducts nor a fit: name one of the directories in it that do, {inside}\n" in unclear.stderr


@pytest.mark.parametrize("workers", [(), ("--workers", "1", "--leaves", "workers")])
def test_fits_beside_responses_that_cannot_be_fitted_are_kept(workers: tuple[str, ...], tmp_path: Path, sleep: pd.DataFrame) -> None:
    sleep.assign(z=1.0, w=2.0, v=-sleep["Reaction"]).to_parquet(tmp_path / "five.parquet")
    formula = "cbind(z, Reaction, w, v) ~ Days + (1 | Subject)"
    result = run("fit", formula, tmp_path / "five.parquet", "--out", tmp_path / "fits", *workers)
    assert result.exit_code == 2
    assert "bigmm: error: response 'z': the fixed effects explain the response exactly" in result.stderr
    assert "; response 'w': the fixed effects explain the response exactly" in result.stderr
    assert result.stdout.count("\n\nLinear mixed model") == 1
    assert sorted(path.name for path in (tmp_path / "fits").iterdir()) == ["Reaction", "v"]


def test_a_fit_of_an_earlier_job_is_told(tmp_path: Path, sleep: pd.DataFrame) -> None:
    formula = "cbind(Reaction, z) ~ Days + (1 | Subject)"
    sleep.assign(z=-sleep["Reaction"]).to_parquet(tmp_path / "first.parquet")
    sleep.assign(z=1.0).to_parquet(tmp_path / "second.parquet")
    run_well("fit", formula, tmp_path / "first.parquet", "--out", tmp_path / "fits")
    result = run("fit", formula, tmp_path / "second.parquet", "--out", tmp_path / "fits")
    assert result.exit_code == 2
    assert f"bigmm: {tmp_path / 'fits' / 'z'} holds the fit of an earlier job\n" in result.stderr


@pytest.mark.parametrize("command", ["fit", "reduce"])
def test_a_place_that_is_taken_during_a_job(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was found is written beside it."""
    run_well(command, ONE, SLEEP, "--out", tmp_path / "out")
    found, saving = bigmm.load(tmp_path / "out"), bigmm.cli.files.save

    def late(*arguments: Any) -> None:
        (tmp_path / "out" / "notes.txt").write_text("mine")
        saving(*arguments)

    monkeypatch.setattr(bigmm.cli.responses if command == "fit" else bigmm.cli.commands, "save", late)
    (tmp_path / "out.rescued").mkdir()
    result = run(command, ONE, SLEEP, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "holds 'notes.txt', which bigmm has not written and would remove" in result.stderr
    assert f"; what was found is in '{tmp_path / 'out.rescued1'}'\n" in result.stderr
    assert type(bigmm.load(tmp_path / "out.rescued1")) is type(found)
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"


def test_no_rescue_takes_the_place_of_another(sleep: pd.DataFrame) -> None:
    store, url = fsspec.filesystem("memory"), f"memory://{uuid.uuid4()}/cp"
    for number, formula in enumerate([ONE, "Reaction ~ 1 + (1 | Subject)"]):
        store.pipe_file(f"{url}/notes.txt", b"mine")
        with pytest.raises(bigmm.StorageError, match=rf"what was found is in '{url}\.rescued{number or ''}'$"):
            bigmm.cli.files.save(bigmm.reduce(formula, sleep, client=0), url)
    assert bigmm.load(f"{url}.rescued").design.formula.text == ONE  # type: ignore[union-attr]


def test_crossproducts_that_are_replaced_during_an_append(tmp_path: Path, sleep: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in range(2):
        sleep[part::2].to_parquet(tmp_path / f"{part}.parquet")
    run_well("reduce", ONE, tmp_path / "0.parquet", "--out", tmp_path / "cp")
    append = bigmm.cli.commands.append_to

    def slowly(*arguments: Any) -> bigmm.CrossProducts:
        shutil.rmtree(tmp_path / "cp")
        return append(*arguments)

    monkeypatch.setattr(bigmm.cli.commands, "append_to", slowly)
    result = run("reduce", "-", tmp_path / "1.parquet", "--into", tmp_path / "cp")
    assert result.exit_code == 2
    assert "is no longer there: was it moved?; what was found is in" in result.stderr
    assert bigmm.load(tmp_path / "cp.rescued").nobs == 180


def test_fits_are_saved_when_nobody_reads_what_is_printed(tmp_path: Path, sleep: pd.DataFrame) -> None:
    sleep.assign(v=-sleep["Reaction"]).to_parquet(tmp_path / "two.parquet")
    words = [sys.executable, "-m", "bigmm", "fit", "cbind(Reaction, v) ~ Days + (1 | Subject)", "two.parquet", "--out", "fits", "--quiet"]
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
    assert process.returncode == 1
    assert sorted(path.name for path in (tmp_path / "fits").iterdir()) == ["Reaction", "v"]


# predict


def test_predict_in_the_order_of_the_data(tmp_path: Path, saved_fit: Path, sleep: pd.DataFrame) -> None:
    sleep.loc[7, "Days"] = np.nan
    folder = write_parts(sleep.drop(columns="Reaction"), tmp_path / "parts")
    fit = bigmm.load(saved_fit)
    assert isinstance(fit, bigmm.LinearMixedModelFit)
    for options, re_form in (([], None), (["--population"], "~0"), (["--re-form", "~(Days|Subject)"], None)):
        run_well("predict", saved_fit, folder, "--out", tmp_path / "p.parquet", *options)
        table = pq.read_table(tmp_path / "p.parquet")
        assert table.column_names == ["prediction"]
        assert table.column(0).null_count == 1
        np.testing.assert_array_equal(table.column(0).to_numpy(), fit.predict(sleep, re_form=re_form))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.parquet", "parts", "sleep.fit"]


def test_predict_new_levels(tmp_path: Path, saved_fit: Path) -> None:
    new = tmp_path / "new.parquet"
    pd.DataFrame({"Days": [1.0, 2.0], "Subject": [308, 999]}).to_parquet(new)
    out = tmp_path / "p.parquet"
    result = run("predict", saved_fit, new, "--out", out)
    assert result.exit_code == 2
    assert "has not seen: 999" in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.parquet", "sleep.fit"]  # nothing half written
    run_well("predict", saved_fit, new, "--out", out, "--new-levels", "population")
    assert pq.read_table(out).num_rows == 2


def test_predict_of_the_intercept_alone(tmp_path: Path) -> None:
    bigmm.lmer("Reaction ~ 1 + (1 | Subject)", SLEEP).save(tmp_path / "m.fit")
    run_well("predict", tmp_path / "m.fit", SLEEP, "--population", "--out", tmp_path / "p.parquet")
    assert pq.read_table(tmp_path / "p.parquet").num_rows == 180


# plot-factor


def test_plot_factor(tmp_path: Path, crossproducts: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "factor.png"
    run_well("plot-factor", crossproducts, FORMULA, "--out", picture, "--no-permute", "--theta", "1,0.2,0.5")
    assert picture.read_bytes().startswith(b"\x89PNG")
    before = picture.stat().st_mtime_ns
    assert run("plot-factor", crossproducts, "--out", picture, "--theta", "1").exit_code == 2
    assert picture.stat().st_mtime_ns == before
    run_well("plot-factor", crossproducts, "--out", tmp_path / "factor.svg")


# Mistakes


def saved_frame(name: str, change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Path], list[str]]:
    """A fit of changed data: a copy of the sleep study in one Parquet file."""

    def arguments(folder: Path) -> list[str]:
        frame = pd.read_csv(SLEEP, dtype={"Days": float})
        change(frame).to_parquet(folder / f"{name}.parquet", index=False)
        return ["fit", ONE, str(folder / f"{name}.parquet")]

    return arguments


def with_value(column: str, value: float) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def change(frame: pd.DataFrame) -> pd.DataFrame:
        frame.loc[100, column] = value
        return frame

    return change


def with_weight(value: float) -> Callable[[Path], list[str]]:
    arguments = saved_frame("weighted", lambda frame: with_value("w", value)(frame.assign(w=1.0)))
    return lambda folder: [*arguments(folder), "--weights", "w"]


def disagreeing(folder: Path) -> list[str]:
    pd.DataFrame({"Reaction": [1.0], "Days": [1.0], "Subject": ["a"]}).to_parquet(folder / "a.parquet")
    pd.DataFrame({"Reaction": [1.0], "Days": ["x"], "Subject": ["a"]}).to_parquet(folder / "b.parquet")
    return ["fit", ONE, f"{folder}/*.parquet"]


def not_parquet(folder: Path) -> list[str]:
    (folder / "text.parquet").write_text("Reaction,Days\n1,2\n", encoding="utf-8")
    return ["fit", ONE, str(folder / "text.parquet")]


def occupied(folder: Path) -> list[str]:
    (folder / "taken").mkdir()
    (folder / "taken" / "notes.txt").write_text("mine", encoding="utf-8")
    return ["reduce", ONE, SLEEP, "--out", str(folder / "taken")]


def on_crossproducts(*args: str) -> Callable[[Path], list[str]]:
    def arguments(folder: Path) -> list[str]:
        bigmm.reduce(ONE, SLEEP).save(folder / "sleep.cp")
        return [arg.replace("CP", str(folder / "sleep.cp")) for arg in args]

    return arguments


def test_a_url_of_this_machine(tmp_path: Path) -> None:
    """Saved, inspected, appended to and read, in folders that were not there."""
    rows = pd.read_csv(SLEEP)
    for part in range(2):
        rows[90 * part : 90 * part + 90].to_csv(tmp_path / f"{part}.csv", index=False)
    place = f"file://{tmp_path}/new/week.cp"
    run_well("reduce", FORMULA, tmp_path / "0.csv", "--out", place)
    assert json.loads(run_well("inspect", place, "--json").stdout)["path"] == place
    run_well("reduce", "-", tmp_path / "0.csv", tmp_path / "1.csv", "--into", place)
    assert bigmm.load(tmp_path / "new" / "week.cp").nobs == 180
    run_well("fit", FORMULA, place, "--out", f"file://{tmp_path}/fits/week.fit")
    assert OBJECTIVE in run_well("summary", f"file://{tmp_path}/fits/week.fit").stdout


def plainly(*args: str) -> Callable[[Path], list[str]]:
    return lambda folder: [arg.replace("DIR", str(folder)) for arg in args]


MISTAKES: dict[str, tuple[Callable[[Path], list[str]], str]] = {
    "unknown column": (plainly("fit", "Reaction ~ Dayz + (1|Subject)", SLEEP), "unknown column 'Dayz'; .* did you mean 'Days'"),
    "syntax error": (plainly("fit", "Reaction ~ Days + (1|Subject", SLEEP), "never closed: .*\n  Reaction ~ Days .*\n {20}\\^$"),
    "scale": (plainly("fit", "Reaction ~ scale(Days) + (1|Subject)", SLEEP), "scale.. depends on all rows .*\n.*\n {13}\\^$"),
    "text response": (plainly("fit", "batch ~ 1 + (1|cask)", str(DATA / "pastes.csv")), "response 'batch' needs numbers"),
    "infinite value": (saved_frame("infinite", with_value("Days", np.inf)), "1 infinite values of 'Days'"),
    "no rows": (saved_frame("empty", lambda frame: frame.iloc[:0]), "expected at least one"),
    "no complete row": (saved_frame("gaps", lambda frame: frame.assign(Days=np.nan)), "all 180 rows are incomplete"),
    "incomplete rows refused": (
        lambda folder: [*saved_frame("gap", with_value("Days", np.nan))(folder), "--na-action", "fail"],
        "1 incomplete rows in .*na_action='omit'",
    ),
    "one level": (saved_frame("one", lambda frame: frame.assign(Subject="a")), "'Subject' has 1 level: "),
    "a level a row": (saved_frame("many", lambda frame: frame.assign(Subject=[str(i) for i in frame.index])), "180 levels.* rows .180."),
    "not Parquet": (not_parquet, "cannot read .*text.parquet': .*"),
    "no file": (plainly("fit", ONE, "DIR/none.parquet"), "none.parquet' does not exist"),
    "no match": (plainly("fit", ONE, "DIR/*.parquet"), "no file matches"),
    "files disagree": (disagreeing, "files disagree: column 'Days' is double in .*a.parquet'? but string in .*b.parquet"),
    "negative weight": (with_weight(-1.0), "weights in .* not positive .for example -1. in column 'w'"),
    "missing weight": (with_weight(np.nan), "weights in .* missing, .* in column 'w'"),
    "unknown weights": (plainly("fit", ONE, SLEEP, "--weights", "w"), "unknown column 'w'"),
    "target taken": (occupied, "taken' exists and holds something else than saved crossproducts"),
    "nothing saved": (plainly("summary", "DIR/none"), "none' does not exist"),
    "something else saved": (plainly("summary", "DIR"), "holds neither crossproducts nor a fit"),
    "predict without a fit": (plainly("predict", "DIR/none", SLEEP, "--out", "DIR/p.parquet"), "none' does not exist"),
    "intervals of crossproducts": (on_crossproducts("confint", "CP"), "expected a saved fit"),
    "a level in percent": (plainly("confint", "DIR", "--level", "95"), "95.0 is not in the range 0.0<x<1.0"),
    "predict with crossproducts": (on_crossproducts("predict", "CP", SLEEP, "--out", "p.parquet"), "expected a saved fit"),
    "start too long": (plainly("fit", ONE, SLEEP, "--start", "1,0,1"), "theta of shape .3,.: expected 1 values"),
    "start of words": (plainly("fit", ONE, SLEEP, "--start", "1,x"), "'1,x', expected numbers"),
    "unknown contrasts": (plainly("fit", ONE, SLEEP, "--contrasts", "Days=zork"), "expected COL=NAME with a name of treatment, sum"),
    "contrasts of no column": (
        plainly("fit", ONE, SLEEP, "--contrasts", "f=sum"),
        "contrasts for 'f', which is no column of the fixed part: it has Days",
    ),
    "contrasts of numbers": (plainly("fit", ONE, SLEEP, "--contrasts", "Days=sum"), "contrasts for 'Days', which is no category"),
    "unknown optimizer": (plainly("fit", ONE, SLEEP, "--optimizer", "magic"), "unknown optimizer 'magic'"),
    "column not collected": (on_crossproducts("fit", "Reaction ~ Days + x + (1|Subject)", "CP"), "nothing about column 'x'"),
    "term not collected": (on_crossproducts("fit", FORMULA, "CP"), "do not hold the columns of 'Days'"),
    "options of a pass": (on_crossproducts("fit", "-", "CP", "--offset", "o"), "--offset is for a pass over rows"),
    "crossproducts and rows": (on_crossproducts("fit", "-", "CP", SLEEP), "expected the one or the other"),
    "the same crossproducts twice": (on_crossproducts("fit", "-", "CP", "CP"), "sleep.cp' is listed twice"),
    "the same crossproducts by two names": (
        on_crossproducts("reduce", "-", "CP", "CP/../sleep.cp", "--out", "CP2"),
        "sleep.cp' is listed twice .before as .*sleep.cp'.",
    ),
    "out and into": (on_crossproducts("reduce", "-", SLEEP, "--out", "CP2", "--into", "CP"), "expected one of --out and --into"),
    "neither out nor into": (plainly("reduce", ONE, SLEEP), "expected one of --out and --into"),
    "into nothing": (plainly("reduce", ONE, SLEEP, "--into", "DIR/none"), "none' does not exist"),
    "crossproducts into crossproducts": (on_crossproducts("reduce", "-", "CP", "--into", "CP"), "--into reads rows, .* bigmm merge"),
    "another formula into": (on_crossproducts("reduce", FORMULA, SLEEP, "--into", "CP"), "crossproducts of different formulas"),
    "other weights into": (on_crossproducts("reduce", "-", SLEEP, "--weights", "w", "--into", "CP"), "crossproducts of different weights"),
    "merge twice": (on_crossproducts("merge", "CP", "CP", "--out", "CP2"), "sleep.cp' is listed twice"),
    "merge nothing saved": (plainly("merge", "DIR/none", "--out", "DIR/cp"), "none' does not exist"),
    "predictions as text": (plainly("predict", "DIR", SLEEP, "--out", "predicted.csv"), "predictions are Parquet"),
    "inspect nothing": (plainly("inspect", "DIR"), "holds neither crossproducts nor a fit"),
    "a formula for the sum": (on_crossproducts("reduce", ONE, "CP", "--out", "CP2"), "write '-' to add them up"),
    "dash for rows": (plainly("fit", "-", SLEEP), "the formula '-' is for saved crossproducts"),
    "two clusters": (plainly("fit", ONE, SLEEP, "--workers", "1", "--scheduler", "a:1"), "--scheduler and --workers exclude"),
    "no scheduler file": (plainly("fit", ONE, SLEEP, "--scheduler", "DIR/s.json"), "s.json' does not exist: expected the file"),
    "two kinds of prediction": (plainly("predict", "DIR", SLEEP, "--population", "--re-form", "~0", "--out", "p"), "exclude one another"),
    "no folder for the picture": (on_crossproducts("plot-factor", "CP", "--out", "DIR/none/p.png"), "cannot write .*p.png'"),
    "unknown kind of picture": (on_crossproducts("plot-factor", "CP", "--out", "p.xyz"), "ends in .png, .pdf or .svg"),
    "no command": (plainly(), "Missing command"),
    "unknown command": (plainly("fitt"), "No such command 'fitt'.*"),
    "unknown option": (plainly("fit", ONE, SLEEP, "--fast"), "--fast.*bigmm fit --help|--fast.*main fit --help"),
    "no data": (plainly("fit", ONE), "Missing argument 'DATA...'"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes(case: str, tmp_path: Path) -> None:
    arguments, text = MISTAKES[case]
    result = run(*arguments(tmp_path))
    assert result.exit_code == 2
    assert result.stdout == ""
    error = result.stderr[result.stderr.index("bigmm: error: ") :]
    assert len(error.splitlines()) in (1, 3)  # a formula is shown and marked
    assert re.search(text, error, re.MULTILINE), error


def test_unreachable_scheduler() -> None:
    started = time.monotonic()
    code, out, err = finish(spawn("fit", ONE, SLEEP, "--scheduler", "tcp://127.0.0.1:9", "--quiet"), timeout=UNREACHABLE_SECONDS)
    assert (code, out) == (2, "")
    assert err.startswith("bigmm: error: no Dask scheduler answers at 'tcp://127.0.0.1:9'")
    assert len(err.splitlines()) == 1
    assert time.monotonic() - started < UNREACHABLE_SECONDS


def test_unexpected_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: bigmm.CrossProducts, *args: Any, **kwargs: Any) -> None:
        raise ZeroDivisionError("by\nzero")

    monkeypatch.setattr(bigmm.CrossProducts, "model", broken)
    result = run("fit", ONE, SLEEP, "--quiet")
    assert result.exit_code == 1
    assert result.stderr == "bigmm: error: unexpected ZeroDivisionError: by zero; run again with --verbose for the traceback\n"
    for args in (("-v", "fit", ONE, SLEEP), ("fit", ONE, SLEEP, "-v")):
        result = run(*args)
        assert result.exit_code == 1
        assert "in broken" in result.stderr
        assert "bigmm.reduction" in result.stderr  # the log


@pytest.mark.parametrize("where", ["search", "pass"])
def test_interrupt(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    def interrupted(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    target = "bigmm.solver.model.LinearMixedModel.evaluate" if where == "search" else "bigmm.reduction.reduce.run_pass"
    monkeypatch.setattr(target, interrupted)
    result = run("fit", ONE, SLEEP, "--quiet")
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "bigmm: interrupted\n")


# Help


def test_version() -> None:
    assert run_well("--version").stdout == f"bigmm {bigmm.__version__}\n"


def test_help_lists_exit_codes_and_examples() -> None:
    text = run_well("--help").stdout
    assert "\n    3    the search of `fit` did not converge" in text
    for name, command in main.commands.items():
        assert name in text
        shown = run_well(name, "--help").stdout
        assert command.epilog is not None
        assert f"bigmm {name} " in shown
        assert "\b" not in shown


def test_examples_parse() -> None:
    """Every example names options and arguments that its command has."""
    import shlex

    for name, command in main.commands.items():
        for line in (command.epilog or "").splitlines():
            if line.strip().startswith("bigmm "):
                words = shlex.split(line)
                assert words[1] == name
                context = main.make_context("bigmm", ["--help"], resilient_parsing=True)
                command.make_context(name, words[2:], parent=context)


# A terminal


def test_bar_and_spinner_in_a_terminal(tmp_path: Path, sleep: pd.DataFrame) -> None:
    import pty

    master, follower = pty.openpty()
    command = [sys.executable, "-m", "bigmm", "fit", FORMULA, str(write_parts(sleep, tmp_path / "parts"))]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=follower, env=environment) as process:
        os.close(follower)
        shown = b""
        while block := _read(master):
            shown += block
        assert process.stdout is not None
        assert OBJECTIVE.encode() in process.stdout.read()
    os.close(master)
    text = shown.decode()
    assert process.returncode == 0
    assert "5/5 chunks" in text
    assert "evaluations, objective 1743." in text
    assert "180 of 180 rows used" in text


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # Linux says so when the other end is closed
        return b""


# Processes


def test_module_runs_and_pipes_break_quietly() -> None:
    code, out, err = finish(spawn("fit", FORMULA, SLEEP, "--quiet"))
    assert (code, err) == (0, "")
    assert OBJECTIVE in out
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "bigmm", "fit", FORMULA, SLEEP, "--quiet"]
    with os.fdopen(writer, "w") as stdout:
        process = subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False, timeout=120)
    assert process.stderr == ""


@pytest.mark.cluster
def test_workers(tmp_path: Path, sleep: pd.DataFrame) -> None:
    parts = write_parts(sleep, tmp_path / "parts", parts=7)
    here = run_well("fit", FORMULA, parts, "--workers", "0", "--quiet")
    code, out, err = finish(spawn("fit", FORMULA, parts, "--workers", "2", "--quiet"))
    assert (code, err) == (0, "")
    assert out == here.stdout


@pytest.mark.cluster
def test_mistake_in_a_late_chunk_on_workers(tmp_path: Path, sleep: pd.DataFrame) -> None:
    sleep.loc[170, "Days"] = np.inf
    parts = write_parts(sleep, tmp_path / "parts", parts=7)
    code, out, err = finish(spawn("fit", FORMULA, parts, "--workers", "1", "--quiet"))
    assert (code, out) == (2, "")
    assert err.startswith("bigmm: error: 1 infinite values of 'Days' in part-6.parquet")
    assert len(err.splitlines()) == 1


@pytest.mark.cluster
@pytest.mark.parametrize(("number", "code", "word"), [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")])
def test_no_process_is_left_behind(number: signal.Signals, code: int, word: str, tmp_path: Path, sleep: pd.DataFrame) -> None:
    """Killed while its cluster starts: the most delicate moment."""
    parts = write_parts(sleep, tmp_path / "parts")
    process = spawn("fit", FORMULA, parts, "--workers", "2", options=())
    children = wait_for_children(process.pid, 3)  # the workers and multiprocessing's tracker
    os.killpg(process.pid, number)
    status, out, err = finish(process)
    assert (status, out) == (code, "")
    assert err.startswith(f"bigmm: pass over the rows\nbigmm: {word}\n")
    assert "Traceback" not in err  # multiprocessing may mention a semaphore
    assert psutil.wait_procs(children, timeout=10)[1] == []


def wait_for_children(pid: int, count: int) -> list[psutil.Process]:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        children = psutil.Process(pid).children(recursive=True)
        if len(children) >= count:
            return list(children)
        time.sleep(0.02)
    raise AssertionError(f"fewer than {count} children")


def test_dask_command_line() -> None:
    """The same commands under Dask's: ``dask bigmm fit ...``."""
    group = click.Group("dask", commands={"bigmm": main})
    runner = CliRunner()
    assert OBJECTIVE in runner.invoke(group, ["bigmm", "fit", FORMULA, SLEEP, "-q"]).stdout
    result = runner.invoke(group, ["bigmm", "fit", "y", SLEEP])
    assert result.exit_code == 2
    assert result.stderr.startswith("bigmm: error: no '~'")
