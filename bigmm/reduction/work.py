"""What a pass does, the same for every chunk and wherever it runs; and its smallest task, one chunk."""

from __future__ import annotations

import logging
import threading
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
from bigmm.reduction.progress import ChunkReport
from bigmm.reduction.slices import Slicing
from bigmm.reduction.sources import Chunk
from bigmm.reduction.sources.partitions import read_sent

logger = logging.getLogger(__name__)

#: Crossproducts of some chunks, one for each slice of the leading factor's levels.
Slices: TypeAlias = tuple[CrossProducts, ...]

OnError: TypeAlias = Literal["raise", "skip"]

#: Chunks in a batch: few, for a worker holds those of one or two batches, and their sum.
BATCH = 4


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
        table = read_sent(chunk, frame, names)
    except UnreadableError as error:
        if task.on_error == "raise":
            raise
        parts, rows, skipped = _skipped(task, str(error)), 0, True
    else:
        parts, rows, skipped = sliced_crossproducts(table, task.design, task.slicing, chunk.name, chunk.origins), table.num_rows, False
    stopped, thread = time.time(), threading.get_native_id()
    logger.debug("chunk %d, %s: %d rows in %.3f s", task.number, chunk.name, rows, stopped - started)
    report(ChunkReport(task.number, rows, chunk.nbytes, started, stopped, thread=thread, skipped=skipped))
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
