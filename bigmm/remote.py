"""Crossproducts too large for the driver: their slices stay on the workers, and so do the leaves of every model.

A slice has levels of the leading factor that no other has. What the other factors and the fixed part have is summed and
held here; each evaluation of a model is a map over the slices and a sum (`bigmm.solver.distributed`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from dask.sizeof import sizeof

from bigmm.accounting import RowCounts
from bigmm.addition import add
from bigmm.columns import Array
from bigmm.crossproducts import CrossProducts, GroupProducts, PairProducts
from bigmm.design import NaAction
from bigmm.errors import LabelError
from bigmm.formula import parse_formula
from bigmm.reduction.cluster import connect
from bigmm.reduction.progress import ProgressCallback
from bigmm.reduction.reduce import blank_design, check_result, design_for_plan
from bigmm.reduction.run import RunOptions, run_on_workers
from bigmm.reduction.segments import FAN_IN
from bigmm.reduction.sources import plan_data
from bigmm.reduction.tally import Tally
from bigmm.reduction.work import OnError
from bigmm.reduction.workers import Workers

if TYPE_CHECKING:
    from distributed import Client, Future

    from bigmm.inference.fit import LinearMixedModelFit
    from bigmm.solver.distributed import DistributedModel
    from bigmm.solver.optimize import Optimizer
    from bigmm.solver.select import SelectedModel

#: Bytes of arguments that may travel with a task.
_SMALL = 8e6


@dataclass(frozen=True, eq=False)
class RemoteCrossProducts:
    """Crossproducts in slices on a cluster's workers; as long as this value lives, they do.

    Attributes
    ----------
    client : Client
    slices : tuple of Future
        A CrossProducts each.
    leading : int
        Position of the leading factor among the design's.
    """

    client: Client
    slices: tuple[Future, ...]
    leading: int

    @cached_property
    def rest(self) -> CrossProducts:
        """Everything but the leading factor's part, which has no levels here."""
        (found,) = _Slices(self.client, self.slices, add).total(_without_leading, self.leading)
        rest: CrossProducts = found
        return rest

    def model(self, formula: str | None = None, reml: bool = True, contrasts: Mapping[str, Any] | None = None) -> DistributedModel:
        """A model whose leaves stay on the workers.

        Parameters
        ----------
        formula, reml, contrasts
            As for `bigmm.CrossProducts.model`. The formula needs the leading factor: a model without it is `rest.model(...)`.

        Raises
        ------
        LabelError
            As `bigmm.CrossProducts.model`, and for a formula without the leading factor.
        """
        from bigmm.solver.distributed import DistributedModel
        from bigmm.solver.identification import check_gram
        from bigmm.solver.layout import lay_out_root
        from bigmm.solver.leaf_slices import SliceDesign, code_slice, count
        from bigmm.solver.select import select

        parsed = self.rest.design.formula if formula is None else parse_formula(formula)
        names = self.rest.groups[self.leading].names
        if not any(set(term.group) == set(names) for term in parsed.random):
            raise LabelError(f"the leaves on the workers are the levels of {':'.join(names)!r}: name it, or use rest.model(...)")
        levels = int(sum(_Slices(self.client, self.slices).each(_count_levels, self.leading)))
        known = _with_levels(self.rest, self.leading, pd.RangeIndex(levels))
        selected = select(known, parsed, contrasts)
        positions = tuple(next(i for i, group in enumerate(known.groups) if group is wanted) for wanted in selected.groups)
        leading = positions.index(self.leading)
        design = SliceDesign(_zeroed(self.rest), positions, leading, selected.fixed, selected.codings)
        leaves = _Slices(self.client, _Slices(self.client, self.slices).start(code_slice, design))
        _, gram = leaves.total(count)
        check_gram(gram, f"the random-effects terms on {':'.join(names)!r}")
        selected = _with_remote_group(selected, leading, levels, gram)
        return DistributedModel(self.rest, selected, reml=reml, root=lay_out_root(selected.blocks, leading), leading=leading, leaves=leaves)

    def fit(
        self,
        formula: str | None = None,
        reml: bool = True,
        contrasts: Mapping[str, Any] | None = None,
        start: npt.ArrayLike | None = None,
        optimizer: str | Optimizer | None = None,
    ) -> LinearMixedModelFit:
        """Estimates, as `bigmm.CrossProducts.fit`; the same numbers to rounding. The fit keeps nothing on the cluster."""
        return replace(self.model(formula, reml, contrasts).fit(start=start, optimizer=optimizer), model=None)

    def collect(self) -> CrossProducts:
        """The whole, brought to this process."""
        return add(_Slices(self.client, self.slices).results())


def reduce_on_workers(
    formula: str,
    data: Any,
    client: Client,
    *,
    weights: str | None = None,
    offset: str | None = None,
    na_action: NaAction = "omit",
    on_error: OnError = "raise",
    progress: ProgressCallback | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> RemoteCrossProducts:
    """The same pass, whose crossproducts stay on the workers: for those that the driver's memory will not hold.

    Parameters
    ----------
    formula, data, weights, offset, na_action, on_error, progress, storage_options
        As for `reduce`.
    client : Client
        Of a cluster that lives as long as the crossproducts are used.

    Returns
    -------
    RemoteCrossProducts
        Its models and fits give the same numbers, to rounding. Workers that are lost do their part again.

    Raises
    ------
    FormulaError, DataError, ClusterError
        As `reduce`.
    """
    design = blank_design(formula, weights, offset, na_action, on_error)
    plan = plan_data(data, design.names, storage_options=storage_options)
    design = design_for_plan(design, plan)
    with connect(client, here=False) as connected:
        assert connected is not None
        slices, slicing = run_on_workers(plan, design, connected, RunOptions(on_error=on_error, progress=progress))
    leading = next(position for position, group in enumerate(design.groups) if group.names == slicing.names)
    found = RemoteCrossProducts(client, slices, leading)
    check_result(plan, found.rest)
    return found


def _without_leading(cp: CrossProducts, leading: int) -> tuple[CrossProducts]:
    """A slice without the leading factor's levels and their pairs."""
    groups = list(cp.groups)
    group = groups[leading]
    groups[leading] = GroupProducts(group.names, group.levels[:0], group.columns, group.rows[:0], group.ZtZ[:0], group.ZtXy[:0])
    pairs = {key: _no_pairs(pair) if leading in key else pair for key, pair in cp.pairs.items()}
    return (replace(cp, groups=tuple(groups), pairs=pairs),)


def _no_pairs(pair: PairProducts) -> PairProducts:
    return PairProducts(pair.g_refs[:0], pair.h_refs[:0], pair.ZtZ[:0])


def _zeroed(cp: CrossProducts) -> CrossProducts:
    """The labels of crossproducts without their numbers."""
    groups = tuple(
        replace(group, rows=np.zeros_like(group.rows), ZtZ=np.zeros_like(group.ZtZ), ZtXy=np.zeros_like(group.ZtXy)) for group in cp.groups
    )
    pairs = {key: _no_pairs(pair) for key, pair in cp.pairs.items()}
    return CrossProducts(cp.design, cp.columns, np.zeros_like(cp.XytXy), groups, pairs, RowCounts())


def _with_levels(cp: CrossProducts, leading: int, levels: pd.Index) -> CrossProducts:
    groups = list(cp.groups)
    groups[leading] = replace(groups[leading], levels=levels)
    return replace(cp, groups=tuple(groups))


def _with_remote_group(selected: SelectedModel, leading: int, levels: int, gram: Array) -> SelectedModel:
    from bigmm.solver.distributed import RemoteGroup

    groups = list(selected.blocks.groups)
    own = groups[leading]
    groups[leading] = RemoteGroup(own.name, own.ZtZ, own.ZtXy, levels, np.asarray(gram))
    return replace(selected, blocks=replace(selected.blocks, groups=tuple(groups)))


def _count_levels(cp: CrossProducts, leading: int) -> int:
    return len(cp.groups[leading].levels)


class _Slices:
    """Futures of slices, and functions of them on the workers.

    Parameters
    ----------
    client : Client
    slices : sequence of Future
    add_up : callable, optional
        Sums a list of one part; numbers and arrays unless given.
    """

    def __init__(self, client: Client, slices: Sequence[Future], add_up: Callable[[list[Any]], Any] | None = None) -> None:
        self._client, self._slices = client, tuple(slices)
        self._add_up = add_up or _sum
        self._workers = Workers(client, Tally((), None))

    def start(self, function: Callable[..., Any], *arguments: Any) -> list[Future]:
        """Futures of ``function(slice, *arguments)``; the arguments travel to a worker once."""
        shared = self._shared(arguments)
        return [self._workers.start(_apply, function, one, shared) for one in self._slices]

    def _shared(self, arguments: tuple[Any, ...]) -> Future:
        """The arguments, from where workers fetch them; small ones stay with the scheduler, too, and outlive any worker."""
        if sum(sizeof(argument) for argument in arguments) < _SMALL:
            return self._workers.start(_itself, arguments)
        return self._client.scatter([arguments], hash=False)[0]

    def each(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """What ``function(slice, *arguments)`` returns for each slice."""
        return self._results(self.start(function, *arguments))

    def total(self, function: Callable[..., tuple[Any, ...]], *arguments: Any) -> tuple[Any, ...]:
        """Sum over the slices of what the function returns, part by part, in a tree of a shape of its own."""
        level = self.start(function, *arguments)
        while len(level) > 1:
            groups = [level[start : start + FAN_IN] for start in range(0, len(level), FAN_IN)]
            level = [self._workers.start(_sum_parts, group, self._add_up, priority=10) for group in groups]
        (found,) = self._results(level)
        total: tuple[Any, ...] = found
        return total

    def results(self) -> list[Any]:
        """The slices themselves."""
        return self._results(self._slices)

    def _results(self, futures: Sequence[Future]) -> list[Any]:
        return [self._workers.result(future) for future in futures]


def _itself(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return arguments


def _apply(function: Callable[..., Any], one: Any, arguments: tuple[Any, ...]) -> Any:
    return function(one, *arguments)


def _sum_parts(parts: list[tuple[Any, ...]], add_up: Callable[[list[Any]], Any]) -> tuple[Any, ...]:
    return tuple(add_up(list(column)) for column in zip(*parts, strict=True))


def _sum(parts: list[Any]) -> Any:
    total = parts[0].copy()
    for part in parts[1:]:
        total += part
    return total
