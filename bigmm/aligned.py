"""Sums of what belongs to the levels of grouping factors, each part's at the places that its labels have among all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bigmm.codes import Codes
from bigmm.columns import sort_columns
from bigmm.crossproducts import GroupProducts, PairProducts
from bigmm.errors import LabelError
from bigmm.levels import Refs, level_types, union
from bigmm.pairs import Run, find_pairs, merge_counts
from bigmm.sums import add_rows

#: Numbers that are summed at once: half a megabyte.
_CACHED = 2**16


@dataclass(frozen=True, slots=True)
class GroupPlaces:
    """Where the levels and the columns of one part's group stand in the sum."""

    levels: Codes
    columns: Refs


def add_groups(groups: Sequence[GroupProducts], x_places: Sequence[Refs], width: int) -> tuple[GroupProducts, list[GroupPlaces]]:
    """The sum of one grouping factor's products, and where each part's levels and columns stand in it; `x_places` of [X y]."""
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
    places = [GroupPlaces(lv.astype(np.int32, copy=False), co) for lv, co in zip(level_places, column_places, strict=True)]
    return GroupProducts(groups[0].names, levels, columns, rows, ZtZ, ZtXy), places


def _check_level_types(groups: Sequence[GroupProducts]) -> None:
    """Refuse to align text with numbers, or either with dates."""
    types = dict.fromkeys(level_types(group.levels) for group in groups if len(group.levels))
    if len(types) > 1:
        shown = " and ".join(", ".join(kind) for kind in types)
        raise LabelError(f"levels of {groups[0].name!r} are {shown}: write the column with one type and reduce again")


def add_pairs(
    pairs: Sequence[PairProducts],
    g_places: Sequence[GroupPlaces],
    h_places: Sequence[GroupPlaces],
    g: GroupProducts,
    h: GroupProducts,
    threads: int,
) -> PairProducts:
    """The sum of Z_g'Z_h, for the places of the levels of `g` and of `h`."""
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
