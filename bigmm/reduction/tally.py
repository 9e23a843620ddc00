"""How far a pass is: what chunks report, added up."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from bigmm.reduction.progress import ChunkReport, Extent, Progress, ProgressCallback
from bigmm.reduction.sources import Chunk
from bigmm.reduction.work import BATCH


class Tally:
    """What is done of a pass. Chunks are reported from any thread; the process that waits for them shows the sum.

    Parameters
    ----------
    chunks : sequence of Chunk
    progress : callable or None
        Whom to show it to.
    """

    def __init__(self, chunks: Sequence[Chunk], progress: ProgressCallback | None) -> None:
        self._chunks, self._progress = chunks, progress
        self._lock = threading.Lock()
        self._counted = bytearray(len(chunks))  # a lost worker's chunks are reported twice
        self._done = self._rows = self._nbytes = self._batches = 0
        self._before = Extent()
        self._new: list[ChunkReport] = []
        self._whole = extent(chunks) if progress is not None else Extent()
        self._shown: Progress | None = None

    def __call__(self, report: ChunkReport) -> None:
        """Note that a chunk is done."""
        with self._lock:
            self._count(report.number, report.rows)
            self._new.append(report)

    def begin(self, batches: int) -> None:
        """Note the batches that an earlier run has done."""
        self._before = extent(self._chunks[: batches * BATCH]) if self._progress is not None else Extent()
        self.batches_done(batches)

    def batches_done(self, count: int) -> None:
        """Note that the first batches are done, whether or not each chunk has reported it."""
        with self._lock:
            for number in range(self._batches * BATCH, min(count * BATCH, len(self._chunks))):
                self._count(number, self._chunks[number].rows or 0)
            self._batches = count
        self.show()

    def _count(self, number: int, rows: int) -> None:
        if not self._counted[number]:
            self._counted[number] = True
            self._done += 1
            self._rows += rows
            self._nbytes += self._chunks[number].nbytes

    def show(self) -> None:
        """Tell how far it is, when that is news."""
        if self._progress is None:
            return
        with self._lock:
            reports, self._new = tuple(self._new), []
            now = Progress(
                "reduce",
                self._done,
                len(self._chunks),
                rows=self._rows,
                nbytes=self._nbytes,
                whole=self._whole,
                before=self._before,
                reports=reports,
            )
        if now != self._shown:
            self._shown = now
            self._progress(now)


def extent(chunks: Sequence[Chunk]) -> Extent:
    """How much chunks are, by the plan."""
    rows = [chunk.rows for chunk in chunks]
    files = len({origin.url for chunk in chunks for origin in chunk.origins})
    known = None if None in rows else sum(row or 0 for row in rows)
    return Extent(files, len(chunks), known, sum(chunk.nbytes for chunk in chunks))
