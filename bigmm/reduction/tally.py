"""How far a pass is: what chunks report, added up."""

from __future__ import annotations

from collections.abc import Sequence

from bigmm.reduction.progress import Progress, ProgressCallback
from bigmm.reduction.sources import Chunk
from bigmm.reduction.work import BATCH, ChunkReport


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
        self._rows: dict[int, int] = {}  # by chunk: a lost worker's chunks are reported twice
        self._before = 0
        self._shown: Progress | None = None

    def __call__(self, report: ChunkReport) -> None:
        """Note that a chunk is done."""
        self._rows[report.number] = report.rows

    def batches_done(self, count: int) -> None:
        """Note that the first batches are done, whoever has reported it."""
        self._before = min(count * BATCH, len(self._chunks))
        self.show()

    def show(self) -> None:
        """Tell how far it is, when that is news."""
        if self._progress is None:
            return
        done = {*range(self._before), *self._rows}
        rows = dict(self._rows)
        now = Progress(
            "reduce",
            len(done),
            len(self._chunks),
            rows=sum(rows.get(number, self._chunks[number].rows or 0) for number in done),
            nbytes=sum(self._chunks[number].nbytes for number in done),
        )
        if now != self._shown:
            self._shown = now
            self._progress(now)
