"""What crossproducts can tell about a model: rows and levels enough, variances with one answer, digits that are left."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import numpy.typing as npt

from bigmm.columns import Array
from bigmm.crossproducts import GroupProducts
from bigmm.errors import IdentificationWarning, ModelError, PrecisionWarning
from bigmm.formula.coding import Coding
from bigmm.solver.blocks import ModelBlocks
from bigmm.solver.covariance import RelativeCovariance, TermCovariance

#: A response is explained exactly when this part of its sum of squares, or less, is left: that much is rounding.
_NO_RESIDUAL = 1e-14
#: With less than this part left, estimates have fewer than about eight digits.
_FEW_DIGITS = 1e-8
#: Columns of Z whose smallest eigenvalue, scaled to lengths of one, is below this cannot be told from dependent ones ...
_DEPENDENT = 1e-14
#: ... and below this their variances have fewer than about seven digits.
_NEARLY_DEPENDENT = 1e-9
#: Objectives have fewer digits than anybody needs where rounding hides more than this.
_LOST = 1e-4
#: What rounding leaves of a dependent column.
_ROUNDING = 1e-14
#: Random effects that 32-bit indices can number.
_MOST_EFFECTS = 2**31 - 1


def check_identified(
    blocks: ModelBlocks, groups: tuple[GroupProducts, ...], codings: tuple[Coding, ...], covariance: RelativeCovariance
) -> None:
    """See that a model has one answer; warn about parts of it that have not.

    Raises
    ------
    ModelError
        For too few rows or levels, more random effects than can be numbered, and a response without variance.
    """
    if blocks.nobs <= blocks.p:
        raise ModelError(f"{blocks.nobs} complete rows for {blocks.p} fixed effects: expected more rows than coefficients")
    for term in covariance.terms:
        _check_levels(term, groups[term.group], blocks.nobs)
    _check_size(blocks)
    check_residual(blocks.XytXy)
    if all(_seen_together(term, groups[term.group], codings[term.group]) for term in covariance.terms):
        _check_independent(blocks)


def _check_levels(term: TermCovariance, group: GroupProducts, nobs: int) -> None:
    q = len(group.levels)
    if q < 2:
        raise ModelError(f"grouping factor {group.name!r} has {q} level: a random effect needs two or more")
    if q * term.size >= nobs:
        effects = f"{q} levels x {term.size} columns" if term.size > 1 else f"{q} levels"
        raise ModelError(
            f"the term on {term.factor!r} has as many random effects ({effects}) as there are rows ({nobs}): its variance "
            "and the residual variance cannot be told apart; use a coarser factor or fewer columns"
        )


def _check_size(blocks: ModelBlocks) -> None:
    effects = sum(group.q * group.ZtZ.shape[1] for group in blocks.groups)
    if effects > _MOST_EFFECTS:
        raise ModelError(
            f"the model has {effects:,} random effects: expected at most {_MOST_EFFECTS:,}; use coarser factors or fewer columns"
        )


def _seen_together(term: TermCovariance, group: GroupProducts, coding: Coding) -> bool:
    """Whether some level has both of any two effects, as their covariance needs."""
    used = np.flatnonzero((coding.matrix[:, term.columns] != 0).any(axis=1))
    if len(used) != term.size or term.size == 1:  # fewer parameters than raw columns: they may be known all the same
        return True
    if not len(group.ZtZ):  # its levels are elsewhere
        return True
    seen = (np.einsum("jaa->ja", group.ZtZ) > 0.0)[:, used]
    apart = np.argwhere(np.triu(~(seen.T @ seen)))  # a product of booleans ends at the first level that has both
    if len(apart):
        one, other = (group.columns[used[place]].name for place in apart[0])
        found = f"has rows of both {one!r} and {other!r}" if one != other else f"has a row where {one!r} is not zero"
        _warn_identification(
            f"no level of {group.name!r} {found}: the data say nothing about that (co)variance, and its estimate is arbitrary; "
            "use || or a simpler term"
        )
    return len(apart) == 0


def _check_independent(blocks: ModelBlocks) -> None:
    """Two sets of effects whose columns span the same share their variance in any way."""
    for group in blocks.groups:
        if group.q:  # else its levels are elsewhere
            check_gram(group.ZtZ.sum(axis=0), f"the random-effects terms on {group.name!r}")
    for g, h in itertools.combinations(range(len(blocks.groups)), 2):
        one, other, pair = blocks.groups[g], blocks.groups[h], blocks.pairs[g, h]
        if len(pair.ZtZ) == one.q == other.q:
            across = pair.ZtZ.sum(axis=0)
            gram = np.block([[one.ZtZ.sum(axis=0), across], [across.T, other.ZtZ.sum(axis=0)]])
            check_gram(gram, f"the grouping factors {one.name!r} and {other.name!r}, which are one but for the names of their levels,")


def check_gram(gram: Array, what: str) -> None:
    """Warn when columns depend on one another, by the sum of their crossproducts over all levels, (k, k)."""
    lengths = np.sqrt(np.diag(gram))
    scale = np.where(lengths > 0.0, lengths, 1.0)
    left = float(np.linalg.eigvalsh(gram / np.outer(scale, scale))[0])
    remedy = "drop one, or subtract a number near its mean from a numeric one"
    if left < _DEPENDENT:
        _warn_identification(
            f"columns of {what} depend on one another, as far as double precision shows: how they share their variance is arbitrary; "
            f"{remedy}"
        )
    elif left < _NEARLY_DEPENDENT:
        _warn_precision(f"columns of {what} nearly depend on one another ({left:.0e} of 1 is left): few digits remain; {remedy}")


def check_columns(names: tuple[str, ...], keep: npt.NDArray[np.bool_], left: Array, XtX: Array) -> None:
    """Warn about columns of X that crossproducts can hardly tell from combinations of others.

    Parameters
    ----------
    names : tuple of str
    keep, left
        Of `bigmm.solver.rank.independent_columns`.
    XtX : (p, p)
        Of all columns.
    """
    doubtful = np.flatnonzero((left < _NEARLY_DEPENDENT) & (left > _ROUNDING))
    if len(doubtful):
        worst = doubtful[np.argmin(left[doubtful])]
        outcome = "its coefficient has few digits" if keep[worst] else "it was dropped"
        _warn_precision(
            f"column {names[worst]!r} is a combination of those before it but for {left[worst]:.0e} of its squared length, too little for "
            f"crossproducts in double precision: {outcome}; leave it out, centre it, or use orthogonal columns (residuals of it, a basis)"
        )
    elif keep.any():
        _check_condition(XtX[np.ix_(keep, keep)])


def _check_condition(XtX: Array) -> None:
    """Warn when the columns are nearly dependent together, though each keeps something of its own beside those before it."""
    lengths = np.sqrt(np.diag(XtX))
    values = np.linalg.eigvalsh(XtX / np.outer(lengths, lengths))
    reciprocal = max(float(values[0] / values[-1]), float(np.finfo(float).eps))
    if reciprocal < _NEARLY_DEPENDENT:
        digits = np.log10(reciprocal / np.finfo(float).eps)
        _warn_precision(
            f"the fixed-effects columns nearly depend on one another (the scaled X'X has condition number {1 / reciprocal:.0e}): "
            f"crossproducts in double precision keep about {digits:.0f} digits of the coefficients; centre columns before you take powers "
            "or products of them, or use orthogonal ones"
        )


def check_residual(XytXy: Array) -> None:
    """See that the fixed effects leave something of the response, and more than rounding.

    Raises
    ------
    ModelError
    """
    left = _residual_part(XytXy)
    if left <= _NO_RESIDUAL:
        raise ModelError("the fixed effects explain the response exactly (is it constant?): no variance is left to estimate")
    if left < _FEW_DIGITS:
        _warn_precision(
            f"the fixed effects leave {left:.0e} of the response's sum of squares: crossproducts in double precision keep few digits of "
            "the rest; subtract the large part (as an offset, or a mean by group) from the response and reduce again"
        )


def _residual_part(XytXy: Array) -> float:
    """Part of y'y that the fixed effects leave."""
    XtX, Xty, yty = XytXy[:-1, :-1], XytXy[:-1, -1], XytXy[-1, -1]
    if yty <= 0.0:
        return 0.0
    return float((yty - Xty @ np.linalg.solve(XtX, Xty)) / yty) if len(Xty) else 1.0


def check_pwrss(pwrss: float, XytXy: Array) -> None:
    """See that the whole model leaves more than rounding of the response.

    Raises
    ------
    ModelError
        When the residual variance cannot be told from zero.
    """
    left = pwrss / float(XytXy[-1, -1])
    if left <= _NO_RESIDUAL:
        raise ModelError(
            "the model explains the response exactly, as far as double precision shows: without residual variance the likelihood has no "
            "maximum; drop a term, or subtract a large constant part from the response"
        )
    if left < _FEW_DIGITS <= _residual_part(XytXy):  # else it was said before
        _warn_precision(
            f"the model leaves {left:.0e} of the response's sum of squares: crossproducts in double precision keep few digits of it; "
            "subtract the large part (as an offset, or a mean by group) from the response and reduce again"
        )


def check_rounding(lost: float) -> None:
    """Warn when the search cannot have seen the objective well enough; `lost` is its rounding."""
    if lost > _LOST:
        _warn_precision(
            f"rounding hides about {lost:.0e} of the objective: random effects are far larger than the residual, in columns that nearly "
            "depend on one another; subtract a number near its mean from a numeric column"
        )


def _warn_precision(message: str) -> None:
    warnings.warn(message, PrecisionWarning, stacklevel=2)


def _warn_identification(message: str) -> None:
    warnings.warn(message, IdentificationWarning, stacklevel=2)
