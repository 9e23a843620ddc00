"""One fit for each response of a formula: where it is saved, its search, what is printed of it; none waits for another's success."""

from __future__ import annotations

import itertools
import logging
import os
import re
import time
from typing import TYPE_CHECKING

import click

from bigmm.cli.files import save
from bigmm.cli.journal import journal_of
from bigmm.cli.progress import stage
from bigmm.errors import BigmmError, ModelError, StorageError
from bigmm.reduction.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bigmm.columns import Array
    from bigmm.formula import Formula
    from bigmm.inference.fit import LinearMixedModelFit
    from bigmm.leaves import Reduced
    from bigmm.solver.model import LinearMixedModel
    from bigmm.solver.optimize import Optimizer

logger = logging.getLogger(__name__)

_RESCUED = re.compile(r"\.rescued[0-9]*$")


def fit_places(out: str | None, formula: Formula) -> list[str | None]:
    """Where the fit of each response is saved: in `out` itself when there is one, else in directories inside it.

    Raises
    ------
    StorageError
        When nothing can be saved there.
    """
    from bigmm.storage import check_target, saved_kind

    if out is None:
        return [None] * len(formula.responses)
    places = [out]
    if len(formula.responses) > 1:
        if kind := saved_kind(out):
            raise StorageError(f"{out!r} holds a saved {kind}, and there are several fits to save: choose another place")
        names = _folder_names([response.text for response in formula.responses])
        if others := _other_fits(out, names):
            raise StorageError(f"{out!r} holds the fits of other responses, {', '.join(others[:4])}: remove them or choose another place")
        places = [os.path.join(out, name) for name in names]
    for place in places:
        check_target(place, "fit")
    return list(places)


def _other_fits(out: str, names: Sequence[str]) -> list[str]:
    """Saved fits in a directory that none of these names would replace: results of two jobs would pass for those of one."""
    from bigmm.storage import saved_inside

    return [name for name, kind in saved_inside(out).items() if kind == "fit" and name not in names and not _RESCUED.search(name)]


def _folder_names(responses: Sequence[str]) -> list[str]:
    """A plain name for each response, no two the same."""
    names: list[str] = []
    for text in responses:
        plain = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in text).strip("_.") or "response"
        numbered = itertools.chain([plain], (f"{plain}-{number}" for number in itertools.count(2)))
        names.append(next(name for name in numbered if name not in names))
    return names


def models_of(
    found: Reduced, asked: str | None, formula: Formula, reml: bool, contrasts: dict[str, str]
) -> Iterable[LinearMixedModel | ModelError]:
    """One model, or one for each response, or what stands in its way."""
    from bigmm.crossproducts import CrossProducts
    from bigmm.solver.model import build_models

    if len(formula.responses) == 1:
        model = found.cp.model(asked, reml=reml, contrasts=contrasts)
        model.residence = found.residence
        return [model]
    if isinstance(found.cp, CrossProducts):
        return build_models(found.cp, asked, reml=reml, contrasts=contrasts)
    return found.cp.models(asked, reml=reml, contrasts=contrasts)


def fit_each(
    models: Iterable[LinearMixedModel | ModelError],
    places: Sequence[str | None],
    logs: Sequence[str | None],
    start: tuple[float, ...] | None,
    settings: Optimizer,
    quiet: bool,
) -> bool:
    """Fit all responses, each whatever becomes of the others and of whoever reads what is printed; whether all searches converged.

    Raises
    ------
    BigmmError, OSError
        After the last of them, with the messages of all that failed; at once when there is one response, or nobody reads what is printed.
    """
    converged: list[bool] = []
    failed: list[BigmmError | OSError] = []
    for model, place, log in zip(models, places, logs, strict=True):
        try:
            converged.append(_fit(model, place, start, settings, log, quiet, first=not converged))
        except (ModelError, StorageError, OSError) as error:
            if len(places) == 1 or (place is None and isinstance(error, OSError)):
                raise
            _note_older(place, error)
            failed.append(error)
    _raise_together(failed)
    return all(converged)


def _note_older(place: str | None, error: BigmmError | OSError) -> None:
    """Say that what lies where a response's fit would be is of an earlier job."""
    from bigmm.storage import saved_kind

    if place is not None and isinstance(error, ModelError) and saved_kind(place):
        logger.warning("%s holds the fit of an earlier job", place)


def _raise_together(errors: Sequence[BigmmError | OSError]) -> None:
    """One error, or one that has the messages of all; that nobody reads what is printed is the least of them."""
    told = [error for error in errors if not isinstance(error, BrokenPipeError)]
    if len(told) > 1:
        raise ModelError("; ".join(map(str, told)))
    for error in [*told, *errors]:
        raise error


def _fit(
    model: LinearMixedModel | ModelError,
    place: str | None,
    start: tuple[float, ...] | None,
    settings: Optimizer,
    log: str | None,
    quiet: bool,
    *,
    first: bool,
) -> bool:
    """Fit, save and print one model; whether the search converged."""
    from bigmm.solver.model import found_model

    found = _search(found_model(model), start, settings, log, quiet)
    try:
        if place is not None:
            save(found, place)
    finally:
        click.echo(("" if first else "\n") + found.summary())
    return found.converged


def _search(
    model: LinearMixedModel, start: tuple[float, ...] | None, settings: Optimizer, log: str | None, quiet: bool
) -> LinearMixedModelFit:
    started = time.monotonic()
    with stage("search for theta", quiet) as current:

        def show(number: int, theta: Array, value: float) -> None:
            current.update(Progress("optimize", number, None, value, theta=tuple(theta)))

        found = model.fit(start, settings, show, log)
        current.finish(f"objective {found.objective:.6f} after {found.nevals} evaluations")
    _note_fitted(found, time.monotonic() - started)
    return found


def _note_fitted(found: LinearMixedModelFit, seconds: float) -> None:
    from bigmm.cli.contents import fit_record

    journal = journal_of(click.get_current_context())
    if journal.listens:
        record = fit_record(found)
        journal.outcome.update(rows=record["rows"])
        journal.note("fitted", **record, reason=found.optimization.reason, summary=found.summary(), seconds=round(seconds, 3))
