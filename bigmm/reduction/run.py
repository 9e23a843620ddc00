"""Running a pass: what is fixed before it, who does it, what is done of it already."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from distributed import Client, Future

from bigmm.addition import add
from bigmm.crossproducts import CrossProducts
from bigmm.design import Design
from bigmm.reduction.checkpoint import Checkpoint
from bigmm.reduction.memory import give_back
from bigmm.reduction.mirror import open_any_checkpoint
from bigmm.reduction.progress import ProgressCallback
from bigmm.reduction.segments import Segment, extended, total
from bigmm.reduction.shift import with_shift
from bigmm.reduction.slices import Slicing
from bigmm.reduction.slicing import choose_slicing
from bigmm.reduction.sources import Plan
from bigmm.reduction.sources.frames import identity_of
from bigmm.reduction.tally import Tally
from bigmm.reduction.threads import Threads
from bigmm.reduction.tree import Executor, batch_results
from bigmm.reduction.work import OnError, Work
from bigmm.reduction.workers import Workers

logger = logging.getLogger(__name__)

#: Slices at least when they stay on the workers, whose threads share them out.
_REMOTE_SLICES = 16


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What does not change the result of a pass that ends well; see `bigmm.reduce`."""

    checkpoint: str | os.PathLike[str] | None = None
    resume: bool = True
    on_error: OnError = "raise"
    progress: ProgressCallback | None = None


def run_pass(plan: Plan, design: Design, client: Client | None, options: RunOptions) -> CrossProducts:
    """Crossproducts of all chunks, computed on a cluster or, without one, in this process."""
    where = "threads of this process" if client is None else client.scheduler.address
    logger.info("reducing %d chunks on %s", len(plan.chunks), where)
    with nullcontext() if client is None else client.as_current():  # it computes the partitions of a Dask DataFrame, too
        work = _work(plan, design, options.on_error)
        tally = Tally(work.chunks, options.progress)
        executor = Threads(tally) if client is None else Workers(client, tally)
        with _checkpoint(work, plan, options) as checkpoint, executor:
            cp = _collect(executor, work, tally, checkpoint)
    for chunk in cp.skipped:
        logger.warning("skipped %s: %s", chunk.name, chunk.reason)
    return cp


def _work(plan: Plan, design: Design, on_error: OnError, least: int = 1) -> Work:
    shifted = with_shift(design, plan.chunks, on_error)
    return Work(plan.chunks, shifted, choose_slicing(shifted, plan.chunks, on_error, least), on_error)


def _checkpoint(work: Work, plan: Plan, options: RunOptions) -> AbstractContextManager[Checkpoint | None]:
    if options.checkpoint is None:
        return nullcontext()
    return open_any_checkpoint(options.checkpoint, work, identity_of(plan), resume=options.resume)


def _collect(executor: Executor, work: Work, tally: Tally, checkpoint: Checkpoint | None) -> CrossProducts:
    """The sum of all batches."""
    return total(_segments(executor, work, tally, checkpoint))


def _segments(executor: Executor, work: Work, tally: Tally, checkpoint: Checkpoint | None) -> list[Segment]:
    """All batches; those that a checkpoint has are not done again."""
    segments = [] if checkpoint is None else checkpoint.load()
    first = segments[-1].stop if segments else 0
    tally.begin(first)
    for slices in batch_results(executor, work, first):
        segments = extended(segments, slices)
        if segments[-1].size > 1:
            give_back()  # the batches that were merged leave the heap in pieces, and it would grow by some at every merge
        if checkpoint is not None:
            checkpoint.save(segments)
        tally.batches_done(segments[-1].stop)
    return segments


def run_on_workers(plan: Plan, design: Design, client: Client, options: RunOptions) -> tuple[tuple[Future, ...], Slicing]:
    """The same pass, whose slices stay on the workers: a future for each."""
    with client.as_current():
        work = _work(plan, design, options.on_error, least=_REMOTE_SLICES)
        tally = Tally(work.chunks, options.progress)
        executor, count = Workers(client, tally), work.slicing.count

        def merge(parts: Sequence[Any]) -> Any:
            return tuple(executor.submit(add, list(slices)) for slices in zip(*parts, strict=True))

        segments: list[Segment] = []
        with executor:
            for slices in batch_results(executor, work, take=lambda future: executor.keep(future, count)):
                segments = extended(segments, slices, merge)
                tally.batches_done(segments[-1].stop)
            return merge([segment.slices for segment in segments]), work.slicing
