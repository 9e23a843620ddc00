"""What the root's matrix S can do, dense or sparse; and arrangements of leaves and root that are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from bigmm.columns import Array
from bigmm.solver.blocks import ModelBlocks
from bigmm.solver.cholmod import Ordering, SparseFactor
from bigmm.solver.dense_root import DenseRoot
from bigmm.solver.layout import Layout, lay_out
from bigmm.solver.pattern import closed_pattern, own_pattern
from bigmm.solver.sparse_root import SparseRoot


class RootFactor(Protocol):
    """S = Lambda'Z'Z Lambda + I - sum_j B_j'B_j and its Cholesky factor.

    Whoever calls it has limited BLAS to `blas_threads`.
    """

    @property
    def blas_threads(self) -> int:
        """Threads of BLAS that are worth having."""

    def assemble(self, templates: Sequence[Array], B: Array | None) -> None:
        """Write S; `templates` are those of the root's factors."""

    def factorize(self) -> None:
        """Factor S; raises NotPositiveDefiniteError."""

    def logdet(self) -> float:
        """log|S|."""

    def solve_L(self, b: Array) -> Array:
        """L^-1 P b, shape (r, columns)."""

    def solve_Lt(self, b: Array) -> Array:
        """P'L^-T b, shape (r, columns)."""

    def invert(self) -> None:
        """Turn the factor into S^-1, where it is needed; solves are over until the next `factorize`."""

    def leaf_traces(self, G: Array) -> Array:
        """Sum of G_j S^-1 G_j' over the leaves, shape (k, k); after `invert`."""

    def diagonal_blocks(self) -> list[Array]:
        """Sum over levels of the diagonal blocks of S^-1, one (k, k) array a factor; after `invert`."""


@dataclass(frozen=True, slots=True, eq=False)
class Arrangement:
    """A layout and its root's factor; None when there is no root."""

    layout: Layout
    factor: RootFactor | None


def arrange(blocks: ModelBlocks, *, leaves: bool = True, ordering: Ordering | None = None, simplicial: bool = False) -> Arrangement:
    """An arrangement that is asked for, whatever it costs; `bigmm.solver.plan` chooses one.

    Parameters
    ----------
    blocks : ModelBlocks
    leaves : bool
        Eliminate the leading factor by hand; False leaves everything to CHOLMOD, in the order of the groups.
    ordering : str, optional
        CHOLMOD's fill-reducing order of the root; leaves and no order give a dense root.
    simplicial : bool
        Ask CHOLMOD for a factor without entries that are zero by structure.
    """
    layout = lay_out(blocks, leaves=leaves)
    if not layout.root.r:
        return Arrangement(layout, None)
    if layout.leaves is not None and ordering is None and not simplicial:
        return Arrangement(layout, DenseRoot(layout.root, layout.leaves))
    own = own_pattern(layout.root)
    pattern = own if layout.leaves is None else closed_pattern(own, layout.leaves)
    factor = SparseFactor(pattern.indptr, pattern.indices, ordering or "default", simplicial=simplicial)
    return Arrangement(layout, SparseRoot(layout.root, layout.leaves, factor))
