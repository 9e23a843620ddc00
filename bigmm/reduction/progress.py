"""What a long run says while it goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias


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
    worker : str
        Address of the worker; empty for this process.
    thread : int
        The operating system's number of its thread.
    skipped : bool
        It could not be read.
    """

    number: int
    rows: int
    nbytes: int
    started: float
    stopped: float
    worker: str = ""
    thread: int = 0
    skipped: bool = False


@dataclass(frozen=True, slots=True)
class Extent:
    """How much a pass, or a part of one, is by its plan.

    Attributes
    ----------
    files, chunks : int
    rows : int or None
        None when they are not known before reading.
    nbytes : int
        Bytes to read, 0 when they are not known.
    """

    files: int = 0
    chunks: int = 0
    rows: int | None = 0
    nbytes: int = 0


@dataclass(frozen=True, slots=True)
class Progress:
    """One report of a running pass or search.

    Attributes
    ----------
    stage : {"reduce", "optimize", "predict"}
    done : int
        Chunks reduced or predicted, or evaluations made.
    total : int or None
        Chunks in all; None for a search, whose end is not known.
    objective : float or None
        The last objective of a search.
    rows, nbytes : int
        Of a pass: rows read and bytes read, as far as they are known.
    theta : tuple of float
        Where the last objective was.
    whole, before : Extent
        Of a pass: all of it, and what an earlier run had done when this one went on from its checkpoint.
    reports : tuple of ChunkReport
        Chunks that are done since the last report. One that was lost with its worker and done again is reported twice.
    """

    stage: Literal["reduce", "optimize", "predict"]
    done: int
    total: int | None = None
    objective: float | None = None
    rows: int = 0
    nbytes: int = 0
    theta: tuple[float, ...] = ()
    whole: Extent = Extent()
    before: Extent = Extent()
    reports: tuple[ChunkReport, ...] = ()


ProgressCallback: TypeAlias = Callable[[Progress], None]
