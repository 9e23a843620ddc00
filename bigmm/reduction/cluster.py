"""Find a Dask client, or start a local cluster and close it again."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Iterator
from typing import Any

import dask
from distributed import Client, LocalCluster

from bigmm.errors import ClusterError

#: Seconds to wait for a scheduler to answer, and for its first worker.
_CONNECT = 10
_FIRST_WORKER = 60
#: Files below this size in all are reduced in this process: a cluster would take longer to start.
SMALL_BYTES = 64 * 2**20

#: Without these a lost worker is waited for without end, and preempted workers are blamed on their tasks.
_CONFIG = {
    "distributed.scheduler.no-workers-timeout": "5 minutes",
    "distributed.scheduler.allowed-failures": 30,
    "distributed.comm.retry.count": 3,
}


@contextlib.contextmanager
def connect(client: Any, *, small: bool) -> Iterator[Client | None]:
    """A client to reduce with, or None to reduce in this process.

    Parameters
    ----------
    client : None, Client, str or cluster
        None takes the running client, if there is one; else nothing for small data, and a local cluster for the rest.
        Text is a scheduler's address or the path of a scheduler file.
    small : bool
        The data need no cluster.

    Raises
    ------
    ClusterError
        When no scheduler answers, or it has no worker.
    """
    if client is None:
        client = _running()
        if client is None and small:
            yield None
            return
    if isinstance(client, Client):
        yield _with_workers(client)
    elif client is None:
        with local_cluster() as started:
            yield started
    elif isinstance(client, str) or hasattr(client, "scheduler_address"):
        with _connected(client) as connected:
            yield _with_workers(connected)
    else:
        raise ClusterError(f"client of type {type(client).__name__}: expected a Dask client, a cluster, or a scheduler's address")


def _running() -> Client | None:
    with contextlib.suppress(ValueError):
        found: Client = Client.current()
        return found if found.status == "running" else None
    return None


@contextlib.contextmanager
def local_cluster(workers: int | None = None) -> Iterator[Client]:
    """A cluster of processes on this machine, with one thread each; closed at the end.

    Parameters
    ----------
    workers : int, optional
        Processes; one a processor unless given.

    Raises
    ------
    ClusterError
        When called while a worker process imports the main script.
    """
    if getattr(multiprocessing.process.current_process(), "_inheriting", False):
        raise ClusterError("a local cluster starts this script again in each worker: put the call under `if __name__ == '__main__':`")
    count = workers or len(os.sched_getaffinity(0))
    with (
        dask.config.set(_CONFIG),
        LocalCluster(n_workers=count, threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address=None) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


@contextlib.contextmanager
def _connected(where: Any) -> Iterator[Client]:
    try:
        if isinstance(where, str) and os.path.exists(where):
            client = Client(scheduler_file=where, timeout=_CONNECT, set_as_default=False)
        else:
            client = Client(where, timeout=_CONNECT, set_as_default=False)
    except (OSError, ValueError) as error:
        shown = where if isinstance(where, str) else type(where).__name__
        raise ClusterError(
            f"no Dask scheduler answers at {shown!r} ({_short(error)}): check the address and that the scheduler runs"
        ) from None
    with client:
        yield client


def _short(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:160] if text else type(error).__name__


def _with_workers(client: Client) -> Client:
    try:
        client.wait_for_workers(1, timeout=_FIRST_WORKER)
    except TimeoutError:
        raise ClusterError(
            f"the scheduler at {client.scheduler.address!r} has had no worker for {_FIRST_WORKER} s: start workers and run again"
        ) from None
    return client
