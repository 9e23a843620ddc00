"""Sums and differences of crossproducts, aligned by label: the whole distributed algorithm."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from bigmm.codes import Codes
from bigmm.columns import Array, Column, expansion, sort_columns
from bigmm.crossproducts import CrossProducts, GroupProducts, PairProducts, RowCounts
from bigmm.design import Design
from bigmm.errors import LabelError
from bigmm.levels import Refs, level_types, union
from bigmm.pairs import Run, find_pairs, merge_counts
from bigmm.sums import add_rows

#: Numbers that are summed at once: half a megabyte.
_CACHED = 2**16
#: A cell is empty when subtraction leaves this part of its weight or less: the rounding of sums of weights.
_VANISHED = 1e-13
#: Between the two it cannot be told whether rows with small weights are left.
_UNCLEAR = 1e-8


@dataclass(frozen=True, slots=True)
class _GroupPlaces:
    """Where the levels and the columns of one part's group stand in the sum."""

    levels: Codes
    columns: Refs


def add(parts: Sequence[CrossProducts]) -> CrossProducts:
    """Crossproducts of the rows of all parts.

    Parameters
    ----------
    parts : sequence of CrossProducts
        Added in this order, so that the bits of the sum depend on nothing else.

    Raises
    ------
    LabelError
        When they were collected for different formulas, weights or kinds of columns.
    """
    if len(parts) == 1:
        return parts[0]
    design = _common_design(parts)
    parts = [reshift(part, design) for part in parts]
    columns = sort_columns(column for part in parts for column in part.columns)
    x_places = [_x_places(columns, part) for part in parts]
    XytXy = np.zeros((len(columns) + 1, len(columns) + 1))
    for part, places in zip(parts, x_places, strict=True):
        XytXy[np.ix_(places, places)] += part.XytXy
    groups: list[GroupProducts] = []
    places_of: list[list[_GroupPlaces]] = []
    for position in range(len(parts[0].groups)):
        group, group_places = _add_groups([part.groups[position] for part in parts], x_places, len(columns) + 1)
        groups.append(group)
        places_of.append(group_places)
    pairs = {
        (g, h): _add_pairs([part.pairs[g, h] for part in parts], places_of[g], places_of[h], groups[g], groups[h])
        for g, h in parts[0].pairs
    }
    return CrossProducts(
        design=design,
        columns=columns,
        XytXy=XytXy,
        groups=tuple(groups),
        pairs=pairs,
        rows=_add_rows([part.rows for part in parts]),
        sum_log_weights=float(sum(part.sum_log_weights for part in parts)),
        digest=_add_digests([part.digest for part in parts]),
    )


def _add_digests(digests: Sequence[str]) -> str:
    distinct = set(digests)
    return distinct.pop() if len(distinct) == 1 else hashlib.sha256("+".join(digests).encode()).hexdigest()


def _add_rows(counts: Sequence[RowCounts]) -> RowCounts:
    missing: Counter[str] = Counter()
    for count in counts:
        missing.update(count.missing)
    return RowCounts(sum(c.read for c in counts), sum(c.used for c in counts), dict(missing))


def _common_design(parts: Sequence[CrossProducts]) -> Design:
    first = parts[0].design
    categories = dict(first.categories)
    for part in parts[1:]:
        if part.design is not first:
            _check_same(first, part.design)
            for name, levels in part.design.categories.items():
                if categories.setdefault(name, levels) != levels:
                    raise LabelError(
                        f"two orders of the categories of {name!r}: {categories[name]} and {levels}; declare one and reduce again"
                    )
    return first if categories == dict(first.categories) else replace(first, categories=categories)


def _check_same(first: Design, other: Design) -> None:
    """Raise where two designs do not describe the same columns."""
    what = {
        "formulas": (first.formula, other.formula),
        "weights": (first.weights, other.weights),
        "offsets": (first.offset, other.offset),
        "kinds of columns": (dict(first.kinds), dict(other.kinds)),
    }
    for name, (one, two) in what.items():
        if one != two:
            shown = (one.text, two.text) if name == "formulas" else (one, two)  # type: ignore[union-attr]
            raise LabelError(
                f"crossproducts of different {name} cannot be combined: {shown[0]!r} and {shown[1]!r}; reduce both with the same arguments"
            )


def reshift(part: CrossProducts, design: Design) -> CrossProducts:
    """The same crossproducts with the shift constants of `design`.

    With V the unit matrix plus the change of each constant in the rows of the matching indicators,
    [X y]_new = [X y] V, so that W'W becomes V'W'W V and Z'W becomes Z'W V.
    """
    if part.design is design or (part.design.shift == design.shift and part.design.y_shift == design.y_shift):
        return part
    V = shift_matrix(part.columns, part.design, design)
    groups = tuple(replace(group, ZtXy=group.ZtXy @ V) for group in part.groups)
    return replace(part, design=design, XytXy=V.T @ part.XytXy @ V, groups=groups)


def shift_matrix(columns: tuple[Column, ...], old: Design, new: Design | None = None) -> Array:
    """V with [X y](shifted by `new`) = [X y](shifted by `old`) V, shape (P + 1, P + 1); `new` None: unshifted."""
    P = len(columns)
    V = np.eye(P + 1)
    for position, column in enumerate(columns):
        if column.numeric:
            key = ":".join(column.numeric)
            change = old.shift.get(key, 0.0) - (new.shift.get(key, 0.0) if new else 0.0)
            V[:P, position] += change * expansion(columns, Column((), column.cell))
    V[:P, P] += (old.y_shift - (new.y_shift if new else 0.0)) * expansion(columns, Column())
    return V


def _x_places(columns: tuple[Column, ...], part: CrossProducts) -> Refs:
    """Places of a part's raw columns, and of its response, in the sum."""
    places = {column: place for place, column in enumerate(columns)}
    return np.array([*(places[column] for column in part.columns), len(columns)], dtype=np.intp)


def _add_groups(groups: Sequence[GroupProducts], x_places: Sequence[Refs], width: int) -> tuple[GroupProducts, list[_GroupPlaces]]:
    _check_level_types(groups)
    levels, level_places = union([group.levels for group in groups])
    columns = sort_columns(column for group in groups for column in group.columns)
    place_of = {column: place for place, column in enumerate(columns)}
    column_places = [np.array([place_of[column] for column in group.columns], dtype=np.intp) for group in groups]
    q, k = len(levels), len(columns)
    rows = np.zeros(q, dtype=np.int64)
    ZtZ, ZtXy = np.zeros((q, k, k)), np.zeros((q, k, width))
    _add_blocks(rows, level_places, [group.rows for group in groups])
    _add_blocks(ZtZ, level_places, [_widen(group.ZtZ, (k, k), co, co) for group, co in zip(groups, column_places, strict=True)])
    wide = [_widen(group.ZtXy, (k, width), co, xp) for group, co, xp in zip(groups, column_places, x_places, strict=True)]
    _add_blocks(ZtXy, level_places, wide)
    places = [_GroupPlaces(lv.astype(np.int32, copy=False), co) for lv, co in zip(level_places, column_places, strict=True)]
    return GroupProducts(groups[0].names, levels, columns, rows, ZtZ, ZtXy), places


def _check_level_types(groups: Sequence[GroupProducts]) -> None:
    """Refuse to align text with numbers, or either with dates."""
    types = dict.fromkeys(level_types(group.levels) for group in groups if len(group.levels))
    if len(types) > 1:
        shown = " and ".join(", ".join(kind) for kind in types)
        raise LabelError(f"levels of {groups[0].name!r} are {shown}: write the column with one type and reduce again")


def _add_pairs(
    pairs: Sequence[PairProducts], g_places: Sequence[_GroupPlaces], h_places: Sequence[_GroupPlaces], g: GroupProducts, h: GroupProducts
) -> PairProducts:
    counted = all(np.issubdtype(pair.ZtZ.dtype, np.integer) for pair in pairs)
    runs = [
        Run(gp.levels, hp.levels, pair.g_refs, pair.h_refs, pair.ZtZ[:, 0, 0] if counted else np.ones(len(pair.g_refs), dtype=np.int32))
        for pair, gp, hp in zip(pairs, g_places, h_places, strict=True)
    ]
    g_sum, h_sum, counts = merge_counts(runs, len(g.levels), len(h.levels))
    if counted:
        return PairProducts(g_sum, h_sum, counts[:, None, None])
    places = [find_pairs(run.g_places[run.g_refs], run.h_places[run.h_refs], g_sum, h_sum, len(g.levels)) for run in runs]
    ZtZ = np.zeros((len(g_sum), len(g.columns), len(h.columns)))
    wide = [_widen(pair.ZtZ, ZtZ.shape[1:], gp.columns, hp.columns) for pair, gp, hp in zip(pairs, g_places, h_places, strict=True)]
    _add_blocks(ZtZ, places, wide)
    return PairProducts(g_sum, h_sum, ZtZ)


def _add_blocks(total: npt.NDArray[Any], places: Sequence[Refs], parts: Sequence[npt.NDArray[Any]]) -> None:
    """Add the blocks of each part at their places, which ascend: so many at a time that they stay in the cache."""
    width = max(int(np.prod(total.shape[1:])), 1)
    flat = total.reshape(-1, width)
    edges = range(0, len(total) + 1, max(_CACHED // width, 1))
    cuts = [np.searchsorted(lv, [*edges, len(total)]) for lv in places]
    for i in range(len(edges)):
        for lv, part, cut in zip(places, parts, cuts, strict=True):
            inside = slice(cut[i], cut[i + 1])
            if cut[i] < cut[i + 1]:
                add_rows(lv[inside], part[inside].reshape(-1, width), flat)


def _widen(blocks: npt.NDArray[Any], shape: tuple[int, int], rows: Refs, columns: Refs) -> npt.NDArray[Any]:
    if blocks.shape[1:] == shape:
        return blocks
    wide = np.zeros((len(blocks), *shape), dtype=blocks.dtype)
    wide[:, rows[:, None], columns] = blocks
    return wide


def subtract(whole: CrossProducts, part: CrossProducts) -> CrossProducts:
    """Crossproducts of the rows of `whole` that are not in `part`.

    Raises
    ------
    LabelError
        When `part` has rows, levels or columns that `whole` has not.
    """
    _check_same(whole.design, part.design)
    difference = add([whole, _negative(part)])
    _check_part(whole, part, difference)
    return _drop_empty(_drop_cells(whole, replace(difference, digest=_add_digests([whole.digest, f"-{part.digest}"]))))


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
            level = group.levels[int(np.argmax(negative))]
            raise LabelError(
                f"cannot subtract: level {level!r} of {group.name!r} would have {int(group.rows.min())} rows; "
                "only rows that were added before can be taken away"
            )
    if difference.rows.used < 0 or not set(part.columns) <= set(whole.columns):
        raise LabelError("cannot subtract: the second crossproducts have rows that the first have not")


def _drop_cells(whole: CrossProducts, difference: CrossProducts) -> CrossProducts:
    """Without the raw columns of cells that no row is left in."""
    before = dict(zip(whole.columns, _cell_weights(whole.columns, np.diag(whole.XytXy)), strict=True))
    after = _cell_weights(difference.columns, np.diag(difference.XytXy))
    kept = _has_rows(difference.columns, before, after)
    places = np.append(np.flatnonzero(kept), len(kept))
    groups, z_kept = [], []
    for old, new in zip(whole.groups, difference.groups, strict=True):
        before = dict(zip(old.columns, _cell_weights(old.columns, np.einsum("jaa->a", old.ZtZ)), strict=True))
        keep = np.flatnonzero(_has_rows(new.columns, before, _cell_weights(new.columns, np.einsum("jaa->a", new.ZtZ))))
        z_kept.append(keep)
        ZtZ, ZtXy = new.ZtZ[:, keep[:, None], keep], new.ZtXy[:, keep[:, None], places]
        groups.append(replace(new, columns=tuple(new.columns[place] for place in keep), ZtZ=ZtZ, ZtXy=ZtXy))
    pairs = {(g, h): replace(pair, ZtZ=pair.ZtZ[:, z_kept[g][:, None], z_kept[h]]) for (g, h), pair in difference.pairs.items()}
    columns = tuple(column for column, keep in zip(difference.columns, kept, strict=True) if keep)
    return replace(difference, columns=columns, XytXy=difference.XytXy[np.ix_(places, places)], groups=tuple(groups), pairs=pairs)


def _cell_weights(columns: tuple[Column, ...], squares: Array) -> Array:
    """Weight of the rows in each column's cell, from the squared lengths of the indicators (of the column where there are none)."""
    weights = squares[: len(columns)].copy()
    for place, column in enumerate(columns):
        indicators = expansion(columns, Column((), column.cell))
        if column.numeric and indicators.any():
            weights[place] = indicators @ squares[: len(columns)]
    return weights


def _has_rows(columns: tuple[Column, ...], before: Mapping[Column, float], after: Array) -> npt.NDArray[np.bool_]:
    """Which columns have rows left: those whose weight is more than rounding of the weight before."""
    left = np.array([1.0 if not column.cell else weight / before[column] for column, weight in zip(columns, after, strict=True)])
    unclear = (left > _VANISHED) & (left < _UNCLEAR)
    if unclear.any():
        name = columns[int(np.argmax(unclear))].name
        raise LabelError(
            f"cannot subtract: {left[unclear].max():.0e} of the weight of {name!r} would be left, too little to tell from rounding; "
            "reduce the remaining rows instead"
        )
    return left > _VANISHED


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
