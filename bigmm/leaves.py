"""The pass of a fit, whose leaves stay on the workers where this process's memory will not hold them."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bigmm.crossproducts import CrossProducts
from bigmm.design import Design, NaAction
from bigmm.errors import ClusterError, StorageError
from bigmm.reduction.cluster import connect
from bigmm.reduction.progress import ProgressCallback
from bigmm.reduction.reduce import blank_design, plan_pass, reduce_plan, with_plan
from bigmm.reduction.run import RunOptions
from bigmm.reduction.sources import Plan
from bigmm.reduction.work import OnError
from bigmm.remote import RemoteCrossProducts, keep_on_workers
from bigmm.solver.memory import available_memory
from bigmm.solver.plan import format_bytes
from bigmm.solver.residence import LeavesChoice, Residence, check_leaves, choose_residence, needed_at_most

if TYPE_CHECKING:
    from distributed import Client

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Reduced:
    """What a pass has left, and where.

    Attributes
    ----------
    cp : CrossProducts or RemoteCrossProducts
    residence : Residence
    """

    cp: CrossProducts | RemoteCrossProducts
    residence: Residence


@contextmanager
def reduced(
    formula: str,
    data: Any,
    leaves: LeavesChoice,
    client: Any,
    *,
    weights: str | None = None,
    offset: str | None = None,
    na_action: NaAction = "omit",
    on_error: OnError = "raise",
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = True,
    progress: ProgressCallback | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Iterator[Reduced]:
    """Crossproducts of a pass, wherever they are; those on workers live as long as the context.

    Parameters
    ----------
    leaves : {"auto", "workers", "local"}
        "auto" leaves them on the workers when there are some and this process's memory will not hold them.
    formula, data, client, weights, offset, na_action, on_error, checkpoint, resume, progress, storage_options
        As for `bigmm.reduce`. With a checkpoint, which is kept here, leaves are local.

    Raises
    ------
    ModelError, StorageError, ClusterError
        For another choice; for leaves on workers with a checkpoint, or without workers.
    """
    check_leaves(leaves)
    if leaves == "workers" and checkpoint is not None:
        raise StorageError("a checkpoint holds what is reduced here, and leaves on workers are not: leave it out, or choose leaves='local'")
    plan, design = plan_pass(blank_design(formula, weights, offset, na_action, on_error), data, storage_options)
    options = RunOptions(checkpoint, resume, on_error, progress)
    with ExitStack() as cluster:
        connected = cluster.enter_context(connect(client, here=leaves != "workers" and plan.readable_here))
        before = _before(plan, design, leaves, connected, checkpoint)
        if before is not None:
            found = Reduced(reduce_plan(plan, design, connected, options), before)
        else:
            found = _measured(plan, design, connected, options, leaves)
        logger.info("leaves live: %s", found.residence)
        if found.residence.where == "local":
            cluster.close()
        yield found


def _before(plan: Plan, design: Design, leaves: LeavesChoice, client: Client | None, checkpoint: Any) -> Residence | None:
    """Leaves that are local whatever the rows hold; None where they may have to stay on the workers."""
    if client is None and leaves == "workers":
        raise ClusterError("leaves='workers' needs a cluster: pass a client, an address or a number of processes")
    if leaves != "auto":
        return Residence("local", "asked for") if leaves == "local" else None
    if client is None:
        return Residence("local", "there are no workers")
    if checkpoint is not None:
        return Residence("local", "a checkpoint is kept here")
    counts = [chunk.rows for chunk in plan.chunks]
    needed, available = needed_at_most(design, None if None in counts else sum(count or 0 for count in counts)), available_memory()
    if needed > available:
        return None
    return Residence("local", f"memory holds them: {format_bytes(needed)} at most, {format_bytes(available)} available")


def _measured(plan: Plan, design: Design, client: Client | None, options: RunOptions, leaves: LeavesChoice) -> Reduced:
    """Reduce on the workers, look how large the slices are, and fetch those that memory holds."""
    assert client is not None
    remote = keep_on_workers(plan, design, client, options)
    if leaves == "workers":
        return Reduced(remote, Residence("workers", "asked for"))
    residence = choose_residence(remote.needed_here, available_memory())
    return Reduced(with_plan(remote.collect(), plan) if residence.where == "local" else remote, residence)
