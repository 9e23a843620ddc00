"""CSV files and their like, compressed or not: one chunk each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.types as pt
from pyarrow import csv

from bigmm.errors import DataError, NoRowsError, UnreadableError
from bigmm.reduction.sources.chunks import Plan, digest_of
from bigmm.reduction.sources.columns import first_rows, fit_table
from bigmm.reduction.sources.dialects import READ_OPTIONS, Dialect, convert_options, dialect_of
from bigmm.reduction.sources.files import DataFile, as_planned, in_threads, reading
from bigmm.reduction.sources.hive import hive_types, key_columns, with_keys
from bigmm.reduction.sources.lines import CountedLines, broken_column, count_filled
from bigmm.reduction.sources.schema import ENCODED_TEXT, TEXT, unify_schemas

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bigmm.accounting import Origin

_PLAIN = Dialect(",", None)
_REMEDY = "write the column with one type in every row, as UTF-8, or convert the file to Parquet"

_BREAKS = "a quote is not closed, or values or names have line breaks: close it, or convert the file to Parquet"


@dataclass(frozen=True, slots=True)
class DelimitedChunk:
    """A file of delimited text.

    Parameters
    ----------
    file : DataFile
        The file.
    names : tuple of str
        Needed columns that the file itself has.
    schema : pyarrow.Schema
        The plan's.
    """

    file: DataFile
    names: tuple[str, ...]
    schema: pa.Schema

    @property
    def name(self) -> str:
        """Name of the file."""
        return self.file.label

    @property
    def nbytes(self) -> int:
        """Size of the file: all of it has to be read."""
        return max(self.file.size, 0)

    @property
    def rows(self) -> None:
        """Unknown before reading."""

    @property
    def origins(self) -> tuple[Origin]:
        """The file."""
        return (self.file.origin(),)

    def read(self, columns: Sequence[str]) -> pa.Table:
        """All rows; text is dictionary-encoded."""
        dialect = _dialect(self.file)
        with as_planned(self.file.url, self.file.has_changed), reading(repr(self.file.url), _REMEDY), dialect.opened(self.file) as source:
            counted: Any = CountedLines(source)
            table = csv.read_csv(counted, READ_OPTIONS, dialect.parse_options, self._conversion(columns))
            if table.num_rows + 1 != counted.lines:
                _check_lines(self.file, table.num_rows)
            if name := broken_column(table):
                raise UnreadableError(f"{self.file.url!r}: column {name!r} has a line break in a value; {_BREAKS}")
        return self._completed(table, columns)

    def head(self, columns: Sequence[str], rows: int) -> pa.Table:
        """First rows; text is dictionary-encoded."""
        dialect = _dialect(self.file)
        with as_planned(self.file.url, self.file.has_changed), reading(repr(self.file.url), _REMEDY), dialect.opened(self.file) as source:
            batches = csv.open_csv(source, READ_OPTIONS, dialect.parse_options, self._conversion(columns))
            table = first_rows(batches, rows, batches.schema)
        return self._completed(table, columns)

    def _conversion(self, columns: Sequence[str]) -> csv.ConvertOptions:
        # An empty list would mean all columns, where one is enough to know the number of rows.
        read = [name for name in self.names if name in columns] or self.names[:1]
        types = {name: self.schema.field(name).type for name in read}
        return convert_options({name: ENCODED_TEXT if dtype == TEXT else dtype for name, dtype in types.items()})

    def _completed(self, table: pa.Table, columns: Sequence[str]) -> pa.Table:
        held = {name: table.column(name) for name in columns if name in self.names}
        keys = key_columns(self.file, [name for name in columns if name not in held], self.schema, table.num_rows)
        return fit_table(held | keys, columns, self.schema, repr(self.file.url), encode=True)


@dataclass(frozen=True, slots=True)
class Sample:
    """What the first megabyte of a file shows.

    Parameters
    ----------
    file : DataFile
        The file.
    schema : pyarrow.Schema
        Inferred types.
    rows : int
        1, or 0 for a file that has none.
    """

    file: DataFile
    schema: pa.Schema
    rows: int


def plan_delimited(files: Sequence[DataFile], columns: Sequence[str]) -> Plan:
    """Plan of delimited files, from the first megabyte of each."""
    samples = in_threads(_sample, files)
    types = hive_types(files)
    schema = unify_schemas(columns, [(repr(it.file.url), with_keys(it.schema, it.file, types)) for it in samples])
    filled = [sample for sample in samples if sample.rows]
    if not filled:
        raise NoRowsError(f"no rows in {len(files)} CSV file(s), the first {files[0].url!r}: expected at least one")
    chunks = (DelimitedChunk(it.file, _held(columns, it.schema), schema) for it in filled)
    identity = [part for file in files for part in (file.url, file.size, file.version)]
    empty = tuple(sample.file.origin(0) for sample in samples if not sample.rows)
    return Plan(chunks=tuple(chunks), schema=schema, categories={}, digest=digest_of(identity), in_memory=False, empty=empty)


def _held(columns: Sequence[str], schema: pa.Schema) -> tuple[str, ...]:
    return tuple(name for name in columns if name in schema.names)


def _sample(file: DataFile) -> Sample:
    if file.size == 0:
        raise DataError(f"{file.url!r} is empty, expected a CSV file with a header: write it again or leave it out")
    dialect = _dialect(file)
    with reading(repr(file.url)), dialect.opened(file) as source:
        batches = csv.open_csv(source, READ_OPTIONS, dialect.parse_options, convert_options({}))
        rows = first_rows(batches, 1, batches.schema).num_rows
        if not rows:
            _check_lines(file, 0)
        schema = pa.schema([_inferred(field) for field in batches.schema])
        _ = schema.names  # read as UTF-8 here, where an error names the file
        return Sample(file, schema, rows)


def _check_lines(file: DataFile, rows: int) -> None:
    """Refuse a file whose rows are not its lines: a quote that is not closed makes one of many, and Arrow says nothing."""
    with _dialect(file).opened(file) as source:
        lines = count_filled(source) - 1
    if lines != rows:
        raise UnreadableError(f"{file.url!r} has {rows:,} rows in {lines:,} lines after its header; {_BREAKS}")


def _inferred(field: pa.Field[Any]) -> pa.Field[Any]:
    """Take times of the day, which are no type of a plan, as the text that they are."""
    return field.with_type(TEXT) if pt.is_time(field.type) else field


def _dialect(file: DataFile) -> Dialect:
    return dialect_of(file.name) or _PLAIN
