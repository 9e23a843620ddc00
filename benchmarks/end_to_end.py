"""The whole command: ``bigmm fit`` on InstEval in 8 Parquet files with two workers, from process start to summary.

python benchmarks/end_to_end.py [--rounds N] [--workers N] [--out DIR]
"""

from __future__ import annotations

import itertools
import math
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np
import pandas as pd
import results
from problems import DATA, PROBLEMS, Problem
from results import Row

import bigmm

_FILES = 8


@click.command(help=__doc__.split("\n\n")[0] if __doc__ else None)
@click.option("--rounds", default=5, show_default=True)
@click.option("--workers", default=2, show_default=True, help="Worker processes of the command.")
@click.option("--out", default=Path(__file__).parent / "results", type=click.Path(path_type=Path), help="Folder of rows.")
@click.option("--run", "run_id", default=time.strftime("%Y-%m-%d", time.gmtime()), help="Name of the run; today's date unless given.")
def main(rounds: int, workers: int, out: Path, run_id: str) -> None:
    """Time the rounds that are missing, then print the median."""
    problem = next(problem for problem in PROBLEMS if problem.name == "insteval")
    path = out / "end_to_end.csv"
    done = {row.key for row in results.read(path)}
    model, cores = results.machine()
    versions = f"bigmm {bigmm.__version__}, Python {sys.version.split()[0]}"
    with tempfile.TemporaryDirectory() as folder:
        cut(problem, Path(folder))
        for turn in range(1, rounds + 1):
            measure = f"fit --workers {workers}"
            if (run_id, problem.name, "default", "bigmm", measure, str(turn)) in done:
                continue
            seconds = command(problem, Path(folder), workers)
            click.echo(f"round {turn}: {seconds:.2f} s", err=True)
            amounts = (seconds, 1, 0, math.nan)
            results.append(path, Row(run_id, problem.name, "default", "bigmm", measure, turn, *amounts, versions, "", model, cores))
    seconds_of = [row.seconds for row in results.read(path) if row.run == run_id]
    click.echo(f"{model}, {cores} cores: median {statistics.median(seconds_of):.2f} s, {min(seconds_of):.2f} to {max(seconds_of):.2f}")


def cut(problem: Problem, folder: Path) -> None:
    """Write the problem's data as Parquet files of consecutive rows."""
    data = pd.read_csv(DATA / problem.data, dtype=dict.fromkeys(problem.categories, "str"))
    edges = np.linspace(0, len(data), _FILES + 1).astype(int)
    for i, (start, stop) in enumerate(itertools.pairwise(edges)):
        data.iloc[start:stop].to_parquet(folder / f"part-{i}.parquet", index=False)


def command(problem: Problem, folder: Path, workers: int) -> float:
    """Wall seconds of one run of the command."""
    method = [] if problem.reml else ["--ml"]
    program = [sys.executable, "-c", "import bigmm.cli; bigmm.cli.main()", "fit", problem.formula, str(folder / "*.parquet"), *method]
    start = time.perf_counter()
    finished = subprocess.run([*program, "--workers", str(workers)], capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if finished.returncode:
        raise click.ClickException(f"the command ended with code {finished.returncode}: {finished.stderr.strip()[-500:]}")
    return seconds


if __name__ == "__main__":
    main()
