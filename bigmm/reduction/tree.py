"""Batches of chunks, each merged in a tree, their results in the order of the data.

The shape of the tree depends on the list of chunks alone, so that the bits of the result are the same in this process,
on one worker or on a hundred, and after any of them was lost.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, Protocol

from bigmm.errors import BigmmError
from bigmm.reduction.segments import FAN_IN
from bigmm.reduction.sources.files import reason
from bigmm.reduction.work import ChunkTask, Slices, Work, add_slices

logger = logging.getLogger(__name__)


class Executor(Protocol):
    """Where tasks run: threads of this process, or the workers of a cluster."""

    @property
    def window(self) -> int:
        """Batches that keep everybody busy."""

    def submit_chunks(self, tasks: Sequence[ChunkTask]) -> list[Any]:
        """Start `reduce_chunk` of each; returns their futures."""

    def submit(self, function: Callable[..., Any], futures: Sequence[Any]) -> Any:
        """Start a function of the results of other futures; returns a future."""

    def result(self, future: Any) -> Slices:
        """Wait for a future and take its result."""

    def second_look(self, tasks: Sequence[ChunkTask]) -> list[ChunkTask]:
        """The tasks of a batch that failed, with those chunks marked that cannot be computed; none where tasks compute their chunks."""

    def cancel(self, futures: Sequence[Any]) -> None:
        """Give up what is not done yet."""


def batch_results(executor: Executor, work: Work, first: int = 0, take: Callable[[Any], Any] | None = None) -> Iterator[Any]:
    """The sum of each batch from the first that is wanted, in their order; a bounded number is under way at a time.

    `take` is what becomes of the future of a batch: its result, unless given.
    """
    take = executor.result if take is None else take
    waiting, running = iter(range(first, work.batches)), deque[tuple[list[ChunkTask], Any]]()
    try:
        while True:
            for number in islice(waiting, max(executor.window - len(running), 0)):
                tasks = work.batch(number)
                running.append((tasks, _submit(executor, tasks)))
            if not running:
                return
            result = _taken(executor, take, *running[0])
            running.popleft()
            yield result
    finally:
        executor.cancel([future for _, future in running])


def _taken(executor: Executor, take: Callable[[Any], Any], tasks: Sequence[ChunkTask], future: Any) -> Any:
    """What becomes of a batch; when what its tasks wait for has failed, it is started once more, without what fails again."""
    try:
        return take(future)
    except (BigmmError, MemoryError):
        raise
    except Exception as error:
        executor.cancel([future])  # so that what failed is forgotten
        again = executor.second_look(tasks)
        if not again:
            raise
        logger.warning("%d chunks are started once more: %s: %s", len(again), type(error).__name__, reason(error))
        return take(_submit(executor, again))


def _submit(executor: Executor, tasks: Sequence[ChunkTask]) -> Any:
    """Start a batch: neighbours are merged, FAN_IN at a time, until one is left."""
    level = executor.submit_chunks(tasks)
    while len(level) > 1:
        groups = [level[start : start + FAN_IN] for start in range(0, len(level), FAN_IN)]
        level = [executor.submit(add_slices, group) if len(group) > 1 else group[0] for group in groups]
    return level[0]
