"""Parquet files: chunks of row groups, and their reading."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from bigmm.errors import DataError, NoRowsError
from bigmm.reduction.sources.chunks import Plan, digest_of
from bigmm.reduction.sources.columns import first_rows, fit_table
from bigmm.reduction.sources.cuts import balanced_runs
from bigmm.reduction.sources.files import DataFile, as_planned, in_threads
from bigmm.reduction.sources.footers import Footer, RowGroups, leaf_indices, opened, read_footer
from bigmm.reduction.sources.hive import hive_types, key_columns, with_keys
from bigmm.reduction.sources.schema import TEXT, number_categories, unify_schemas

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from bigmm.accounting import Origin

_HEAD_BUFFER = 2**20
# With more pieces than this, small files share a chunk; with fewer each is one, so that small data run in parallel too.
_MANY_PIECES = 1_000
# Opening is slow on an object store: a chunk must not open too many files one after the other.
_MOST_PIECES = 32


@dataclass(frozen=True, slots=True)
class ParquetChunk:
    """Row groups of one file, or of several small ones.

    Parameters
    ----------
    pieces : tuple of RowGroups
        What to read, in order.
    schema : pyarrow.Schema
        The plan's.
    """

    pieces: tuple[RowGroups, ...]
    schema: pa.Schema

    @property
    def name(self) -> str:
        """First piece's file and row groups, and the last's if there are several."""
        first, last = self.pieces[0], self.pieces[-1]
        return first.name if first is last else f"{first.name} to {last.name}"

    @property
    def nbytes(self) -> int:
        """Compressed bytes of the needed columns."""
        return sum(piece.nbytes for piece in self.pieces)

    @property
    def rows(self) -> int:
        """Rows by the footers."""
        return sum(piece.rows for piece in self.pieces)

    @property
    def origins(self) -> tuple[Origin, ...]:
        """File and rows of each piece."""
        return tuple(piece.file.origin(piece.rows) for piece in self.pieces)

    def read(self, columns: Sequence[str]) -> pa.Table:
        """All rows; text is dictionary-encoded."""
        return _joined([_read(piece, columns, self.schema) for piece in self.pieces])

    def head(self, columns: Sequence[str], rows: int) -> pa.Table:
        """First rows; text is dictionary-encoded."""
        tables: list[pa.Table] = []
        for piece in self.pieces:
            tables.append(_head(piece, columns, self.schema, rows))
            rows -= tables[-1].num_rows
            if rows <= 0:
                break
        return _joined(tables)


def plan_parquet(files: Sequence[DataFile], columns: Sequence[str], chunk_bytes: int) -> Plan:
    """Plan of Parquet files, from their footers."""
    footers = in_threads(partial(read_footer, columns=columns), files)
    types = hive_types(files)
    schema = unify_schemas(columns, [(repr(it.file.url), with_keys(it.schema, it.file, types)) for it in footers])
    pieces = [piece for footer in footers for piece in _pieces(footer, chunk_bytes)]
    if not pieces:
        raise NoRowsError(f"no rows in {len(files)} Parquet file(s), the first {files[0].url!r}: expected at least one")
    return Plan(
        chunks=tuple(ParquetChunk(tuple(run), schema) for run in _shared(pieces, chunk_bytes)),
        schema=schema,
        categories=number_categories(columns, [footer.schema for footer in footers]),
        digest=digest_of(_identity(files, pieces)),
        in_memory=False,
        empty=tuple(footer.file.origin(0) for footer in footers if not any(group.rows for group in footer.groups)),
    )


def _pieces(footer: Footer, chunk_bytes: int) -> Iterator[RowGroups]:
    """Row groups of one file in runs of about `chunk_bytes`; runs without rows are left out."""
    groups = footer.groups
    for run in balanced_runs([(group.rows, group.nbytes) for group in groups], chunk_bytes):
        rows = sum(groups[index].rows for index in run)
        if rows:
            yield RowGroups(footer.file, run.start, run.stop, rows, sum(groups[index].nbytes for index in run))


def _shared(pieces: Sequence[RowGroups], chunk_bytes: int) -> Iterator[Sequence[RowGroups]]:
    most = _MOST_PIECES if len(pieces) > _MANY_PIECES else 1
    for run in balanced_runs([(piece.rows, piece.nbytes) for piece in pieces], chunk_bytes, most):
        yield pieces[run.start : run.stop]


def _identity(files: Sequence[DataFile], pieces: Sequence[RowGroups]) -> Iterator[object]:
    for file in files:
        yield from (file.url, file.size, file.version)
    for piece in pieces:
        yield from (piece.file.url, piece.start, piece.stop, piece.rows)


def _read(piece: RowGroups, columns: Sequence[str], schema: pa.Schema) -> pa.Table:
    groups = list(range(piece.start, piece.stop))
    with as_planned(piece.file.url, piece.file.has_changed), opened(piece.file, _text(columns, schema), groups) as parquet:
        leaves = _checked_leaves(piece, parquet, columns)
        table = parquet.reader.read_row_groups(groups, column_indices=list(leaves.values()), use_threads=False)
    return _completed(table, piece, columns, schema, piece.rows)


def _head(piece: RowGroups, columns: Sequence[str], schema: pa.Schema, rows: int) -> pa.Table:
    wanted = min(rows, piece.rows)
    groups = list(range(piece.start, piece.stop))
    with as_planned(piece.file.url, piece.file.has_changed), opened(piece.file, _text(columns, schema), groups, _HEAD_BUFFER) as parquet:
        leaves = _checked_leaves(piece, parquet, columns)
        batches = parquet.reader.iter_batches(wanted, groups, column_indices=list(leaves.values()), use_threads=False)
        table = first_rows(batches, wanted) if leaves else pa.table({})
    return _completed(table, piece, columns, schema, wanted)


def _text(columns: Sequence[str], schema: pa.Schema) -> list[str]:
    return [name for name in columns if schema.field(name).type == TEXT]


def _checked_leaves(piece: RowGroups, parquet: pq.ParquetFile, columns: Sequence[str]) -> Mapping[str, int]:
    """Positions of the columns that the file holds, if it still is the file that was planned."""
    leaves = leaf_indices(parquet.schema_arrow)
    keys = dict(piece.file.keys)
    absent = [name for name in columns if name not in leaves and name not in keys]
    if absent or piece.rows != _present_rows(piece, parquet.metadata):
        what = f"column {absent[0]!r}" if absent else f"{piece.rows} rows in {piece.name}"
        raise DataError(f"{piece.file.url!r} has no longer {what}: it changed after it was planned, start again")
    return {name: leaves[name] for name in columns if name in leaves}


def _present_rows(piece: RowGroups, metadata: pq.FileMetaData) -> int:
    stop = min(piece.stop, metadata.num_row_groups)
    return sum(metadata.row_group(index).num_rows for index in range(piece.start, stop))


def _completed(table: pa.Table, piece: RowGroups, columns: Sequence[str], schema: pa.Schema, rows: int) -> pa.Table:
    """Columns of the file and of its folders' names, in the plan's types."""
    held = {name: table.column(name) for name in columns if name in table.column_names}
    keys = key_columns(piece.file, [name for name in columns if name not in held], schema, rows)
    return fit_table(held | keys, columns, schema, repr(piece.file.url), encode=True)


def _joined(tables: Sequence[pa.Table]) -> pa.Table:
    return pa.concat_tables(tables).unify_dictionaries()
