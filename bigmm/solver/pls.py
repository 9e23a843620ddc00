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
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import solve_triangular

from bigmm.columns import Array
from bigmm.solver.between import gram_of_levels, taken
from bigmm.solver.blocks import ModelBlocks
from bigmm.solver.cholmod import NotPositiveDefiniteError, Ordering
from bigmm.solver.covariance import RelativeCovariance
from bigmm.solver.layout import Index, Layout, replace_borders
from bigmm.solver.leaf_sums import LeafSums
from bigmm.solver.leaf_variances import BATCH, leaf_variances, squares
from bigmm.solver.leaves import EliminatedLeaves
from bigmm.solver.roots import Arrangement, arrange
from bigmm.solver.threads import blas_limit, loop_threads, looping, tiny


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """What one theta gives.

    Attributes
    ----------
    theta : array
    logdet : float
        log|L_theta|^2, leaves and root.
    rest : (p + 1, p + 1)
        What elimination of all random effects leaves of W'W.
    R : (p + 1, p + 1)
        Its upper triangular factor: R_X, c_beta above the last diagonal entry, whose square is pwrss.
    """

    theta: Array
    logdet: float
    rest: Array
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
        """Fixed effects: R_X beta = c_beta, refined once by what they leave of the normal equations.

        That takes extended precision, where the machine has it. (Where columns of X are nearly dependent the rounding of the factor
        takes more digits than that of the crossproducts; Higham 2002, Accuracy and Stability of Numerical Algorithms, chapter 12.)
        """
        if len(self.R) == 1:
            return np.zeros(0)
        beta = solve_triangular(self.RX, self.R[:-1, -1], check_finite=False)
        left = self.rest[:-1, -1] - self.rest[:-1, :-1].astype(np.longdouble) @ beta
        step = solve_triangular(self.RX, left.astype(np.float64), trans=1, check_finite=False)
        return np.asarray(beta + solve_triangular(self.RX, step, check_finite=False), dtype=np.float64)


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
        self.W: Array | None = None
        found = self.layout.leaves
        self.eliminated = None if found is None else EliminatedLeaves(found)
        self._within = self._within_levels()
        self._blas: Callable[[], AbstractContextManager[object]] = (
            nullcontext if self.factor is None or tiny(self.layout.root.r) else blas_limit(self.factor.blas_threads)
        )

    def with_response(self, blocks: ModelBlocks) -> PenalizedLeastSquares:
        """The same factorization for another y: layout, symbolic analysis and work arrays are shared, so that one is used at a time."""
        other = copy.copy(self)
        other.blocks, other.layout, other.W = blocks, replace_borders(self.layout, blocks), None
        other._within = other._within_levels()
        if self.eliminated is not None and other.layout.leaves is not None:
            other.eliminated = self.eliminated.with_columns(other.layout.leaves)
        return other

    def _within_levels(self) -> Array:
        """W'W less what does not depend on theta; see `bigmm.solver.between`."""
        return self.blocks.XytXy if self.layout.leaves is None else self.blocks.XytXy - gram_of_levels(self.layout.leaves)

    @contextmanager
    def few_threads(self) -> Iterator[None]:
        """A context in which BLAS and compiled loops have as many threads as their work is worth.

        Threads of BLAS wait in a loop for more work: one small product outside such a context, and they are in the way for as long as
        an evaluation takes.
        """
        with self._blas(), self._looping():
            yield

    def _looping(self) -> AbstractContextManager[None]:
        return looping(loop_threads(0.0)) if self.eliminated is None else self.eliminated.looping()

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
        with self.few_threads():
            return self._evaluate(values)

    def _evaluate(self, values: Array) -> Evaluation:
        self.templates = self.covariance.templates(values)
        leaves, W = self.layout.leaves, self.layout.root.ZtXy
        logdet = 0.0 if self.eliminated is None else self.eliminated.factor(self.leading_template, self.root_templates)
        if self.factor is not None:
            self.factor.assemble(self.root_templates, None if self.eliminated is None else self.eliminated.B)
            self.factor.factorize()
            logdet += self.factor.logdet()
            W = self.factor.solve_L(self._border(W))
        self.W, left = W, self._within
        if leaves is not None and self.eliminated is not None:
            left = left - taken(leaves, self.leading_template, self.eliminated.V)
        rest = left - W.T @ W
        return Evaluation(values.copy(), logdet, rest, upper_factor(rest))

    def _border(self, ZtW: Array) -> Array:
        """The root's Lambda'Z'W less what the leaves take from it, (r, width)."""
        border = self.scale(ZtW, transposed=True)
        if self.eliminated is not None:
            self.eliminated.subtract_border(border)
        return border

    @property
    def leading_template(self) -> Array:
        """Template of the leading factor."""
        assert self.layout.leading is not None
        return self.templates[self.layout.leading]

    @property
    def root_templates(self) -> list[Array]:
        """Templates of the root's factors."""
        return [self.templates[g] for g in self.layout.root.groups]

    def scale(self, x: Array, *, transposed: bool = False) -> Array:
        """Lambda x, or Lambda'x, on the root; x is (r, columns)."""
        out = np.empty_like(x)
        for into, part, T in zip(self.layout.root.split(out), self.layout.root.split(x), self.root_templates, strict=True):
            np.matmul(T.T if transposed else T, part, out=into)
        return out

    def spherical(self, coefficients: Array) -> Array:
        """The root's spherical random effects for W `coefficients`, S^-1 of their border: (r, columns)."""
        assert self.W is not None
        columns = self.W @ coefficients
        return columns if self.factor is None else self.factor.solve_Lt(columns)

    def root_effects(self, u: Array) -> list[Array | None]:
        """Random effects on the original scale, (q, k), of each grouping factor in the root; `u` is (r, 1)."""
        out: list[Array | None] = [None] * len(self.blocks.groups)
        for g, part in zip(self.layout.root.groups, self.layout.root.split(self.scale(u)), strict=True):
            out[g] = part[:, :, 0]
        return out

    def leaf_sums(self, in_units: Array, U: Array, coefficients: Array, entries: Index) -> tuple[LeafSums, Array]:
        """What derivatives need of the leaves, and the directions' border; see `EliminatedLeaves.sums`."""
        assert self.eliminated is not None
        return self.eliminated.sums(self.leading_template, in_units, U, coefficients, entries)

    def leaf_traces(self) -> Array:
        """Sum of (L_j^-T B_j) S^-1 (..)' over the leaves, (k, k); after the factor was inverted."""
        assert self.eliminated is not None
        assert self.factor is not None
        return self.factor.leaf_traces(self.eliminated.spherical_rows(self.leading_template))

    def solve(self, evaluation: Evaluation) -> Solution:
        """Fixed effects and conditional modes at the theta that was evaluated last."""
        residual = residual_of(evaluation)
        with self.few_threads():
            u = self.spherical(residual)
            b = self.root_effects(u)
            if self.eliminated is not None and self.layout.leading is not None:
                b[self.layout.leading] = self.eliminated.effects(residual, u)[:, :, 0]
        return Solution(evaluation.beta, tuple(part for part in b if part is not None))

    def conditional_variances(self) -> tuple[Array, ...]:
        """Lambda [diagonal blocks of (Lambda'Z'Z Lambda + I)^-1] Lambda', one (q, k, k) array a grouping factor.

        Times sigma^2 they are the variances of the random effects given y and beta, lme4's ``postVar``.
        """
        out: list[Array] = [np.zeros(0)] * len(self.blocks.groups)
        root = self.layout.root
        with self.few_threads():
            for g, k, start, stop in zip(root.groups, root.sizes, root.offsets, root.offsets[1:], strict=False):
                out[g] = self._root_variances(k, start, stop)
            if self.layout.leading is not None:
                out[self.layout.leading] = self._leaf_variances()
        return tuple(out)

    def _root_variances(self, k: int, start: int, stop: int) -> Array:
        """Columns of L^-1 P Lambda' give the diagonal blocks of Lambda S^-1 Lambda'."""
        blocks = []
        step = max(BATCH // k, 1) * k
        for first in range(start, stop, step):
            last = min(first + step, stop)
            right = np.zeros((self.layout.root.r, last - first))
            right[np.arange(first, last), np.arange(last - first)] = 1.0
            blocks.append(squares(self._solve_L(self.scale(right, transposed=True)), k))
        return np.concatenate(blocks)

    def _leaf_variances(self) -> Array:
        assert self.eliminated is not None
        return leaf_variances(self.eliminated, self.layout.root.r, self._solve_L)

    def _solve_L(self, right: Array) -> Array:
        assert self.factor is not None
        return self.factor.solve_L(right)


def residual_of(evaluation: Evaluation) -> Array:
    """Coefficients of W = [X y] that give y - X beta, (p + 1, 1)."""
    return np.append(-evaluation.beta, 1.0)[:, None]


def upper_factor(matrix: Array) -> Array:
    """R with R'R = matrix, upper triangular."""
    try:
        return np.asarray(np.linalg.cholesky(matrix).T, dtype=np.float64)
    except np.linalg.LinAlgError as error:
        raise NotPositiveDefiniteError(str(error)) from None
