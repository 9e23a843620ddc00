"""A pass on a Dask cluster: tasks, waiting for them, and what can happen to workers meanwhile."""

from __future__ import annotations

import contextlib
import dataclasses
import operator
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Self

from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph
from dask.utils import funcname
from distributed import Client, Future, get_worker
from distributed.client import FutureCancelledError
from distributed.scheduler import KilledWorker, NoValidWorkerError, NoWorkerError

import bigmm
from bigmm.errors import ClusterError, UnreadableError
from bigmm.reduction.guarded import Guarded, log_forwarded
from bigmm.reduction.progress import ChunkReport
from bigmm.reduction.settings import count, resources, seconds, setting
from bigmm.reduction.sources.chunks import Chunk, UnreadableChunk
from bigmm.reduction.sources.partitions import DaskChunk, computing
from bigmm.reduction.tally import Tally
from bigmm.reduction.work import BATCH, ChunkTask, Slices, reduce_chunk

#: Seconds between two looks at a running batch.
_LOOK = 0.5
#: Seconds for a result to arrive, before it is asked whether it is still there.
_FETCH = 30.0


class DroppedError(ClusterError):
    """A task will never be done: what it needs is lost, or the scheduler is."""


@dataclass(frozen=True, slots=True)
class LogEvent:
    """A report that a worker sends to the client, by way of the scheduler's log of events."""

    topic: str

    def __call__(self, report: ChunkReport) -> None:
        """Send it."""
        worker = get_worker()
        worker.log_event(self.topic, asdict(dataclasses.replace(report, worker=worker.address)))


class Workers:
    """An executor of the threads of a Dask cluster.

    Parameters
    ----------
    client : Client
    tally : Tally
        Told of every chunk that is done.
    """

    def __init__(self, client: Client, tally: Tally) -> None:
        self._client, self._tally = client, tally
        self._run = uuid.uuid4().hex  # keys that no other run shares: earlier results must not be taken for this one's
        self._merges = self._threads = 0
        self._resources = resources()
        self._log_topic: str | None = None
        self._patience = {name: seconds(f"timeouts.{name}") for name in ("ask", "no-answer", "no-workers")}

    @property
    def window(self) -> int:
        """Batches under way, by the threads that the cluster has now."""
        with contextlib.suppress(OSError):  # whether the scheduler is there is for `result` to find out
            self._threads = sum(worker["nthreads"] for worker in self._fit_workers(self._patience["no-answer"]))
        return min(1 + max(-(-2 * self._threads // BATCH), 1), max(count("batches"), 2))

    def _fit_workers(self, timeout: float) -> list[dict[str, Any]]:
        """Workers that may be given chunks, as the scheduler itself knows them: the client's knowledge may be old."""
        identity = self._client.sync(self._client.scheduler.identity, callback_timeout=timeout)
        return [
            worker
            for worker in identity["workers"].values()
            if all(worker["resources"].get(name, 0) >= amount for name, amount in self._resources.items())
        ]

    def submit_chunks(self, tasks: Sequence[ChunkTask]) -> list[Future]:
        """Start the reduction of some chunks, before partitions of a Dask frame are computed for others: it frees memory."""
        keys, reports = [f"bigmm-reduce-{task.number}-{self._run}" for task in tasks], [LogEvent(self._topic)] * len(tasks)
        chunks, frames = self.sent([task.chunk for task in tasks])
        tasks = [dataclasses.replace(task, chunk=chunk) for task, chunk in zip(tasks, chunks, strict=True)]
        return self.start_each(reduce_chunk, tasks, reports, frames, keys=keys, resources=self._resources or None, priority=1)

    def sent(self, chunks: Sequence[Chunk]) -> tuple[list[Chunk], list[Future | None]]:
        """Chunks as they travel; a partition of a Dask frame is computed where its task runs, and leaves its graph here."""
        partitions = [chunk.alone() for chunk in chunks if isinstance(chunk, DaskChunk)]
        light = [dataclasses.replace(chunk, delayed=None) if isinstance(chunk, DaskChunk) else chunk for chunk in chunks]
        futures = iter(self._computed(partitions))
        return light, [next(futures) if isinstance(chunk, DaskChunk) else None for chunk in chunks]

    def _computed(self, partitions: Sequence[Delayed]) -> list[Future]:
        """Partitions, computed as one graph: the scheduler keeps a note for good of everything that is computed by itself."""
        if not partitions:
            return []
        tasks = {key: task for partition in partitions for key, task in partition.dask.items()}
        graph = HighLevelGraph.from_collections(uuid.uuid4().hex, tasks)  # a plain dict is hashed, and its tasks keep their hashes
        started: list[Future] = self._client.get(graph, [partition.key for partition in partitions], sync=False)
        return started

    def submit(self, function: Callable[..., Any], futures: Sequence[Future]) -> Future:
        """Start a merge, before other chunks: it frees memory."""
        self._merges += 1
        return self.start(function, list(futures), key=f"bigmm-merge-{self._merges}-{self._run}", priority=10)

    def start(self, function: Callable[..., Any], *arguments: Any, key: str | None = None, **options: Any) -> Future:
        """Start any function of bigmm; every task goes this way, for no worker of another version may do a part."""
        return self._client.submit(self._guarded(function), *arguments, key=key or self._key(function), **options)

    def start_each(
        self, function: Callable[..., Any], *arguments: Sequence[Any], keys: list[str] | None = None, **options: Any
    ) -> list[Future]:
        """Start a function of the first of all arguments, of the second, ...: one graph, whose cost for the scheduler lasts."""
        keys = keys or [f"{self._key(function)}-{number}" for number in range(len(arguments[0]))]
        started: list[Future] = self._client.map(self._guarded(function), *arguments, key=keys, **options)
        return started

    def _guarded(self, function: Callable[..., Any]) -> Guarded:
        return Guarded(function, bigmm.__version__, self._log_topic)

    @staticmethod
    def _key(function: Callable[..., Any]) -> str:
        return f"bigmm-{funcname(function).strip('_')}-{uuid.uuid4().hex}"

    def result(self, future: Future) -> Slices:
        """Wait for a result.

        Raises
        ------
        ClusterError
            When workers keep dying, none is left for long, one has another bigmm, or the scheduler does not answer.
        """
        try:
            slices = self._fetched(future)
        except KilledWorker as error:
            raise ClusterError(
                f"workers died again and again under the same task ({error}): give them more memory, or smaller chunks; "
                "where their logs say that a task does not deserialize, the same bigmm"
            ) from None
        except (NoWorkerError, NoValidWorkerError) as error:
            raise ClusterError(f"no worker is left{self._wanted} ({error}): start workers and run again") from None
        except FutureCancelledError as error:
            raise DroppedError(
                f"the scheduler dropped the pass, or the connection to it was lost ({error.reason}): see that it runs and can be "
                "reached, and run again; from a checkpoint, when there is one"
            ) from None
        return slices

    def _fetched(self, future: Future) -> Slices:
        """A result, once it is there; when its worker dies with it on the way here, the task is pending again, and is waited for again."""
        patience = _FETCH
        while True:
            self._watch(future)
            try:
                slices: Slices = future.result(timeout=patience)
            except TimeoutError:
                if future.status == "error":
                    raise future.exception() from None
                patience *= 2.0  # or else the way is long
            else:
                return slices

    def keep(self, future: Future, slices: int) -> tuple[Future, ...]:
        """Wait for a result and leave it where it is: a future for each of its slices."""
        self._watch(future)
        if future.status == "error":
            self.result(future)
        return tuple(self.start(operator.itemgetter(number), future) for number in range(slices))

    def second_look(self, tasks: Sequence[ChunkTask]) -> list[ChunkTask]:
        """Compute each partition by itself: what fails before a task begins gives that task no say, and its error has no name.

        What did not fail again is not skipped: a storage may have been busy.
        """
        found = [self._looked_at(task, task.chunk) for task in tasks if isinstance(task.chunk, DaskChunk)]
        return found if len(found) == len(tasks) else []

    def _looked_at(self, task: ChunkTask, chunk: DaskChunk) -> ChunkTask:
        try:
            with computing(chunk.name):
                self._compute(chunk.alone())
        except UnreadableError as error:
            if task.on_error == "raise":
                raise
            return dataclasses.replace(task, chunk=UnreadableChunk.of(chunk, str(error)))
        return task

    def _compute(self, partition: Delayed) -> None:
        future = self._client.compute(partition)
        self._watch(future)
        error = future.exception() if future.status == "error" else None
        del future  # the error's traceback holds what is named here, and a future the error: a pass after this one would be given it again
        if error is not None:
            raise error

    def cancel(self, futures: Sequence[Future]) -> None:
        """Give up what is not done yet."""
        self._client.cancel(list(futures))

    def _watch(self, future: Future) -> None:
        """Wait, and give up when no worker has been there for long.

        (A scheduler waits for workers without end unless it was started with ``no-workers-timeout``.)
        """
        done = threading.Event()
        future.add_done_callback(lambda _: done.set())  # distributed.wait() with a timeout keeps the future alive, and its result
        alive = asked = time.monotonic()
        while not future.done():
            done.wait(_LOOK)
            self._tally.show()
            if time.monotonic() - asked < self._patience["ask"]:
                continue
            if self._has_workers(future):
                alive = time.monotonic()
            elif time.monotonic() - alive > self._patience["no-workers"]:
                raise ClusterError(
                    f"no worker{self._wanted} has been there for {self._patience['no-workers']:.0f} s: start workers and run again"
                )
            asked = time.monotonic()

    def _has_workers(self, future: Future) -> bool:
        """Ask the scheduler, and give up when it does not answer."""
        deadline = time.monotonic() + self._patience["no-answer"]
        while not future.done():
            left = max(deadline - time.monotonic(), _LOOK)
            try:
                return bool(self._fit_workers(left))
            except OSError as error:  # a TimeoutError is one
                if time.monotonic() >= deadline:
                    raise ClusterError(
                        f"the scheduler at {self._client.scheduler.address!r} has not answered for {self._patience['no-answer']:.0f} s: "
                        "see that it runs and can be reached, and run again"
                    ) from error
                time.sleep(_LOOK)
        return True

    @property
    def _wanted(self) -> str:
        """For messages."""
        return f" with the resources {self._resources} (bigmm.worker-resources)" if self._resources else ""

    @property
    def _topic(self) -> str:
        return f"bigmm-{self._run}"

    def _receive(self, event: Any) -> None:
        _, content = event
        self._tally(ChunkReport(**{field.name: content[field.name] for field in dataclasses.fields(ChunkReport)}))

    def __enter__(self) -> Self:
        """Listen to the workers' reports, and to what they log."""
        self._client.subscribe_topic(self._topic, self._receive)
        if setting("forward-logs"):
            self._log_topic = f"bigmm-log-{self._run}"
            self._client.subscribe_topic(self._log_topic, log_forwarded)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Listen no more."""
        with contextlib.suppress(Exception):  # the scheduler may be gone
            self._client.unsubscribe_topic(self._topic)
            if self._log_topic is not None:
                self._client.unsubscribe_topic(self._log_topic)
