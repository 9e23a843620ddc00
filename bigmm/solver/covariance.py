"""theta and the relative covariance factor Lambda: lower triangular templates, one a random-effects term."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from bigmm.columns import Array
from bigmm.errors import ModelError
from bigmm.formula.coding import distinct_names


@dataclass(frozen=True, slots=True)
class TermCovariance:
    """Where one random-effects term stands in theta and among the columns of its grouping factor.

    Attributes
    ----------
    position : int
        Which of the formula's random-effects terms it is.
    group : int
        Position of the grouping factor.
    factor : str
        Its name.
    names : tuple of str, length k
        The term's columns.
    columns : slice
        Their places among all columns of the factor.
    theta : slice
        Their k (k + 1) / 2 entries of theta: the lower triangle of T by columns.
    """

    position: int
    group: int
    factor: str
    names: tuple[str, ...]
    columns: slice
    theta: slice

    @property
    def size(self) -> int:
        """Columns of the term, k."""
        return len(self.names)


@dataclass(frozen=True)
class RelativeCovariance:
    """The map from theta to one template T_g for each grouping factor; Lambda repeats T_g once a level.

    Attributes
    ----------
    terms : tuple of TermCovariance
        In lme4's order: by decreasing number of levels.
    sizes : tuple of int
        Columns k_g of each grouping factor.

    References
    ----------
    Bates et al. (2015), JSS 67(1), section 2.2 and equation 4.
    """

    terms: tuple[TermCovariance, ...]
    sizes: tuple[int, ...]

    @cached_property
    def theta0(self) -> Array:
        """Start value: Lambda is the identity."""
        return np.concatenate([np.eye(term.size)[_lower(term.size)] for term in self.terms])

    @cached_property
    def lower(self) -> Array:
        """Lower bounds: 0 on the diagonals of T, minus infinity below them."""
        return np.where(self.theta0 == 1.0, 0.0, -np.inf)

    def templates(self, theta: Array) -> list[Array]:
        """T_g of every grouping factor, shapes (k_g, k_g), lower triangular; of a theta that was checked."""
        return self.by_group([self.template(term, theta) for term in self.terms])

    def by_group(self, matrices: list[Array]) -> list[Array]:
        """One (k_g, k_g) matrix a grouping factor from one (k, k) matrix a term, zero elsewhere."""
        out = [np.zeros((size, size)) for size in self.sizes]
        for term, matrix in zip(self.terms, matrices, strict=True):
            out[term.group][term.columns, term.columns] = matrix
        return out

    @property
    def entries(self) -> list[tuple[int, int, int]]:
        """Grouping factor, row and column in T_g of every entry of theta."""
        out = []
        for term in self.terms:
            rows, columns = _lower(term.size)
            out += [(term.group, int(r) + term.columns.start, int(c) + term.columns.start) for r, c in zip(rows, columns, strict=True)]
        return out

    def gather(self, matrices: list[Array]) -> Array:
        """One value for every entry of theta from one (k_g, k_g) matrix a grouping factor."""
        return np.array([matrices[g][row, column] for g, row, column in self.entries])

    @staticmethod
    def entries_of(T: Array) -> Array:
        """Entries of theta that one term's template holds: its lower triangle by columns."""
        return T[_lower(len(T))]

    @staticmethod
    def template(term: TermCovariance, theta: Array) -> Array:
        """T of one term, shape (k, k)."""
        T = np.zeros((term.size, term.size))
        T[_lower(term.size)] = theta[term.theta]
        return T

    def check(self, theta: npt.ArrayLike) -> Array:
        """Theta as a float64 array of the right length, finite and inside its bounds."""
        expected = len(self.lower)
        try:
            values = np.asarray(theta, dtype=np.float64)
        except (TypeError, ValueError):
            raise ModelError(f"theta is {theta!r:.60}: expected {expected} numbers, {', '.join(self.names)}") from None
        if values.shape != (expected,):
            raise ModelError(f"theta of shape {values.shape}: expected {expected} values, {', '.join(self.names)}")
        if not np.isfinite(values).all():
            raise ModelError(f"theta has values that are not finite: {values}")
        if (values < self.lower).any():
            worst = int(np.argmin(values - self.lower))
            raise ModelError(f"theta[{worst}] = {values[worst]:g} ({self.names[worst]}) is below its bound {self.lower[worst]:g}")
        return values

    @property
    def labels(self) -> tuple[str, ...]:
        """One name a term: the factor's, numbered from the second term on it (``Subject``, ``Subject.1``)."""
        return distinct_names([term.factor for term in self.terms])

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the entries of theta, as lme4's, but each once: ``Subject.(Intercept)``, ``Subject.Days.(Intercept)``."""
        names: list[str] = []
        for term in self.terms:
            for row, column in zip(*_lower(term.size), strict=True):
                parts = [term.names[row]] if row == column else [term.names[row], term.names[column]]
                names.append(".".join([term.factor, *parts]))
        return distinct_names(names)


def _lower(size: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Rows and columns of a lower triangle, column by column."""
    columns, rows = np.triu_indices(size)
    return rows, columns


def lme4_order(level_counts: list[int]) -> list[int]:
    """Order of terms in theta: as written when the counts do not increase, else by decreasing count.

    On ties lme4's mkReTrms takes ``rev(order(counts))``, which reverses the terms that tie.
    """
    if all(a >= b for a, b in itertools.pairwise(level_counts)):
        return list(range(len(level_counts)))
    return sorted(range(len(level_counts)), key=lambda i: level_counts[i])[::-1]
