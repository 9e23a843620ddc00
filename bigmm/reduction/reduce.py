"""The pass: formula and data in, crossproducts out."""

from __future__ import annotations

import datetime
import logging
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias, get_args

import pandas as pd
from distributed import Client

from bigmm.columns import ColumnKind, Level
from bigmm.crossproducts import CrossProducts
from bigmm.design import Design, NaAction
from bigmm.errors import DataError
from bigmm.formula import parse_formula
from bigmm.reduction.arguments import check_column_names
from bigmm.reduction.checkpoint import Checkpoint
from bigmm.reduction.cluster import SMALL_BYTES, connect
from bigmm.reduction.mirror import open_any_checkpoint
from bigmm.reduction.progress import ProgressCallback
from bigmm.reduction.segments import extended, total
from bigmm.reduction.shift import with_shift
from bigmm.reduction.slices import choose_slicing
from bigmm.reduction.sources import Plan, kind_of, plan_data
from bigmm.reduction.tally import Tally
from bigmm.reduction.threads import Threads
from bigmm.reduction.tree import Executor, batch_results
from bigmm.reduction.work import Work
from bigmm.reduction.workers import Workers

logger = logging.getLogger(__name__)

#: What opens the checkpoint of a pass, once it is known what the pass does.
_Place: TypeAlias = Callable[[Work, str], AbstractContextManager[Checkpoint | None]]


def reduce(
    formula: str,
    data: Any,
    *,
    weights: str | None = None,
    offset: str | None = None,
    na_action: NaAction = "omit",
    client: Any = None,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = True,
    progress: ProgressCallback | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> CrossProducts:
    """Reduce rows to the crossproducts of a formula's model matrices, in one pass.

    Parameters
    ----------
    formula : str
        A formula of lme4's grammar, for example ``"y ~ x + (1 + x | g)"``.
    data : path, DataFrame, Table or Dataset
        A path, folder, glob or fsspec URL of Parquet or CSV files, or a list of them; a Dask, pandas or polars
        DataFrame; a pyarrow Table or Dataset. Only the columns that the formula names are read.
    weights : str, optional
        Column of precision weights, Var = sigma^2 / w.
    offset : str, optional
        Column of a known part of the response.
    na_action : {"omit", "fail"}
        Drop and count incomplete rows, or refuse them.
    client : Client, cluster, str or int, optional
        A Dask client or cluster, a scheduler's address or file, or a number of processes to start here (0: this one
        works alone). None finds the running client; without one, data in memory and small files are reduced in this
        process, and larger data on a local cluster that is closed at the end.
    checkpoint : path or URL, optional
        Directory that what is done is written to after every batch of chunks. A pass that was killed and is run again
        with the same arguments goes on from there, with the same bits at the end. It may be removed when the pass is done.
    resume : bool
        Whether to go on from a checkpoint that is there, or to refuse it.
    progress : callable, optional
        Called with a `Progress` now and then.
    storage_options : dict, optional
        For the file system of a URL.

    Returns
    -------
    CrossProducts
        The same bits for any number of workers.

    Raises
    ------
    FormulaError
        For a formula that cannot be read; marked at the character.
    DataError
        For unknown columns, a response that is not numeric, infinite values, weights that are not positive,
        files that cannot be read or that disagree, and data without a complete row.
    ClusterError
        When no scheduler answers or no worker is left.
    StorageError
        When the checkpoint cannot be written, or belongs to another pass.
    """
    check_column_names(weights, offset)
    if na_action not in get_args(NaAction):
        raise DataError(f"na_action={na_action!r}: expected 'omit' or 'fail'")
    design = Design(parse_formula(formula), {}, weights=weights, offset=offset, na_action=na_action)
    plan = plan_data(data, design.names, storage_options=storage_options)
    design = _for_plan(design, plan)
    place = _no_checkpoint if checkpoint is None else partial(open_any_checkpoint, checkpoint, resume=resume)
    with connect(client, small=_is_small(plan)) as connected:
        cp = _run(plan, design, connected, place, progress)
    _check_rows(cp)
    return replace(cp, digest=plan.digest)


def _for_plan(design: Design, plan: Plan) -> Design:
    """The design with the kinds and declared categories of the data's columns."""
    kinds: dict[str, ColumnKind] = {
        name: "category" if name in plan.categories else kind_of(plan.schema.field(name).type) for name in design.names
    }
    categories = {name: tuple(map(_as_level, levels)) for name, levels in plan.categories.items()}
    found = replace(design, kinds=kinds, categories=categories)
    found.check()
    return found


def _as_level(category: Level) -> Level:
    """A declared category as the passes' levels have it: dates are moments in time there."""
    return pd.Timestamp(category) if isinstance(category, datetime.date) else category


def _is_small(plan: Plan) -> bool:
    sizes = [chunk.nbytes for chunk in plan.chunks]
    return plan.in_memory or (all(sizes) and sum(sizes) <= SMALL_BYTES)


def _run(plan: Plan, design: Design, client: Client | None, checkpoint: _Place, progress: ProgressCallback | None) -> CrossProducts:
    """The pass, on a cluster or in this process."""
    where = "threads of this process" if client is None else client.scheduler.address
    logger.info("reducing %d chunks on %s", len(plan.chunks), where)
    with nullcontext() if client is None else client.as_current():  # it computes the partitions of a Dask DataFrame, too
        work = _work(plan, design)
        tally = Tally(work.chunks, progress)
        with checkpoint(work, plan.digest) as kept, Threads(tally) if client is None else Workers(client, tally) as executor:
            return _collect(executor, work, tally, kept)


def _no_checkpoint(_work: Work, _plan_digest: str) -> AbstractContextManager[None]:
    return nullcontext()


def _work(plan: Plan, design: Design) -> Work:
    shifted = with_shift(design, plan.chunks)
    return Work(plan.chunks, shifted, choose_slicing(shifted, plan.chunks))


def _collect(executor: Executor, work: Work, tally: Tally, checkpoint: Checkpoint | None) -> CrossProducts:
    """The sum of all batches; those that a checkpoint has are not done again."""
    segments = [] if checkpoint is None else checkpoint.load()
    first = segments[-1].stop if segments else 0
    tally.batches_done(first)
    for slices in batch_results(executor, work, first):
        segments = extended(segments, slices)
        if checkpoint is not None:
            checkpoint.save(segments)
        tally.batches_done(segments[-1].stop)
    return total(segments)


def _check_rows(cp: CrossProducts) -> None:
    if cp.rows.used == 0:
        missing = ", ".join(f"{name} {count}" for name, count in cp.rows.missing.items())
        found = f"all {cp.rows.read} rows are incomplete (missing: {missing})" if cp.rows.read else "the data have no rows"
        raise DataError(f"{found}: expected at least one row with every column of the formula")
