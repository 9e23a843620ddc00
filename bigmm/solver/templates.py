"""Covariance matrices Sigma = T T' of all terms in units (`bigmm.solver.units`), and T of two shapes: square, and theta's lower triangle.

Singular values of T are kept at a floor, where derivatives exist; at the end what is at the floor is put at zero.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import scipy.linalg

from bigmm.columns import Array
from bigmm.solver.covariance import RelativeCovariance
from bigmm.solver.derivatives import Derivatives
from bigmm.solver.units import FLOOR, Units, rounding, solve_lower

Index = npt.NDArray[np.intp]

#: Singular values so many times as large are far from it.
_FAR_OFF = 10.0
#: At this many units rounding leaves four digits of T'Z'Z T + I, where columns do not depend on one another.
_MOST = 1e6
#: A column of T turns fast with Sigma where its diagonal entry is less than this part of it.
_STEEP = 0.1
#: The part of the largest singular value that counts as rounding.
_ROUNDING = 1e-13


class Pattern:
    """The entries of T of every term that may change: all of them, or its lower triangle, which is theta."""

    def __init__(self, sizes: list[int], *, square: bool) -> None:
        self.sizes = sizes
        upper = [np.nonzero(np.ones((k, k)) if square else np.triu(np.ones((k, k)))) for k in sizes]
        self.rows, self.columns = [rows for _, rows in upper], [columns for columns, _ in upper]
        ends = np.cumsum([0, *map(len, self.rows)])
        self.slices = [slice(*ends[i : i + 2]) for i in range(len(sizes))]

    def gather(self, matrices: list[Array]) -> Array:
        """The entries, of one matrix a term."""
        return np.concatenate([M[r, c] for M, r, c in zip(matrices, self.rows, self.columns, strict=True)])

    def matrices(self, x: Array) -> list[Array]:
        """One matrix a term, zero elsewhere."""
        out = [np.zeros((k, k)) for k in self.sizes]
        for T, rows, columns, at in zip(out, self.rows, self.columns, self.slices, strict=True):
            T[rows, columns] = x[at]
        return out

    def jacobian(self, templates: list[Array]) -> Array:
        """Derivative of the lower triangles of all T T' in the entries of T."""
        return _block_diagonal([self._jacobian(*of) for of in zip(templates, self.rows, self.columns, strict=True)])

    @staticmethod
    def _jacobian(T: Array, rows: Index, columns: Index) -> Array:
        c, r = (M[:, None] for M in np.triu_indices(len(T)))
        return np.asarray((r == rows) * T[c, columns] + (c == rows) * T[r, columns])

    def curvature(self, slopes: list[Array]) -> Array:
        """Second derivative in T of tr(slope T T')."""
        of = zip(slopes, self.rows, self.columns, strict=True)
        return _block_diagonal([2.0 * (c[:, None] == c) * M[r[:, None], r] for M, r, c in of])


class Blocks:
    """Entries of all Sigma = T T', in theta's order, in units in which one level's data tell variances of about 1 from 0.

    Parameters
    ----------
    covariance : RelativeCovariance
    units : list of (k, k)
        W of each term.
    axes : list of (k, k), optional
        Orthogonal columns for each term, in units, along which T is a lower triangle; unless given, the units' own.
    """

    def __init__(self, covariance: RelativeCovariance, units: Units, axes: list[Array] | None = None) -> None:
        self.covariance, self.terms = covariance, covariance.terms
        self.lower = Pattern([term.size for term in self.terms], square=False)
        self.square = Pattern([term.size for term in self.terms], square=True)
        self.rows, self.columns = self.lower.rows, self.lower.columns
        self.units, self.axes = units, axes

    def along_principal_axes(self, theta: Array) -> Blocks:
        """The same along the principal axes that each Sigma has at theta, the longest first."""
        return Blocks(self.covariance, self.units, [np.linalg.svd(T)[0] for T in self._in_plain_units(theta)])

    def _in_plain_units(self, theta: Array) -> list[Array]:
        return [solve_lower(*pair) for pair in zip(self.units, self.lower.matrices(theta), strict=True)]

    def templates(self, theta: Array) -> list[Array]:
        """T of every term, in units and along the axes."""
        templates = self._in_plain_units(theta)
        return templates if self.axes is None else [_lower(R.T @ T) for R, T in zip(self.axes, templates, strict=True)]

    def expressed(self, theta: Array, derivatives: Derivatives) -> Derivatives:
        """Derivatives in units, along the axes: Sigma is R Sigma R' of those along them, and u turns as T does."""
        if self.axes is None:
            return derivatives
        K, Q, moments = ([M.copy() for M in of] for of in (derivatives.K, derivatives.Q, derivatives.moments))
        for term, R, T, along in zip(self.terms, self.axes, self._in_plain_units(theta), self.templates(theta), strict=True):
            g, at = term.group, (term.columns, term.columns)
            turn = np.linalg.solve(T, R @ along)
            K[g][at], Q[g][at], moments[g][at] = R.T @ K[g][at] @ R, R.T @ Q[g][at] @ R, turn.T @ moments[g][at] @ turn
        C = self.congruence(self.axes)
        information, gap = (np.asarray(C.T @ M @ C) for M in (derivatives.information, derivatives.gap))
        return replace(derivatives, K=tuple(K), Q=tuple(Q), moments=tuple(moments), information=information, gap=gap)

    def in_units(self, theta: Array) -> Array:
        """Entries of the lower triangle of T of every term, in units."""
        return self.lower.gather(self.templates(theta))

    def plain_theta(self, templates: list[Array]) -> Array:
        """Theta of lower triangular T in units and along the axes."""
        turned = templates if self.axes is None else [_lower(R @ T) for R, T in zip(self.axes, templates, strict=True)]
        return self._of_plain_units(turned)

    def _of_plain_units(self, templates: list[Array]) -> Array:
        return self.lower.gather([W @ T for W, T in zip(self.units, templates, strict=True)])

    def theta(self, templates: list[Array]) -> Array:
        """Theta of the same covariances, but for singular values below the floor."""
        return self.plain_theta([raised(T, FLOOR) for T in templates])

    def within_reach(self, theta: Array) -> Array:
        """Theta of covariances that are no smaller than the floor, and no larger than what double precision can tell from infinity."""
        return self._of_plain_units(
            [raised(T, FLOOR, _MOST / _inflation(W)) for T, W in zip(self._in_plain_units(theta), self.units, strict=True)]
        )

    def vanished(self, theta: Array) -> Array:
        """Theta with what is at the floor put at zero."""
        return self._of_plain_units([_echelon(T) for T in self._in_plain_units(theta)])

    def rounding(self, theta: Array, levels: tuple[int, ...]) -> float:
        """Rounding of the objective at theta, beside that of its own size."""
        return rounding(self.units, self.lower.matrices(theta), [levels[term.group] for term in self.terms])

    def inside(self, theta: Array) -> bool:
        """No singular value is near the floor."""
        return all(np.linalg.svd(T, compute_uv=False)[-1] > _FAR_OFF * FLOOR for T in self.templates(theta))

    def ranks(self, theta: Array) -> list[int] | None:
        """How many singular values of each T are far from the floor; None unless its first columns hold them all, by their diagonals.

        Then small changes of Sigma of that rank are small changes of T.
        """
        templates = self.templates(theta)
        found = [int((np.linalg.svd(T, compute_uv=False) > _FAR_OFF * FLOOR).sum()) for T in templates]
        least = [np.maximum(_STEEP * np.linalg.norm(T, axis=0), _FAR_OFF * FLOOR) for T in templates]
        smooth = all((np.diag(T) > of)[:rank].all() for T, of, rank in zip(templates, least, found, strict=True))
        return found if smooth else None

    def entries(self, theta: Array) -> Array:
        """Entries of all Sigma."""
        return self.lower.gather([T @ T.T for T in self.templates(theta)])

    def slope(self, derivatives: Derivatives) -> Array:
        """Derivative of the objective in the entries; one below the diagonal counts with its mirror."""
        return self.lower.gather([M + M.T - np.diag(np.diag(M)) for M in self._slopes(derivatives)])

    def gradient(self, theta: Array, derivatives: Derivatives) -> Array:
        """Derivative of the objective in the lower triangle of T."""
        return self.lower.gather([2.0 * M @ T for M, T in zip(self._slopes(derivatives), self.templates(theta), strict=True)])

    def _slopes(self, derivatives: Derivatives) -> list[Array]:
        at = [(term.group, (term.columns, term.columns)) for term in self.terms]
        return [derivatives.K[g][columns] - derivatives.Q[g][columns] for g, columns in at]

    def em_step(self, theta: Array, derivatives: Derivatives) -> tuple[Array, float]:
        """Theta after one step of the EM algorithm, Sigma -> T M T' with the moments M of u, and what the objective promises at least.

        In relative changes S of Sigma = T (I + S) T' the slope is l (I - M), and no information is larger than that of known
        random effects, l tr(S S) (Dempster, Laird and Rubin 1977).
        """
        moments = [derivatives.moments[term.group][term.columns, term.columns] for term in self.terms]
        levels = [derivatives.levels[term.group] for term in self.terms]
        values = [np.maximum(np.linalg.eigvalsh((M + M.T) / 2.0), np.finfo(np.float64).tiny) for M in moments]
        promise = sum(count * float((of - 1.0 - np.log(of)).sum()) for count, of in zip(levels, values, strict=True))
        roots = [_root((M + M.T) / 2.0) for M in moments]
        return self.theta([T @ root for T, root in zip(self.templates(theta), roots, strict=True)]), promise

    def symmetric(self, dual: Array) -> list[Array]:
        """One symmetric matrix a term from derivatives in the entries."""
        return [(M + M.T) / 2.0 for M in self.lower.matrices(dual)]

    def congruence(self, R: list[Array]) -> Array:
        """The matrix that takes the entries of S to those of R S R', for every term."""
        of = zip(self.rows, self.columns, R, strict=True)
        return _block_diagonal([_products(M, r, c) * np.where(r == c, 0.5, 1.0) for r, c, M in of])

    def metric(self, K: list[Array]) -> Array:
        """tr(S K S K) as a quadratic form in the entries of S, for every term."""
        twice = [np.where(r == c, 1.0, 2.0) for r, c in zip(self.rows, self.columns, strict=True)]
        of = zip(self.rows, self.columns, K, twice, strict=True)
        return _block_diagonal([_products(M, r, c) * np.outer(two, two) / 2.0 for r, c, M, two in of])


def _products(M: Array, r: Index, c: Index) -> Array:
    return np.asarray(M[r][:, r] * M[c][:, c] + M[r][:, c] * M[c][:, r])


def _block_diagonal(parts: list[Array]) -> Array:
    return np.asarray(scipy.linalg.block_diag(*parts))


def _root(M: Array) -> Array:
    """A square root of a matrix that is positive semidefinite but for rounding."""
    values, vectors = np.linalg.eigh(M)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0)))


def _lower(T: Array) -> Array:
    """The lower triangular matrix with the same T T' and a diagonal that is not negative."""
    L = np.transpose(np.linalg.qr(T.T, mode="r"))
    return np.asarray(L * np.where(np.diag(L) < 0.0, -1.0, 1.0))


def raised(T: Array, floor: float, most: float = np.inf) -> Array:
    """T made lower triangular, its singular values no smaller than the floor, so that no diagonal entry is, and not above `most`."""
    U, s, _ = np.linalg.svd(T)
    return _lower(T if s[-1] >= floor and s[0] <= most else U * np.clip(s, floor, most))


def _inflation(W: Array) -> float:
    """How many times as long a column of Z is as what the others of its term do not explain of it, at most."""
    return float((np.diag(W) * np.linalg.norm(np.linalg.inv(W), axis=0)).max())


def _echelon(T: Array) -> Array:
    """T without singular values that are at the floor, as a lower triangular matrix whose columns vanish where its diagonal does."""
    U, s, _ = np.linalg.svd(T)
    rounding = _ROUNDING * s[0]
    at_floor = s <= FLOOR * (1.0 + 1e-9) + rounding
    if not at_floor.any():
        return T
    rest, L = U * np.where(at_floor, 0.0, s), np.zeros_like(T)
    for j, row in enumerate(rest):
        if (norm := np.linalg.norm(row)) > rounding:
            direction = row / norm
            L[j:, j] = rest[j:] @ direction
            rest -= np.outer(rest @ direction, direction)
    return L
