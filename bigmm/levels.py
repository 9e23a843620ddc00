"""Levels of grouping factors: sorted, distinct labels, and where they stand in one another.

Levels are a pandas Index (a MultiIndex for combined factors): integers stay integers, text stays Arrow text, and
labels of interactions stay tuples instead of pasted strings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pandas as pd

from bigmm.codes import encode, merge_sorted

#: Codes: int32 where they are computed row by row.
Refs = npt.NDArray[np.signedinteger[Any]]


def union(indexes: Sequence[pd.Index]) -> tuple[pd.Index, list[Refs]]:
    """Distinct levels of several indexes, sorted by value, and the place of each index's levels among them."""
    first = indexes[0]
    if all(other is first or other.equals(first) for other in indexes[1:]):
        return first, [np.arange(len(first))] * len(indexes)
    if all(type(index) is pd.Index and index.dtype == np.int64 for index in indexes):
        values, places = merge_sorted([index.to_numpy() for index in indexes])
        return pd.Index(values), places
    refs, levels = factorize(_concatenate(indexes))
    cuts = np.cumsum([len(index) for index in indexes])[:-1]
    return levels, list(np.split(refs, cuts))


def level_types(levels: pd.Index) -> tuple[str, ...]:
    """What the labels are, column by column: integers of any width are one type."""
    columns = [levels.get_level_values(depth) for depth in range(levels.nlevels)]
    return tuple("integers" if column.dtype.kind in "iu" else str(column.dtype) for column in columns)


def _concatenate(indexes: Sequence[pd.Index]) -> pd.Index:
    filled = [index for index in indexes if len(index)] or list(indexes[:1])
    return filled[0].append(filled[1:]) if len(filled) > 1 else filled[0]


def factorize(labels: pd.Index) -> tuple[Refs, pd.Index]:
    """Integer codes of labels among their sorted distinct values: (refs, levels)."""
    if not isinstance(labels, pd.MultiIndex):
        if labels.dtype == np.int64:
            refs, values = encode(labels.to_numpy())
            return refs, pd.Index(values)
        if labels.dtype.kind in "iu":
            distinct, places = np.unique(labels.to_numpy(), return_inverse=True)
            return places, pd.Index(distinct)
        codes, levels = pd.factorize(labels, sort=True)
        return codes, levels
    parts = [factorize(labels.get_level_values(depth)) for depth in range(labels.nlevels)]
    return combine([refs for refs, _ in parts], [levels for _, levels in parts])


def combine(refs: Sequence[Refs], levels: Sequence[pd.Index]) -> tuple[Refs, pd.Index]:
    """Codes and levels of the combination of several factors; only combinations that occur are levels.

    Parameters
    ----------
    refs : sequence of (rows,) int arrays
    levels : sequence of Index
        Sorted levels of each factor.

    Returns
    -------
    refs : (rows,) int array
    levels : Index
        A MultiIndex sorted by value when there are two or more factors.
    """
    if len(refs) == 1:
        return refs[0], levels[0]
    key: Refs = refs[0]
    present: list[Refs] = [np.arange(len(levels[0]))]
    for codes, index in zip(refs[1:], levels[1:], strict=True):
        # Compressed after every factor, so that the product of the level counts never overflows.
        key, distinct = encode(key.astype(np.int64) * len(index) + codes)
        parents, children = np.divmod(distinct, max(len(index), 1))
        present = [*(codes_of[parents] for codes_of in present), children]
    arrays: Any = present
    combined = pd.MultiIndex(levels=cast(Any, levels), codes=arrays, names=[None] * len(levels), verify_integrity=False)
    return key, combined.remove_unused_levels()
