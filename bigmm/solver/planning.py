"""How a model is factored, chosen once from its structure.

Three plans: eliminate the levels of the leading factor and hold the rest, the root, as a dense or as a sparse matrix; or
let CHOLMOD order the whole matrix, so that it may eliminate levels of different factors in turns. A plan is priced by
what an evaluation with gradient takes, from exact counts; ordering a large graph takes time itself, and is done where
no more than a short search pays for it, or nothing else fits into memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from bigmm.solver import placement
from bigmm.solver.blocks import ModelBlocks
from bigmm.solver.cholmod import Ordering, SparseFactor
from bigmm.solver.costs import Cost, cheapest_inverse, cost_of_dense, cost_of_layout, cost_of_sparse, cost_of_traces
from bigmm.solver.dense_root import DenseRoot
from bigmm.solver.layout import Layout, lay_out
from bigmm.solver.memory import available_memory
from bigmm.solver.pattern import Pattern, closed_counts, closed_pattern, own_pattern
from bigmm.solver.plan import Alternative, Name, Plan
from bigmm.solver.roots import Arrangement
from bigmm.solver.sparse_root import SparseRoot
from bigmm.solver.symbolic import column_counts
from bigmm.solver.threads import loop_threads, looping

#: Evaluations of a short search.
_SEARCH = 4
#: A root below this order is dense: it costs less than looking for anything better.
_SMALL = 100
#: A sparse root whose triangle is filled beyond this part ends as a dense one by fill-in.
_DENSE = 0.1
#: Columns from which that part is estimated, before the pattern is formed.
_SAMPLE = 256
#: Levels that meet so few others may go before the leaves; leaves that meet so many times the mean may go last.
_RARE, _HUBS = (1, 4), (4.0, 32.0)
#: Seconds that METIS takes for an entry of a matrix. CHOLMOD's default tries AMD first, which takes as long on matrices
#: of fewer entries than this, and minutes on those with rows of many thousands.
_ORDERING, _BOTH = 1e-6, 3_000_000
#: Bytes that METIS takes for an entry.
_ORDERING_BYTES = 72


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A plan that can be carried out."""

    plan: Alternative
    nbytes: int
    seconds: float
    build: Callable[[], Arrangement]


def make_plan(blocks: ModelBlocks, thetas: int, available: float | None = None) -> tuple[Plan, Callable[[], Arrangement]]:
    """The fastest plan that fits into memory, and what carries it out.

    When none fits, the one that needs least; see `Plan.check`.

    Parameters
    ----------
    blocks : ModelBlocks
    thetas : int
        Length of theta.
    available : float, optional
        Bytes; what the process may still take unless given.
    """
    return _Planner(blocks, thetas, available_memory() if available is None else available).choose()


class _Planner:
    """Candidates of one model, priced the cheap ones first.

    What builds one of them holds its layout and its analysis, but not the planner, which holds all: they would stay as long as
    the model.
    """

    def __init__(self, blocks: ModelBlocks, thetas: int, available: float) -> None:
        self.blocks, self.thetas, self.available = blocks, thetas, available
        self.layout = lay_out(blocks)
        self.candidates: list[_Candidate] = []
        self.rejected: list[Alternative] = []

    def choose(self) -> tuple[Plan, Callable[[], Arrangement]]:
        leaves = self.layout.leaves
        with looping(loop_threads(0.0 if leaves is None else leaves.products)):
            reason = self._consider()
        best = self._best()
        if best.nbytes > self.available:
            reason = "memory will not hold it, and the others need more"
        return self._plan(best, reason), best.build

    def _consider(self) -> str:
        """Find the candidates; what the best of them is."""
        r = self.layout.root.r
        if not r:
            layout = self.layout
            self._add("leaves", "natural", layout, Cost(), lambda: Arrangement(layout, None))
            return "all random effects belong to one factor"
        self._add_dense()
        if r <= _SMALL:
            return "the root is small"
        self._consider_sparse()
        self._consider_whole()
        return "the fastest that fits"

    def _plan(self, best: _Candidate, reason: str) -> Plan:
        others = [replace(other.plan, reason=self._why_not(other)) for other in self.candidates if other is not best]
        group = self.blocks.groups[self.layout.leading or 0]
        return Plan(
            chosen=replace(best.plan, reason=reason),
            rejected=(*others, *self.rejected),
            leading=f"{group.name}, {group.q:,} levels",
            crossproducts=_crossproducts(self.blocks),
            available=self.available,
        )

    def _best(self) -> _Candidate:
        fitting = [one for one in self.candidates if one.nbytes <= self.available]
        return min(fitting, key=lambda one: one.seconds) if fitting else min(self.candidates, key=lambda one: one.nbytes)

    def _why_not(self, other: _Candidate) -> str:
        return "slower" if other.nbytes <= self.available else "memory will not hold it"

    def _add(self, name: Name, order: str, layout: Layout, root: Cost, build: Callable[[], Arrangement]) -> None:
        cost = cost_of_layout(layout, root, self.blocks.p + 1, self.thetas)
        flops, seconds = cost.flops + cost.gradient_flops, cost.seconds + cost.gradient_seconds
        plan = Alternative(name, order, layout.root.r, cost.nnz_L, cost.nbytes, cost.flops, flops, cost.seconds, seconds)
        self.candidates.append(_Candidate(plan, cost.nbytes, seconds, build))

    def _add_dense(self) -> None:
        layout, root, leaves = self.layout, self.layout.root, self.layout.leaves
        assert leaves is not None
        self._add(
            "leaves + dense root",
            "few leaves first" if cheapest_inverse(root.r, leaves) == "L^-1, few leaves first" else "natural",
            layout,
            cost_of_dense(root.r, leaves),
            lambda: Arrangement(layout, DenseRoot(root, leaves)),
        )

    def _consider_sparse(self) -> None:
        """Leaves and a sparse root, unless its pattern is nearly full: a sample of columns tells, without forming it."""
        leaves, r = self.layout.leaves, self.layout.root.r
        assert leaves is not None
        own = own_pattern(self.layout.root)
        step = max(r // _SAMPLE, 1)
        columns = np.arange(0, r, step, dtype=np.int32)
        filled = float(closed_counts(own, leaves, columns).sum()) / float((r - columns).sum())
        if filled > _DENSE:
            reason = f"not analysed, {filled:.0%} of the root's triangle is filled" + (" (from a sample of columns)" if step > 1 else "")
            self.rejected.append(Alternative("leaves + sparse root", "-", r, reason=reason))
        else:
            self._analyse("leaves + sparse root", self.layout, closed_pattern(own, leaves), "default")

    def _consider_whole(self) -> None:
        """The whole matrix, where its order is worth looking for."""
        best, layout = self._best(), lay_out(self.blocks, leaves=False)
        pattern = own_pattern(layout.root)
        entries = len(pattern.indices)
        seconds = entries * _ORDERING * (2 if entries < _BOTH else 1)
        reason = ""
        if best.nbytes <= self.available:
            if seconds > _SEARCH * best.seconds:
                reason = f"not analysed, to order {entries:,} entries takes longer ({seconds:.1g} s) than {_SEARCH} evaluations"
            elif not self._gains(pattern, layout, 0.9 * (best.plan.flops or 0.0)):
                reason = "not analysed, no gain from a first try: levels in few rows before, those in many rows after all others"
        elif entries * _ORDERING_BYTES > self.available:
            reason = "memory will not hold its graph"
        if reason:
            self.rejected.append(Alternative("whole matrix", "-", layout.root.r, reason=reason))
        else:
            self._analyse("whole matrix", layout, pattern, "default" if entries < _BOTH else "metis")

    def _gains(self, pattern: Pattern, layout: Layout, limit: float) -> bool:
        """Whether some simple order across factors needs fewer flops: a fill-reducing one then needs fewer still."""
        degrees = placement.count(pattern.indices, pattern.r) + np.diff(pattern.indptr) - 2
        leading = np.zeros(pattern.r, dtype=bool)
        leading[layout.root.columns(self.layout.leading or 0)] = True
        mean = float(degrees[leading].mean())
        moved = [(~leading & (degrees <= few), -2) for few in _RARE] + [(leading & (degrees > many * mean), 2) for many in _HUBS]
        orders = (np.argsort(np.where(of, stage, ~leading), kind="stable") for of, stage in moved if of.any())
        return any(column_counts(pattern.indptr, pattern.indices, order, limit)[2] < limit for order in orders)

    def _analyse(self, name: Name, layout: Layout, pattern: Pattern, ordering: Ordering) -> None:
        factor = SparseFactor(pattern.indptr, pattern.indices, ordering)
        blocks = sum(len(own.ZtZ) * own.ZtZ.shape[1] for own in layout.root.blocks)
        cost = cost_of_sparse(factor, blocks)
        cost = replace(cost, nbytes=max(cost.nbytes, len(pattern.indices) * _ORDERING_BYTES))
        cost = cost if layout.leaves is None else cost + cost_of_traces(layout.leaves)
        self._add(name, ordering, layout, cost, lambda: Arrangement(layout, SparseRoot(layout.root, layout.leaves, factor)))


def _crossproducts(blocks: ModelBlocks) -> int:
    """Bytes that the model's crossproducts take."""
    groups = sum(group.ZtZ.nbytes + group.ZtXy.nbytes for group in blocks.groups)
    return groups + sum(pair.ZtZ.nbytes + pair.g_refs.nbytes + pair.h_refs.nbytes for pair in blocks.pairs.values())
