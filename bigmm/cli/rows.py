"""From the command line's words to crossproducts: a pass over rows, or crossproducts that were saved."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import click
import numpy as np

from bigmm.cli.apart import PASS, SEARCH
from bigmm.cli.application import hush_cluster, is_verbose
from bigmm.cli.files import replacing
from bigmm.cli.journal import Journal, journal_of
from bigmm.cli.options import SAME_FORMULA
from bigmm.cli.progress import Stage, stage
from bigmm.errors import DataError, StorageError
from bigmm.urls import is_url, joined, located

if TYPE_CHECKING:
    from bigmm.crossproducts import CrossProducts
    from bigmm.solver.residence import LeavesChoice

#: Files with dropped or skipped rows that the journal lists.
_INCOMPLETE = 50


@dataclass(frozen=True, slots=True)
class PassOptions:
    """Options of a pass over rows as they were given, None where they were not."""

    weights: str | None
    offset: str | None
    na_action: Literal["omit", "fail"] | None
    on_error: Literal["raise", "skip"] | None
    scheduler: str | None
    workers: int | None
    checkpoint: str | None
    resume: bool
    performance_report: str | None = None
    leaves: LeavesChoice = "auto"

    def __post_init__(self) -> None:
        """Refuse two clusters, to go on from nowhere, and a report that cannot be."""
        if self.performance_report is not None:
            _check_performance_report(self.workers)
        if self.scheduler is not None and self.workers is not None:
            raise click.UsageError("--scheduler and --workers exclude one another", click.get_current_context())
        if self.resume and self.checkpoint is None:
            raise click.UsageError("--resume needs --checkpoint DIR, the checkpoint to go on from", click.get_current_context())

    @property
    def given(self) -> list[str]:
        """Those that were given, as they are written."""
        values = {"--weights": self.weights, "--offset": self.offset, "--na-action": self.na_action}
        values |= {"--on-error": self.on_error}
        values |= {"--performance-report": self.performance_report}
        values |= {"--leaves workers": "workers" if self.leaves == "workers" else None}
        values |= {"--scheduler": self.scheduler, "--workers": self.workers}  # type: ignore[dict-item]
        return [name for name, value in values.items() if value is not None]


def _check_performance_report(workers: int | None) -> None:
    ctx = click.get_current_context()
    if workers == 0:
        raise click.UsageError("--performance-report is of a cluster, and --workers 0 has none", ctx)
    if importlib.util.find_spec("bokeh") is None:
        raise click.UsageError("--performance-report needs bokeh, here and on the scheduler: pip install 'bigmm[dashboard]'", ctx)


def search_log(options: PassOptions, number: int) -> str | None:
    """Where the evaluations of a search are kept, None when they are not: a log is appended to, which object stores cannot do.

    Raises
    ------
    StorageError
        When there is a log and it is not to be resumed.
    """
    if options.checkpoint is None or is_url(options.checkpoint):
        return None
    os.makedirs(options.checkpoint, exist_ok=True)
    log = os.path.join(options.checkpoint, SEARCH.format(number))
    if os.path.exists(log) and not options.resume:
        raise StorageError(f"{options.checkpoint!r} holds a checkpoint: resume from it (--resume), remove it, or choose another place")
    return log


def are_saved(data: Sequence[str]) -> bool:
    """Whether the words name directories of saved crossproducts, as opposed to rows.

    Raises
    ------
    DataError
        When they name both, or a fit.
    """
    from bigmm.storage import saved_kind

    kinds = {path: saved_kind(path) for path in data}
    fits = [path for path, kind in kinds.items() if kind == "fit"]
    if fits:
        raise DataError(f"{fits[0]!r} holds a fit: expected data, or saved crossproducts")
    saved = [path for path, kind in kinds.items() if kind == "crossproducts"]
    if saved and len(saved) < len(kinds):
        raise DataError(f"{saved[0]!r} holds crossproducts and other arguments do not: expected the one or the other")
    return bool(saved)


def crossproducts_of(formula: str, data: Sequence[str], options: PassOptions, quiet: bool) -> CrossProducts:
    """Crossproducts from saved ones, which are added up, or from a pass over rows.

    Raises
    ------
    DataError
        When options of a pass were given for saved crossproducts.
    """
    if not are_saved(data):
        return _reduce(formula, data, options, quiet)
    if options.given:
        raise DataError(f"{options.given[0]} is for a pass over rows, and these are saved crossproducts: leave it out")
    return merge_saved(data)


def merge_saved(data: Sequence[str], *, allow_overlap: bool = False) -> CrossProducts:
    """The sum of saved crossproducts, of which two at a time are in memory.

    Raises
    ------
    DataError
        When the same ones are listed twice: their rows would count twice.
    LabelError
        When they do not fit together, or share a file.
    """
    from bigmm.addition import merge

    _check_distinct(data)
    total = load_crossproducts(data[0])
    for path in data[1:]:
        total = merge([total, load_crossproducts(path)], allow_overlap=allow_overlap)
    return total


def load_crossproducts(path: str) -> CrossProducts:
    """Saved crossproducts, and nothing else."""
    from bigmm.crossproducts import CrossProducts
    from bigmm.storage import load

    found = load(path)
    if not isinstance(found, CrossProducts):
        raise DataError(f"{path!r} holds a fit: expected saved crossproducts")
    return found


def _check_distinct(data: Sequence[str]) -> None:
    seen: dict[tuple[str, str], str] = {}
    for path in data:
        system, place = located(path)
        real = (system, place if system else os.path.realpath(place))
        if real in seen:
            raise DataError(f"{path!r} is listed twice (before as {seen[real]!r}): expected each crossproducts once, leave one out")
        seen[real] = path


def append_to(existing: CrossProducts, formula: str, data: Sequence[str], options: PassOptions, quiet: bool) -> CrossProducts:
    """Crossproducts and the rows of the files that they have not yet; arguments that were not given are theirs."""
    design = existing.design
    own = replace(
        options,
        weights=design.weights if options.weights is None else options.weights,
        offset=design.offset if options.offset is None else options.offset,
        na_action=design.na_action if options.na_action is None else options.na_action,
    )
    return _reduce(design.formula.text if formula == SAME_FORMULA else formula, data, own, quiet, existing)


def _reduce(formula: str, data: Sequence[str], options: PassOptions, quiet: bool, into: CrossProducts | None = None) -> CrossProducts:
    """Crossproducts of rows, with progress."""
    from bigmm.reduction.reduce import reduce

    check_written(formula)
    ctx = click.get_current_context()
    hush_cluster(is_verbose(ctx))
    started = time.monotonic()
    with stage("pass over the rows", quiet) as current, cluster_of(options) as client:
        cp = reduce(formula, list(data), client=client, into=into, **pass_arguments(options, current))
        current.finish(f"{cp.rows.used:,} of {cp.rows.read:,} rows used")
    note_reduced(journal_of(ctx), cp, time.monotonic() - started)
    return cp


def check_written(formula: str) -> None:
    """Refuse the formula of saved crossproducts for rows.

    Raises
    ------
    DataError
    """
    if formula == SAME_FORMULA:
        raise DataError(f"the formula {SAME_FORMULA!r} is for saved crossproducts: write one, such as 'y ~ x + (1 | g)'")


def pass_arguments(options: PassOptions, current: Stage) -> dict[str, Any]:
    """Arguments that `bigmm.reduce` and `bigmm.leaves.reduced` share."""
    return {
        "weights": options.weights,
        "offset": options.offset,
        "na_action": options.na_action or "omit",
        "checkpoint": None if options.checkpoint is None else joined(options.checkpoint, PASS),
        "resume": options.resume,
        "on_error": options.on_error or "raise",
        "progress": current.update,
    }


@contextlib.contextmanager
def cluster_of(options: PassOptions) -> Iterator[Any]:
    """What `reduce` takes as its client; with Dask's report a client that is open, so that the report can be written at the end."""
    wanted: Any = options.scheduler if options.workers is None else options.workers
    if options.performance_report is None:
        yield wanted
        return
    from distributed import performance_report

    from bigmm.reduction.cluster import connect

    with connect(wanted, here=False) as client, replacing(options.performance_report) as scratch:
        assert client is not None
        with client.as_current(), performance_report(filename=str(scratch)):
            yield client


def note_reduced(journal: Journal, cp: CrossProducts, seconds: float, leaves: str | None = None) -> None:
    """Write the end of a pass to the journal; of leaves on workers there is no digest, and `cp` is the rest."""
    if not journal.listens:
        return
    rows = {"read": cp.rows.read, "used": cp.rows.used, "dropped": cp.rows.dropped, "missing": dict(cp.rows.missing)}
    digest = cp.digest if leaves is None else None
    journal.outcome.update(rows=rows, digest=digest)
    journal.note(
        "reduced",
        formula=cp.design.formula.text.strip(),
        digest=digest,
        leaves=leaves or "local",
        plan_digest=cp.plan_digest,
        rows=rows,
        files=len(cp.sources),
        bytes=cp.nbytes,
        skipped=[{"name": chunk.name, "reason": chunk.reason, "rows": chunk.rows} for chunk in cp.skipped],
        incomplete=_incomplete(cp),
        seconds=round(seconds, 3),
    )


def _incomplete(cp: CrossProducts) -> list[dict[str, Any]]:
    """The files that lost most rows."""
    lost = cp.sources.read - cp.sources.used + cp.sources.skipped
    worst = np.argsort(-lost, kind="stable")[:_INCOMPLETE]
    columns = {"read": cp.sources.read, "used": cp.sources.used, "skipped": cp.sources.skipped}
    return [{"url": cp.sources.urls[i], **{name: int(counts[i]) for name, counts in columns.items()}} for i in worst if lost[i]]


def describe(cp: CrossProducts) -> str:
    """What crossproducts hold, for people."""
    from bigmm.cli.contents import crossproducts_record, crossproducts_text

    return crossproducts_text(crossproducts_record(cp))
