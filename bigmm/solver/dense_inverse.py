"""What a gradient needs of a dense root's inverse: by S^-1 itself, or by L^-1, which takes half the multiplications.

By L^-1 an entry of the leaves costs as many multiplications as a column of L^-1 has rows, instead of one for every entry in
its leaf: a gain unless leaves have very few entries. Where it pays the root stands in an order in which most entries lie in short columns.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from bigmm.columns import Array
from bigmm.solver import tiles, traces
from bigmm.solver.costs import panel_products
from bigmm.solver.layout import Leaves, Root
from bigmm.solver.root_order import RootOrder
from bigmm.solver.threads import loop_threads, looping


class DenseInverse(Protocol):
    """Takes the place of a factor that `tiles.factorize` left; has room of its own for that and for the traces."""

    def invert(self, S: Array, threads: int) -> None:
        """The inverse in place; arguments as of `tiles.invert`."""

    def leaf_traces(self, S: Array, leaves: Leaves, G: Array) -> Array:
        """Sum of G_j S^-1 G_j' over the leaves, (k, k)."""

    def diagonal_blocks(self, S: Array, root: Root) -> list[Array]:
        """Sum over levels of the diagonal blocks of S^-1, one (k, k) array a factor."""


class ByInverse:
    """S^-1 itself; of a root of order r."""

    def __init__(self, r: int) -> None:
        self._work = np.empty(tiles.work_size(r))

    def invert(self, S: Array, threads: int) -> None:
        """S^-1, its upper triangle."""
        tiles.invert(S, threads, self._work)

    def leaf_traces(self, S: Array, leaves: Leaves, G: Array) -> Array:
        """Sum of G_j S^-1 G_j'."""
        out = np.empty((len(S), G.shape[1], G.shape[1]))
        traces.from_dense(leaves.root_indptr, leaves.root_leaves, leaves.root_entries, leaves.indptr, leaves.indices, G, S, out)
        return np.asarray(out.sum(axis=0))

    def diagonal_blocks(self, S: Array, root: Root) -> list[Array]:
        """Sums of entries of S^-1."""
        blocks = []
        for k, start, stop in zip(root.sizes, root.offsets, root.offsets[1:], strict=False):
            own, sums = S[start:stop, start:stop], np.empty((k, k))
            for a in range(k):
                for b in range(a, k):
                    sums[a, b] = sums[b, a] = np.diagonal(own, b - a)[a::k].sum()
            blocks.append(sums)
        return blocks


class ByInverseFactor:
    """L^-1, of which S^-1 is the square; the matrix that was factored stood in this order."""

    def __init__(self, order: RootOrder, leaves: Leaves) -> None:
        r = len(order.columns)
        self._order = order
        # more than the other loops over leaves deserve
        self._threads = loop_threads(panel_products(leaves, few_leaves_first=order.few_leaves_first))
        self._work = np.empty(max(tiles.work_size(r), traces.work_size(r, self._threads)))  # one after the other

    def invert(self, S: Array, threads: int) -> None:
        """L^-1 transposed, an upper triangle."""
        tiles.invert_factor(S, threads, self._work)

    def leaf_traces(self, S: Array, leaves: Leaves, G: Array) -> Array:
        """Sum of the squares of L^-1 G_j'."""
        k, r, order = G.shape[1], len(S), self._order
        out = np.empty((-(-r // traces.PANEL), k, k))
        panels = self._work[: traces.work_size(r, self._threads)].reshape(self._threads, r, traces.PANEL)
        with looping(self._threads):
            traces.from_inverse_factor(leaves.indptr, leaves.indices, order.entries, order.places, G, S, panels, out)
        return np.asarray(out.sum(axis=0))

    def diagonal_blocks(self, S: Array, root: Root) -> list[Array]:
        """Sums of the squares of L^-1's columns."""
        blocks = []
        for k, start, stop in zip(root.sizes, root.offsets, root.offsets[1:], strict=False):
            out = np.empty(((stop - start) // k, k, k))
            traces.squares_of_rows(S, start, k, out)
            blocks.append(out.sum(axis=0))
        return blocks
