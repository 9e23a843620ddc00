"""One pass: chunks become partial crossproducts, batches of them are merged in a tree, batches in their order.

The shape of the tree depends on the list of chunks alone, so that the bits of the result are the same in this process,
on one worker or on a hundred.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from distributed import Client, Future
from distributed.client import FutureCancelledError
from distributed.scheduler import KilledWorker, NoWorkerError

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
#: Seconds between two looks at a running batch, and between two questions to the scheduler.
_LOOK = 0.5
ASK = 20.0
#: Seconds without any worker, or without an answer of the scheduler, until a pass is given up.
NO_WORKERS = 300.0
NO_ANSWER = 60.0


@dataclasses.dataclass(frozen=True, slots=True)
class _Batch:
    """A batch under way: the future of its merged result, and those of its chunks."""

    merged: Future
    parts: list[Future]


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
    waiting = deque(_slices(chunks, BATCH))
    running: deque[_Batch] = deque()
    total: CrossProducts | None = None
    finished = 0
    try:
        while waiting or running:
            while waiting and len(running) < WINDOW:
                running.append(_submit(client, waiting.popleft(), design))
            _watch(client, running, finished, len(chunks), progress)
            merged = _result(running[0].merged)
            finished += len(running.popleft().parts)
            total = merged if total is None else add([total, merged])
    finally:
        for batch in running:
            client.cancel([batch.merged, *batch.parts])
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
    return partial_crossproducts(chunk.read(design.names), design, chunk.name, chunk.origins)


def _reduce_frame(chunk: Any, frame: Any, design: Design) -> CrossProducts:
    return partial_crossproducts(chunk.read_frame(frame, design.names), design, chunk.name, chunk.origins)


def _submit(client: Client, chunks: Sequence[Chunk], design: Design) -> _Batch:
    """Start a batch."""
    parts = [_submit_chunk(client, chunk, design) for chunk in chunks]

    def merge(group: list[Future]) -> Future:
        if len(group) == 1:
            return group[0]
        return client.submit(add, group, key=_key("bigmm-merge"), priority=10)

    level = [merge(list(group)) for group in _slices(parts, FAN_IN)]
    return _Batch(_tree(level, merge), parts)


def _submit_chunk(client: Client, chunk: Chunk, design: Design) -> Future:
    delayed = getattr(chunk, "delayed", None)
    if delayed is None:
        return client.submit(_reduce_chunk, chunk, design, key=_key("bigmm-reduce"))
    bare = dataclasses.replace(chunk, delayed=None)  # type: ignore[type-var]
    return client.submit(_reduce_frame, bare, client.compute(delayed), design, key=_key("bigmm-reduce"))


def _key(prefix: str) -> str:
    """A key that no other run shares: results of earlier runs must not be taken for this one's."""
    return f"{prefix}-{uuid.uuid4().hex}"


def _watch(client: Client, running: Sequence[_Batch], finished: int, total: int, progress: ProgressCallback | None) -> None:
    """Wait for the first batch, report on the chunks of all, and give up when no worker has been there for long.

    (A scheduler waits for workers without end unless it was started with ``no-workers-timeout``.)
    """
    merged = running[0].merged
    done = threading.Event()
    merged.add_done_callback(lambda _: done.set())  # distributed.wait() with a timeout keeps the future alive, and its result
    alive = asked = time.monotonic()
    while not merged.done():
        done.wait(_LOOK)
        if progress is not None:
            progress(Progress("reduce", finished + sum(part.done() for batch in running for part in batch.parts), total))
        if time.monotonic() - asked < ASK:
            continue
        if _has_workers(client, merged):
            alive = time.monotonic()
        elif time.monotonic() - alive > NO_WORKERS:
            raise ClusterError(f"no worker has been there for {NO_WORKERS:.0f} s: start workers and run again")
        asked = time.monotonic()


def _has_workers(client: Client, merged: Future) -> bool:
    """Ask the scheduler itself: what the client knows of it stays as it was when the scheduler stops or is cut off."""
    deadline = time.monotonic() + NO_ANSWER
    while not merged.done():
        left = max(deadline - time.monotonic(), _LOOK)
        try:
            return bool(client.sync(client.scheduler.identity, callback_timeout=left)["workers"])
        except OSError as error:  # a TimeoutError is one
            if time.monotonic() >= deadline:
                raise ClusterError(
                    f"the scheduler at {client.scheduler.address!r} has not answered for {NO_ANSWER:.0f} s: "
                    "see that it runs and can be reached, and run again"
                ) from error
            time.sleep(_LOOK)
    return True


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
