"""The runner: every competitor on every problem, in turns, one row a measurement.

    python benchmarks/run.py [--problems NAME ...] [--rounds N] [--out DIR]

A run that was stopped goes on where it was: rows of the same run are not measured again.
"""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import click
import plot
import results
from competitors import COMPETITORS, Competitor, Worker
from problems import DATA, PROBLEMS, Problem
from results import Row

MEASURES = ("evaluation", "fit", "lmer")
#: Fixed thetas: these on the diagonals of the templates, a little covariance below them.
_SCALES = (1.0, 0.8, 0.6, 0.4, 0.3)
_OFF_DIAGONAL = 0.05
#: Seconds between turns, for idle threads of the other competitor to fall asleep.
_PAUSE = 0.2
#: Objectives of two competitors at one theta, or at their optima, agree to this part.
_AGREE = 1e-7


@click.command(help=__doc__.split("\n\n")[0] if __doc__ else None)
@click.option("--problems", multiple=True, type=click.Choice([problem.name for problem in PROBLEMS]), help="All unless given.")
@click.option("--rounds", default=7, show_default=True, help="Turns of every competitor.")
@click.option("--budget", default=1.0, show_default=True, help="Seconds of repetitions in a measurement.")
@click.option("--threads", multiple=True, default=("1", "default"), show_default=True, help='A number, or "default".')
@click.option("--data", multiple=True, type=click.Path(path_type=Path), help="More folders with data files.")
@click.option("--out", default=Path(__file__).parent / "results", type=click.Path(path_type=Path), help="Folder of rows and plot.")
@click.option("--run", "run_id", default=time.strftime("%Y-%m-%d", time.gmtime()), help="Name of the run; today's date unless given.")
def main(
    problems: tuple[str, ...], rounds: int, budget: float, threads: tuple[str, ...], data: tuple[Path, ...], out: Path, run_id: str
) -> None:
    """Measure what is missing, then print and draw."""
    path = out / "evaluations.csv"
    competitors = list(_present())
    for problem in PROBLEMS:
        if problems and problem.name not in problems:
            continue
        file = problem.path([DATA, *data])
        if file is None:
            click.echo(f"{problem.name}: skipped, there is no {problem.data}; give its folder with --data", err=True)
            continue
        for setting in threads:
            _measure(competitors, problem, file, setting, rounds, budget, path, run_id)
    rows = [row for row in results.read(path) if row.run == run_id]
    click.echo(table(rows))
    plot.draw(rows, out / "evaluations.png")


def _present() -> Iterator[Competitor]:
    for competitor in COMPETITORS:
        if competitor.available():
            yield competitor
        else:
            click.echo(f"{competitor.name}: skipped, {competitor.probe[0]} or its packages are missing", err=True)


def _measure(
    competitors: list[Competitor], problem: Problem, file: Path, threads: str, rounds: int, budget: float, path: Path, run_id: str
) -> None:
    """All rounds of one problem with one setting of threads."""
    done = {row.key for row in results.read(path)}
    wanted = [
        (turn, measure, competitor)
        for turn in range(1, rounds + 1)
        for measure in MEASURES
        for competitor in (competitors if turn % 2 else competitors[::-1])
        if measure in competitor.measures and (run_id, problem.name, threads, competitor.name, measure, str(turn)) not in done
    ]
    if not wanted:
        return
    model, cores = results.machine()
    with contextlib.ExitStack() as stack:
        workers = {competitor: stack.enter_context(Worker(competitor, problem, file, threads)) for competitor in competitors}
        thetas = fixed_thetas(workers)
        _warm_up(workers, thetas)
        for turn, measure, competitor in wanted:
            time.sleep(_PAUSE)
            worker = workers[competitor]
            found = worker.measure(measure, thetas, budget)
            click.echo(f"{problem.name} threads={threads} round {turn} {measure} {competitor.name}: {found['seconds']:.3g} s", err=True)
            amounts = (found["seconds"], found["repeats"], found["evaluations"], found["objectives"][0])
            row = Row(run_id, problem.name, threads, competitor.name, measure, turn, *amounts, worker.versions, worker.blas, model, cores)
            results.append(path, row)


def fixed_thetas(workers: dict[Competitor, Worker]) -> list[list[float]]:
    """Where every competitor is evaluated. (Their own starts differ: lme4 guesses from the variances of group means.)"""
    diagonals = [worker.diagonal for worker in workers.values()]
    if any(diagonal != diagonals[0] for diagonal in diagonals):
        raise RuntimeError(f"the competitors order theta differently: bounded by 0 are {diagonals}")
    return [[scale if bounded else _OFF_DIAGONAL for bounded in diagonals[0]] for scale in _SCALES]


def _warm_up(workers: dict[Competitor, Worker], thetas: list[list[float]]) -> None:
    """Everything once, unmeasured: compilers, caches. Objectives must agree."""
    for measure in MEASURES:
        answers = {c.name: worker.measure(measure, thetas, 0.0)["objectives"] for c, worker in workers.items() if measure in c.measures}
        for values in zip(*answers.values(), strict=True):
            if not all(math.isclose(value, values[0], rel_tol=_AGREE) for value in values):
                raise RuntimeError(f"{measure}: the objectives differ: {answers}")


def table(rows: list[Row], rival: str = "lme4") -> str:
    """Medians and ratios of one run, above them the machine."""
    if not rows:
        return "no rows"
    about = sorted({f"{row.cpu}, {row.cores} cores" for row in rows}) + sorted({f"{row.versions}; BLAS {row.blas}" for row in rows})
    header = f"{'problem':<16}{'threads':>8} {'measure':<11}{'bigmm ms':>10}{rival + ' ms':>10}{'ratio':>7}  rounds from to     evaluations"
    medians, ratios = results.medians(rows), results.ratios(rows, rival)
    counts = {(row.case, row.competitor): row.evaluations for row in rows}
    lines = []
    for case in dict.fromkeys(row.case for row in rows):
        present = [name for name in ("bigmm", rival) if (case, name) in medians]
        cells = "".join(f"{medians[case, name] * 1e3:>10.4g}" for name in present).ljust(20)
        values = ratios.get(case, [])
        spread = f"{statistics.median(values):>7.2f}{len(values):>8} {min(values):.2f} {max(values):.2f}" if values else ""
        evaluations = ", ".join(f"{name} {counts[case, name]}" for name in present)
        lines.append(f"{case[0]:<16}{case[1]:>8} {case[2]:<11}{cells}{spread:<28}{evaluations}")
    return "\n".join([*about, "", header, *lines])


if __name__ == "__main__":
    main()
