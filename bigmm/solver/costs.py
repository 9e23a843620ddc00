"""What an evaluation of the objective and its gradient costs: entries of L, bytes, multiplications and seconds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np

from bigmm.solver import tiles, traces
from bigmm.solver.cholmod import SparseFactor
from bigmm.solver.layout import Index, Layout, Leaves
from bigmm.solver.root_order import root_columns
from bigmm.solver.threads import dense_threads, front_threads, loop_threads

#: What a gradient takes of a dense root: S^-1, or L^-1 with the root's columns as they are laid out or in an order of their own.
DenseInverseOf: TypeAlias = Literal["S^-1", "L^-1", "L^-1, few leaves first"]

# Rates of one core, an EPYC of 2022 at 2.6 GHz with OpenBLAS; others differ by a factor of two, alternatives by far more.
#: Products that leaves add to S a second: gathers and scatters in the cache, 0.45 to 0.65e9.
_PRODUCTS = 5e8
#: Products of leaves with a panel of L^-1 a second: contiguous, from the second cache, 3.2 to 12e9.
_PANEL_PRODUCTS = 4e9
#: Multiplications and additions of dpotrf and dpotri from order 1000 on a second.
_DENSE = 4e10
#: The same of CHOLMOD's supernodes and of its simplicial factor, and seconds that it spends on an entry of L beside them.
_SUPERNODAL, _SIMPLICIAL, _ENTRY = 3e10, 1e9, 3e-8
#: Supernodes of one column gain nothing from BLAS.
_SINGLE = 5e8
#: Multiplications and additions of the selected inverse on supernodes, of which there are twice as many.
_INVERSE = 2e10
#: CHOLMOD makes supernodes where an entry of L costs more multiplications than this (its ``supernodal_switch``),
#: and fills them up with zeros: 1.13 to 1.41 times the entries on grids and random graphs.
_SWITCH, _PADDING = 40.0, 1.4
#: One pass over numbers in memory, seconds a number; an evaluation makes three of them over the leaf rows.
_TOUCH = 2e-9
#: Python's share.
_OVERHEAD = 1e-4


@dataclass(frozen=True, slots=True)
class Cost:
    """One part of an evaluation.

    Attributes
    ----------
    nnz_L : int
        Entries of L, by structure.
    nbytes : int
        Memory at the peak of a fit, crossproducts not included.
    flops, gradient_flops : float
        Multiplications and additions of the objective, and what the gradient adds.
    seconds, gradient_seconds : float
    """

    nnz_L: int = 0
    nbytes: int = 0
    flops: float = 0.0
    gradient_flops: float = 0.0
    seconds: float = 0.0
    gradient_seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        """Both."""
        return Cost(
            self.nnz_L + other.nnz_L,
            self.nbytes + other.nbytes,
            self.flops + other.flops,
            self.gradient_flops + other.gradient_flops,
            self.seconds + other.seconds,
            self.gradient_seconds + other.gradient_seconds,
        )


def cost_of_vectors(effects: int, width: int, thetas: int) -> Cost:
    """Right-hand sides and solutions: X, y and the directions of the information, on every random effect."""
    numbers = float(effects) * (width + thetas)
    return Cost(nbytes=int(8 * 4 * numbers), seconds=_OVERHEAD + 6 * _TOUCH * numbers, gradient_seconds=_OVERHEAD + 24 * _TOUCH * numbers)


def cost_of_leaves(leaves: Leaves) -> Cost:
    """Eliminate the leaves: factors, rows B, their products."""
    q, k = leaves.ZtZ.shape[:2]
    entries = len(leaves.indices)
    products = leaves.products * k
    seconds = products / _PRODUCTS / loop_threads(products)
    linear = _TOUCH * (3 * entries * k + 10 * q * k * k)
    places = (
        leaves.indices.nbytes + leaves.root_leaves.nbytes + leaves.root_entries.nbytes + leaves.indptr.nbytes * (1 + 2 * len(leaves.pairs))
    )
    return Cost(
        nnz_L=entries * k + q * k * (k + 1) // 2,
        nbytes=places + 8 * (entries * k + q * (k * k + 1)),
        flops=2.0 * products + 2.0 * entries * k * k,
        seconds=seconds + linear,
        gradient_seconds=linear,
    )


def cost_of_traces(leaves: Leaves) -> Cost:
    """The leaves' part of the gradient by the root's inverse: it visits their products again."""
    products = leaves.products * leaves.ZtZ.shape[1]
    return Cost(gradient_flops=2.0 * products, gradient_seconds=products / _PRODUCTS / loop_threads(products))


def cost_of_dense(r: int, leaves: Leaves | None = None) -> Cost:
    """A dense root: its factor and, for the gradient, an inverse in its place and the traces of the leaves with it."""
    flops = r**3 / 3.0
    own = Cost(r * (r + 1) // 2, 8 * (r * r + tiles.work_size(r)), flops, seconds=flops / _DENSE / dense_threads(r))
    if leaves is None:
        return own + _by_inverse(r)
    way = cheapest_inverse(r, leaves)
    if way == "S^-1":
        return own + _by_inverse(r) + cost_of_traces(leaves)
    few_leaves_first = way != "L^-1"
    ordering = Cost(seconds=_ordering(r)) if few_leaves_first else Cost()
    return own + ordering + _by_inverse_factor(r, leaves, few_leaves_first=few_leaves_first)


def cheapest_inverse(r: int, leaves: Leaves) -> DenseInverseOf:
    """What gives the gradient of a dense root soonest: on one thread, for the choice decides the last bits."""
    inverting_L, visiting = r**3 / 3.0 / _DENSE, leaves.products * leaves.ZtZ.shape[1] / _PRODUCTS
    ways: dict[DenseInverseOf, float] = {
        "S^-1": 2.0 * inverting_L + visiting,
        "L^-1": inverting_L + panel_products(leaves, few_leaves_first=False) / _PANEL_PRODUCTS,
        "L^-1, few leaves first": inverting_L + panel_products(leaves, few_leaves_first=True) / _PANEL_PRODUCTS + _ordering(r),
    }
    return min(ways, key=ways.__getitem__)


def panel_products(leaves: Leaves, *, few_leaves_first: bool) -> float:
    """Multiplications of the leaves with L^-1, panel by panel, and of what they give with itself."""
    columns, k = root_columns(leaves, few_leaves_first=few_leaves_first), leaves.ZtZ.shape[1]
    panels = -(-len(columns) // traces.PANEL)
    met = np.diff(leaves.root_indptr)[columns] @ (panels - np.arange(len(columns)) // traces.PANEL)
    return float(traces.PANEL * (k * met + (k + k * (k + 1) / 2) * panels * len(leaves.ZtZ)))


def _ordering(r: int) -> float:
    """Seconds that put S into an order: three passes."""
    return 3 * _TOUCH * r * r


def _by_inverse(r: int) -> Cost:
    flops = 2.0 * r**3 / 3.0
    return Cost(gradient_flops=flops, gradient_seconds=flops / _DENSE / dense_threads(r))


def _by_inverse_factor(r: int, leaves: Leaves, *, few_leaves_first: bool) -> Cost:
    flops, products = r**3 / 3.0, panel_products(leaves, few_leaves_first=few_leaves_first)
    threads = loop_threads(products)
    seconds = flops / _DENSE / dense_threads(r) + products / _PANEL_PRODUCTS / threads
    room = 8 * max(traces.work_size(r, threads) - tiles.work_size(r), 0) + 2 * len(leaves.indices)
    return Cost(nbytes=room, gradient_flops=flops + 2.0 * products, gradient_seconds=seconds)


def cost_of_sparse(factor: SparseFactor, blocks: int) -> Cost:
    """A sparse root: CHOLMOD's factor, and the selected inverse on its pattern.

    Parameters
    ----------
    factor : SparseFactor
        Analysed, no more.
    blocks : int
        Columns of blocks of the root's own part of Z'Z.
    """
    counts, flops, pattern = factor.counts, factor.flops, factor.indices
    entries, work = int(counts.sum()), counts.astype(np.float64) ** 2
    supernodal = flops / entries >= _SWITCH
    stored = entries * (_PADDING if supernodal else 1.0)
    single = float(work[_alone(counts, factor.parent)].sum()) if supernodal else 0.0
    rate = _SUPERNODAL * front_threads(int(counts.max())) if supernodal else _SIMPLICIAL
    seconds = (flops - single) / rate + single / _SINGLE + _ENTRY * entries
    own = (8 + pattern.itemsize) * len(pattern) + factor.indptr.itemsize * (len(counts) + blocks)
    # L, a copy of it that the inverse takes the place of, where S's entries stand in it, and their inverse
    both = int(2 * (8 + 4) * stored) + 16 * len(pattern)
    inverting = 2.0 * flops / (_INVERSE if supernodal else _SIMPLICIAL) + _ENTRY * entries
    return Cost(entries, own + both, flops, 2.0 * flops, seconds, inverting)


def _alone(counts: Index, parent: Index) -> Index:
    """Columns that form a supernode by themselves: neither the one before nor the one after has the same rows below."""
    joined = (parent[:-1] == np.arange(1, len(parent))) & (counts[:-1] == counts[1:] + 1)
    return np.flatnonzero(~(np.append(joined, False) | np.append(False, joined)))


def cost_of_layout(layout: Layout, root: Cost, width: int, thetas: int) -> Cost:
    """Everything: leaves, the root that is priced already, vectors."""
    effects = layout.root.r
    total = root
    if layout.leaves is not None:
        effects += layout.leaves.ZtZ.shape[0] * layout.leaves.ZtZ.shape[1]
        total = total + cost_of_leaves(layout.leaves)
    vectors = cost_of_vectors(effects, width, thetas)
    # Leaves without a root are summed one after the other: all that is kept is a solution.
    return total + (vectors if layout.root.r else replace(vectors, nbytes=8 * 4 * effects))
