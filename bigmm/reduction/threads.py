"""A pass in this process: threads, for the compiled loops and Arrow's readers let one another run."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

from bigmm.reduction.tally import Tally
from bigmm.reduction.work import ChunkTask, Slices, reduce_chunk

#: Batches under way: one that is reduced while the one before is merged.
_WINDOW = 2
#: Seconds between two looks at a running batch.
_LOOK = 0.2


class Threads:
    """An executor of as many threads as there are processors.

    Parameters
    ----------
    tally : Tally
        Told of every chunk that is done.
    count : int, optional
    """

    def __init__(self, tally: Tally, count: int | None = None) -> None:
        self._tally = tally
        self._pool = ThreadPoolExecutor(count or len(os.sched_getaffinity(0)), "bigmm")

    @property
    def window(self) -> int:
        """Batches under way."""
        return _WINDOW

    def submit_chunks(self, tasks: Sequence[ChunkTask]) -> list[Future[Slices]]:
        """Start some chunks."""
        return [self._pool.submit(reduce_chunk, task, self._tally) for task in tasks]

    def submit(self, function: Callable[..., Any], futures: Sequence[Future[Slices]]) -> Future[Any]:
        """Start a merge. It waits in its thread for chunks that were started before it, so that it never waits in vain."""
        return self._pool.submit(_merge, function, list(futures))

    def result(self, future: Future[Slices]) -> Slices:
        """Wait for a result."""
        while True:
            self._tally.show()
            with contextlib.suppress(TimeoutError):
                return future.result(_LOOK)
            if future.done():  # the task itself timed out
                return future.result()

    def second_look(self, tasks: Sequence[ChunkTask]) -> list[ChunkTask]:  # noqa: ARG002
        """None: a task here computes its chunk itself, and knows what to do when that fails."""
        return []

    def cancel(self, futures: Sequence[Future[Slices]]) -> None:
        """Start nothing more."""
        for future in futures:
            future.cancel()

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Wait for what is running; the rest is dropped."""
        self._pool.shutdown(cancel_futures=True)


def _merge(function: Callable[..., Any], futures: Sequence[Future[Slices]]) -> Any:
    return function([future.result() for future in futures])
