"""One pass: chunks become partial crossproducts, batches of them are merged in a tree, batches in their order.

The shape of the tree depends on the list of chunks alone, so that the bits of the result are the same in this process,
on one worker or on a hundred.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from distributed import Client, Future, wait
from distributed.client import FutureCancelledError
from distributed.scheduler import KilledWorker, NoWorkerError
from distributed.utils import TimeoutError as DaskTimeoutError

from bigmm.addition import add
from bigmm.crossproducts import CrossProducts
from bigmm.design import Design
from bigmm.errors import ClusterError
from bigmm.reduction.partial import partial_crossproducts
from bigmm.reduction.progress import Progress, ProgressCallback
from bigmm.reduction.sources import Chunk

logger = logging.getLogger(__name__)

#: Chunks in a batch; partial results that one merge adds up; batches under way at once.
BATCH = 64
FAN_IN = 8
WINDOW = 3
#: Seconds between two looks at a running batch.
_LOOK = 0.5


def reduce_here(chunks: Sequence[Chunk], design: Design, progress: ProgressCallback | None = None) -> CrossProducts:
    """Crossproducts of all chunks, computed in this process."""
    total: CrossProducts | None = None
    done = 0
    for batch in _slices(chunks, BATCH):
        level = []
        for group in _slices(batch, FAN_IN):
            level.append(add([_reduce_chunk(chunk, design) for chunk in group]))
            done += len(group)
            if progress is not None:
                progress(Progress("reduce", done, len(chunks)))
        merged = _tree(level, add)
        total = merged if total is None else add([total, merged])
    assert total is not None
    return total


def reduce_on(client: Client, chunks: Sequence[Chunk], design: Design, progress: ProgressCallback | None = None) -> CrossProducts:
    """Crossproducts of all chunks, computed on a Dask cluster.

    A few batches are under way at once, so that the scheduler holds some hundred tasks whatever the size of the data.

    Raises
    ------
    ClusterError
        When workers keep dying or none is left.
    """
    batches = list(_slices(chunks, BATCH))
    running: deque[tuple[Future, list[Future]]] = deque()
    total: CrossProducts | None = None
    finished = 0
    try:
        for number in range(len(batches) + WINDOW):
            if number < len(batches):
                running.append(_submit(client, batches[number], design))
            if number >= WINDOW - 1 and running:
                future, parts = running.popleft()
                _watch(future, [parts, *(others for _, others in running)], finished, len(chunks), progress)
                merged = _result(future)
                total = merged if total is None else add([total, merged])
                finished += len(parts)
    finally:
        for future, parts in running:
            client.cancel([future, *parts])
    assert total is not None
    return total


def _slices(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _tree(level: list[Any], merge: Callable[[list[Any]], Any]) -> Any:
    """Merge neighbours, FAN_IN at a time, until one is left."""
    while len(level) > 1:
        level = [merge(list(group)) for group in _slices(level, FAN_IN)]
    return level[0]


def _reduce_chunk(chunk: Chunk, design: Design) -> CrossProducts:
    return partial_crossproducts(chunk.read(design.names), design, chunk.name)


def _reduce_frame(chunk: Any, frame: Any, design: Design) -> CrossProducts:
    return partial_crossproducts(chunk.read_frame(frame, design.names), design, chunk.name)


def _submit(client: Client, chunks: Sequence[Chunk], design: Design) -> tuple[Future, list[Future]]:
    """Start a batch: the future of its merged result, and those of its chunks."""
    parts = [_submit_chunk(client, chunk, design) for chunk in chunks]

    def merge(group: list[Future]) -> Future:
        if len(group) == 1:
            return group[0]
        return client.submit(add, group, key=_key("bigmm-merge"), priority=10)

    level = [merge(list(group)) for group in _slices(parts, FAN_IN)]
    return _tree(level, merge), parts


def _submit_chunk(client: Client, chunk: Chunk, design: Design) -> Future:
    delayed = getattr(chunk, "delayed", None)
    if delayed is None:
        return client.submit(_reduce_chunk, chunk, design, key=_key("bigmm-reduce"))
    bare = dataclasses.replace(chunk, delayed=None)  # type: ignore[type-var]
    return client.submit(_reduce_frame, bare, client.compute(delayed), design, key=_key("bigmm-reduce"))


def _key(prefix: str) -> str:
    """A key that no other run shares: results of earlier runs must not be taken for this one's."""
    import uuid

    return f"{prefix}-{uuid.uuid4().hex}"


def _watch(future: Future, running: Sequence[list[Future]], finished: int, total: int, progress: ProgressCallback | None) -> None:
    """Wait for a batch and report on the chunks of all that are under way."""
    while not future.done():
        with contextlib.suppress(DaskTimeoutError, FutureCancelledError):
            wait([future], timeout=_LOOK)
        if progress is not None:
            progress(Progress("reduce", finished + sum(part.done() for parts in running for part in parts), total))
    if progress is not None:
        progress(Progress("reduce", finished + sum(part.done() for parts in running for part in parts), total))


def _result(future: Future) -> CrossProducts:
    try:
        result: CrossProducts = future.result()
    except KilledWorker as error:
        raise ClusterError(
            f"workers died again and again under the same task ({error}): give them more memory, or smaller chunks"
        ) from None
    except NoWorkerError as error:
        raise ClusterError(f"no worker is left ({error}): start workers and run again") from None
    except FutureCancelledError as error:
        raise ClusterError(f"the scheduler dropped the pass ({error}): was it restarted? run again") from None
    return result
