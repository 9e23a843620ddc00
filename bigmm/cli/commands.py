"""The commands that make a pass or a search, and `doctor`: each checks what it was asked for, calls the library, prints the result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

import bigmm
from bigmm.cli.application import EXIT_CODES, EXIT_NOT_CONVERGED, Application, Failure, hush_cluster, is_verbose, verbose_option
from bigmm.cli.files import rescued, save
from bigmm.cli.leaves import reduced_for_fit
from bigmm.cli.options import SAME_FORMULA, asked_formula, data_options, examples, out_option, quiet_option, read_contrast, read_theta
from bigmm.cli.responses import fit_each, fit_places, models_of
from bigmm.cli.rows import (
    PassOptions,
    append_to,
    are_saved,
    crossproducts_of,
    describe,
    load_crossproducts,
    search_log,
)
from bigmm.errors import DataError, StorageError

if TYPE_CHECKING:
    from bigmm.solver.optimize import Optimizer


@click.group(
    name="bigmm",  # Dask's command line takes this name
    cls=Application,
    params=[verbose_option()],
    no_args_is_help=False,  # an error of one line, as every other
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=examples(
        'bigmm fit "y ~ service + (1|s) + (1|d)" ratings/*.parquet --out ratings.fit',
        'bigmm reduce "y ~ service + (1|s) + (1|d)" ratings/ --out ratings.cp',
        'bigmm fit "y ~ 1 + (1|s) + (1|d)" ratings.cp --ml',
        "bigmm predict ratings.fit new.parquet --out predicted.parquet",
    )
    + EXIT_CODES,
)
@click.version_option(bigmm.__version__, prog_name="bigmm", message="%(prog)s %(version)s")
def main() -> None:
    """Linear mixed models, those of R's lme4, for data of any size.

    Results go to stdout, progress and errors to stderr.
    """


@main.command(
    epilog=examples(
        'bigmm fit "Reaction ~ Days + (Days|Subject)" sleepstudy.csv',
        'bigmm fit "y ~ service + (1|s) + (1|d)" ratings/*.parquet --workers 8 --out ratings.fit',
        "bigmm fit - monday.cp tuesday.cp",
    )
)
@click.argument("formula")
@click.argument("data", nargs=-1, required=True)
@click.option("--ml", is_flag=True, help="Maximum likelihood instead of REML.")
@data_options
@click.option(
    "--contrasts", type=read_contrast, multiple=True, metavar="COL=NAME", help="treatment, sum, helmert or poly; may be repeated."
)
@click.option("--start", type=read_theta, metavar="T1,T2,..", help="Theta to start from.")
@click.option(
    "--optimizer",
    default="newton",
    show_default=True,
    metavar="NAME",
    help="newton, or a method of nlopt: bobyqa, lbfgs, mma, slsqp, cobyla, neldermead, sbplx.",
)
@click.option("--maxeval", type=click.IntRange(min=1), metavar="N", help="Evaluations of the objective at most.")
@out_option("Save the fit: JSON and Parquet; with several responses a directory of each inside DIR.", required=False)
@click.option(
    "--leaves",
    type=click.Choice(["auto", "workers", "local"]),
    default="auto",
    show_default=True,
    help="Where the crossproducts of the largest factor are kept while the model is fitted: on the workers of a cluster, in this "
    "process, or on workers where this process's memory will not hold them.",
)
@quiet_option
def fit(
    formula: str,
    data: tuple[str, ...],
    ml: bool,
    contrasts: tuple[tuple[str, str], ...],
    start: tuple[float, ...] | None,
    optimizer: str,
    maxeval: int | None,
    out: str | None,
    quiet: bool,
    **options: Any,
) -> None:
    """Fit a model and print its summary.

    DATA: Parquet or CSV files, folders, globs or URLs; or directories of saved crossproducts, which are added up. With
    saved crossproducts FORMULA is any model inside theirs, or - for the whole of it.

    When the pass over the rows takes hours, run `bigmm reduce` first: every later fit needs only what it saves.
    Exits with 3 when the search did not converge.

    With several responses, cbind(y1, y2) ~ ..., there is a fit for each.
    """
    from bigmm.formula import parse_formula
    from bigmm.formula.coding import check_contrasts

    settings = _settings(optimizer, maxeval)
    if formula != SAME_FORMULA:
        parsed = parse_formula(formula)
        check_contrasts(dict(contrasts), parsed.fixed)
        fit_places(out, parsed)
    pass_options = PassOptions(**options)
    with reduced_for_fit(formula, data, pass_options, quiet) as found:
        parsed = found.cp.design.formula if formula == SAME_FORMULA else parsed
        places = fit_places(out, parsed)
        logs = [search_log(pass_options, number) for number in range(len(places))]
        models = models_of(found, asked_formula(formula), parsed, not ml, dict(contrasts))
        converged = fit_each(models, places, logs, start, settings, quiet)
    if not converged:
        raise click.exceptions.Exit(EXIT_NOT_CONVERGED)


def _settings(method: str, maxeval: int | None) -> Optimizer:
    from bigmm.solver.optimize import Optimizer

    return Optimizer(method) if maxeval is None else Optimizer(method, maxeval=maxeval)


@main.command(
    epilog=examples(
        'bigmm reduce "y ~ service * x + (1 + x|s) + (1|d)" ratings/ --out ratings.cp',
        "bigmm reduce - ratings/ --into ratings.cp",
    )
)
@click.argument("formula")
@click.argument("data", nargs=-1, required=True)
@data_options
@out_option("Where to save the crossproducts.", required=False)
@click.option("--into", metavar="CPDIR", help="Add to these saved crossproducts the files that they have not yet, and replace them.")
@quiet_option
def reduce(formula: str, data: tuple[str, ...], out: str | None, into: str | None, quiet: bool, **options: Any) -> None:
    """Reduce rows to crossproducts and save them.

    Prints what is inside: rows, missing values, levels, bytes.

    DATA: Parquet or CSV files, folders, globs or URLs; or, with - as FORMULA, directories of saved crossproducts, which
    are added up.

    With --into, FORMULA may be - for that of CPDIR. Only files whose name, size and time of change are not among those of
    CPDIR are read; a file that has changed is refused. When there is nothing new nothing is written.
    """
    from bigmm.storage import check_target

    if (out is None) == (into is None):
        raise click.UsageError("expected one of --out and --into", click.get_current_context())
    if into is not None:
        _append(into, formula, data, PassOptions(**options), quiet)
        return
    assert out is not None
    check_target(out, "crossproducts")
    if formula != SAME_FORMULA and are_saved(data):
        raise DataError(f"saved crossproducts have their formula: write {SAME_FORMULA!r} to add them up, or `bigmm fit` for another model")
    cp = crossproducts_of(formula, data, PassOptions(**options), quiet)
    save(cp, out)
    click.echo(describe(cp))


def _append(into: str, formula: str, data: tuple[str, ...], options: PassOptions, quiet: bool) -> None:
    from bigmm.storage import check_target, stored

    if are_saved(data):
        raise DataError(f"--into reads rows, and these are saved crossproducts: write bigmm merge {into} {data[0]} ... --out DIR")
    existing = load_crossproducts(into)
    check_target(into, "crossproducts")
    total = append_to(existing, formula, data, options, quiet)
    if total is existing:
        click.echo(f"nothing new: {into} has all of these files")
        return
    try:
        if stored(into)["digest"] != existing.digest:
            raise StorageError(f"{into!r} was replaced while the rows were read: run again, which reads only what is new by then")
    except StorageError as error:
        raise rescued(total, into, error) from None
    save(total, into)
    click.echo(describe(total))


@main.command(epilog=examples("bigmm doctor", "bigmm doctor --scheduler tcp://10.0.0.1:8786"))
@click.option("--scheduler", metavar="ADDRESS|FILE", help="Look at this Dask cluster, too.")
def doctor(scheduler: str | None) -> None:
    """Print what a job stands on: versions, BLAS, memory, a fit with a known answer, the cluster.

    Exits with 2 when something is wrong; the line says what to do.
    """
    from bigmm.cli.doctor import examine

    hush_cluster(is_verbose(click.get_current_context()))
    wrong = 0
    for finding in examine(scheduler):
        wrong += bool(finding.remedy)
        click.echo(f"{finding.name:<26} {finding.value}" + (f"\n{'':<26} -> {finding.remedy}" if finding.remedy else ""))
    if wrong:
        raise Failure(f"{wrong} of these need attention")
