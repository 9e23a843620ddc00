"""Rows dealt out by the hash of their level of the leading factor, so that no task ever holds all levels.

A slice is an ordinary CrossProducts: that of the rows whose leading level falls into it. Slices add up to the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from bigmm.design import Design
from bigmm.reduction.sources import Chunk

#: Rows of the data for which one more slice is worth having.
SLICE_ROWS = 2**26
#: Rows, and chunks, from which the leading factor is guessed.
_HEAD_ROWS, _HEADS = 4096, 8

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


def choose_slicing(design: Design, chunks: Sequence[Chunk]) -> Slicing:
    """As many slices as the rows ask for, by the factor that seems to have the most levels.

    Any factor gives the right sums; the one with most levels gives the smallest slices.
    """
    rows = sum(chunk.rows or 0 for chunk in chunks)
    count = 1 + rows // SLICE_ROWS
    groups = [group.names for group in design.groups]
    if count == 1 or len(groups) == 1:
        return Slicing(groups[0], count)
    names = tuple(dict.fromkeys(name for group in groups for name in group))
    spread = np.linspace(0, len(chunks) - 1, min(_HEADS, len(chunks))).astype(int)
    heads = [chunks[position].head(names, _HEAD_ROWS) for position in spread]
    distinct = [len(np.unique(np.concatenate([hash_rows(head, group) for head in heads]))) for group in groups]
    return Slicing(groups[int(np.argmax(distinct))], count)


def split_rows(table: pa.Table, slicing: Slicing) -> list[pa.Table]:
    """One table a slice, rows in their order."""
    if slicing.count == 1:
        return [table]
    # The high half of the product: the low bits of a hash of small integers are the integers themselves.
    slices = ((hash_rows(table, slicing.names) >> np.uint64(32)) * np.uint64(slicing.count)) >> np.uint64(32)
    small = slices.astype(np.uint8 if slicing.count <= 256 else np.uint16)
    order = np.argsort(small, kind="stable")
    edges = np.searchsorted(small[order], np.arange(slicing.count + 1))
    rows = table.take(order)
    return [rows.slice(start, stop - start) for start, stop in pairwise(edges)]


def hash_rows(table: pa.Table, names: Sequence[str]) -> Hash:
    """A hash of the values of some columns in each row, the same in every process and for every encoding."""
    hashed = np.zeros(len(table), dtype=np.uint64)
    for name in names:
        hashed = (hashed ^ _hash_column(table.column(name))) * np.uint64(0x9E3779B97F4A7C15)
    return hashed


def _hash_column(column: pa.ChunkedArray[Any]) -> Hash:
    """Numbers by their bits, text by its characters; missing values hash alike."""
    if pa.types.is_dictionary(column.type):
        array: Any = column.unify_dictionaries().combine_chunks()
        values = np.append(_hash_values(array.dictionary), _hash_values(pa.nulls(1, array.dictionary.type)))
        return np.asarray(values[array.indices.fill_null(len(array.dictionary)).to_numpy()])
    return _hash_values(column)


def _hash_values(values: Any) -> Hash:
    kind = values.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        objects = values.fill_null("").to_numpy(zero_copy_only=False).astype(object)
        return pd.util.hash_array(objects, categorize=False)
    if pa.types.is_boolean(kind):
        values = values.cast(pa.int64())
    elif pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        values = values.cast(pa.timestamp("us")).cast(pa.int64())
    numbers: Any = values.fill_null(0).to_numpy()
    return pd.util.hash_array(numbers + 0.0 if numbers.dtype.kind == "f" else numbers.astype(np.int64, copy=False))
