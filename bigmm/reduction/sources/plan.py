"""From what a user passes as data to a plan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds

from bigmm.errors import DataError
from bigmm.reduction.settings import byte_count
from bigmm.reduction.sources.chunks import Chunk, Plan
from bigmm.reduction.sources.datasets import plan_dataset
from bigmm.reduction.sources.delimited import plan_delimited
from bigmm.reduction.sources.dialects import dialect_of
from bigmm.reduction.sources.files import DataFile, in_threads, reading
from bigmm.reduction.sources.frames import plan_pandas, plan_polars, plan_table
from bigmm.reduction.sources.parquet import plan_parquet
from bigmm.reduction.sources.partitions import plan_dask
from bigmm.reduction.sources.paths import is_paths, list_files

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Chunk", "Plan", "plan_data"]

_ACCEPTED = (
    "a path, glob or URL of Parquet or CSV files, a list of them, a pandas, polars or Dask DataFrame, "
    "or a pyarrow Table, RecordBatch or Dataset"
)
_PARQUET_ENDINGS = (".parquet", ".parq", ".pqt", ".pq")
_PARQUET_MAGIC = b"PAR1"


def plan_data(
    data: object,
    columns: Sequence[str],
    *,
    chunk_bytes: int | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Plan:
    """Cut data into an ordered plan of chunks.

    Parameters
    ----------
    data : object
        A path, folder, glob or fsspec URL of Parquet or CSV files, or a list of them; a pandas, polars or Dask
        frame; a pyarrow Table, RecordBatch or Dataset. Files that are listed already: a tuple of DataFile.
    columns : sequence of str
        Names that the formula, the weights and the offset need.
    chunk_bytes : int, optional
        Compressed bytes of the needed columns that a chunk of Parquet should have, about; the setting of that name unless given.
    storage_options : mapping, optional
        For the fsspec filesystem of a URL.

    Returns
    -------
    Plan
        At least one chunk. The same data give the same plan.
    """
    names = tuple(dict.fromkeys(columns))
    chunk_bytes = byte_count("chunk-bytes") if chunk_bytes is None else chunk_bytes
    if chunk_bytes < 1:
        raise DataError(f"chunk_bytes is {chunk_bytes}, expected at least 1: leave it out for the default")
    if is_paths(data):
        return _plan_files(list_files(data, storage_options or {}), names, chunk_bytes)
    if isinstance(data, tuple) and data and all(isinstance(file, DataFile) for file in data):
        return _plan_files(data, names, chunk_bytes)
    if isinstance(data, ds.Dataset):
        return plan_dataset(data, names, chunk_bytes)
    return _plan_frame(data, names)


def _plan_frame(data: object, columns: Sequence[str]) -> Plan:
    if isinstance(data, pd.DataFrame):
        return plan_pandas(data, columns)
    if isinstance(data, pa.RecordBatch):
        return plan_table(pa.Table.from_batches([data]), columns)
    if isinstance(data, pa.Table):
        return plan_table(data, columns)
    # polars is optional, and Dask's frames are slow to import: known by name.
    match type(data).__module__.partition(".")[0], type(data).__name__:
        case "polars", "DataFrame" | "LazyFrame":
            return plan_polars(cast("Any", data), columns)
        case "dask", "DataFrame":
            return plan_dask(cast("Any", data), columns)
    raise DataError(f"data of type {_type_name(data)}: expected {_ACCEPTED}")


def _type_name(data: object) -> str:
    if isinstance(data, (list, tuple)):
        others = sorted({type(item).__qualname__ for item in data})
        return f"{type(data).__name__} of {', '.join(others)}"
    return f"{type(data).__module__}.{type(data).__qualname__}".removeprefix("builtins.")


def _plan_files(files: Sequence[DataFile], columns: Sequence[str], chunk_bytes: int) -> Plan:
    kinds = in_threads(_format, files)
    if len(set(kinds)) > 1:
        examples = " and ".join(f"{kind} ({files[kinds.index(kind)].url!r})" for kind in sorted(set(kinds)))
        raise DataError(f"the files mix {examples}, expected one kind: pass them by a pattern, such as '*.parquet'")
    return plan_parquet(files, columns, chunk_bytes) if kinds[0] == "Parquet" else plan_delimited(files, columns)


def _format(file: DataFile) -> str:
    """Format of a file by its name, or by its first bytes."""
    if file.name.lower().endswith(_PARQUET_ENDINGS):
        return "Parquet"
    if dialect_of(file.name) is not None:
        return "CSV"
    with reading(repr(file.url)), file.open() as source:
        if source.read(len(_PARQUET_MAGIC)) == _PARQUET_MAGIC:
            return "Parquet"
    raise DataError(f"{file.url!r} is neither Parquet nor named .csv or .tsv: rename it or leave it out")
