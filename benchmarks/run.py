"""The runner: every competitor on every problem, in turns.

    python benchmarks/run.py [--problems NAME ...] [--all] [--rounds N] [--peers PYTHON] [--out DIR]

A run that was stopped goes on with the problems that it lacks.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import click
import plot
import results
import table
from competitors import Competitor, competitors
from problems import PROBLEMS, Problem
from turns import Turns

_PREPARE = Path(__file__).resolve().parent / "prepare.py"
#: Part of the machine's memory that one competitor may have.
_MEMORY = 0.75


def physical_memory() -> float:
    """GiB of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


@click.command(help=__doc__.split("\n\n")[0] if __doc__ else None)
@click.option("--problems", "names", multiple=True, type=click.Choice([problem.name for problem in PROBLEMS]), help="All but the large.")
@click.option("--all", "large", is_flag=True, help="The large ones too.")
@click.option("--rounds", default=3, show_default=True, help="Turns of every competitor.")
@click.option("--budget", default=1.0, show_default=True, help="Seconds of repetitions in a measurement.")
@click.option(
    "--limit", default=30.0, show_default=True, help="Seconds at which a rival's measurement is stopped; twice that for its loading."
)
@click.option("--memory", default=round(_MEMORY * physical_memory(), 1), show_default=True, help="GiB of data a competitor may have.")
@click.option("--threads", multiple=True, default=("default",), show_default=True, help='A number, or "default".')
@click.option("--peers", default=sys.executable, help="The Python that has mixedlm and gpboost; this one unless given.")
@click.option("--out", default=Path(__file__).parent / "results", type=click.Path(path_type=Path), help="Folder of rows and plot.")
@click.option("--run", "run_id", default=time.strftime("%Y-%m-%d", time.gmtime()), help="Name of the run; today's date unless given.")
def main(
    names: tuple[str, ...],
    large: bool,
    rounds: int,
    budget: float,
    limit: float,
    memory: float,
    threads: tuple[str, ...],
    peers: str,
    out: Path,
    run_id: str,
) -> None:
    """Measure what is missing, then print and draw."""
    path = out / f"{run_id}.csv"
    done = {row.case for row in results.read(path)}
    present = available(peers)
    for problem in PROBLEMS:
        settings = [setting for setting in threads if (problem.name, setting) not in done]
        if settings and (problem.name in names if names else large or not problem.large):
            for setting in settings:
                with ExitStack() as stack:
                    folder = prepare(problem, stack)
                    turns = Turns(problem, folder, setting, limit=limit, memory=memory * 2**30, say=say)
                    results.append(path, turns.measure(present, rounds, budget))
    rows = results.read(path)
    click.echo(table.markdown(rows))
    plot.draw(rows, out / "ratios.png")
    found = results.complaints(rows)
    if found:
        raise click.ClickException("\n".join(["the competitors disagree", *found]))


def available(peers: str) -> list[Competitor]:
    """Those that are installed; the others are named."""
    present = []
    for competitor in competitors(peers):
        if competitor.available():
            present.append(competitor)
        else:
            say(f"{competitor.name}: skipped, {competitor.probe[0]} or its packages are missing")
    return present


def prepare(problem: Problem, stack: ExitStack) -> Path:
    """The problem's data in a folder of its own, which vanishes with the stack."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    say(f"{problem.name}: {problem.description}")
    program: Sequence[str] = [sys.executable, str(_PREPARE), problem.name, str(folder)]
    subprocess.run(program, check=True)
    return folder


def say(text: str) -> None:
    """Progress."""
    click.echo(text, err=True)


if __name__ == "__main__":
    main()
