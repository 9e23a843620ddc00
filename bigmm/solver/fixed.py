"""The fixed-effects columns of a model inside crossproducts, and the basis that they are solved in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bigmm.addition import shift_matrix
from bigmm.columns import Array
from bigmm.crossproducts import CrossProducts
from bigmm.formula.coding import Coding, ContrastChoice, code_terms
from bigmm.formula.terms import Formula
from bigmm.solver.identification import check_columns
from bigmm.solver.rank import independent_columns

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
    G, M = np.zeros((len(V), p + 1)), np.eye(p)
    for j in range(p):
        coefficients = _in_span(C[:, plain], unshifted[:, j] - C[:, j], counts)
        if coefficients is None:
            G[:P, j] = unshifted[:, j]
        else:
            G[:P, j] = C[:, j]
            M[plain, j] += coefficients
    G[P + response, p] = 1.0
    beta_shift = np.zeros(p)
    y_shift = _in_span(C[:, plain], V[:P, P + response], counts)
    if y_shift is None:
        G[:P, p] = V[:P, P + response]
    else:
        beta_shift[plain] = y_shift
    return G, M, beta_shift


def _in_span(basis: Array, vector: Array, counts: Array) -> Array | None:
    """Coefficients of the function `vector` in the functions `basis`; None when it is not in their span.

    Both are coefficients of raw columns, which depend on one another (the indicators of every category add up to one):
    what counts is their values on the rows. A function is zero on all rows when its mean is zero in the cell of each
    indicator. These means know nothing of how many rows a cell has, so that a level of ten rows among 1e9 counts as any.
    """
    rows = np.diag(counts)
    means = counts[rows > 0.0] / rows[rows > 0.0, None]
    values, target = means @ basis, means @ vector
    size = np.abs(target).max(initial=0.0)
    if size <= _NOISE * np.abs(vector).max(initial=0.0):
        return np.zeros(basis.shape[1])
    if basis.shape[1] == 0:
        return None
    solved: Array = np.linalg.lstsq(values, target / size, rcond=None)[0]
    rounded: Array = np.round(solved)

    def error(coefficients: Array) -> float:
        return float(np.abs(values @ coefficients - target / size).max())

    # Contrasts of 0, 1 and -1 have coefficients that are whole numbers, which a large shift wants to the last digit.
    best = rounded if error(rounded) <= max(_NOISE, 10.0 * error(solved)) else solved
    return np.asarray(best * size, dtype=np.float64) if error(best) < _IN_SPAN else None
