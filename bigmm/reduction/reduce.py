"""The pass: formula and data in, crossproducts out."""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, get_args

import pandas as pd
from distributed import Client

from bigmm.accounting import add_sources, skipped_sources
from bigmm.addition import add, check_crossproducts, check_same
from bigmm.columns import ColumnKind, Level, as_level
from bigmm.crossproducts import CrossProducts
from bigmm.design import Design, NaAction
from bigmm.errors import DataError, NoRowsError
from bigmm.formula import parse_formula
from bigmm.places import check_apart
from bigmm.reduction.accounts import check_accounts
from bigmm.reduction.append import new_files, with_constants_of, without_skipped
from bigmm.reduction.arguments import check_column_names
from bigmm.reduction.cluster import connect
from bigmm.reduction.magnitudes import check_magnitudes
from bigmm.reduction.progress import ProgressCallback
from bigmm.reduction.run import RunOptions, run_pass
from bigmm.reduction.sources import Plan, kind_of, plan_data
from bigmm.reduction.sources.paths import is_paths
from bigmm.reduction.work import OnError


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
    on_error: OnError = "raise",
    progress: ProgressCallback | None = None,
    storage_options: Mapping[str, Any] | None = None,
    into: CrossProducts | None = None,
) -> CrossProducts:
    """Reduce rows to the crossproducts of a formula's model matrices, in one pass.

    Parameters
    ----------
    formula : str
        A formula of lme4's grammar, for example ``"y ~ x + (1 + x | g)"``. With several responses, ``cbind(y1, y2) ~ ...``,
        rows are used that are complete in all of them, and offsets are taken from each.
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
        works alone). None finds the running client; without one, files and data in memory are reduced by threads of this
        process, and a Dask frame on a local cluster that is closed at the end.
    checkpoint : path or URL, optional
        Directory that what is done is written to after every batch of chunks. A pass that was killed and is run again
        with the same arguments goes on from there, with the same bits at the end. It may be removed when the pass is done.
        A Dask DataFrame is known by the name that Dask gives it: do not change what it is made from before the pass is done.
    resume : bool
        Whether to go on from a checkpoint that is there, or to refuse it.
    on_error : {"raise", "skip"}
        What to do about a part of a file that cannot be read: stop, or go on without it. What was skipped is logged, counted
        and listed in `CrossProducts.skipped`. (A file whose footer cannot be read always stops the pass.)
    progress : callable, optional
        Called with a `Progress` now and then.
    storage_options : dict, optional
        For the file system of a URL.
    into : CrossProducts, optional
        Of earlier files: those of `data` that it has not yet, by name, size and time of change, are read and added. The
        other arguments must be those that it was made with.

    Returns
    -------
    CrossProducts
        The same bits for any number of workers; `into` itself when there is no new file.

    Raises
    ------
    FormulaError
        For a formula that cannot be read; marked at the character.
    DataError
        For unknown columns, a response that is not numeric, infinite values, weights that are not positive,
        files that cannot be read or that disagree, data without a complete row, and files of `into` that have changed since.
    LabelError
        For another formula, weights, offset or kinds of columns than those of `into`.
    ClusterError
        When no scheduler answers, no worker is left, or workers have no bigmm of this version.
    SettingError
        For a value of bigmm's in Dask's configuration that means nothing.
    StorageError
        When the checkpoint cannot be written, or belongs to another pass.
    """
    design = blank_design(formula, weights, offset, na_action, on_error)
    if checkpoint is not None and is_paths(data):
        sources = [data] if isinstance(data, (str, os.PathLike)) else data
        check_apart([os.fspath(source) for source in sources], {}, {"checkpoint": os.fspath(checkpoint)})
    if into is not None:
        check_crossproducts(into)
        check_same(into.design, replace(design, kinds=into.design.kinds))
        data = new_files(data, into, storage_options or {})
        if not data:
            return into
        into = without_skipped(into, data)
    try:
        plan, design = plan_pass(design, data, storage_options)
    except NoRowsError:
        if into is None:
            raise
        return replace(into, sources=add_sources([into.sources, skipped_sources([file.origin(0) for file in data])]))
    design = design if into is None else with_constants_of(into, design)
    with connect(client, here=plan.readable_here) as connected:
        cp = reduce_plan(plan, design, connected, RunOptions(checkpoint, resume, on_error, progress), may_be_empty=into is not None)
    return cp if into is None else add([into, cp])


def plan_pass(blank: Design, data: Any, storage_options: Mapping[str, Any] | None) -> tuple[Plan, Design]:
    """What a pass reads and collects.

    Parameters
    ----------
    blank : Design
        Of `blank_design`.
    data, storage_options
        As for `reduce`.

    Raises
    ------
    DataError
        For data that cannot be read, unknown columns, or columns of a wrong kind.
    """
    plan = plan_data(data, blank.names, storage_options=storage_options)
    return plan, design_for_plan(blank, plan)


def reduce_plan(plan: Plan, design: Design, client: Client | None, options: RunOptions, *, may_be_empty: bool = False) -> CrossProducts:
    """The pass itself, on a cluster or in this process."""
    cp = run_pass(plan, design, client, options)
    check_result(plan, cp, may_be_empty=may_be_empty)
    return with_plan(cp, plan)


def with_plan(cp: CrossProducts, plan: Plan) -> CrossProducts:
    """Crossproducts that know what they were made from, files without rows included."""
    sources = add_sources([cp.sources, skipped_sources(plan.empty)])
    return replace(cp, plan_digest=plan.digest, sources=sources)


def blank_design(formula: str, weights: str | None, offset: str | None, na_action: NaAction, on_error: OnError) -> Design:
    """The design before anything is known of the data."""
    check_column_names(weights, offset)
    if na_action not in get_args(NaAction):
        raise DataError(f"na_action={na_action!r}: expected 'omit' or 'fail'")
    if on_error not in get_args(OnError):
        raise DataError(f"on_error={on_error!r}: expected 'raise' or 'skip'")
    return Design(parse_formula(formula), {}, weights=weights, offset=offset, na_action=na_action)


def check_result(plan: Plan, cp: CrossProducts, *, may_be_empty: bool = False) -> None:
    """See that all rows are accounted for, and that there are any."""
    check_accounts(plan.chunks, cp)
    if not may_be_empty:
        _check_rows(cp)
    check_magnitudes(cp)


def design_for_plan(design: Design, plan: Plan) -> Design:
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
    return as_level(pd.Timestamp(category)) if isinstance(category, datetime.date) else category


def _check_rows(cp: CrossProducts) -> None:
    if cp.rows.used == 0:
        missing = ", ".join(f"{name} {count}" for name, count in cp.rows.missing.items())
        found = f"all {cp.rows.read} rows are incomplete (missing: {missing})" if cp.rows.read else "the data have no rows"
        raise DataError(f"{found}: expected at least one row with every column of the formula")
