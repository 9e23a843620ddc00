"""One slice of the leaves, and what it gives to an evaluation; runs wherever the slice is, and keeps nothing between calls."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.linalg.blas import dtrsm

from bigmm.addition import add
from bigmm.columns import Array
from bigmm.crossproducts import CrossProducts
from bigmm.formula.coding import Coding
from bigmm.solver import between, elimination
from bigmm.solver import traces as leaf_traces
from bigmm.solver.fixed import FixedPart
from bigmm.solver.layout import Index, Leaves, lay_out
from bigmm.solver.leaf_variances import leaf_variances
from bigmm.solver.leaves import EliminatedLeaves
from bigmm.solver.select import code_blocks

#: Compiled loops with threads of their own are not to be called from several threads at once.
_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True, slots=True, eq=False)
class LeafSlice:
    """Some levels of the leading factor, coded for one model.

    Attributes
    ----------
    levels : Index, length q
    leaves : Leaves
        Their root columns are those of the whole model.
    """

    levels: pd.Index
    leaves: Leaves

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        own = self.leaves
        arrays = (own.ZtZ, own.ZtXy, own.indptr, own.indices, own.root_indptr, own.root_leaves, own.root_entries)
        return sum(array.nbytes for array in arrays) + sum(pair.ZtZ.nbytes for pair in own.pairs) + int(self.levels.memory_usage())


@dataclass(frozen=True, slots=True, eq=False)
class SliceDesign:
    """What a slice of crossproducts needs to become leaves of one model.

    Attributes
    ----------
    frame : CrossProducts
        All labels but those of the leading factor, and zeros: added to a slice, it brings this into line.
    positions : tuple of int
        The model's grouping factors among those of the crossproducts.
    leading : int
        Which of them leads.
    fixed : FixedPart
    codings : tuple of Coding
    """

    frame: CrossProducts
    positions: tuple[int, ...]
    leading: int
    fixed: FixedPart
    codings: tuple[Coding, ...]


def code_slice(cp: CrossProducts, design: SliceDesign) -> LeafSlice:
    """A slice of crossproducts as leaves of a model."""
    aligned = add([design.frame, cp])
    groups = tuple(aligned.groups[position] for position in design.positions)
    blocks = code_blocks(aligned, design.fixed, groups, design.codings)
    layout = lay_out(blocks, leading=design.leading)
    assert layout.leaves is not None
    return LeafSlice(groups[design.leading].levels, layout.leaves)


def count(leaf_slice: LeafSlice) -> tuple[npt.NDArray[np.int64], Array]:
    """Number of levels, and the sum of Z'Z over them, (k, k)."""
    return np.array(len(leaf_slice.levels)), leaf_slice.leaves.ZtZ.sum(axis=0)


def gram_of_levels(leaf_slice: LeafSlice) -> tuple[Array]:
    """See `bigmm.solver.between`."""
    return (between.gram_of_levels(leaf_slice.leaves),)


def eliminate(leaf_slice: LeafSlice, T: Array, root_templates: Sequence[Array]) -> tuple[Array, Array, Array, Array]:
    """log|L_theta|^2 of the leaves; minus sum_j B_j'B_j; minus the border of W; what they take from W'W (`between`)."""
    leaves = leaf_slice.leaves
    r, width = len(leaves.root_indptr) - 1, leaves.ZtXy.shape[2]
    S, border = np.zeros((r, r)), np.zeros((r, width))
    with _ONE_AT_A_TIME:
        own = EliminatedLeaves(leaves)
        with own.looping():
            logdet = own.factor(T, root_templates)
            gone = between.taken(leaves, T, own.V)
            if r:
                entries = (leaves.root_indptr, leaves.root_leaves, leaves.root_entries, leaves.indptr, leaves.indices)
                elimination.subtract_into_dense(leaves.work_order, 1, *entries, own.B, S)
                own.subtract_border(border)
    return np.array(logdet), S, border, gone


def derive(
    leaf_slice: LeafSlice, T: Array, root_templates: Sequence[Array], in_units: Array, U: Array, coefficients: Array, entries: Index
) -> tuple[Array, ...]:
    """Fields of `LeafSums`, and minus the border of the directions; `in_units` is T in units."""
    with _ONE_AT_A_TIME:
        own = EliminatedLeaves(leaf_slice.leaves)
        with own.looping():
            own.factor(T, root_templates)
            found, border = own.sums(T, in_units, U, coefficients, entries)
    return found.inverse, found.border, found.spread, found.own, found.reduced, found.mixed, border


def traces(leaf_slice: LeafSlice, T: Array, root_templates: Sequence[Array], inverse: Array) -> tuple[Array]:
    """Sum of (L_j^-T B_j) S^-1 (..)'; `inverse` holds the upper triangle of S^-1."""
    leaves, k = leaf_slice.leaves, len(T)
    out = np.empty((len(inverse), k, k))
    with _ONE_AT_A_TIME:
        own = EliminatedLeaves(leaves)
        with own.looping():
            own.factor(T, root_templates)
            entries = (leaves.root_indptr, leaves.root_leaves, leaves.root_entries, leaves.indptr, leaves.indices)
            leaf_traces.from_dense(*entries, own.spherical_rows(T), inverse, out)
    return (out.sum(axis=0),)


def effects(leaf_slice: LeafSlice, T: Array, root_templates: Sequence[Array], U: Array, coefficients: Array) -> tuple[pd.Index, Array]:
    """Levels and their conditional modes, (q, k); `U` are the root's spherical random effects, `coefficients` those of W."""
    with _ONE_AT_A_TIME:
        own = EliminatedLeaves(leaf_slice.leaves)
        with own.looping():
            own.factor(T, root_templates)
            b = own.effects(coefficients, U)
    return leaf_slice.levels, b[:, :, 0]


def variances(leaf_slice: LeafSlice, T: Array, root_templates: Sequence[Array], L: Array) -> tuple[pd.Index, Array]:
    """Levels and their conditional variances without sigma^2, (q, k, k); the lower triangle of `L` (r, r) is the root's factor."""
    with _ONE_AT_A_TIME:
        own = EliminatedLeaves(leaf_slice.leaves)
        with own.looping():
            own.factor(T, root_templates)
            found = leaf_variances(own, len(L), lambda right: np.asarray(dtrsm(1.0, L, right, lower=1)))
    return leaf_slice.levels, found
