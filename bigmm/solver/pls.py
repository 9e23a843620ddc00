"""Penalized least squares at one theta: eliminate the leaves, factor the root, read off the objective.

    leaf j:  L_j L_j' = T'(Z'Z)_j T + I,   V_j = L_j^-1 T',   B_j = V_j (Z_1'Z_root)_j
    root:    S = Lambda'(Z'Z - sum_j B_j'B_j) Lambda + I = P'L L'P
             R_W = L^-1 P Lambda'(Z'W - sum_j B_j'V_j(Z_1'W)_j),      W = [X y]
    rest:    W'W - sum_j (V_j(Z_1'W)_j)'(..) - R_W'R_W = R'R
             R holds R_X, c_beta, and last on its diagonal the root of pwrss

Bates et al. (2015), JSS 67(1), section 3.4, with the leading block eliminated by hand.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bigmm.columns import Array
from bigmm.solver import elimination
from bigmm.solver.blocks import ModelBlocks
from bigmm.solver.cholmod import NotPositiveDefiniteError, Ordering, SparseFactor
from bigmm.solver.covariance import RelativeCovariance
from bigmm.solver.layout import Layout, Leaves, lay_out
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
    leaves : bool
        Eliminate the leading factor by hand; False leaves everything to CHOLMOD, in the order of the groups.
    ordering : str
        CHOLMOD's fill-reducing order of the root.
    simplicial : bool
        Ask CHOLMOD for a factor without entries that are zero by structure.
    """

    def __init__(
        self,
        blocks: ModelBlocks,
        covariance: RelativeCovariance,
        *,
        leaves: bool = True,
        ordering: Ordering = "default",
        simplicial: bool = False,
    ) -> None:
        self.blocks = blocks
        self.covariance = covariance
        self.layout: Layout = lay_out(blocks, leaves=leaves)
        root, width = self.layout.root, blocks.p + 1
        self.factor = SparseFactor(root.indptr, root.indices, ordering, simplicial=simplicial) if root.r else None
        self._reduced = np.empty(len(root.indices))
        self._border = np.empty((root.r, width))
        self._workers = loop_threads(self._work())
        if (found := self.layout.leaves) is not None:
            q, k = found.ZtZ.shape[:2]
            self._V = np.zeros((q, k, k))
            self._VtXy = np.empty((q, k, width))
            self._B = np.empty_like(found.values)
            self._logdet_of = np.empty(q)

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
        with looping(self._workers):
            return self._evaluate(values)

    def _work(self) -> float:
        """Multiplications in the loops over leaves: for each pair of a leaf's root columns, k."""
        if self.layout.leaves is None:
            return 0.0
        lengths = np.diff(self.layout.leaves.indptr).astype(np.float64)
        return float((lengths**2).sum() / 2 * self.layout.leaves.ZtZ.shape[1])

    def _evaluate(self, values: Array) -> Evaluation:
        templates = self.covariance.templates(values)
        logdet = 0.0
        rest = self.blocks.XytXy.copy()
        if self.layout.leaves is not None and self.layout.leading is not None:
            logdet += self._eliminate(self.layout.leaves, templates[self.layout.leading], rest)
        else:
            self._reduced[:] = self.layout.root.ZtZ
            self._border[:] = self.layout.root.ZtXy
        if self.factor is not None:
            logdet += self._factor_root(templates, rest)
        return Evaluation(values.copy(), logdet, _upper_factor(rest))

    def _eliminate(self, leaves: Leaves, T: Array, rest: Array) -> float:
        """Take the leaves out of the root, its border and W'W; returns their log-determinant."""
        root = self.layout.root
        elimination.leaf_factors(leaves.ZtZ, T, self._V, self._logdet_of)
        np.matmul(self._V, leaves.ZtXy, out=self._VtXy)
        flat = self._VtXy.reshape(-1, rest.shape[0])
        rest -= flat.T @ flat
        if root.r:
            elimination.leaf_rows(leaves.indptr, leaves.values, self._V, self._B)
            own = (leaves.root_indptr, leaves.root_leaves, leaves.root_entries)
            pattern = (root.indptr, root.indices, root.ZtZ, leaves.indptr, leaves.indices)
            elimination.subtract_leaves(*pattern, *own, root.level_of, self._B, self._workers, self._reduced)
            elimination.subtract_borders(root.ZtXy, *own, self._B, self._VtXy, self._border)
        return float(self._logdet_of.sum())

    def _factor_root(self, templates: list[Array], rest: Array) -> float:
        assert self.factor is not None
        root = self.layout.root
        T = self._root_templates(templates)
        elimination.scale_root(root.indptr, root.indices, root.level_of, root.k_of, root.inner_of, T, self._reduced, self.factor.values)
        self.factor.factorize()
        RW = self.factor.solve_L(self._Lambda_t(templates, self._border))
        rest -= RW.T @ RW
        self._RW = RW
        return self.factor.logdet()

    def _root_templates(self, templates: list[Array]) -> Array:
        """Each root column's row of its template, padded, shape (r, max k)."""
        root = self.layout.root
        out = np.zeros((root.r, max(self.blocks.groups[g].k for g in root.groups)))
        for g, start, stop in zip(root.groups, root.offsets, root.offsets[1:], strict=False):
            k = self.blocks.groups[g].k
            out[start:stop, :k] = np.tile(templates[g], (self.blocks.groups[g].q, 1))
        return out

    def _Lambda_t(self, templates: list[Array], x: Array) -> Array:
        """Lambda' x on the root, x of shape (r, columns)."""
        return self._by_level([T.T for T in templates], x)

    def _by_level(self, matrices: list[Array], x: Array) -> Array:
        root = self.layout.root
        out = np.empty_like(x)
        for g, start, stop in zip(root.groups, root.offsets, root.offsets[1:], strict=False):
            k = self.blocks.groups[g].k
            out[start:stop] = (matrices[g] @ x[start:stop].reshape(-1, k, x.shape[1])).reshape(-1, x.shape[1])
        return out

    def solve(self, evaluation: Evaluation) -> Solution:
        """Fixed effects and conditional modes at the theta that was evaluated last.

        R_X beta = c_beta;  L'P u = R_y - R_X beta;  b_root = Lambda u;
        b_j = V_j'V_j (Z_1'(y - X beta) - Z_1'Z_root b_root)_j.
        """
        p = self.blocks.p
        beta = np.asarray(np.linalg.solve(evaluation.RX, evaluation.R[:p, p]), dtype=np.float64)
        residual = np.append(-beta, 1.0)
        templates = self.covariance.templates(evaluation.theta)
        b: list[Array] = [np.zeros(0)] * len(self.blocks.groups)
        root, leaves = self.layout.root, self.layout.leaves
        b_root = np.zeros(0)
        if self.factor is not None:
            u = self.factor.solve_Lt(self._RW @ residual)
            b_root = self._by_level(templates, u[:, None])[:, 0]
            for g, start, stop in zip(root.groups, root.offsets, root.offsets[1:], strict=False):
                b[g] = b_root[start:stop].reshape(-1, self.blocks.groups[g].k)
        if leaves is not None and self.layout.leading is not None:
            right = leaves.ZtXy @ residual
            if root.r:
                met = np.empty_like(right)
                elimination.apply_leaf_rows(leaves.indptr, leaves.indices, leaves.values, b_root, met)
                right -= met
            b[self.layout.leading] = np.einsum("jba,jb->ja", self._V, np.einsum("jab,jb->ja", self._V, right))
        return Solution(beta, tuple(b))

    def conditional_variances(self, evaluation: Evaluation) -> tuple[Array, ...]:
        """Lambda [diagonal blocks of (Lambda'Z'Z Lambda + I)^-1] Lambda', one (q, k, k) array a grouping factor.

        Times sigma^2 they are the variances of the random effects given y and beta, lme4's ``postVar``.
        At the theta that was evaluated last.
        """
        templates = self.covariance.templates(evaluation.theta)
        out: list[Array] = [np.zeros(0)] * len(self.blocks.groups)
        root, leaves = self.layout.root, self.layout.leaves
        for g, start, stop in zip(root.groups, root.offsets, root.offsets[1:], strict=False):
            out[g] = self._root_variances(templates, g, start, stop)
        if leaves is not None and self.layout.leading is not None:
            W = np.einsum("jba,jbc->jac", self._V, self._V)
            out[self.layout.leading] = W + self._leaf_variances(templates, leaves) if root.r else W
        return tuple(out)

    def _root_variances(self, templates: list[Array], g: int, start: int, stop: int) -> Array:
        """Columns of L^-1 P Lambda' give the diagonal blocks of Lambda S^-1 Lambda'."""
        k, blocks = self.blocks.groups[g].k, []
        step = max(_BATCH // k, 1) * k
        for first in range(start, stop, step):
            last = min(first + step, stop)
            right = np.zeros((self.layout.root.r, last - first))
            right[np.arange(first, last), np.arange(last - first)] = 1.0
            blocks.append(self._squares(self._Lambda_t(templates, right), k))
        return np.concatenate(blocks)

    def _leaf_variances(self, templates: list[Array], leaves: Leaves) -> Array:
        """V_j' B_j Lambda S^-1 Lambda' B_j' V_j, from the columns of L^-1 P Lambda' B_j'."""
        k, blocks = self._V.shape[1], []
        step = max(_BATCH // k, 1)
        for first in range(0, len(self._V), step):
            last = min(first + step, len(self._V))
            right = np.zeros((self.layout.root.r, (last - first) * k))
            entries = slice(leaves.indptr[first], leaves.indptr[last])
            leaf = np.repeat(np.arange(last - first), np.diff(leaves.indptr[first : last + 1]))
            for a in range(k):
                right[leaves.indices[entries], leaf * k + a] = self._B[entries, a]
            inner = self._squares(self._Lambda_t(templates, right), k)
            V = self._V[first:last]
            blocks.append(np.einsum("jba,jbc,jcd->jad", V, inner, V))
        return np.concatenate(blocks)

    def _squares(self, right: Array, k: int) -> Array:
        """Diagonal k x k blocks of right' S^-1 right."""
        assert self.factor is not None
        columns = self.factor.solve_L(right).reshape(len(right), -1, k)
        blocks: Array = np.einsum("rja,rjb->jab", columns, columns)
        return blocks


def _upper_factor(matrix: Array) -> Array:
    """R with R'R = matrix, upper triangular."""
    try:
        return np.asarray(np.linalg.cholesky(matrix).T, dtype=np.float64)
    except np.linalg.LinAlgError as error:
        raise NotPositiveDefiniteError(str(error)) from None
