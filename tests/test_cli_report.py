"""The page of --report: what is on it, that it loads nothing, and that a browser shows it."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import bigmm
from bigmm.cli.charts import MOST_LANES, lines, timeline
from bigmm.cli.report import report_html
from tests.test_cli import run, run_well

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars",
)  # fmt: skip
#: A column's name that is a mistake to paste into a page.
COLUMN = "x<img src=http://127.0.0.1:1/a onerror=alert(1)>"
FORMULA = f"y ~ `{COLUMN}` + (1 | g)"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("<b>parquet&")
    rng = np.random.default_rng(1)
    for number in range(24):
        part = pd.DataFrame({"g": rng.integers(0, 20, 60), COLUMN: rng.normal(size=60)})
        part["y"] = part[COLUMN] + rng.normal(size=60)
        part.loc[0, COLUMN] = np.nan
        part.to_parquet(folder / f"{number}.parquet", index=False)
    return folder


@pytest.fixture(scope="module")
def report(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    result = run_well("fit", FORMULA, files, "--workers", "0", "--report", folder / "report.html", "--log-json", folder / "log.json")
    (folder / "summary.txt").write_text(result.stdout)
    return folder / "report.html"


class Page(HTMLParser):
    """Elements, and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.references: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [str(value) for name, value in attrs if name in ("src", "href", "xlink:href", "data", "action")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_everything_is_on_it(report: Path, files: Path) -> None:
    page = Page(report.read_text(encoding="utf-8"))
    cp = bigmm.reduce(FORMULA, files)
    for word in (
        "done after",
        "exit code 0",
        "Plan",
        "Throughput",
        "Timeline",
        "Search for theta",
        "Accounts",
        "Versions",
        cp.digest,
        COLUMN,
    ):
        assert word in page.text
    assert (report.parent / "summary.txt").read_text().strip() in page.text
    assert page.tags.count("svg") == 4
    assert re.search(r"rows read\s*1,440\s*used\s*1,416\s*dropped\s*24", page.text)


def test_it_loads_nothing_and_runs_nothing(report: Path) -> None:
    page = Page(report.read_text(encoding="utf-8"))
    assert page.references == ["data:,"]
    assert not {"script", "img", "iframe", "object"} & set(page.tags)
    assert page.tags.count("b") == 1  # the end; the folder's name is text
    assert "default-src 'none'" in report.read_text(encoding="utf-8")


def test_it_is_a_function_of_the_log(report: Path) -> None:
    records = [json.loads(line) for line in (report.parent / "log.json").read_text().splitlines()]
    assert report_html(records) == report.read_text(encoding="utf-8")


def test_a_job_that_fails_has_one(files: Path, tmp_path: Path) -> None:
    assert run("fit", "y ~ <script> + (1 | g)", files, "--report", tmp_path / "report.html").exit_code == 2
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "stopped by a mistake in the arguments, the formula or the data" in page.text
    assert "Errors and warnings" in page.text
    assert "script" not in page.tags


def test_no_place(files: Path, tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "no" / "report.html"):
        result = run("fit", FORMULA, files, "--report", place)
        assert (result.exit_code, "cannot write the report" in result.stderr) == (2, True)


def test_a_hundred_thousand_chunks_stay_small() -> None:
    """Bars too narrow to be seen run together, and no more lanes are drawn than anybody looks at."""
    spans = [(float(i), i + 0.999, False) for i in range(1000)]
    drawn = str(timeline({f"thread {number}": spans for number in range(200)}, "seconds"))
    assert drawn.count("<path fill") == MOST_LANES
    assert len(drawn) < 5e6


def test_lines_leave_out_what_has_no_logarithm() -> None:
    x = np.arange(3.0)
    drawn = str(lines({"a": (x, np.array([100.0, 1.0, 0.0]))}, "x", "y", log=True))
    (points,) = re.findall(r'points="([^"]*)"', drawn)
    assert len(points.split()) == 2
    assert "Nothing to draw" in str(lines({"a": (x[:0], x[:0])}, "x", "y"))


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: tests/deploy/setup.sh installs it")
def test_a_browser_shows_it(report: Path, tmp_path: Path) -> None:
    """The page as Chromium has built it, and its picture: the charts are drawn, and nothing was asked of the network."""
    assert CHROMIUM is not None
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--virtual-time-budget=2000"]
    shown = subprocess.run([*command, "--dump-dom", report.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    page = Page(shown.stdout)
    assert page.tags.count("svg") == 4
    assert COLUMN in page.text
    assert "CONSOLE" not in shown.stderr  # where a page that tries to load something is told that it may not
    picture = tmp_path / "page.png"
    subprocess.run(
        [*command, "--window-size=1000,1600", f"--screenshot={picture}", report.as_uri()], capture_output=True, timeout=120, check=True
    )
    pixels = _pixels(picture)
    dark = (pixels[..., :3] < 0.5).any(axis=-1)
    blue = (np.abs(pixels[..., :3] - np.array([0x1F, 0x5F, 0x8B]) / 255) < 0.02).all(axis=-1)  # the charts' first colour
    assert dark[:800].mean() > 0.005
    assert blue.sum() > 500


def _pixels(picture: Path) -> np.ndarray:
    image = pytest.importorskip("matplotlib.image")
    found: np.ndarray = image.imread(picture)
    return found


class TestPerformanceReport:
    def test_no_cluster(self, files: Path, tmp_path: Path) -> None:
        result = run("fit", FORMULA, files, "--workers", "0", "--performance-report", tmp_path / "dask.html")
        assert (result.exit_code, "--performance-report is of a cluster" in result.stderr) == (2, True)

    @pytest.mark.skipif(importlib.util.find_spec("bokeh") is not None, reason="bokeh is there")
    def test_no_bokeh(self, files: Path, tmp_path: Path) -> None:
        result = run("fit", FORMULA, files, "--performance-report", tmp_path / "dask.html")
        assert (result.exit_code, "--performance-report needs bokeh" in result.stderr) == (2, True)

    @pytest.mark.cluster
    @pytest.mark.skipif(importlib.util.find_spec("bokeh") is None, reason="no bokeh: pip install 'bigmm[dashboard]'")
    def test_it_is_written(self, files: Path, tmp_path: Path) -> None:
        run_well("fit", FORMULA, files, "--workers", "1", "--performance-report", tmp_path / "dask.html")
        assert "bigmm-reduce" in (tmp_path / "dask.html").read_text(encoding="utf-8")
