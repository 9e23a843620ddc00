"""A pass at any number of rows: seconds, rows a second, peak memory of workers and driver, and the answer against the exact one.

python benchmarks/scale.py grades 1e7 1e8                 Parquet files, made first (30 bytes a row)
python benchmarks/scale.py smls 1e9 --workers 2           rows made inside the tasks
python benchmarks/scale.py slopes 8e7 --leaves workers    20 million levels with random slopes, four rows each
python benchmarks/scale.py --plot                         draw what has been measured
"""

from __future__ import annotations

import contextlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import dask.dataframe as dd
import generate
import numpy as np
import pandas as pd
import psutil
import pyarrow.parquet as pq
import results
from matplotlib.figure import Figure

import bigmm
from bigmm.leaves import reduced
from bigmm.reduction.cluster import local_cluster
from bigmm.solver.residence import LeavesChoice

#: Rows that one task makes, of the problem whose rows are made inside tasks.
_TASK_ROWS = 4_000_000


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement.

    Attributes
    ----------
    run, problem : str
    rows, workers : int
        Workers 0: threads of one process.
    seconds : float
        Of the pass.
    decode_seconds : float
        Of reading the same columns with pyarrow alone, with two threads; NaN where the rows are made.
    worker_mb, driver_mb : float
        Peak resident memory of the largest worker, and of the driver after the pass.
    result_mb : float
        Bytes of the crossproducts.
    fit_seconds, fit_mb : float
        Of the fit, and the driver's peak after it.
    error : float
        Largest relative error of the variances, where they are known exactly; else the largest error in standard
        deviations of the simulation.
    digest, cpu : str
    cores : int
    total_mb : float
        Peak of the resident memory of driver and workers together, looked at ten times a second.
    """

    run: str
    problem: str
    rows: int
    workers: int
    seconds: float
    decode_seconds: float
    worker_mb: float
    driver_mb: float
    result_mb: float
    fit_seconds: float
    fit_mb: float
    error: float
    digest: str
    cpu: str
    cores: int
    total_mb: float = float("nan")


@click.command(help=__doc__)
@click.argument("problem", type=click.Choice(["grades", "smls", "slopes"]), required=False)
@click.argument("rows", nargs=-1)
@click.option("--workers", default=2, show_default=True, help="Worker processes; 0: threads of one process.")
@click.option("--data", default=Path(tempfile.gettempdir()) / "bigmm-scale", type=click.Path(path_type=Path), help="Folder for files.")
@click.option("--out", default=Path(__file__).parent / "results", type=click.Path(path_type=Path), help="Folder of rows and plots.")
@click.option("--run", "run_id", default=time.strftime("%Y-%m-%d", time.gmtime()), help="Name of the run; today's date unless given.")
@click.option("--no-fit", is_flag=True, help="The pass alone.")
@click.option("--leaves", default="auto", show_default=True, help="Of slopes: auto, workers or local.")
@click.option("--plot", is_flag=True, help="Only draw.")
@click.option("--child", is_flag=True, hidden=True)
def main(
    problem: str | None,
    rows: tuple[str, ...],
    workers: int,
    data: Path,
    out: Path,
    run_id: str,
    no_fit: bool,
    leaves: LeavesChoice,
    plot: bool,
    child: bool,
) -> None:
    """Measure each number of rows in a process of its own, then draw."""
    if child:
        size = int(float(rows[0]))
        made = measure_slopes(size, workers, leaves) if problem == "slopes" else measure(str(problem), size, workers, data, fits=not no_fit)
        click.echo(json.dumps(made))
        return
    for number in rows if not plot else ():
        words = [str(problem), number, "--workers", str(workers), "--data", str(data), "--leaves", leaves, "--child"]
        found, total_mb = run_child([sys.executable, __file__, *words, *(["--no-fit"] if no_fit else [])])
        cpu, cores = results.machine()
        row = Row(run=run_id, cpu=cpu, cores=cores, total_mb=total_mb, **found)
        append(out / "scale.csv", row)
        click.echo(f"{row.problem} {row.rows:,} rows, {workers} workers: {row.rows / row.seconds / 1e6:.1f} million rows/s, {asdict(row)}")
    draw(out)


def run_child(command: list[str]) -> tuple[dict[str, Any], float]:
    """What a measurement prints, and the peak memory in MB of all its processes together."""
    process, peak = subprocess.Popen(command, stdout=subprocess.PIPE, text=True), 0.0
    while process.poll() is None:
        peak = max(peak, resident_mb(psutil.Process(process.pid)))
        time.sleep(0.1)
    text, _ = process.communicate()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return json.loads(text.splitlines()[-1]), peak


def resident_mb(process: psutil.Process) -> float:
    """Resident memory of a process and of its children; pages that they share count in each."""
    total = 0.0
    with contextlib.suppress(psutil.NoSuchProcess):
        for one in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                total += one.memory_info().rss / 1e6
    return total


def measure_slopes(rows: int, workers: int, leaves: LeavesChoice) -> dict[str, Any]:
    """One pass over the slopes problem and one fit, whose leaves live where they are asked to."""
    levels = max(rows // 32, 1) * 8
    with local_cluster(workers) if workers else nullcontext(0) as client:
        started = time.perf_counter()
        with reduced(generate.SLOPES, _slopes(levels), leaves, client) as found:
            seconds, driver_mb = time.perf_counter() - started, peak_mb()
            here = found.cp if isinstance(found.cp, bigmm.CrossProducts) else None
            started = time.perf_counter()
            fit = found.cp.fit()
        fit_seconds = time.perf_counter() - started
        worker_mb = max(client.run(peak_mb).values()) if workers else float("nan")
    click.echo(f"leaves live: {found.residence}", err=True)
    return {
        "problem": f"slopes, {found.residence.where}",
        "rows": fit.nobs,
        "workers": workers,
        "seconds": seconds,
        "decode_seconds": float("nan"),
        "worker_mb": worker_mb,
        "driver_mb": driver_mb,
        "result_mb": float("nan") if here is None else here.nbytes / 1e6,
        "fit_seconds": fit_seconds,
        "fit_mb": peak_mb(),
        "error": slopes_error(fit),
        "digest": "" if here is None else here.digest,
    }


def _slopes(levels: int) -> Any:
    """Rows made in 64 tasks, whatever their number, so that memory grows in proportion to it."""
    rows = 4 * levels
    size = -(-rows // 64)

    def part(start: int) -> pd.DataFrame:
        return generate.slopes(start, min(start + size, rows), levels)

    return dd.from_map(part, range(0, rows, size), meta=generate.slopes(0, 0, levels))


def slopes_error(fit: bigmm.LinearMixedModelFit) -> float:
    """Largest relative error of variances, covariance and fixed effects."""
    b0, b1, both, residual = fit.varcorr["vcov"]
    found = {"b0": b0, "b1": b1, "b0.b1": both, "residual": residual, "intercept": fit.fixef["(Intercept)"], "x": fit.fixef["x"]}
    exact = generate.exact_slopes(fit.ngroups["g"])
    return max(abs(found[name] / exact[name] - 1.0) for name in exact)


def measure(problem: str, rows: int, workers: int, data: Path, *, fits: bool) -> dict[str, Any]:
    """One pass, and one fit if that is asked for."""
    source, decode = _parquet(rows, data) if problem == "grades" else _tasks(rows)
    formula = generate.GRADES if problem == "grades" else generate.SMLS
    started = time.perf_counter()
    if workers:
        with local_cluster(workers) as client:
            client.run(int)  # the cluster is up: its start is not part of the pass
            started = time.perf_counter()
            cp = bigmm.reduce(formula, source, client=client)
            seconds = time.perf_counter() - started
            worker_mb = max(client.run(peak_mb).values())
    else:
        cp = bigmm.reduce(formula, source, client=0)
        seconds, worker_mb = time.perf_counter() - started, float("nan")
    driver_mb = peak_mb()
    started = time.perf_counter()
    fit = cp.fit() if fits else None
    fit_seconds = time.perf_counter() - started if fits else float("nan")
    return {
        "problem": problem,
        "rows": cp.rows.read,
        "workers": workers,
        "seconds": seconds,
        "decode_seconds": decode,
        "worker_mb": worker_mb,
        "driver_mb": driver_mb,
        "result_mb": cp.nbytes / 1e6,
        "fit_seconds": fit_seconds,
        "fit_mb": peak_mb() if fits else float("nan"),
        "error": float("nan") if fit is None else _error(problem, fit),
        "digest": cp.digest,
    }


def _parquet(rows: int, data: Path) -> tuple[str, float]:
    """Files, and the seconds that it takes to decode them: the second time, when they need not come from the disk any more."""
    folder = data / f"grades-{rows}"
    generate.write_grades(folder, rows)
    for _ in range(2):
        started = time.perf_counter()
        for file in sorted(folder.glob("*.parquet")):
            pq.ParquetFile(file).read(use_threads=True)
    return str(folder / "*.parquet"), time.perf_counter() - started


def _tasks(rows: int) -> tuple[Any, float]:
    groups, replicates = generate.smls_size(rows)
    total = groups * replicates

    def part(start: int) -> pd.DataFrame:
        return generate.smls(start, min(start + _TASK_ROWS, total), groups, replicates)

    return dd.from_map(part, range(0, total, _TASK_ROWS), meta=generate.smls(0, 0, groups, replicates)), float("nan")


def _error(problem: str, fit: bigmm.LinearMixedModelFit) -> float:
    if problem == "smls":
        replicates = round(fit.nobs / fit.ngroups["g"])
        exact = np.array(generate.exact_variances(replicates))
        return float(np.abs(np.array([fit.sigma**2, (fit.theta[0] * fit.sigma) ** 2]) / exact - 1.0).max())
    found = dict(zip(fit.varcorr["grp"], fit.varcorr["sdcor"], strict=True))
    exact_of = {**generate.SPREADS, "Residual": generate.SPREADS["residual"]}
    counts = {**fit.ngroups, "Residual": fit.nobs}
    return max(abs(found[name] / exact_of[name] - 1.0) * np.sqrt(2.0 * counts[name]) for name in found)


def peak_mb() -> float:
    """Peak resident memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def append(path: Path, row: Row) -> None:
    """Write one row at the end of a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame([asdict(row)]).to_csv(path, mode="a", header=not path.exists(), index=False, float_format="%.6g")


def draw(out: Path) -> None:
    """Seconds and peak memory against rows, and seconds against workers; of the last run, for machines differ."""
    table = pd.read_csv(out / "scale.csv")
    table = table[table["run"] == table["run"].iloc[-1]]
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    axes = figure.subplots(1, 3)
    for (problem, workers), part in table.groupby(["problem", "workers"]):
        by_rows = part.groupby("rows")[["seconds", "worker_mb", "driver_mb", "result_mb"]].median()
        label = f"{problem}, {workers} workers" if workers else f"{problem}, threads"
        axes[0].plot(by_rows.index, by_rows["seconds"], "o-", label=label)
        if workers:
            axes[1].plot(by_rows.index, by_rows["worker_mb"], "o-", label=f"{problem}: worker")
        axes[1].plot(by_rows.index, by_rows["driver_mb"], "s--", label=f"{problem}: driver, {label.split(', ')[1]}")
        axes[1].plot(by_rows.index, by_rows["result_mb"], ":", color="gray")
    for problem, part in table.groupby("problem"):
        largest = part[part["rows"] == part.groupby("rows")["workers"].nunique().idxmax()]
        by_workers = largest.groupby("workers")["seconds"].median()
        axes[2].plot(by_workers.index, by_workers, "o-", label=f"{problem}, {largest['rows'].iloc[0]:,} rows")
    for ax, title, label in zip(axes, ("pass", "peak memory", "pass"), ("rows", "rows", "workers (0: threads)"), strict=True):
        ax.set(title=title, xlabel=label, ylabel="MB" if title == "peak memory" else "seconds")
        ax.set_yscale("log")
        ax.legend(fontsize=7)
    for ax in axes[:2]:
        ax.set_xscale("log")
    figure.suptitle(f"{table['cpu'].iloc[-1]}, {table['cores'].iloc[-1]} cores; dotted: bytes of the result", fontsize=9)
    figure.savefig(out / "scale.png", dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()
