"""Nothing is written over the data, or among them."""

from __future__ import annotations

import os
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner

import bigmm
from bigmm.cli import main
from bigmm.cli.application import Terminated, _stoppable
from bigmm.errors import StorageError
from bigmm.places import check_apart

FORMULA = "y ~ 1 + (1 | g)"


@pytest.fixture
def days(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "days"
    folder.mkdir()
    frame = pd.DataFrame({"y": [1.0, 2.0, 4.0, 3.0] * 5, "g": [1, 1, 2, 3] * 5})
    for name in "ab":
        frame.to_parquet(folder / f"{name}.parquet")
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "c.parquet").symlink_to(folder / "a.parquet")
    monkeypatch.setenv("HOME", str(tmp_path))
    bigmm.lmer(FORMULA, frame, client=0).save("days.fit")
    return folder


@pytest.mark.parametrize(
    "data",
    [
        "days", "./days/", "days/*.parquet", "link", "**/*.parquet", "days/**/*.parquet", "days/a.parquet", "day[s]", "~/days", "file:days",
        "file://CWD/days", "local://CWD/days/*", "links", "links/*",
    ],
)  # fmt: skip
@pytest.mark.parametrize("place", ["days/a.parquet", "link/a.parquet", "days/../days/a.parquet", "file://CWD/days/a.parquet"])
def test_over_the_data(days: Path, data: str, place: str) -> None:
    data, place = (text.replace("CWD", str(days.parent)) for text in (data, place))
    for option in ("--out", "--log-json", "--report"):
        with pytest.raises(StorageError, match=f"{option} '{place}' is one of the data, or among them"):
            check_apart([data], {option: place}, {})


@pytest.mark.parametrize(
    ("data", "place"),
    [
        ("days", "days/ck"),
        ("days", "days/deep/er/ck"),
        ("days", "days"),
        ("days/**/*.parquet", "days/r.cp"),
        ("*/*.parquet", "n.fit"),
        ("**/*", "deep/er/ck"),
        ("memory://q/*", "memory://q/ck"),
        ("memory://q", "memory:///q/ck"),
        ("simplecache::s3://bucket/days", "s3://bucket/days/ck"),
        ("s3://bucket/days", "s3a://bucket/days/ck"),
        ("days/*", "days/ck"),
        ("days/*.parquet", "days/new.parquet"),
        (".", "x.fit"),
        ("s3://bucket/days", "s3://bucket/days/x.fit"),
        ("s3://bucket/days/", "s3://bucket/days"),
    ],
)
def test_among_the_data(days: Path, data: str, place: str) -> None:
    with pytest.raises(StorageError, match="choose another place, or a name that begins with a dot"):
        check_apart(["elsewhere", data], {"--out": None}, {"--checkpoint": place})


@pytest.mark.parametrize(
    ("data", "place"),
    [
        ("days", "days.cp"),
        ("days", "days/.ck"),
        ("days", "days/_ck/pass"),
        ("days/*.parquet", "days/new.html"),
        ("days/*", "days/_ck"),
        ("days/a.parquet", "days/a.parquet.html"),
        ("s3://bucket/days", "s3://bucket/days.cp"),
        ("s3://bucket/days", "days/x"),
        ("days", "-"),
        ("*/*.parquet", "report.html"),
        ("*/*.csv", "n.fit"),
        ("days/a::b.parquet", "days/b.parquet"),
        ("sftp://one/days", "sftp://two/days/ck"),
        ("memory://days", "days/x"),
        ("days/a**b", "n.fit"),
    ],
)
def test_apart_from_the_data(days: Path, data: str, place: str) -> None:
    check_apart([data], {"--out": place}, {})


@pytest.mark.parametrize(
    "arguments",
    [
        ["predict", "days.fit", "days", "--out", "days/a.parquet"],
        ["predict", "days.fit", "days/a.parquet", "--out", "days/a.parquet"],
        ["fit", FORMULA, "days", "--log-json", "days/a.parquet"],
        ["fit", FORMULA, "days", "--report", "days/a.parquet"],
        ["fit", FORMULA, "days", "--checkpoint", "days/ck"],
        ["reduce", FORMULA, "days", "--checkpoint", "days", "--out", "days.cp"],
        ["reduce", FORMULA, "days", "--out", "days/days.cp"],
    ],
)
def test_commands_leave_the_data_alone(days: Path, arguments: list[str]) -> None:
    before = {path.name: path.read_bytes() for path in days.iterdir()}
    found = CliRunner().invoke(main, arguments)
    assert found.exit_code == 2
    assert "is one of the data, or among them ('days" in found.stderr
    assert {path.name: path.read_bytes() for path in days.iterdir()} == before


@pytest.mark.parametrize(
    ("arguments", "within"),
    [
        (["fit", FORMULA, "days", "--out", "n.fit", "--checkpoint", "n.fit/ck"], "/search-0.jsonl' is the same place as --out 'n.fit'"),
        (["fit", FORMULA, "days", "--out", "n.fit", "--log-json", "./n.fit/log"], "--log-json './n.fit/log' is the same place as --out"),
        (["fit", FORMULA, "days", "--out", "n.fit", "--checkpoint", "n.fit"], "is the same place as"),
        (["fit", FORMULA, "days", "--log-json", "x", "--report", "./x"], "is the same place as"),
        (
            ["reduce", "-", "days", "--into", "week.cp", "--report", "week.cp/r.html"],
            "--report 'week.cp/r.html' is the same place as --into",
        ),
    ],
)
def test_places_are_apart_from_one_another(days: Path, arguments: list[str], within: str) -> None:
    bigmm.reduce(FORMULA, days / "a.parquet", client=0).save("week.cp")
    found = CliRunner().invoke(main, arguments)
    assert found.exit_code == 2
    assert within in found.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["fit", "-", "week.cp", "--report", "week.cp/crossproducts.json"],
        ["fit", "-", "week.cp", "--log-json", "week.cp/log"],
        ["fit", "-", "week.cp", "--checkpoint", "week.cp"],
        ["predict", "days.fit", "days", "--out", "days.fit/estimates.json"],
        ["plan", FORMULA, "week.cp", "--log-json", "week.cp/log"],
    ],
)
def test_nothing_is_written_into_what_is_read(days: Path, arguments: list[str]) -> None:
    bigmm.reduce(FORMULA, days, client=0).save("week.cp")
    found = CliRunner().invoke(main, arguments)
    assert found.exit_code == 2
    assert "is the same place as what is read, " in found.stderr or "No such option" in found.stderr
    assert bigmm.load("week.cp").nobs == 40


@pytest.mark.parametrize("prefix", ["", "file://CWD/"])
def test_what_is_read_may_be_replaced(days: Path, prefix: str) -> None:
    prefix = prefix.replace("CWD", os.getcwd())
    for name in "ab":
        bigmm.reduce(FORMULA, days / f"{name}.parquet", client=0).save(f"{name}.cp")
    found = CliRunner().invoke(main, ["reduce", "-", f"{prefix}a.cp", f"{prefix}b.cp", "--out", f"{prefix}a.cp"])
    assert found.exit_code == 0, found.output
    assert bigmm.load("a.cp").nobs == 40
    assert CliRunner().invoke(main, ["subtract", "a.cp", "b.cp", "--out", "a.cp"]).exit_code == 0
    assert bigmm.load("a.cp").nobs == 20


def test_many_files_are_looked_at_once(days: Path) -> None:
    """Ten thousand of them, and what is there already: one look each."""
    files = [f"days/{number}.parquet" for number in range(10_000)]
    for file in files:
        Path(file).touch()
    started = time.process_time()
    check_apart(["days", *files], {"--report": "x.html"}, {"--out": "days.fit"})
    assert time.process_time() - started < 20.0


def test_a_folder_of_a_link_is_where_the_link_leads(days: Path) -> None:
    """Its parent is not the folder that the link is in."""
    Path("far/rows").mkdir(parents=True)
    shutil.copy("days/a.parquet", "far/x.parquet")
    Path("inner").symlink_to("far/rows")
    for data, place in (("far", "inner/../x.parquet"), ("inner/../x.parquet", "far/x.parquet"), ("far/*", "inner/../x.parquet")):
        with pytest.raises(StorageError, match="is one of the data, or among them"):
            check_apart([data], {"--out": place}, {})


@pytest.mark.parametrize("option", ["--checkpoint", "--out", "--report"])
def test_no_place(option: str, days: Path) -> None:
    found = CliRunner().invoke(main, ["fit", FORMULA, "days", option, ""])
    assert found.exit_code == 2
    assert f"{option} is empty: expected a path" in found.stderr


def test_one_folder_for_a_job(days: Path) -> None:
    Path("job").mkdir()
    words = ["fit", FORMULA, "days", "--checkpoint", "job", "--log-json", "job/log", "--report", "job/r.html", "--out", "job/n.fit"]
    for more in ([], ["--resume"]):
        found = CliRunner().invoke(main, [*words, *more])
        assert found.exit_code == 0, found.output
    assert sorted(os.listdir("job")) == ["log", "n.fit", "pass", "r.html", "search-0.jsonl"]


def test_a_pattern_that_finds_the_checkpoint_later(days: Path) -> None:
    Path("2024/01/02").mkdir(parents=True)
    shutil.copy("days/a.parquet", "2024/01/02/a.parquet")
    found = CliRunner().invoke(main, ["fit", FORMULA, "*/*/*/*.parquet", "--checkpoint", "ck"])
    assert found.exit_code == 2
    assert "--checkpoint 'ck/pass' is one of the data" in found.stderr


def test_a_working_folder_with_brackets(days: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("r[1]/.h/days").mkdir(parents=True)
    monkeypatch.chdir("r[1]/.h")
    with pytest.raises(StorageError, match="is one of the data"):
        check_apart(["days"], {}, {"--checkpoint": "days/ck"})


@pytest.mark.parametrize("command", [["merge"], ["merge", "--allow-overlap"], ["fit", "-"]])
def test_one_saved_directory_spelled_two_ways(command: list[str], days: Path) -> None:
    bigmm.reduce(FORMULA, pd.read_parquet(days), client=0).save("t.cp")
    out = ["--out", "tt.cp"] if command[0] == "merge" else []
    found = CliRunner().invoke(main, [*command, "t.cp", f"file://{os.getcwd()}/t.cp", *out])
    assert found.exit_code == 2
    assert "listed twice" in found.stderr


def test_devices_hold_nothing() -> None:
    check_apart([], {"--log-json": "/dev/null", "--report": "/dev/null"}, {})


def test_a_pipe_keeps_its_place(days: Path) -> None:
    bigmm.reduce("y ~ 1 + (1 | g) + (1 | h)", pd.read_parquet(days).assign(h=[*range(10)] * 4), client=0).save("two.cp")
    for words, name, content in (
        (["fit", FORMULA, "days", "--report"], "r.html", b"</html>"),
        (["plot-factor", "two.cp", "--out"], "p.png", b"PNG"),
    ):
        os.mkfifo(name)
        with ThreadPoolExecutor() as pool:
            read = pool.submit(Path(name).read_bytes)
            found = CliRunner().invoke(main, [*words, name])
            if found.exit_code:  # nobody has written: the reader is let go
                os.close(os.open(name, os.O_WRONLY))
            assert found.exit_code == 0, found.output
            assert content in read.result(timeout=60)
        assert Path(name).is_fifo()


def test_a_link_to_a_file_stays(days: Path) -> None:
    Path("far.html").write_text("old")
    Path("report.html").symlink_to("far.html")
    assert CliRunner().invoke(main, ["fit", FORMULA, "days", "--report", "report.html"]).exit_code == 0
    assert Path("report.html").is_symlink()
    assert "</html>" in Path("far.html").read_text()


def test_the_checkpoint_of_reduce(days: Path) -> None:
    with pytest.raises(StorageError, match=r"checkpoint '.*days/ck' is one of the data, or among them"):
        bigmm.reduce(FORMULA, days, checkpoint=days / "ck", client=0)
    bigmm.reduce(FORMULA, days, checkpoint=days / ".ck", client=0)
    assert bigmm.reduce(FORMULA, days, checkpoint=days / ".ck", client=0).nobs == 40


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGALRM])
def test_a_stop_that_python_ignored_comes_again(number: signal.Signals) -> None:
    class Last:
        def __del__(self) -> None:
            os.kill(os.getpid(), number)
            time.sleep(0.01)

    def work() -> None:
        one = Last()
        del one
        time.sleep(30.0)

    started = time.monotonic()
    with pytest.raises(Terminated, match="terminated" if number == signal.SIGTERM else "out of time"), _stoppable(0.0):
        work()
    assert time.monotonic() - started < 10.0
