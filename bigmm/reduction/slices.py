"""Rows dealt out by the hash of their level of the leading factor, so that no task ever holds all levels.

A slice is an ordinary CrossProducts: that of the rows whose leading level falls into it. Slices add up to the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pandas as pd

from bigmm.accounting import RowCounts
from bigmm.reduction.keys import present
from bigmm.reduction.rows import Rows

Hash = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Slicing:
    """How rows are dealt out.

    Attributes
    ----------
    names : tuple of str
        Columns of the leading factor.
    count : int
        Number of slices.
    """

    names: tuple[str, ...]
    count: int = 1


def split_rows(rows: Rows, slicing: Slicing) -> list[Rows]:
    """The rows of each slice, in their order; those that were dropped are on the account of the first."""
    if slicing.count == 1:
        return [rows]
    # The high half of the product: the low bits of a hash of small integers are the integers themselves.
    slices = ((hash_rows(rows, slicing.names) >> np.uint64(32)) * np.uint64(slicing.count)) >> np.uint64(32)
    small = slices.astype(np.uint8 if slicing.count <= 256 else np.uint16)
    order = np.argsort(small, kind="stable")
    edges = np.searchsorted(small[order], np.arange(slicing.count + 1))
    parts = [_take(rows, order[start:stop]) for start, stop in pairwise(edges)]
    dropped = replace(rows.counts, read=rows.counts.dropped + parts[0].count, used=parts[0].count)
    return [replace(parts[0], counts=dropped), *parts[1:]]


def _take(rows: Rows, places: npt.NDArray[np.intp]) -> Rows:
    return Rows(
        y=tuple(y[places] for y in rows.y),
        weights=None if rows.weights is None else rows.weights[places],
        numeric={texts: values[places] for texts, values in rows.numeric.items()},
        encoded={name: present(refs[places], levels) for name, (refs, levels) in rows.encoded.items()},
        complete=np.ones(len(places), dtype=bool),
        missing={},
        counts=RowCounts(len(places), len(places)),
    )


def hash_rows(rows: Rows, names: Sequence[str]) -> Hash:
    """A hash of the levels of some columns in each row, the same in every process."""
    hashed = np.zeros(rows.count, dtype=np.uint64)
    for name in names:
        refs, levels = rows.encoded[name]
        hashed = (hashed ^ hash_levels(levels)[refs]) * np.uint64(0x9E3779B97F4A7C15)
    return hashed


def hash_levels(levels: pd.Index) -> Hash:
    """Numbers and moments by their bits, text by its characters."""
    if isinstance(levels.dtype, pd.StringDtype) or levels.dtype == object:
        return pd.util.hash_array(levels.to_numpy(dtype=object), categorize=False)
    values = levels.to_numpy()
    return pd.util.hash_array(values.view(np.int64) if values.dtype.kind == "M" else values)
