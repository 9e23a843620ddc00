"""Crossproducts too large for the driver: their slices stay on the workers, and so do the leaves of every model.

A slice has levels of the leading factor that no other has. What the other factors and the fixed part have is summed and
held here; each evaluation of a model is a map over the slices and a sum (`bigmm.solver.distributed`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from bigmm.accounting import RowCounts
from bigmm.addition import add
from bigmm.columns import Array
from bigmm.crossproducts import CrossProducts, GroupProducts, PairProducts
from bigmm.design import Design, NaAction
from bigmm.errors import LabelError, ModelError
from bigmm.formula import parse_formula
from bigmm.reduction.cluster import connect
from bigmm.reduction.progress import ProgressCallback
from bigmm.reduction.reduce import blank_design, check_result, plan_pass
from bigmm.reduction.run import RunOptions, run_on_workers
from bigmm.reduction.sources import Plan
from bigmm.reduction.work import OnError
from bigmm.slice_map import SliceMap

if TYPE_CHECKING:
    from distributed import Client, Future

    from bigmm.inference.fit import LinearMixedModelFit
    from bigmm.solver.distributed import DistributedModel
    from bigmm.solver.optimize import Optimizer
    from bigmm.solver.select import SelectedModel


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
        (found,) = SliceMap(self.client, self.slices, add).total(_without_leading, self.leading)
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
        levels = int(sum(SliceMap(self.client, self.slices).each(_count_levels, self.leading)))
        known = _with_levels(self.rest, self.leading, pd.RangeIndex(levels))
        selected = select(known, parsed, contrasts)
        positions = tuple(next(i for i, group in enumerate(known.groups) if group is wanted) for wanted in selected.groups)
        leading = positions.index(self.leading)
        design = SliceDesign(_zeroed(self.rest), positions, leading, selected.fixed, selected.codings)
        raw = SliceMap(self.client, self.slices)

        def code() -> list[Future]:
            return raw.start(code_slice, design)

        leaves = SliceMap(self.client, (), again=code)
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

    def models(
        self, formula: str | None = None, reml: bool = True, contrasts: Mapping[str, Any] | None = None
    ) -> Iterator[DistributedModel | ModelError]:
        """The models of a formula's responses, one after the other; what stands in the way where a response has none.

        Raises
        ------
        LabelError
            As `model`.
        """
        parsed = self.design.formula if formula is None else parse_formula(formula)
        for response in parsed.responses:
            try:
                yield self.model(parsed.for_response(response).text, reml, contrasts)
            except ModelError as error:
                yield ModelError(f"response {response.text!r}: {error}")

    def fits(
        self,
        formula: str | None = None,
        reml: bool = True,
        contrasts: Mapping[str, Any] | None = None,
        start: npt.ArrayLike | None = None,
        optimizer: str | Optimizer | None = None,
    ) -> dict[str, LinearMixedModelFit]:
        """A fit for each response of ``cbind(y1, y2) ~ ...``, as `bigmm.CrossProducts.fits`."""
        from bigmm.solver.model import found_model

        models = map(found_model, self.models(formula, reml, contrasts))
        fits = (replace(model.fit(start=start, optimizer=optimizer), model=None) for model in models)
        return {fit.formula.responses[0].text: fit for fit in fits}

    @property
    def design(self) -> Design:
        """What was collected."""
        return self.rest.design

    @cached_property
    def needed_here(self) -> float:
        """Bytes that a fit would take if the leaves were in this process."""
        from bigmm.solver.residence import LeafSizes, count_bytes

        ((levels, entries, nbytes),) = SliceMap(self.client, self.slices).total(count_bytes, self.leading)
        _, k, width = self.rest.groups[self.leading].ZtXy.shape
        return LeafSizes(int(levels), k, width, int(entries), int(nbytes)).needed

    def collect(self) -> CrossProducts:
        """The whole, brought to this process."""
        return add(SliceMap(self.client, self.slices).results())


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
    plan, design = plan_pass(blank_design(formula, weights, offset, na_action, on_error), data, storage_options)
    with connect(client, here=False) as connected:
        assert connected is not None
        return keep_on_workers(plan, design, connected, RunOptions(on_error=on_error, progress=progress))


def keep_on_workers(plan: Plan, design: Design, client: Client, options: RunOptions) -> RemoteCrossProducts:
    """The pass itself."""
    slices, slicing = run_on_workers(plan, design, client, options)
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
