"""Footers of Parquet files: what planning needs, and no row."""

from __future__ import annotations

import base64
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from math import inf
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from bigmm.errors import DataError
from bigmm.reduction.sources.files import DataFile, reading
from bigmm.reduction.sources.schema import is_number_dictionary

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

# Compressed bytes. Writers give up a dictionary at about a megabyte, and then the column has too many values.
_SMALL_DICTIONARY = 2**17


@dataclass(frozen=True, slots=True)
class RowGroups:
    """Consecutive row groups of a file.

    Parameters
    ----------
    file : DataFile
        The file.
    start, stop : int
        First row group, and the one after the last.
    rows : int
        Their rows.
    nbytes : int
        Compressed bytes of their needed columns.
    """

    file: DataFile
    start: int
    stop: int
    rows: int
    nbytes: int

    @property
    def name(self) -> str:
        """File and numbers, for messages."""
        return f"{self.file.label}, {groups_name(self.start, self.stop)}"


def groups_name(start: int, stop: int) -> str:
    """Name of the row groups from `start` up to, without, `stop`."""
    return f"row group {start}" if stop == start + 1 else f"row groups {start}-{stop - 1}"


@dataclass(frozen=True, slots=True)
class Footer:
    """What planning needs of a file's footer.

    Parameters
    ----------
    file : DataFile
        The file.
    schema : pyarrow.Schema
        Its columns.
    groups : tuple of RowGroups
        Its row groups, one by one.
    """

    file: DataFile
    schema: pa.Schema
    groups: tuple[RowGroups, ...]


def read_footer(file: DataFile, columns: Sequence[str]) -> Footer:
    """Read the footer of one file; the sizes of its row groups are those of `columns`."""
    if file.size == 0:
        raise DataError(f"{file.url!r} is empty, expected a Parquet file: write it again or leave it out")
    with opened(file) as parquet:
        schema = _interned(as_written(parquet.schema_arrow, parquet.metadata))
        sizes = group_sizes(parquet.metadata, schema, columns)
    groups = (RowGroups(file, index, index + 1, rows, nbytes) for index, (rows, nbytes) in enumerate(sizes))
    return Footer(file, schema, tuple(groups))


def as_written(schema: pa.Schema, metadata: pq.FileMetaData) -> pa.Schema:
    """Schema of a file in which dictionaries of numbers are such again: Arrow reads them back as plain numbers."""
    schema = schema.remove_metadata()
    for name, dtype in _number_dictionaries((metadata.metadata or {}).get(b"ARROW:schema", b"")).items():
        for position in schema.get_all_field_indices(name):
            schema = schema.set(position, pa.field(name, dtype))
    return schema


@lru_cache(maxsize=64)
def _number_dictionaries(encoded: bytes) -> Mapping[str, pa.DataType]:
    """Dictionaries of numbers in the schema that Arrow keeps in a file, if it does."""
    if not encoded:
        return {}
    try:
        written = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(encoded)))
    except (pa.ArrowException, OSError, ValueError):  # Arrow reads such a file, without its help
        return {}
    return {field.name: field.type for field in written if is_number_dictionary(field.type)}


@contextmanager
def opened(file: DataFile, text: Sequence[str] = (), groups: Sequence[int] = (), buffer_size: int = 0) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file to read some of its row groups.

    Columns among `text` that have few distinct values there are read as dictionaries. With a `buffer_size` a column's
    bytes are fetched as they are used, else all those of a row group at once.
    """
    # Old 96-bit timestamps: nanoseconds, the default unit, end in the year 2262 without an error.
    options = partial(pq.ParquetFile, buffer_size=buffer_size, coerce_int96_timestamp_unit="us")
    what = f"{file.url!r}, {groups_name(groups[0], groups[-1] + 1)}" if groups else repr(file.url)
    with reading(what), file.open() as source:
        parquet = options(source, pre_buffer=buffer_size == 0)
        few = _with_few_values(parquet, text, groups)
        if few:  # the footer, once known, is not read again
            parquet = options(source, pre_buffer=buffer_size == 0, metadata=parquet.metadata, read_dictionary=few)
        yield parquet


def _with_few_values(parquet: pq.ParquetFile, columns: Sequence[str], groups: Sequence[int]) -> list[str]:
    """Columns whose dictionaries in the file are small: to read one of many values so is slower than plain."""
    leaves = leaf_indices(parquet.schema_arrow)
    present = [parquet.metadata.row_group(index) for index in groups if index < parquet.num_row_groups]
    sizes = {name: [_dictionary_bytes(group.column(leaves[name])) for group in present if name in leaves] for name in columns}
    return [name for name, found in sizes.items() if found and max(found) < _SMALL_DICTIONARY]


def _dictionary_bytes(column: pq.ColumnChunkMetaData) -> float:
    if not column.has_dictionary_page or column.dictionary_page_offset is None:
        return inf
    return column.data_page_offset - column.dictionary_page_offset


def group_sizes(metadata: pq.FileMetaData, schema: pa.Schema, columns: Sequence[str]) -> list[tuple[int, int]]:
    """Rows of each row group, and the compressed bytes of some of its columns."""
    leaves = leaf_indices(schema)
    needed = [leaves[name] for name in columns if name in leaves]
    return [_group_size(metadata.row_group(index), needed) for index in range(metadata.num_row_groups)]


def _group_size(group: pq.RowGroupMetaData, leaves: Sequence[int]) -> tuple[int, int]:
    return group.num_rows, sum(group.column(leaf).total_compressed_size for leaf in leaves)


@lru_cache(maxsize=64)
def _interned(schema: pa.Schema) -> pa.Schema:
    """One schema for all files that have an equal one: ten thousand wide schemas are a gigabyte."""
    return schema


@lru_cache(maxsize=64)
def leaf_indices(schema: pa.Schema) -> Mapping[str, int]:
    """Position in the file of each flat column.

    Arrow's own look-up by path would take the field b of a struct a for a column named `a.b`.
    """
    positions: dict[str, int] = {}
    position = 0
    for column in schema:
        if not column.type.num_fields:
            positions[column.name] = position
        position += _leaves(column.type)
    return positions


def _leaves(dtype: pa.DataType) -> int:
    return sum(_leaves(dtype.field(index).type) for index in range(dtype.num_fields)) or 1
