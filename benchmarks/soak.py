"""Steady memory: many fits in one process, or one pass that lasts for hours.

    python benchmarks/soak.py fits 500            # results/soak_fits.csv and .png
    python benchmarks/soak.py pass 8e10           # results/soak_pass.csv and .png

Fits: a line of the table is what was seen after a fit. Pass: every half minute, the rows that were read and the resident memory of
the driver and of the larger of two workers. They make the rows themselves, of the SmLs family, so that the answer is known.
The first tenth, in which code is compiled, is left out of the slopes that are printed.
"""

from __future__ import annotations

import csv
import gc
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import dask.dataframe as dd
import generate
import numpy as np
import pandas as pd
import psutil
import results
from matplotlib.figure import Figure

import bigmm
from bigmm.reduction.cluster import local_cluster

RESULTS = Path(__file__).parent / "results"
#: Levels of the long pass, whose result stays small.
_GROUPS = 100_001
_EVERY_SECONDS = 30.0


@click.group(help=__doc__)
def main() -> None:
    """Choose what lasts."""


@main.command()
@click.argument("count", type=int, default=500)
def fits(count: int) -> None:
    """Fit one model again and again in this process."""
    path = RESULTS / "soak_fits.csv"
    with path.open("w", newline="") as file:
        seen = csv.writer(file)
        seen.writerow(["number", "seconds", "driver_mib"])
        for number, seconds in enumerate(_fits(count), 1):
            gc.collect()
            seen.writerow([number, round(seconds, 4), round(_resident(psutil.Process()), 2)])
    report(pd.read_csv(path), "number", path)


def _fits(count: int) -> Iterator[float]:
    """Seconds of each fit; crossproducts, model and fit are made anew."""
    frame = _crossed(30_000)
    for _ in range(count):
        started = time.perf_counter()
        bigmm.lmer("y ~ x + (1 + x | g) + (1 | h)", frame, client=0).ranef()
        yield time.perf_counter() - started


def _crossed(n: int, seed: int = 1) -> pd.DataFrame:
    """Two crossed factors, one with a random slope."""
    rng = np.random.default_rng(seed)
    g, h, x = rng.integers(0, n // 30, n), rng.integers(0, 60, n), rng.normal(size=n)
    y = 1.0 + x + rng.normal(size=n // 30)[g] + 0.3 * x * rng.normal(size=n // 30)[g] + rng.normal(size=60)[h] + rng.normal(size=n)
    return pd.DataFrame({"y": y, "x": x, "g": g, "h": h})


@main.command("pass")
@click.argument("rows", type=float, default=8e10)
@click.option("--workers", default=2, show_default=True)
@click.option("--task-rows", default=1_000_000, show_default=True, help="Rows of a task; Dask keeps names of the last 100,000.")
def one_pass(rows: float, workers: int, task_rows: int) -> None:
    """Reduce this many rows in one pass, and fit them."""
    path, replicates = RESULTS / "soak_pass.csv", int(rows) // _GROUPS | 1
    with path.open("w", newline="") as file, local_cluster(workers) as client:
        cp = bigmm.reduce(generate.SMLS, _smls(replicates, task_rows), client=client, progress=_Watch(file))
    fit = cp.fit()
    exact = np.array(generate.exact_variances(replicates))
    error = np.abs(np.array([fit.sigma**2, (fit.theta[0] * fit.sigma) ** 2]) / exact - 1.0).max()
    click.echo(f"{fit.nobs:,} rows, largest relative error of the two variances {error:.1e}, digest {cp.digest}")
    report(pd.read_csv(path), "seconds", path)


def _smls(replicates: int, task_rows: int) -> Any:
    """Rows made inside the tasks."""
    total = _GROUPS * replicates

    def part(start: int) -> pd.DataFrame:
        return generate.smls(start, min(start + task_rows, total), _GROUPS, replicates)

    return dd.from_map(part, range(0, total, task_rows), meta=generate.smls(0, 0, _GROUPS, replicates))


class _Watch:
    """Writes a line every half minute of a pass; what was seen so far is kept when the pass is broken off."""

    def __init__(self, file: Any) -> None:
        self._file, self._writer = file, csv.writer(file)
        self._writer.writerow(["seconds", "rows", "driver_mib", "worker_mib"])
        self._started = self._last = time.monotonic()

    def __call__(self, progress: bigmm.Progress) -> None:
        now = time.monotonic()
        if progress.stage != "reduce" or now - self._last < _EVERY_SECONDS:
            return
        self._last, driver = now, psutil.Process()
        workers = max(_resident(child) for child in driver.children(recursive=True))
        self._writer.writerow([round(now - self._started, 1), progress.rows, round(_resident(driver), 2), round(workers, 2)])
        self._file.flush()


def _resident(process: psutil.Process) -> float:
    """MiB of a process that are in memory."""
    return float(process.memory_info().rss) / 2**20


def report(table: pd.DataFrame, by: str, path: Path) -> None:
    """Print how much memory grows, and draw it."""
    late = table.iloc[len(table) // 10 :]
    if len(late) < 2:
        click.echo("too short for a line: nothing is drawn")
        return
    for column in [name for name in table.columns if name.endswith("_mib")]:
        slope = np.polyfit(late[by], late[column], 1)[0] * (late[by].iloc[-1] - late[by].iloc[0])
        click.echo(f"{column[:-4]}: {late[column].iloc[0]:.0f} MiB after a tenth, {late[column].iloc[-1]:.0f} MiB at the end, "
                   f"{slope:+.1f} MiB by the straight line through what is between")  # fmt: skip
    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    for column in [name for name in table.columns if name.endswith("_mib")]:
        axes.plot(table[by], table[column], label=column[:-4])
    cpu, cores = results.machine()
    axes.set(xlabel="fits" if by == "number" else "seconds of one pass", ylabel="resident memory (MiB)")
    axes.set_ylim(0, 1.2 * axes.get_ylim()[1])  # a level line is not to lie on the frame
    axes.set_title(f"{cpu}, {cores} cores", fontsize=9)
    axes.legend()
    figure.savefig(path.with_suffix(".png"), dpi=120, metadata={"Software": None})


if __name__ == "__main__":
    main()
