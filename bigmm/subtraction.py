"""Differences of crossproducts, aligned by label: rows that were added are taken away again."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from bigmm.accounting import RowCounts, Sources, add_sources, shown
from bigmm.addition import add, add_digests, check_crossproducts, check_same
from bigmm.columns import Array, Column, expansion
from bigmm.crossproducts import CrossProducts, GroupProducts, PairProducts
from bigmm.errors import LabelError, PrecisionWarning

#: A cell is empty when subtraction leaves this part of its weight or less: the rounding of sums of weights.
_VANISHED = 1e-13
#: Between the two it cannot be told whether rows with small weights are left.
_UNCLEAR = 1e-8
#: Of squares of which less is left, rounding shows beside the 1e-11 from which a column counts as independent (`bigmm.solver.rank`).
_FEW_DIGITS = 1e-5
#: Rows of a cell, as their weights tell, from which its columns may say something of their own.
_FEW_ROWS = 2.5


def subtract(whole: CrossProducts, part: CrossProducts, *, allow_unknown: bool = False) -> CrossProducts:
    """Crossproducts of the rows of `whole` that are not in `part`: a day or a site is retracted.

    Parameters
    ----------
    whole, part : CrossProducts
    allow_unknown : bool
        Subtract even files that `whole` does not list, or lists with another size or time of change, for whoever knows that
        their rows are in it. (Data in memory have no name, and are subtracted without this question.)

    Raises
    ------
    LabelError
        When `part` has files, rows, levels or columns that `whole` has not.

    Warns
    -----
    PrecisionWarning
        When so little is left of a column's sum of squares that the rounding of the whole shows in it.
    """
    check_crossproducts(whole, part)
    check_same(whole.design, part.design)
    sources = _subtract_sources(whole.sources, part.sources, allow_unknown=allow_unknown)
    difference = add([whole, _negative(part)])
    _check_part(whole, part, difference)
    rows = replace(difference.rows, missing={name: count for name, count in difference.rows.missing.items() if count})
    digest = add_digests([whole.plan_digest, f"-{part.plan_digest}"])
    skipped = tuple(chunk for chunk in whole.skipped if chunk not in part.skipped)
    left = _drop_cells(whole, replace(difference, rows=rows, plan_digest=digest, sources=sources, skipped=skipped))
    _warn_of_lost_digits(whole, left)
    return _drop_empty(left)


def _subtract_sources(whole: Sources, part: Sources, *, allow_unknown: bool) -> Sources:
    """The files of `whole` without the rows of `part`; files without rows disappear.

    Raises
    ------
    LabelError
        Unless `allow_unknown`, for files that `whole` does not list as they were when `part` was made.
    """
    left = add_sources([whole, part.negative()])
    unknown = left.are_files & ((left.read < 0) | (left.used < 0) | (left.read < left.used))
    untold = bool((whole.read[~whole.are_files] > 0).any()) or not len(whole)
    urls = list(dict.fromkeys(itertools.compress(left.urls, unknown)))
    if urls and not allow_unknown and not untold:
        raise LabelError(
            f"cannot subtract: {shown(urls)} not among the files of the first crossproducts, or there with "
            "another size or time: subtract what was added, or allow it if its rows are there under another name "
            "(allow_unknown=True, --allow-unknown)"
        )
    return left.take((left.read != 0) | (left.used != 0) | (left.skipped != 0))


def _negative(part: CrossProducts) -> CrossProducts:
    groups = tuple(replace(group, rows=-group.rows, ZtZ=-group.ZtZ, ZtXy=-group.ZtXy) for group in part.groups)
    pairs = {key: replace(pair, ZtZ=-pair.ZtZ) for key, pair in part.pairs.items()}
    missing = {name: -count for name, count in part.rows.missing.items()}
    rows = RowCounts(-part.rows.read, -part.rows.used, missing)
    return replace(part, XytXy=-part.XytXy, groups=groups, pairs=pairs, rows=rows, sum_log_weights=-part.sum_log_weights)


def _check_part(whole: CrossProducts, part: CrossProducts, difference: CrossProducts) -> None:
    for group in difference.groups:
        negative = group.rows < 0
        if negative.any():
            level, *_ = group.levels[negative].tolist()
            raise LabelError(
                f"cannot subtract: level {level!r} of {group.name!r} would have {int(group.rows.min())} rows; "
                "only rows that were added before can be taken away"
            )
    for (g, h), pair in difference.pairs.items():
        if np.issubdtype(pair.ZtZ.dtype, np.integer) and pair.ZtZ.min(initial=0) < 0:
            raise LabelError(
                f"cannot subtract: a level of {whole.groups[g].name!r} with one of {whole.groups[h].name!r} would have "
                f"{int(pair.ZtZ.min())} rows; only rows that were added before can be taken away"
            )
    rows = difference.rows
    counts = [rows.used, rows.dropped, *rows.missing.values()]
    if min(counts) < 0 or not set(part.columns) <= set(whole.columns):
        raise LabelError("cannot subtract: the second crossproducts have rows that the first have not")


def _warn_of_lost_digits(whole: CrossProducts, left: CrossProducts) -> None:
    """Sums of squares keep the rounding of what they were; both are about the same shift, that of the whole."""
    part, name = min(_parts_left(whole, left), default=(1.0, ""))
    if left.nobs and part < _FEW_DIGITS:
        warnings.warn(
            f"subtraction leaves {max(part, 0.0):.0e} of the squares of {name!r}, and as many fewer digits of them: unless it is constant "
            "there, estimates may be off, and columns that depend on one another pass for independent; reduce the remaining rows instead",
            PrecisionWarning,
            stacklevel=3,
        )


def _parts_left(whole: CrossProducts, left: CrossProducts) -> Iterator[tuple[float, str]]:
    """What part is left of the squares of each response and raw column, of X and of each Z.

    The squares left are about the mean of the rows left: far from the shift of the whole they say little of what a column has of
    its own.
    """
    before, after = np.diag(whole.XytXy), _squares_about_means(left)
    responses = left.design.formula.responses
    for response, then, now in zip(responses, before[-len(responses) :], after[-len(responses) :], strict=True):
        yield now / then if then > 0.0 else 1.0, response.text
    sides = [(whole.columns, before, left.columns, after)]
    for old, new in zip(whole.groups, left.groups, strict=True):
        sides.append((old.columns, np.einsum("jaa->a", old.ZtZ), new.columns, np.einsum("jaa->a", new.ZtZ)))
    for columns, before, kept, after in sides:
        for column, now in zip(kept, after, strict=False):
            then = before[columns.index(column)]
            # Indicators without weights are counted, which rounds nothing.
            if then > 0.0 and (column.numeric or left.design.weights is not None):
                yield now / then, column.name


def _squares_about_means(cp: CrossProducts) -> Array:
    """Sums of squares of numeric columns and responses, (p + m,), each about its mean in the rows of its cell.

    Those of cells of one or two rows stay as they are, for such a column says no more than its indicator; and where X has no
    indicator of the cell.
    """
    p, squares = len(cp.columns), np.diag(cp.XytXy)
    centred = squares.copy()
    in_all = float(expansion(cp.columns, Column(())) @ squares[:p])
    a_row = 1.0 if cp.design.weights is None else in_all / max(cp.nobs, 1)
    for place, column in enumerate([*cp.columns, *[None] * (len(squares) - p)]):
        if column is None or column.numeric:
            indicators = expansion(cp.columns, Column((), () if column is None else column.cell))
            weight = indicators @ squares[:p]
            if weight > _FEW_ROWS * a_row > 0.0:
                centred[place] -= (indicators @ cp.XytXy[:p, place]) ** 2 / weight
    return centred


def _drop_cells(whole: CrossProducts, difference: CrossProducts) -> CrossProducts:
    """Without the raw columns of cells that no row is left in."""
    of_x = [(cp.columns, np.diag(cp.XytXy)) for cp in (whole, difference)]
    kept = _has_rows(_cells(of_x[0]), _cells(of_x[1]))
    places = np.append(np.flatnonzero(kept), np.arange(len(kept), len(difference.XytXy)))
    groups, z_kept = [], []
    for old, new in zip(whole.groups, difference.groups, strict=True):
        of_z = [(group.columns, np.einsum("jaa->a", group.ZtZ)) for group in (old, new)]
        keep = np.flatnonzero(_has_rows(_cells(of_z[0], of_x[0]), _cells(of_z[1], of_x[1])))
        z_kept.append(keep)
        ZtZ, ZtXy = new.ZtZ[:, keep[:, None], keep], new.ZtXy[:, keep[:, None], places]
        groups.append(replace(new, columns=tuple(new.columns[place] for place in keep), ZtZ=ZtZ, ZtXy=ZtXy))
    pairs = {(g, h): replace(pair, ZtZ=pair.ZtZ[:, z_kept[g][:, None], z_kept[h]]) for (g, h), pair in difference.pairs.items()}
    columns = tuple(column for column, keep in zip(difference.columns, kept, strict=True) if keep)
    return replace(difference, columns=columns, XytXy=difference.XytXy[np.ix_(places, places)], groups=tuple(groups), pairs=pairs)


@dataclass(frozen=True, slots=True)
class _Cell:
    """What tells whether a raw column's cell has rows: their weight, or where no indicator tells it the column's own squares."""

    weight: float
    told: bool


def _cells(*sides: tuple[tuple[Column, ...], Array]) -> dict[Column, _Cell]:
    """Cells of the columns of the first of some sets of columns with their squared lengths; indicators may be in any of them."""
    columns, squares = sides[0]
    return {column: _cell(column, float(square), sides) for column, square in zip(columns, squares, strict=False)}


def _cell(column: Column, square: float, sides: Sequence[tuple[tuple[Column, ...], Array]]) -> _Cell:
    if not column.numeric:
        return _Cell(square, told=True)
    for columns, squares in sides:
        indicators = expansion(columns, Column((), column.cell))
        if indicators.any():
            return _Cell(float(indicators @ squares[: len(columns)]), told=True)
    return _Cell(square, told=False)


def _has_rows(before: Mapping[Column, _Cell], after: Mapping[Column, _Cell]) -> npt.NDArray[np.bool_]:
    """Which columns have rows left: those whose cell has more than the rounding of the weight before.

    Squares alone do not tell whether all is gone or a thousandth of the unit is left. A column of zeros says nothing and stays.
    """
    kept = []
    for column, cell in after.items():
        left = cell.weight / before[column].weight if column.cell and before[column].weight else 1.0
        if left < _UNCLEAR and (left > _VANISHED or not cell.told):
            what = "weight" if cell.told else "squares"
            raise LabelError(
                f"cannot subtract: {max(left, 0.0):.0e} of the {what} of {column.name!r} would be left, too little to tell from rounding; "
                "reduce the remaining rows instead"
            )
        kept.append(left > _VANISHED)
    return np.array(kept, dtype=bool)


def _drop_empty(cp: CrossProducts) -> CrossProducts:
    """Without the levels, and the pairs of levels, that no row is left in."""
    kept = [group.rows > 0 for group in cp.groups]
    groups = tuple(
        replace(group, levels=_take(group, keep), rows=group.rows[keep], ZtZ=group.ZtZ[keep], ZtXy=group.ZtXy[keep])
        for group, keep in zip(cp.groups, kept, strict=True)
    )
    new_refs = [np.cumsum(keep) - 1 for keep in kept]
    pairs = {}
    for (g, h), pair in cp.pairs.items():
        keep = kept[g][pair.g_refs] & kept[h][pair.h_refs]
        if np.issubdtype(pair.ZtZ.dtype, np.integer):  # a count of zero: the two levels meet in no row
            keep &= pair.ZtZ[:, 0, 0] != 0
        g_refs, h_refs = new_refs[g][pair.g_refs[keep]], new_refs[h][pair.h_refs[keep]]
        pairs[g, h] = PairProducts(g_refs.astype(np.int32), h_refs.astype(np.int32), pair.ZtZ[keep])
    return replace(cp, groups=groups, pairs=pairs)


def _take(group: GroupProducts, keep: npt.NDArray[np.bool_]) -> Any:
    levels = group.levels[keep]
    return levels.remove_unused_levels() if hasattr(levels, "remove_unused_levels") else levels
