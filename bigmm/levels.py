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
from bigmm.errors import DataError, LabelError

#: Codes have 32 bits.
_MOST_LEVELS = 2**31 - 1

_WORDS = {
    "integer": "numbers",
    "floating": "numbers",
    "mixed-integer-float": "numbers",
    "decimal": "decimals",
    "string": "text",
    "boolean": "truth values",
    "date": "dates",
    "datetime": "dates",
    "datetime64": "dates",
}

#: Codes: int32 where they are computed row by row.
Refs = npt.NDArray[np.signedinteger[Any]]


def union(indexes: Sequence[pd.Index]) -> tuple[pd.Index, list[Refs]]:
    """Distinct levels of several indexes, sorted by value, and the place of each index's levels among them."""
    first = indexes[0]
    if all(other is first or other.equals(first) for other in indexes[1:]):
        return first, [np.arange(len(first))] * len(indexes)
    if all(type(index) is pd.Index and index.dtype == np.int64 for index in indexes):
        values, places = merge_sorted([index.to_numpy() for index in indexes])
        check_count(len(values))
        return pd.Index(values), places
    refs, levels = factorize(_concatenate(indexes))
    check_count(len(levels))
    cuts = np.cumsum([len(index) for index in indexes])[:-1]
    return levels, list(np.split(refs, cuts))


def level_types(levels: pd.Index) -> tuple[str, ...]:
    """What the labels are, column by column: integers of any width are one type."""
    columns = [levels.get_level_values(depth) for depth in range(levels.nlevels)]
    return tuple("integers" if column.dtype.kind in "iu" else str(column.dtype) for column in columns)


def level_kinds(levels: pd.Index) -> tuple[str, ...]:
    """What the labels are, column by column, in words and however they are held."""
    columns = [levels.get_level_values(depth) for depth in range(levels.nlevels)]
    inferred = [_WORDS.get(kind := pd.api.types.infer_dtype(column), kind) for column in columns]
    zoned = [isinstance(column.dtype, pd.DatetimeTZDtype) for column in columns]
    return tuple(f"{kind} with a time zone" if zone else kind for kind, zone in zip(inferred, zoned, strict=True))


def check_count(count: int) -> None:
    """See that codes of 32 bits can number so many levels.

    Raises
    ------
    DataError
    """
    if count > _MOST_LEVELS:
        raise DataError(f"a grouping factor has {count:,} levels: expected at most {_MOST_LEVELS:,}; use a coarser factor")


def _concatenate(indexes: Sequence[pd.Index]) -> pd.Index:
    filled = [index for index in indexes if len(index)] or list(indexes[:1])
    if len(filled) == 1:
        return filled[0]
    if filled[0].nlevels == 1:
        return _append(filled)
    depths = [[index.get_level_values(depth) for index in filled] for depth in range(filled[0].nlevels)]
    return pd.MultiIndex.from_arrays([_append(parts) for parts in depths])


def _append(parts: Sequence[pd.Index]) -> pd.Index:
    """One after the other; integers of several types as one that holds them all (pandas would take floats, which merge large ones)."""
    if len({part.dtype for part in parts}) > 1 and all(part.dtype.kind in "iu" for part in parts):
        low, high = min(int(part.min()) for part in parts), max(int(part.max()) for part in parts)
        if low < 0 and high >= 2**63:
            raise LabelError(f"levels from {low} to {high} do not fit into 64 bits together: write the column as text and reduce again")
        parts = [part.astype(np.uint64 if high >= 2**63 else np.int64) for part in parts]
    return parts[0].append(list(parts[1:]))


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
