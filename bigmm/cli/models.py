"""Commands on what was saved: what a model would cost, a fit's summary and intervals, predictions, a picture of L."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Literal

import click

from bigmm.cli.application import Application, hush_cluster, is_verbose
from bigmm.cli.options import asked_formula, examples, quiet_option, read_memory, read_theta
from bigmm.cli.progress import stage
from bigmm.cli.rows import are_saved, describe, load_crossproducts, merge_saved
from bigmm.errors import DataError

if TYPE_CHECKING:
    from bigmm.inference.fit import LinearMixedModelFit

#: Objectives of one fit agree to this part of them; sigma to this part, and coefficients to this part of their standard errors.
_SAME, _NEAR = 1e-8, 1e-3

models = Application("models")


@models.command(
    epilog=examples(
        'bigmm plan "y ~ 1 + (1|s) + (1|d)" ratings.cp',
        "bigmm plan - ratings.cp --memory 64GiB --json",
    )
)
@click.argument("formula")
@click.argument("directories", nargs=-1, required=True, metavar="CPDIR...")
@click.option("--ml", is_flag=True, help="Maximum likelihood instead of REML.")
@click.option("--memory", type=read_memory, metavar="BYTES", help="Plan for this much, such as 64GiB, instead of what is available here.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def plan(formula: str, directories: tuple[str, ...], ml: bool, memory: float | None, as_json: bool) -> None:
    """Print how a model would be factored and what that costs.

    Entries of L, memory, flops and seconds of each evaluation, for the plan that a fit would follow and for those that it
    would not; nothing is factored.

    FORMULA: a model inside that of the saved crossproducts, or - for the whole of it. Exits with 2 when memory will not hold it.
    """
    if not are_saved(directories):
        raise DataError(f"{directories[0]!r} holds no saved crossproducts: expected a directory that `bigmm reduce` has written")
    found = merge_saved(directories).plan(asked_formula(formula), reml=not ml, memory=memory)
    click.echo(json.dumps(found.to_dict(), indent=2) if as_json else str(found))
    found.check()


@models.command(
    epilog=examples(
        "bigmm summary ratings.fit",
    )
)
@click.argument("directory", metavar="DIR")
def summary(directory: str) -> None:
    """Print a saved fit, or what saved crossproducts hold."""
    from bigmm.crossproducts import CrossProducts
    from bigmm.storage import load

    found = load(directory)
    click.echo(describe(found) if isinstance(found, CrossProducts) else found.summary())


@models.command(
    epilog=examples(
        "bigmm confint ratings.fit",
        'bigmm confint ratings.fit ratings.cp --parm "sd_(Intercept)|d" --parm sigma --level 0.9',
    )
)
@click.argument("directory", metavar="FITDIR")
@click.argument("crossproducts", nargs=-1, metavar="[CPDIR]...")
@click.option(
    "--level", type=click.FloatRange(0.0, 1.0, min_open=True, max_open=True), default=0.95, show_default=True, help="Their coverage."
)
@click.option("--parm", multiple=True, metavar="NAME", help="The interval of this parameter alone; may be repeated.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def confint(directory: str, crossproducts: tuple[str, ...], level: float, parm: tuple[str, ...], as_json: bool) -> None:
    """Print confidence intervals of a saved fit.

    Without CPDIR Wald's, of the fixed effects, at once.

    CPDIR: the saved crossproducts that the fit was made from. With them by profile of the likelihood, of standard deviations and
    correlations (sd_..., cor_..., sigma), too: about a thousand evaluations for each; --verbose tells each when it is found.
    """
    found = _load_fit(directory)
    if crossproducts:
        found = _fit_again(found, crossproducts)
    table = found.confint(list(parm) or None, level, "profile" if crossproducts else "wald")
    if as_json:
        records = [{"parameter": name, **limits} for name, limits in zip(table.index, table.to_dict("records"), strict=True)]
        click.echo(json.dumps(records, indent=2))  # names may be the same
    else:
        click.echo(table.to_string(float_format="{:.7g}".format))


def _fit_again(saved: LinearMixedModelFit, crossproducts: tuple[str, ...]) -> LinearMixedModelFit:
    """The same fit, which has its crossproducts."""
    if not saved.converged:
        raise DataError("the search of the saved fit did not converge, and a profile rises from a minimum: fit again with more evaluations")
    model = merge_saved(crossproducts).model(saved.formula.text, reml=saved.reml, contrasts=saved.contrasts)
    if model.selected.covariance.names == saved.covariance.names and model.selected.fixed.names == saved.coef_names:
        found = model.fit(start=saved.theta)
        if _is_same(found, saved):
            return found
    raise DataError(
        "the crossproducts give another fit than the saved one: expected those that it was made from; or save their own fit "
        "(bigmm fit - CPDIR --out DIR)"
    )


def _is_same(found: LinearMixedModelFit, saved: LinearMixedModelFit) -> bool:
    """Whether two fits are those of the same rows: an objective alone does not see a response with another sign."""
    far = abs(found.beta - saved.beta) > _NEAR * saved.stderr.to_numpy()
    close = math.isclose(found.objective, saved.objective, rel_tol=_SAME) and math.isclose(found.sigma, saved.sigma, rel_tol=_NEAR)
    return found.nobs == saved.nobs and close and not far.any()


@models.command(
    epilog=examples(
        "bigmm predict ratings.fit new/*.parquet --out predicted.parquet",
        'bigmm predict ratings.fit new.csv --re-form "~(1|s)" --new-levels population --out predicted.parquet',
    )
)
@click.argument("directory", metavar="FITDIR")
@click.argument("data", nargs=-1, required=True)
@click.option("--out", required=True, metavar="FILE", help="Parquet file to write.")
@click.option("--population", is_flag=True, help="Leave out all random effects.")
@click.option("--re-form", metavar='"~(1|g)"', help="Use these random-effects terms alone.")
@click.option(
    "--new-levels",
    type=click.Choice(["error", "population"]),
    default="error",
    show_default=True,
    help="Refuse levels that the fit has not seen, or predict them without their random effects.",
)
@quiet_option
def predict(
    directory: str,
    data: tuple[str, ...],
    out: str,
    population: bool,
    re_form: str | None,
    new_levels: Literal["error", "population"],
    quiet: bool,
) -> None:
    """Predict the response for new rows.

    Writes a Parquet file with one column, `prediction`: a value a row in the order of DATA, null where a column is missing.
    """
    from bigmm.cli.files import replacing, write_predictions
    from bigmm.inference.predict import build_predictor
    from bigmm.reduction.sources import plan_data

    if out.endswith((".csv", ".tsv", ".txt")):
        raise click.UsageError(
            f"--out {out!r}: predictions are Parquet, expected a name that ends in .parquet", click.get_current_context()
        )
    if population and re_form is not None:
        raise click.UsageError("--population and --re-form exclude one another", click.get_current_context())
    hush_cluster(is_verbose(click.get_current_context()))
    predictor = build_predictor(_load_fit(directory), "~0" if population else re_form, new_levels)
    plan = plan_data(list(data), predictor.names)
    with replacing(out) as scratch, stage("predictions", quiet) as current:
        rows = write_predictions(predictor, plan, scratch, current.update)
        current.finish(f"{rows:,} rows predicted")


def _load_fit(directory: str) -> LinearMixedModelFit:
    from bigmm.crossproducts import CrossProducts
    from bigmm.storage import load

    found = load(directory)
    if isinstance(found, CrossProducts):
        raise DataError(f"{directory!r} holds crossproducts: expected a saved fit (bigmm fit - {directory} --out DIR)")
    return found


@models.command(
    epilog=examples(
        'bigmm plot-factor ratings.cp "y ~ 1 + (1|d) + (1|s)" --no-permute --out factor.png',
    )
)
@click.argument("directory", metavar="CPDIR")
@click.argument("formula", required=False)
@click.option("--out", required=True, metavar="FILE", help="Picture to write: .png, .pdf or .svg.")
@click.option("--theta", type=read_theta, metavar="T1,T2,..", help="Where to factor; the identity unless given.")
@click.option("--no-permute", is_flag=True, help="Keep the formula's order instead of one that reduces fill-in.")
def plot_factor(directory: str, formula: str | None, out: str, theta: tuple[float, ...] | None, no_permute: bool) -> None:
    """Draw the Cholesky factor of saved crossproducts.

    Left Lambda'Z'Z Lambda + I, right its factor L.

    FORMULA: a model inside that of the crossproducts; its grouping factors are laid out in the order of the text.
    """
    from bigmm.cli.files import replacing

    if not out.endswith((".png", ".pdf", ".svg")):
        raise click.UsageError(f"--out {out!r}: expected a name that ends in .png, .pdf or .svg", click.get_current_context())
    if not are_saved([directory]):
        raise DataError(f"{directory!r} holds no saved crossproducts: expected a directory that `bigmm reduce` has written")
    figure = load_crossproducts(directory).plot_factor(asked_formula(formula), theta, permute=not no_permute)
    with replacing(out) as scratch:
        figure.savefig(scratch)
