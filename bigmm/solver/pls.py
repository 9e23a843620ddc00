"""Penalized least squares at one theta: eliminate the leaves, factor the root, read off the objective.

    leaf j:  L_j L_j' = T'(Z'Z)_j T + I,   V_j = L_j^-1 T',   B_j = V_j (Z_1'Z_root)_j Lambda
    root:    S = Lambda'Z'Z Lambda + I - sum_j B_j'B_j = P'L L'P
             R_W = L^-1 P (Lambda'Z'W - sum_j B_j'V_j(Z_1'W)_j),      W = [X y]
    rest:    W'W - sum_j (V_j(Z_1'W)_j)'(..) - R_W'R_W = R'R
             R holds R_X, c_beta, and last on its diagonal the root of pwrss

Bates et al. (2015), JSS 67(1), section 3.4, with the leading block eliminated by hand.
"""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bigmm.columns import Array
from bigmm.solver import elimination
from bigmm.solver.blocks import ModelBlocks
from bigmm.solver.cholmod import NotPositiveDefiniteError, Ordering
from bigmm.solver.covariance import RelativeCovariance
from bigmm.solver.layout import Layout, Leaves, replace_borders
from bigmm.solver.roots import Arrangement, arrange
from bigmm.solver.threads import loop_threads, looping

#: Right-hand sides that are solved for at once; bounds the memory of conditional variances.
_BATCH = 256


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """What one theta gives.

    Attributes
    ----------
    theta : array
    logdet : float
        log|L_theta|^2, leaves and root.
    R : (p + 1, p + 1)
        Upper triangular factor: R_X, c_beta above the last diagonal entry, whose square is pwrss.
    """

    theta: Array
    logdet: float
    R: Array

    @property
    def pwrss(self) -> float:
        """Penalized weighted residual sum of squares."""
        return float(self.R[-1, -1] ** 2)

    @property
    def RX(self) -> Array:
        """R_X, shape (p, p), upper triangular."""
        return self.R[:-1, :-1]

    @property
    def logdet_RX(self) -> float:
        """log|R_X|^2."""
        return float(2.0 * np.log(np.diag(self.RX)).sum())

    @property
    def beta(self) -> Array:
        """Fixed effects: R_X beta = c_beta."""
        return np.asarray(np.linalg.solve(self.RX, self.R[:-1, -1]), dtype=np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class Reduced:
    """Columns on the original scale, Z'C, with the random effects taken out: what any column of W goes through.

    Attributes
    ----------
    leaves : (q, k, columns) or None
        V_j (Z_1'C)_j.
    root : (r, columns)
        L^-1 P (Lambda'Z'C - sum_j B_j'V_j(Z_1'C)_j).
    """

    leaves: Array | None
    root: Array

    def gram(self) -> Array:
        """(Lambda'Z'C)'(Lambda'Z'Z Lambda + I)^-1 (Lambda'Z'C), shape (columns, columns)."""
        inner = self.root.T @ self.root
        if self.leaves is not None:
            flat = self.leaves.reshape(-1, inner.shape[0])
            inner = inner + flat.T @ flat
        return inner


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """Estimates at one theta.

    Attributes
    ----------
    beta : (p,)
    b : tuple of (q, k) arrays
        Conditional modes of the random effects of each grouping factor, on the original scale.
    """

    beta: Array
    b: tuple[Array, ...]


class PenalizedLeastSquares:
    """The factorization for one model, in arrays that every evaluation writes again.

    Parameters
    ----------
    blocks : ModelBlocks
    covariance : RelativeCovariance
    arrangement : Arrangement, optional
        Layout and factor, as a plan has chosen them; unless given, they are arranged by the next three.
    leaves, ordering, simplicial
        As for `bigmm.solver.roots.arrange`.
    """

    def __init__(
        self,
        blocks: ModelBlocks,
        covariance: RelativeCovariance,
        arrangement: Arrangement | None = None,
        *,
        leaves: bool = True,
        ordering: Ordering | None = None,
        simplicial: bool = False,
    ) -> None:
        chosen = arrangement or arrange(blocks, leaves=leaves, ordering=ordering, simplicial=simplicial)
        self.blocks = blocks
        self.covariance = covariance
        self.layout: Layout = chosen.layout
        self.factor = chosen.factor
        self.templates: list[Array] = []
        self.W: Reduced | None = None
        self._leaf_W: Array | None = None
        self._threads = loop_threads(0.0)
        if (found := self.layout.leaves) is not None:
            q, k = found.ZtZ.shape[:2]
            self.V = np.zeros((q, k, k))
            self.B = np.empty((len(found.indices), k))
            self._logdet_of = np.empty(q)
            self._leaf_W = np.empty_like(found.ZtXy)
            self._threads = loop_threads(found.products * k + found.ZtZ.size * (k + blocks.p + 1))

    def with_response(self, blocks: ModelBlocks) -> PenalizedLeastSquares:
        """The same factorization for another y: layout, symbolic analysis and work arrays are shared, so that one is used at a time."""
        other = copy.copy(self)
        other.blocks, other.layout, other.W = blocks, replace_borders(self.layout, blocks), None
        return other

    def looping(self) -> AbstractContextManager[None]:
        """A context in which compiled loops have as many threads as their work is worth."""
        return looping(self._threads)

    def evaluate(self, theta: npt.ArrayLike) -> Evaluation:
        """Factor everything at theta.

        Raises
        ------
        ModelError
            For a theta of the wrong length or outside its bounds.
        NotPositiveDefiniteError
            When rounding has left no positive definite matrix.
        """
        values = self.covariance.check(theta)
        with self.looping():
            return self._evaluate(values)

    def _evaluate(self, values: Array) -> Evaluation:
        self.templates = self.covariance.templates(values)
        logdet = 0.0
        leaves, root = self.layout.leaves, self.layout.root
        if leaves is not None and self.layout.leading is not None:
            elimination.leaf_factors(leaves.ZtZ, self.templates[self.layout.leading], self.V, self._logdet_of)
            logdet += float(self._logdet_of.sum())
            self._write_leaf_rows(leaves)
        if self.factor is not None:
            self.factor.assemble(self.root_templates, None if leaves is None else self.B)
            self.factor.factorize()
            logdet += self.factor.logdet()
        self.W = self.reduce(None if leaves is None else leaves.ZtXy, root.ZtXy, self._leaf_W)
        return Evaluation(values.copy(), logdet, _upper_factor(self.blocks.XytXy - self.W.gram()))

    @property
    def root_templates(self) -> list[Array]:
        """Templates of the root's factors."""
        return [self.templates[g] for g in self.layout.root.groups]

    def _write_leaf_rows(self, leaves: Leaves) -> None:
        """B_j = V_j (Z_1'Z_root)_j Lambda of all leaves."""
        for pair, T in zip(leaves.pairs, self.root_templates, strict=True):
            if pair.by_leaf:
                elimination.leaf_rows_by_leaf(pair.indptr, pair.starts, pair.ZtZ, self.V, T, self.B)
            else:
                columns = leaves.root_indptr[pair.first :]
                elimination.leaf_rows_by_root(pair.indptr, columns, leaves.root_leaves, leaves.root_entries, pair.ZtZ, self.V, T, self.B)

    def reduce(self, leaves_C: Array | None, root_C: Array, out: Array | None = None) -> Reduced:
        """Take the random effects out of Z'C for any columns C; see `Reduced`. The leaves' part goes to `out`, if given."""
        leaves, reduced_leaves = self.layout.leaves, None
        if leaves_C is not None:
            reduced_leaves = np.empty_like(leaves_C) if out is None else out
            elimination.leaf_borders(self.V, leaves_C, reduced_leaves)
        if self.factor is None:
            return Reduced(reduced_leaves, root_C)
        border = self.scale(root_C, transposed=True)
        if leaves is not None and reduced_leaves is not None:
            elimination.subtract_borders(leaves.root_indptr, leaves.root_leaves, leaves.root_entries, self.B, reduced_leaves, border)
        return Reduced(reduced_leaves, self.factor.solve_L(border))

    def scale(self, x: Array, *, transposed: bool = False) -> Array:
        """Lambda x, or Lambda'x, on the root; x is (r, columns)."""
        out = np.empty_like(x)
        for into, part, T in zip(self.layout.root.split(out), self.layout.root.split(x), self.root_templates, strict=True):
            np.matmul(T.T if transposed else T, part, out=into)
        return out

    def spherical(self, columns: Reduced) -> Array:
        """The root's spherical random effects for each column, S^-1 of its border: (r, columns)."""
        return columns.root if self.factor is None else self.factor.solve_Lt(columns.root)

    def _leaf_effects(self, leaves: Leaves, columns: Array, spherical: Array) -> Array:
        """The leaves' random effects for each column, on the original scale: V_j'(V_j(Z_1'C)_j - B_j u_root)."""
        out = np.empty_like(columns)
        elimination.leaf_effects(leaves.indptr, leaves.indices, self.B, self.V, columns, spherical, out)
        return out

    def effects(self, columns: Reduced) -> list[Array]:
        """Lambda (Lambda'Z'Z Lambda + I)^-1 Lambda'Z'C by grouping factor, (q, k, columns) each."""
        out: list[Array] = [np.zeros(0)] * len(self.blocks.groups)
        u = self.spherical(columns)
        for g, part in zip(self.layout.root.groups, self.layout.root.split(self.scale(u)), strict=True):
            out[g] = part
        if self.layout.leaves is not None and self.layout.leading is not None and columns.leaves is not None:
            out[self.layout.leading] = self._leaf_effects(self.layout.leaves, columns.leaves, u)
        return out

    def solve(self, evaluation: Evaluation) -> Solution:
        """Fixed effects and conditional modes at the theta that was evaluated last."""
        assert self.W is not None
        residual = np.append(-evaluation.beta, 1.0)[:, None]
        mine = Reduced(None if self.W.leaves is None else self.W.leaves @ residual, self.W.root @ residual)
        return Solution(evaluation.beta, tuple(part[:, :, 0] for part in self.effects(mine)))

    def conditional_variances(self) -> tuple[Array, ...]:
        """Lambda [diagonal blocks of (Lambda'Z'Z Lambda + I)^-1] Lambda', one (q, k, k) array a grouping factor.

        Times sigma^2 they are the variances of the random effects given y and beta, lme4's ``postVar``.
        """
        out: list[Array] = [np.zeros(0)] * len(self.blocks.groups)
        root, leaves = self.layout.root, self.layout.leaves
        for g, k, start, stop in zip(root.groups, root.sizes, root.offsets, root.offsets[1:], strict=False):
            out[g] = self._root_variances(k, start, stop)
        if leaves is not None and self.layout.leading is not None:
            W = np.einsum("jba,jbc->jac", self.V, self.V)
            out[self.layout.leading] = W + self._leaf_variances(leaves) if root.r else W
        return tuple(out)

    def _root_variances(self, k: int, start: int, stop: int) -> Array:
        """Columns of L^-1 P Lambda' give the diagonal blocks of Lambda S^-1 Lambda'."""
        blocks = []
        step = max(_BATCH // k, 1) * k
        for first in range(start, stop, step):
            last = min(first + step, stop)
            right = np.zeros((self.layout.root.r, last - first))
            right[np.arange(first, last), np.arange(last - first)] = 1.0
            blocks.append(self._squares(self.scale(right, transposed=True), k))
        return np.concatenate(blocks)

    def _leaf_variances(self, leaves: Leaves) -> Array:
        """V_j' B_j S^-1 B_j' V_j, from the columns of L^-1 P B_j'."""
        k, blocks = self.V.shape[1], []
        step = max(_BATCH // k, 1)
        for first in range(0, len(self.V), step):
            last = min(first + step, len(self.V))
            right = np.zeros((self.layout.root.r, (last - first) * k))
            entries = slice(leaves.indptr[first], leaves.indptr[last])
            leaf = np.repeat(np.arange(last - first), np.diff(leaves.indptr[first : last + 1]))
            for a in range(k):
                right[leaves.indices[entries], leaf * k + a] = self.B[entries, a]
            V = self.V[first:last]
            blocks.append(np.einsum("jba,jbc,jcd->jad", V, self._squares(right, k), V))
        return np.concatenate(blocks)

    def _squares(self, right: Array, k: int) -> Array:
        """Diagonal k x k blocks of right' S^-1 right."""
        assert self.factor is not None
        columns = self.factor.solve_L(right).reshape(len(right), -1, k)
        return np.asarray(np.einsum("rja,rjb->jab", columns, columns))


def _upper_factor(matrix: Array) -> Array:
    """R with R'R = matrix, upper triangular."""
    try:
        return np.asarray(np.linalg.cholesky(matrix).T, dtype=np.float64)
    except np.linalg.LinAlgError as error:
        raise NotPositiveDefiniteError(str(error)) from None
