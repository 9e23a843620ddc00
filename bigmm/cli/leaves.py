"""The pass of `bigmm fit`, whose leaves may stay on workers."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from bigmm.cli.application import hush_cluster, is_verbose
from bigmm.cli.journal import journal_of
from bigmm.cli.progress import stage
from bigmm.cli.rows import PassOptions, are_saved, check_written, cluster_of, crossproducts_of, note_reduced, pass_arguments

if TYPE_CHECKING:
    from bigmm.leaves import Reduced


@contextlib.contextmanager
def reduced_for_fit(formula: str, data: Sequence[str], options: PassOptions, quiet: bool) -> Iterator[Reduced]:
    """Saved crossproducts, or those of a pass; leaves stay on workers, where they do, for as long as the context is open.

    Raises
    ------
    DataError, StorageError, ClusterError, ModelError
        As `crossproducts_of` and `bigmm.leaves.reduced`.
    """
    from bigmm.leaves import Reduced
    from bigmm.solver.residence import Residence

    if are_saved(data):
        yield Reduced(crossproducts_of(formula, data, options, quiet), Residence("local", "they were saved"))
        return
    check_written(formula)
    hush_cluster(is_verbose(click.get_current_context()))
    with contextlib.ExitStack() as until_fitted:
        yield _pass(formula, data, options, quiet, until_fitted)


def _pass(formula: str, data: Sequence[str], options: PassOptions, quiet: bool, until_fitted: contextlib.ExitStack) -> Reduced:
    from bigmm.crossproducts import CrossProducts
    from bigmm.leaves import reduced

    started = time.monotonic()
    with stage("pass over the rows", quiet) as current:
        client = until_fitted.enter_context(cluster_of(options))
        found = until_fitted.enter_context(reduced(formula, list(data), options.leaves, client, **pass_arguments(options, current)))
        cp, leaves = (found.cp, None) if isinstance(found.cp, CrossProducts) else (found.cp.rest, str(found.residence))
        current.finish(f"{cp.rows.used:,} of {cp.rows.read:,} rows used" + ("" if leaves is None else f"; leaves live on {leaves}"))
    note_reduced(journal_of(click.get_current_context()), cp, time.monotonic() - started, leaves)
    return found
