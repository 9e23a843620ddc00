"""Tables in memory: pandas, polars and Arrow, cut into chunks of rows."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from bigmm.accounting import Origin
from bigmm.errors import DataError
from bigmm.reduction.sources.chunks import Plan, digest_of
from bigmm.reduction.sources.columns import fit_column, fit_table
from bigmm.reduction.sources.files import reason
from bigmm.reduction.sources.schema import check_known, number_categories, unify_schemas, widened

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_CHUNK_ROWS = 1_000_000
_DATA = "the data"

Categories = dict[str, tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class TableChunk:
    """Consecutive rows of a table.

    Parameters
    ----------
    table : pyarrow.Table
        The rows, a slice without a copy; the needed columns as they were passed.
    start : int
        Number of the first row.
    schema : pyarrow.Schema
        The plan's.
    """

    table: pa.Table
    start: int
    schema: pa.Schema

    @property
    def name(self) -> str:
        """Numbers of the rows."""
        return f"rows {self.start}-{self.start + self.rows - 1}"

    @property
    def nbytes(self) -> int:
        """Bytes of the slice."""
        return self.table.nbytes

    @property
    def rows(self) -> int:
        """Length of the slice."""
        return self.table.num_rows

    @property
    def origins(self) -> tuple[Origin]:
        """A table, which has no name."""
        return (Origin("<table>", rows=self.rows),)

    def content(self) -> str:
        """Hash of the values in the plan's types, however Arrow holds them."""
        sink = _Hashed()
        for name, column in zip(self.schema.names, self.read(self.schema.names).columns, strict=True):
            flat: Any = column.cast(self.schema.field(name).type).combine_chunks()  # no dictionaries
            missing = pc.is_null(flat)
            values = pc.take(flat, pc.indices_nonzero(pc.invert(missing)))  # a copy, without what lies under nulls and beyond slices
            for part in (missing, values):
                table = pa.table([part], names=[name])
                with pa.ipc.new_stream(sink, table.schema) as writer:
                    writer.write_table(table)
        return sink.hash.hexdigest()

    def read(self, columns: Sequence[str]) -> pa.Table:
        """All rows; text is dictionary-encoded where the table's is."""
        return fit_table(self.table, columns, self.schema, self.name)

    def head(self, columns: Sequence[str], rows: int) -> pa.Table:
        """First rows; text is dictionary-encoded where the table's is."""
        return fit_table(self.table.slice(0, rows), columns, self.schema, self.name)

    def __reduce__(self) -> tuple[Callable[..., TableChunk], tuple[pa.Buffer, int, pa.Schema]]:
        """Pickle the rows of the slice; Arrow would pickle all rows that share its buffers."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, self.table.schema) as writer:
            writer.write_table(self.table)
        return _unpickled, (sink.getvalue(), self.start, self.schema)


class _Hashed(io.RawIOBase):
    """A file of which nothing is kept but a hash."""

    def __init__(self) -> None:
        self.hash = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.hash.update(data)
        return len(data)


def identity_of(plan: Plan) -> str:
    """Hash of what a checkpoint has to find again: the plan, and the rows themselves of a table, which has no name and no time."""
    contents = [chunk.content() for chunk in plan.chunks if isinstance(chunk, TableChunk)]
    return digest_of([plan.digest, *contents]) if contents else plan.digest


def _unpickled(buffer: pa.Buffer, start: int, schema: pa.Schema) -> TableChunk:
    with pa.ipc.open_stream(buffer) as reader:
        return TableChunk(reader.read_all(), start, schema)


def plan_table(table: pa.Table, columns: Sequence[str], categories: Categories | None = None) -> Plan:
    """Plan of an Arrow table; `categories` are those of the table that it was made from, if it was."""
    schema = unify_schemas(columns, [(_DATA, table.schema)])
    table = table.select([table.schema.get_field_index(name) for name in columns])
    if not table.num_rows:
        raise DataError("no rows in the data: expected at least one")
    starts = range(0, table.num_rows, _CHUNK_ROWS)
    return Plan(
        chunks=tuple(TableChunk(table.slice(start, _CHUNK_ROWS), start, schema) for start in starts),
        schema=schema,
        categories=number_categories(columns, [table.schema]) | (_ordered(table, schema) if categories is None else categories),
        digest=digest_of([table.num_rows, table.schema.remove_metadata(), schema]),
        in_memory=True,
    )


def _ordered(table: pa.Table, schema: pa.Schema) -> Categories:
    """Categories of ordered dictionaries; an Arrow dictionary without that flag has an order of appearance."""
    fields = [field for field in table.schema if getattr(field.type, "ordered", False)]
    found = {field.name: _values(table.column(field.name), schema.field(field.name).type) for field in fields}
    return {name: values for name, values in found.items() if values}


def _values(column: pa.ChunkedArray[Any], target: pa.DataType) -> tuple[Any, ...]:
    """Values of a dictionary in the plan's type, each once; none if blocks disagree about them."""
    blocks: list[Any] = column.chunks
    dictionaries = [block.dictionary for block in blocks]
    if not dictionaries or any(not other.equals(dictionaries[0]) for other in dictionaries[1:]):
        return ()
    values = fit_column(pa.chunked_array([dictionaries[0]]), target).to_pylist()
    return tuple(dict.fromkeys(value for value in values if value is not None))


def plan_pandas(frame: pd.DataFrame, columns: Sequence[str]) -> Plan:
    """Plan of a pandas frame; its index is not part of the data."""
    check_columns(list(frame.columns), columns)
    return plan_table(arrow_table(frame, columns), columns, declared_categories(frame, columns))


def check_columns(labels: Sequence[object], columns: Sequence[str]) -> None:
    """Refuse columns that a frame does not have, or has several times; names that are no text do not count."""
    counts = Counter(label for label in labels if isinstance(label, str))
    check_known(columns, counts)
    for name in columns:
        if counts[name] > 1:
            raise DataError(f"the data have {counts[name]} columns {name!r}, expected one: rename them")


def arrow_table(frame: pd.DataFrame, columns: Sequence[str], where: str = _DATA) -> pa.Table:
    """Needed columns of a pandas frame as they are, with all kinds of missing values as nulls."""
    return pa.Table.from_arrays([_arrow(frame[name], where) for name in columns], names=list(columns))


def _arrow(column: pd.Series, where: str) -> pa.Array[Any] | pa.ChunkedArray[Any]:
    try:
        return pa.Array.from_pandas(_plain_intervals(column))
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f"column {column.name!r} of {where} has values of no single type ({column.dtype}: {reason(error)}), "
            "expected numbers, text, booleans, dates or timestamps: cast it"
        ) from error


def _plain_intervals(column: pd.Series) -> pd.Series:
    """Categories that are intervals, as `pandas.cut` makes them, are known by their names."""
    if isinstance(column.dtype, pd.CategoricalDtype) and isinstance(column.cat.categories, pd.IntervalIndex):
        return column.cat.rename_categories([str(interval) for interval in column.cat.categories])
    return column


def declared_categories(frame: pd.DataFrame, columns: Sequence[str]) -> Categories:
    """Categories of a pandas frame's categorical columns, in their order, as the values of a plan's type."""
    return {name: _declared(frame[name]) for name in columns if isinstance(frame[name].dtype, pd.CategoricalDtype)}


def _declared(column: pd.Series) -> tuple[Any, ...]:
    values = pa.Array.from_pandas(_plain_intervals(column.iloc[:0]).cat.categories.to_series())
    target = widened(values.type)
    return () if target is None else tuple(fit_column(pa.chunked_array([values]), target).to_pylist())


class PolarsFrame(Protocol):
    """What is used of a polars frame, eager or lazy, so that polars need not be imported."""

    def collect_schema(self) -> Mapping[str, Any]:
        """Columns and their types."""

    def select(self, columns: Sequence[str]) -> PolarsFrame:
        """Return some of the columns."""

    def to_arrow(self) -> pa.Table:
        """Convert; only an eager frame can."""


def plan_polars(frame: PolarsFrame, columns: Sequence[str]) -> Plan:
    """Plan of a polars frame; of a lazy one only the needed columns are collected."""
    schema = frame.collect_schema()
    check_columns(list(schema), columns)
    selected = frame.select(columns)
    eager: PolarsFrame = selected.collect() if hasattr(selected, "collect") else selected
    enums = {name: schema[name] for name in columns if type(schema[name]).__name__ == "Enum"}
    return plan_table(eager.to_arrow(), columns, {name: tuple(dtype.categories) for name, dtype in enums.items()})
