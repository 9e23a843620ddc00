"""Sums of crossproducts, aligned by label: the whole distributed algorithm."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from bigmm.accounting import RowCounts, Sources, add_sources, shown
from bigmm.codes import Codes
from bigmm.columns import Array, Column, expansion, sort_columns
from bigmm.crossproducts import CrossProducts, GroupProducts, PairProducts
from bigmm.design import Design
from bigmm.errors import LabelError
from bigmm.levels import Refs, level_types, union
from bigmm.pairs import Run, find_pairs, merge_counts
from bigmm.sums import add_rows

#: Numbers that are summed at once: half a megabyte.
_CACHED = 2**16


@dataclass(frozen=True, slots=True)
class _GroupPlaces:
    """Where the levels and the columns of one part's group stand in the sum."""

    levels: Codes
    columns: Refs


def merge(parts: Iterable[CrossProducts], *, allow_overlap: bool = False) -> CrossProducts:
    """Crossproducts of the rows of all parts: of several days, or sites.

    Parameters
    ----------
    parts : iterable of CrossProducts
        At least one; added in this order.
    allow_overlap : bool
        Add up even parts that have a file in common, for whoever knows that they have different rows of it.

    Raises
    ------
    LabelError
        When the parts were collected for different formulas, weights or kinds of columns, or have a file in common. (Data in
        memory have no name by which that could be told.)
    """
    parts = list(parts)
    if not parts:
        raise LabelError("nothing to merge: expected at least one crossproducts")
    if not allow_overlap:
        _check_disjoint([part.sources for part in parts])
    return add(parts)


def _check_disjoint(parts: Sequence[Sources]) -> None:
    """Refuse to add up crossproducts that share a file: its rows would count twice.

    Raises
    ------
    LabelError
    """
    seen: set[str] = set()
    twice: dict[str, None] = {}
    for part in parts:
        urls = set(itertools.compress(part.urls, part.are_files & (part.read > 0)))
        twice |= dict.fromkeys(sorted(urls & seen))
        seen |= urls
    if twice:
        raise LabelError(
            f"{shown(list(twice))} {'is' if len(twice) == 1 else 'are'} in several of the crossproducts, and rows would count twice: "
            "leave one out, or allow the overlap if they are different rows of it (allow_overlap=True, --allow-overlap)"
        )


def add(parts: Iterable[CrossProducts], threads: int = 1) -> CrossProducts:
    """Crossproducts of the rows of all parts, those of one pass among them: see `merge` for what users add up.

    Parameters
    ----------
    parts : iterable of CrossProducts
        Added in this order, so that the bits of the sum depend on nothing else. Pairs that nobody else holds are given back
        as they are summed.
    threads : int
        Threads that sum the pairs.

    Raises
    ------
    LabelError
        When they were collected for different formulas, weights or kinds of columns.
    """
    parts = list(parts)
    if len(parts) == 1:
        return parts[0]
    design = _common_design(parts)
    parts = [reshift(part, design) for part in parts]
    columns = sort_columns(column for part in parts for column in part.columns)
    x_places = [_x_places(columns, part) for part in parts]
    width = len(columns) + len(design.formula.responses)
    groups, places = _add_all_groups(parts, x_places, width)
    cp = CrossProducts(
        design=design,
        columns=columns,
        XytXy=_add_XytXy(parts, x_places, width),
        groups=groups,
        pairs={},
        rows=_add_rows([part.rows for part in parts]),
        sum_log_weights=float(sum(part.sum_log_weights for part in parts)),
        plan_digest=add_digests([part.plan_digest for part in parts]),
        sources=add_sources([part.sources for part in parts]),
        skipped=tuple(skipped for part in parts for skipped in part.skipped),
    )
    runs = {key: [part.pairs[key] for part in parts] for key in parts[0].pairs}
    del parts
    pairs = {(g, h): _add_pairs(runs.pop((g, h)), places[g], places[h], groups[g], groups[h], threads) for g, h in list(runs)}
    return replace(cp, pairs=pairs)


def _add_XytXy(parts: Sequence[CrossProducts], x_places: Sequence[Refs], width: int) -> Array:
    XytXy = np.zeros((width, width))
    for part, places in zip(parts, x_places, strict=True):
        XytXy[np.ix_(places, places)] += part.XytXy
    return XytXy


def _add_all_groups(
    parts: Sequence[CrossProducts], x_places: Sequence[Refs], width: int
) -> tuple[tuple[GroupProducts, ...], list[list[_GroupPlaces]]]:
    by_group = zip(*(part.groups for part in parts), strict=True)
    added = [_add_groups(groups, x_places, width) for groups in by_group]
    return tuple(group for group, _ in added), [places for _, places in added]


def add_digests(digests: Sequence[str]) -> str:
    """Digest of a combination of plans; chunks of one plan have none."""
    return hashlib.sha256("+".join(digests).encode()).hexdigest() if any(digests) else ""


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
            check_same(first, part.design)
            for name, levels in part.design.categories.items():
                if categories.setdefault(name, levels) != levels:
                    raise LabelError(
                        f"two orders of the categories of {name!r}: {categories[name]} and {levels}; declare one and reduce again"
                    )
    return first if categories == dict(first.categories) else replace(first, categories=categories)


def check_same(first: Design, other: Design) -> None:
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
    """V with [X y](shifted by `new`) = [X y](shifted by `old`) V, shape (P + R, P + R); `new` None: unshifted."""
    P = len(columns)
    V = np.eye(P + len(old.formula.responses))
    for position, column in enumerate(columns):
        if column.numeric:
            key = ":".join(column.numeric)
            change = old.shift.get(key, 0.0) - (new.shift.get(key, 0.0) if new else 0.0)
            V[:P, position] += change * expansion(columns, Column((), column.cell))
    for place, response in enumerate(old.formula.responses, P):
        change = old.y_shift.get(response.text, 0.0) - (new.y_shift.get(response.text, 0.0) if new else 0.0)
        V[:P, place] += change * expansion(columns, Column())
    return V


def _x_places(columns: tuple[Column, ...], part: CrossProducts) -> Refs:
    """Places of a part's raw columns, and of its responses, in the sum."""
    places = {column: place for place, column in enumerate(columns)}
    responses = range(len(columns), len(columns) + len(part.XytXy) - len(part.columns))
    return np.array([*(places[column] for column in part.columns), *responses], dtype=np.intp)


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
    pairs: Sequence[PairProducts],
    g_places: Sequence[_GroupPlaces],
    h_places: Sequence[_GroupPlaces],
    g: GroupProducts,
    h: GroupProducts,
    threads: int,
) -> PairProducts:
    counted = all(np.issubdtype(pair.ZtZ.dtype, np.integer) for pair in pairs)
    runs = [
        Run(gp.levels, hp.levels, pair.g_refs, pair.h_refs, pair.ZtZ[:, 0, 0] if counted else np.ones(len(pair.g_refs), dtype=np.int32))
        for pair, gp, hp in zip(pairs, g_places, h_places, strict=True)
    ]
    g_sum, h_sum, counts = merge_counts(runs, len(g.levels), len(h.levels), threads)
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
