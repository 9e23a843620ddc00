"""The fixed-effects columns of a model inside crossproducts, and the basis that they are solved in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bigmm.addition import shift_matrix
from bigmm.columns import Array
from bigmm.crossproducts import CrossProducts
from bigmm.formula.coding import Coding, ContrastChoice, code_terms
from bigmm.formula.terms import Formula
from bigmm.solver.identification import check_columns
from bigmm.solver.rank import independent_columns

Mask = npt.NDArray[np.bool_]

#: A shift is in the column space when this part of it is left at most.
_IN_SPAN = 1e-9
#: Rounding of means over cells.
_NOISE = 1e-14


@dataclass(frozen=True, slots=True, eq=False)
class FixedPart:
    """The fixed-effects columns of a model and the basis that it is solved in.

    X (as the user knows it) = X_basis M. The basis has the shifted numeric columns where the shift lies in the column
    space of the indicators; it is better conditioned, and M is unit triangular, so that log|R_X| is the same.

    Attributes
    ----------
    names : tuple of str, length p
    dropped : tuple of str
        Dependent columns that were left out.
    coding : Coding
        X = X_raw C, of the kept columns.
    basis : (P + R, p + 1)
        [X_basis y_basis] = [X_raw y1 y2 ...](shifted) G; y is one of the R responses.
    M : (p, p)
    beta_shift : (p,)
        What the shift of y adds to beta.
    """

    names: tuple[str, ...]
    dropped: tuple[str, ...]
    coding: Coding
    basis: Array
    M: Array
    beta_shift: Array

    def beta(self, beta_basis: Array) -> Array:
        """Coefficients of X from those of the basis."""
        return np.linalg.solve(self.M, beta_basis) + self.beta_shift

    def vcov(self, vcov_basis: Array) -> Array:
        """Covariance matrix of the coefficients of X."""
        half = np.linalg.solve(self.M, vcov_basis)
        return np.linalg.solve(self.M, half.T)


def fixed_part(cp: CrossProducts, formula: Formula, contrasts: Mapping[str, ContrastChoice] | None, response: int) -> FixedPart:
    """The columns of the formula that the data can tell apart, for one of the responses."""
    coding = code_terms(formula.fixed, cp.columns, cp.design.kinds, cp.design.categories, contrasts)
    G, _, _ = shifted_basis(cp, coding.matrix, response)
    XtX = G[:, :-1].T @ cp.XytXy @ G[:, :-1]
    XtX = (XtX + XtX.T) / 2
    keep, left = independent_columns(XtX)
    check_columns(coding.names, keep, left, XtX)
    dropped = tuple(name for name, kept in zip(coding.names, keep, strict=True) if not kept)
    names = tuple(name for name, kept in zip(coding.names, keep, strict=True) if kept)
    kept = Coding(names, coding.matrix[:, keep])
    return FixedPart(names, dropped, kept, *shifted_basis(cp, kept.matrix, response))


def shifted_basis(cp: CrossProducts, C: Array, response: int) -> tuple[Array, Array, Array]:
    """(G, M, beta_shift): shifted columns where the indicators can undo the shift, unshifted ones elsewhere."""
    P, p = C.shape
    V = shift_matrix(cp.columns, cp.design)
    unshifted = V[:P, :P] @ C
    numeric = np.array([bool(column.numeric) for column in cp.columns], dtype=bool)
    plain = np.flatnonzero(~(C[numeric] != 0).any(axis=0))
    counts = np.where(np.logical_or.outer(numeric, numeric), 0.0, cp.XytXy[:P, :P])
    coefficients, inside = _in_span(C[:, plain], np.column_stack([unshifted - C, V[:P, P + response]]), counts)
    G, M, beta_shift = np.zeros((len(V), p + 1)), np.eye(p), np.zeros(p)
    G[:P, :p] = np.where(inside[:p], C, unshifted)
    G[:P, p] = 0.0 if inside[p] else V[:P, P + response]
    G[P + response, p] = 1.0
    M[plain] += coefficients[:, :p]
    beta_shift[plain] = coefficients[:, p]
    return G, M, beta_shift


def _in_span(basis: Array, vectors: Array, counts: Array) -> tuple[Array, Mask]:
    """Coefficients of the functions `vectors` in the functions `basis`, and which are in their span; zeros for the others.

    All are coefficients of raw columns, which depend on one another (the indicators of every category add up to one):
    what counts is their values on the rows. A function is zero on all rows when its mean is zero in the cell of each
    indicator. These means know nothing of how many rows a cell has, so that a level of ten rows among 1e9 counts as any.
    """
    rows = np.diag(counts)
    means = counts[rows > 0.0] / rows[rows > 0.0, None]
    values, targets = means @ basis, means @ vectors
    sizes = np.abs(targets).max(axis=0, initial=0.0)
    inside = sizes <= _NOISE * np.abs(vectors).max(axis=0, initial=0.0)
    coefficients = np.zeros((basis.shape[1], vectors.shape[1]))
    (asked,) = np.nonzero(~inside)
    if basis.shape[1] and len(asked):
        found, errors = _solved(values, targets[:, asked] / sizes[asked])
        inside[asked] = errors < _IN_SPAN
        coefficients[:, asked] = np.where(inside[asked], found * sizes[asked], 0.0)
    return coefficients, inside


def _solved(values: Array, targets: Array) -> tuple[Array, Array]:
    """Least squares, and the largest error of each target.

    Contrasts of 0, 1 and -1 have coefficients that are whole numbers, which a large shift wants to the last digit.
    """
    solved = np.linalg.lstsq(values, targets, rcond=None)[0]
    rounded = np.round(solved)
    errors, of_rounded = (np.abs(values @ found - targets).max(axis=0) for found in (solved, rounded))
    whole = of_rounded <= np.maximum(_NOISE, 10.0 * errors)
    return np.where(whole, rounded, solved), np.where(whole, of_rounded, errors)
