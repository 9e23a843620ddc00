"""Dask data frames: one chunk a partition."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import dask
import pandas as pd
import pyarrow as pa
import pyarrow.types as pt
from dask.delayed import Delayed
from dask.optimization import cull
from distributed.client import FutureCancelledError
from distributed.scheduler import KilledWorker

from bigmm.accounting import Origin
from bigmm.errors import BigmmError, ClusterError, DataError, UnreadableError
from bigmm.reduction.sources.chunks import Chunk, Plan, digest_of
from bigmm.reduction.sources.columns import fit_table
from bigmm.reduction.sources.files import reason
from bigmm.reduction.sources.frames import arrow_table, check_columns, declared_categories
from bigmm.reduction.sources.schema import TEXT, unify_schemas
from bigmm.urls import shown_cause

if TYPE_CHECKING:
    from collections.abc import Sequence

_UNKNOWN = "__UNKNOWN_CATEGORIES__"


@dataclass(frozen=True, slots=True)
class DaskChunk:
    """A partition of a Dask data frame.

    A task that gets the partition, computed, turns it into a table with `read_frame`; `read` computes it first.

    Parameters
    ----------
    delayed : dask.delayed.Delayed
        The partition, a pandas frame of the needed columns, with the graph of the whole frame. None where the chunk travels.
    number : int
        Position among the partitions.
    schema : pyarrow.Schema
        The plan's.
    """

    delayed: Delayed
    number: int
    schema: pa.Schema

    @property
    def name(self) -> str:
        """Number of the partition."""
        return f"partition {self.number}"

    @property
    def nbytes(self) -> int:
        """Unknown: 0."""
        return 0

    @property
    def rows(self) -> None:
        """Unknown before computing."""

    @property
    def origins(self) -> tuple[Origin]:
        """A frame, which has no name."""
        return (Origin("<Dask frame>"),)

    def alone(self) -> Delayed:
        """The partition with the tasks that it is made by and no others.

        A graph travels whole when one of its keys is computed: one partition after the other, the graphs of a frame of many
        would take longer than its rows.
        """
        graph, _ = cull(self.delayed.dask, self.delayed.key)
        return Delayed(self.delayed.key, graph)

    def read(self, columns: Sequence[str]) -> pa.Table:
        """Compute the partition: all its rows."""
        return self.read_frame(self._computed(self.alone()), columns)

    def read_frame(self, frame: pd.DataFrame, columns: Sequence[str]) -> pa.Table:
        """All rows of the partition, which has been computed."""
        check_columns(list(frame.columns), columns)
        _check_categories(frame, columns, self.schema)
        return fit_table(arrow_table(frame, columns, self.name), columns, self.schema, self.name)

    def head(self, columns: Sequence[str], rows: int) -> pa.Table:
        """First rows; the partition is computed, but only they travel."""
        return self.read_frame(self._computed(self.alone().head(rows)), columns)

    def _computed(self, delayed: Delayed) -> pd.DataFrame:
        with computing(self.name):
            frame: pd.DataFrame = delayed.compute()
        return frame


@contextmanager
def computing(name: str) -> Iterator[None]:
    """Turn whatever a block raises that computes a partition into an error that names it.

    Raises
    ------
    UnreadableError
        For what the partition's own functions raise, or whatever reads its file.
    DataError
        For a partition that its cluster has lost.
    ClusterError
        For workers that die of it.
    """
    try:
        yield
    except (BigmmError, MemoryError):
        raise
    except FutureCancelledError:
        raise DataError(
            f"{name} was persisted on another cluster, or is lost: give that cluster's client, or persist the frame again"
        ) from None
    except KilledWorker as error:
        raise ClusterError(f"workers died again and again under {name} ({error}): give them more memory, or smaller partitions") from None
    except Exception as error:
        raise UnreadableError(
            f"cannot compute {name} of the Dask frame: {type(error).__name__}: {reason(error)}; see the function or the file that makes it"
        ) from shown_cause(error)


def read_sent(chunk: Chunk, frame: pd.DataFrame | None, columns: Sequence[str]) -> pa.Table:
    """Read a chunk where it was sent to; `frame` is its partition, computed, when it is one of a Dask frame."""
    return chunk.read_frame(frame, columns) if isinstance(chunk, DaskChunk) and frame is not None else chunk.read(columns)


class DaskFrame(Protocol):
    """What is used of a Dask data frame, whose module is slow to import."""

    columns: Sequence[str]
    npartitions: int
    _meta: pd.DataFrame
    _name: str

    def __getitem__(self, columns: list[str]) -> DaskFrame:
        """Return some of the columns."""

    def to_delayed(self) -> list[Delayed]:
        """Return the partitions."""


def plan_dask(frame: DaskFrame, columns: Sequence[str]) -> Plan:
    """Plan of a Dask data frame, from its metadata: nothing is computed."""
    check_columns(list(frame.columns), columns)
    needed = frame[list(columns)]
    meta = _meta(needed._meta, columns)
    schema = unify_schemas(columns, [("the data", _typed(meta, columns))])
    partitions = _partitions(frame, columns)
    chunks = tuple(DaskChunk(delayed, number, schema) for number, delayed in enumerate(partitions))
    digest = digest_of([needed._name, len(chunks), schema])
    return Plan(chunks, schema, declared_categories(meta, columns), digest, in_memory=False)


def _partitions(frame: DaskFrame, columns: Sequence[str]) -> list[Delayed]:
    # Dask would fuse partitions from which few columns are read, and their number is the plan's.
    with dask.config.set({"optimization.tune.active": False}):
        delayed = frame[list(columns)].to_delayed()
    if len(delayed) != frame.npartitions:
        raise DataError(f"the Dask frame has {frame.npartitions} partitions but gives {len(delayed)}: call .persist() on it first")
    return delayed


def _meta(meta: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Empty frame of the partitions' dtypes; categories that are not known become text, for want of a type."""
    unknown = [name for name in columns if _is_unknown(meta[name])]
    return meta.astype(dict.fromkeys(unknown, "str")) if unknown else meta


def _is_unknown(column: pd.Series) -> bool:
    return isinstance(column.dtype, pd.CategoricalDtype) and _UNKNOWN in column.cat.categories


def _check_categories(frame: pd.DataFrame, columns: Sequence[str], schema: pa.Schema) -> None:
    """Refuse values of categories that Dask did not know when the plan was made, and that turn out to be no text."""
    for name in columns:
        dtype = frame[name].dtype
        if not isinstance(dtype, pd.CategoricalDtype) or schema.field(name).type != TEXT:
            continue
        if isinstance(dtype.categories, pd.IntervalIndex):  # known by their names
            continue
        if dtype.categories.inferred_type not in ("string", "empty", "mixed") and frame[name].notna().any():
            raise DataError(
                f"the categories of {name!r} are {dtype.categories.dtype}, which Dask did not know: make them known "
                f"(frame[{name!r}].cat.as_known()), or give the column as the numbers or text that they are"
            )


def _typed(meta: pd.DataFrame, columns: Sequence[str]) -> pa.Schema:
    """Types of an empty frame; one of objects tells none, and objects are nearly always text."""
    fields = arrow_table(meta, columns).schema
    return pa.schema([field.with_type(TEXT) if pt.is_null(field.type) else field for field in fields])
