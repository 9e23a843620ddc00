"""What a pass does, the same for every chunk and wherever it runs; and its smallest task, one chunk."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from bigmm.accounting import SkippedChunk, skipped_sources
from bigmm.addition import add
from bigmm.crossproducts import CrossProducts
from bigmm.design import Design
from bigmm.errors import UnreadableError
from bigmm.reduction.partial import sliced_crossproducts
from bigmm.reduction.slices import Slicing
from bigmm.reduction.sources import Chunk

#: Crossproducts of some chunks, one for each slice of the leading factor's levels.
Slices: TypeAlias = tuple[CrossProducts, ...]

OnError: TypeAlias = Literal["raise", "skip"]

#: Chunks in a batch: few, so that what the workers hold at a time does not grow with the data.
BATCH = 16


@dataclass(frozen=True, slots=True)
class Work:
    """A pass before it runs; together with the data it decides every bit of the result.

    Attributes
    ----------
    chunks : tuple of Chunk
    design : Design
    slicing : Slicing
        How rows are dealt out by the levels of the leading factor.
    on_error : {"raise", "skip"}
        What to do about a chunk that cannot be read.
    """

    chunks: tuple[Chunk, ...]
    design: Design
    slicing: Slicing
    on_error: OnError = "raise"

    @property
    def batches(self) -> int:
        """Number of batches."""
        return -(-len(self.chunks) // BATCH)

    def batch(self, number: int) -> list[ChunkTask]:
        """The tasks of one batch."""
        start = number * BATCH
        return [
            ChunkTask(chunk, position, self.design, self.slicing, self.on_error)
            for position, chunk in enumerate(self.chunks[start : start + BATCH], start)
        ]


@dataclass(frozen=True, slots=True)
class ChunkTask:
    """One chunk of a pass: small, and picklable."""

    chunk: Chunk
    number: int
    design: Design
    slicing: Slicing
    on_error: OnError = "raise"


@dataclass(frozen=True, slots=True)
class ChunkReport:
    """What one chunk took.

    Attributes
    ----------
    number : int
        Its position in the plan.
    rows, nbytes : int
        Rows read, and bytes by the plan (0 when unknown).
    started, stopped : float
        Seconds since the epoch, by the clock of the process that did it.
    """

    number: int
    rows: int
    nbytes: int
    started: float
    stopped: float


Report: TypeAlias = Callable[[ChunkReport], None]


def reduce_chunk(task: ChunkTask, report: Report, frame: Any = None) -> Slices:
    """Read a chunk and reduce it.

    Parameters
    ----------
    task : ChunkTask
    report : callable
        Told when it is done.
    frame : DataFrame, optional
        The chunk's rows when the cluster has computed them: a partition of a Dask frame.

    Raises
    ------
    UnreadableError
        For a chunk that cannot be read, unless it is to be skipped.
    """
    started, chunk, names = time.time(), task.chunk, task.design.names
    try:
        table = chunk.read(names) if frame is None else chunk.read_frame(frame, names)  # type: ignore[attr-defined]
    except UnreadableError as error:
        if task.on_error == "raise":
            raise
        return _skipped(task, str(error))
    parts = sliced_crossproducts(table, task.design, task.slicing, chunk.name, chunk.origins)
    report(ChunkReport(task.number, table.num_rows, chunk.nbytes, started, time.time()))
    return parts


def _skipped(task: ChunkTask, reason: str) -> Slices:
    """Crossproducts of no rows that say which chunk is missing."""
    chunk = task.chunk
    empty = chunk.schema.empty_table().select(list(task.design.names))
    first, *rest = sliced_crossproducts(empty, task.design, task.slicing, chunk.name, ())
    skipped = SkippedChunk(chunk.name, reason, chunk.rows, tuple(dict.fromkeys(origin.url for origin in chunk.origins)))
    return replace(first, sources=skipped_sources(chunk.origins), skipped=(skipped,)), *rest


def add_slices(parts: Sequence[Slices]) -> Slices:
    """Sum slice by slice, in the order given."""
    return tuple(add(slices) for slices in zip(*parts, strict=True))
