"""Penalized least squares whose leaves live elsewhere, in slices: each evaluation is a map over them and a sum."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd

from bigmm.columns import Array
from bigmm.crossproducts import CrossProducts
from bigmm.solver import leaf_slices
from bigmm.solver.blocks import GroupBlocks, ModelBlocks
from bigmm.solver.costs import cost_of_dense
from bigmm.solver.covariance import RelativeCovariance
from bigmm.solver.dense_root import DenseRoot
from bigmm.solver.layout import Index, Layout, Root
from bigmm.solver.leaf_sums import LeafSums
from bigmm.solver.memory import available_memory
from bigmm.solver.model import LinearMixedModel
from bigmm.solver.plan import Alternative, Name, Plan
from bigmm.solver.pls import Evaluation, PenalizedLeastSquares, Solution, residual_of, upper_factor
from bigmm.solver.residence import Residence
from bigmm.solver.roots import Arrangement
from bigmm.solver.select import SelectedModel


class LeafMap(Protocol):
    """Slices of leaves, wherever they are."""

    def total(self, function: Callable[..., tuple[Any, ...]], *arguments: Any) -> tuple[Any, ...]:
        """Sum over the slices of what ``function(slice, *arguments)`` returns, part by part, in their order."""

    def each(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """What ``function(slice, *arguments)`` returns for each slice."""


@dataclass(frozen=True, slots=True, eq=False)
class RemoteGroup(GroupBlocks):
    """The leading factor, whose blocks are elsewhere.

    Attributes
    ----------
    count : int
        Levels.
    gram : (k, k)
        Sum of Z'Z over them.
    """

    count: int
    gram: Array

    @property
    def q(self) -> int:
        """Levels."""
        return self.count

    def total(self) -> Array:
        """Sum of Z'Z over the levels, (k, k)."""
        return self.gram


class DistributedLeastSquares(PenalizedLeastSquares):
    """The root here, dense; the leaves in slices.

    Parameters
    ----------
    blocks : ModelBlocks
        The leading factor's group is a `RemoteGroup`.
    covariance : RelativeCovariance
    root : Root
    leading : int
    leaves : LeafMap
    """

    def __init__(self, blocks: ModelBlocks, covariance: RelativeCovariance, root: Root, leading: int, leaves: LeafMap) -> None:
        self._dense = DenseRoot(root, None) if root.r else None
        super().__init__(blocks, covariance, Arrangement(Layout(leading, None, root), self._dense))
        self._elsewhere = leaves
        (levels,) = leaves.total(leaf_slices.gram_of_levels)
        self._within = blocks.XytXy - levels

    def _evaluate(self, values: Array) -> Evaluation:
        self.templates = self.covariance.templates(values)
        logdet, S, border, gone = self._elsewhere.total(leaf_slices.eliminate, self.leading_template, self.root_templates)
        root_ZtXy = self.layout.root.ZtXy
        if self._dense is not None:
            self._dense.assemble_onto(self.root_templates, S)
            self._dense.factorize()
            logdet = logdet + self._dense.logdet()
            root_ZtXy = self._dense.solve_L(self.scale(root_ZtXy, transposed=True) + border)
        self.W = root_ZtXy
        rest = self._within - gone - self.W.T @ self.W
        return Evaluation(values.copy(), float(logdet), rest, upper_factor(rest))

    def leaf_sums(self, in_units: Array, U: Array, coefficients: Array, entries: Index) -> tuple[LeafSums, Array]:
        """What derivatives need of the leaves, and the directions' border."""
        arguments = (self.leading_template, self.root_templates, in_units, U, coefficients, entries)
        *sums, border = self._elsewhere.total(leaf_slices.derive, *arguments)
        return LeafSums(*sums), border

    def leaf_traces(self) -> Array:
        """Sum of (L_j^-T B_j) S^-1 (..)' over the leaves, (k, k)."""
        assert self._dense is not None
        (found,) = self._elsewhere.total(leaf_slices.traces, self.leading_template, self.root_templates, self._dense.inverse)
        return np.asarray(found)

    def solve(self, evaluation: Evaluation) -> Solution:
        """Fixed effects and the root's conditional modes; none of the leaves, see `leading_effects`."""
        with self.few_threads():
            b = self.root_effects(self.spherical(residual_of(evaluation)))
        assert self.layout.leading is not None
        none = np.zeros((0, self.blocks.groups[self.layout.leading].k))
        return Solution(evaluation.beta, tuple(none if part is None else part for part in b))

    def leading_effects(self, evaluation: Evaluation) -> tuple[pd.Index, Array]:
        """Levels of the leading factor, sorted, and their conditional modes."""
        residual = residual_of(evaluation)
        with self.few_threads():
            U = self.spherical(residual)
        return self._in_order(leaf_slices.effects, U, residual)

    def _leaf_variances(self) -> Array:
        L = np.zeros((0, 0)) if self._dense is None else self._dense.L
        return self._in_order(leaf_slices.variances, L)[1]

    def _in_order(self, function: Callable[..., tuple[pd.Index, Array]], *arguments: Any) -> tuple[pd.Index, Array]:
        """Levels of the leading factor, sorted, and what a function gives for each of them."""
        parts = self._elsewhere.each(function, self.leading_template, self.root_templates, *arguments)
        levels = parts[0][0].append([part[0] for part in parts[1:]])
        order = levels.argsort()
        return levels[order], np.concatenate([part[1] for part in parts])[order]


class DistributedModel(LinearMixedModel):
    """A model whose leaves live elsewhere; the same numbers as with leaves here, to rounding.

    Parameters
    ----------
    cp : CrossProducts
        Everything but the leaves.
    selected : SelectedModel
        Its blocks of the leading factor are a `RemoteGroup`.
    reml : bool
    root : Root
    leading : int
        Position of the leading factor among the model's.
    leaves : LeafMap
    """

    def __init__(self, cp: CrossProducts, selected: SelectedModel, *, reml: bool, root: Root, leading: int, leaves: LeafMap) -> None:
        super().__init__(cp, selected, reml=reml)
        self._leading, self._root = leading, root
        self.plan().check()
        self._distributed = DistributedLeastSquares(selected.blocks, selected.covariance, root, leading, leaves)

    @property
    def is_portable(self) -> bool:
        """Leaves on workers are left behind."""
        return False

    @property
    def pls(self) -> DistributedLeastSquares:
        """The factorization."""
        return self._distributed

    def plan(self, memory: float | None = None) -> Plan:
        """What an evaluation takes in this process, which holds the root, dense; the leaves' memory and time are the workers'."""
        available = available_memory() if memory is None else memory
        leading = self.selected.blocks.groups[self._leading]
        root = cost_of_dense(self._root.r)
        name: Name = "leaves + dense root" if self._root.r else "leaves"
        own = Alternative(name, "natural", self._root.r, root.nnz_L, 2 * root.nbytes, reason="leaves on workers have a dense root")
        where = str(self.residence or Residence("workers", "asked for"))
        return Plan(own, (), f"{leading.name}, {leading.q:,} levels", self.cp.nbytes, available, where)

    def effects(self, evaluation: Evaluation, solution: Solution) -> list[tuple[pd.Index, Array]]:
        """Levels and conditional modes of every grouping factor."""
        found = super().effects(evaluation, solution)
        found[self._leading] = self.pls.leading_effects(evaluation)
        return found
