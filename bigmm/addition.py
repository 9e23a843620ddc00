"""Sums of crossproducts, aligned by label: the whole distributed algorithm."""

from __future__ import annotations

import hashlib
import itertools
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np

from bigmm.accounting import RowCounts, Sources, add_sources, shown
from bigmm.aligned import GroupPlaces, add_groups, add_pairs
from bigmm.columns import Array, Column, expansion, sort_columns
from bigmm.crossproducts import CrossProducts, GroupProducts
from bigmm.design import Design
from bigmm.errors import LabelError
from bigmm.levels import Refs

logger = logging.getLogger(__name__)


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
    if isinstance(parts, CrossProducts):
        raise LabelError("expected a list of crossproducts, found one: merge([a, b])")
    parts = list(parts)
    check_crossproducts(*parts)
    if not parts:
        raise LabelError("nothing to merge: expected at least one crossproducts")
    twice = _shared([part.sources for part in parts])
    if twice and not allow_overlap:
        raise LabelError(
            f"{shown(twice)} {'is' if len(twice) == 1 else 'are'} in several of the crossproducts, and rows would count twice: "
            "leave one out, or allow the overlap if they are different rows of it (allow_overlap=True, --allow-overlap)"
        )
    if twice:
        logger.warning("in several of the crossproducts, each with its own rows as you say: %s", shown(twice))
    return add(parts)


def check_crossproducts(*parts: object) -> None:
    """See that they are crossproducts.

    Raises
    ------
    LabelError
    """
    for part in parts:
        if not isinstance(part, CrossProducts):
            raise LabelError(f"expected crossproducts, found {type(part).__name__}: pass what bigmm.reduce or bigmm.load returns")


def _shared(parts: Sequence[Sources]) -> list[str]:
    """Files that several parts have."""
    seen: set[str] = set()
    twice: dict[str, None] = {}
    for part in parts:
        urls = set(itertools.compress(part.urls, part.are_files & (part.read > 0)))
        twice |= dict.fromkeys(sorted(urls & seen))
        seen |= urls
    return list(twice)


def add(parts: Iterable[CrossProducts], threads: int = 1, between: Callable[[], None] | None = None) -> CrossProducts:
    """Crossproducts of the rows of all parts, those of one pass among them: see `merge` for what users add up.

    Parameters
    ----------
    parts : iterable of CrossProducts
        Added in this order, so that the bits of the sum depend on nothing else. Pairs that nobody else holds are given back
        as they are summed.
    threads : int
        Threads that sum the pairs.
    between : callable, optional
        Called after each sum of pairs.

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
    pairs = {}
    for g, h in list(runs):
        pairs[g, h] = add_pairs(runs.pop((g, h)), places[g], places[h], groups[g], groups[h], threads)
        if between is not None:
            between()
    return replace(cp, pairs=pairs)


def _add_XytXy(parts: Sequence[CrossProducts], x_places: Sequence[Refs], width: int) -> Array:
    XytXy = np.zeros((width, width))
    for part, places in zip(parts, x_places, strict=True):
        XytXy[np.ix_(places, places)] += part.XytXy
    return XytXy


def _add_all_groups(
    parts: Sequence[CrossProducts], x_places: Sequence[Refs], width: int
) -> tuple[tuple[GroupProducts, ...], list[list[GroupPlaces]]]:
    by_group = zip(*(part.groups for part in parts), strict=True)
    added = [add_groups(groups, x_places, width) for groups in by_group]
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
            change = old.shift_of(column.numeric) - (new.shift_of(column.numeric) if new else 0.0)
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
