"""Find a Dask client, or start a local cluster and close it again."""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
import os
import signal
from collections.abc import Iterator
from multiprocessing import resource_tracker
from typing import Any

import dask
from distributed import Client, LocalCluster

from bigmm.errors import ClusterError

#: Seconds to wait for a scheduler to answer, and for its first worker.
_CONNECT = 10
_FIRST_WORKER = 60
#: Most characters that are read of a scheduler file, which could be any file by mistake.
_SCHEDULER_FILE = 2**20
#: Files below this size in all are reduced in this process: a cluster would take longer to start.
SMALL_BYTES = 64 * 2**20

#: Without these a lost worker is waited for without end, a stopped one for ten minutes, and preempted workers are
#: blamed on their tasks.
_CONFIG = {
    "distributed.scheduler.no-workers-timeout": "5 minutes",
    "distributed.scheduler.worker-ttl": "2 minutes",
    "distributed.scheduler.allowed-failures": 30,
    "distributed.comm.retry.count": 3,
}
#: Of a local cluster: what goes wrong in a worker reaches the caller as an exception, and its log would say it again.
_QUIET_WORKERS = {
    "distributed.nanny.pre-spawn-environ.DASK_LOGGING": repr(dict.fromkeys(["distributed", "tornado", "tornado.application"], "critical"))
}


@contextlib.contextmanager
def connect(client: Any, *, small: bool) -> Iterator[Client | None]:
    """A client to reduce with, or None to reduce in this process.

    Parameters
    ----------
    client : None, Client, str, cluster or int
        None takes the running client, if there is one; else nothing for small data, and a local cluster for the rest.
        Text is a scheduler's address or the path of a scheduler file, a number the processes of a local cluster: 0 is
        this process.
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
    elif isinstance(client, int) and client == 0:
        yield None
    elif client is None or (isinstance(client, int) and client > 0):
        with local_cluster(client) as started:
            yield started
    elif isinstance(client, str) or hasattr(client, "scheduler_address"):
        with _connected(client) as connected:
            yield _with_workers(connected)
    else:
        raise ClusterError(f"client={client!r}: expected a Dask client, a cluster, a scheduler's address, or a number of processes")


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
        dask.config.set({**_CONFIG, **_QUIET_WORKERS}),
        _starting(count) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def _starting(count: int) -> LocalCluster:
    """A local cluster whose processes never see Ctrl-C, which a terminal sends to all of them: this process closes them.

    What is started meanwhile inherits the signals that are held back. multiprocessing's tracker lets them through again
    when it starts, so that it has to start before.
    """
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return LocalCluster(
            n_workers=count,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=None,
            scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},  # without a dashboard it still listens, on 8787 and everywhere
            silence_logs=logging.CRITICAL,
        )
    except (OSError, RuntimeError) as error:
        raise ClusterError(
            f"a local cluster of {count} processes did not start ({_short(error)}): try fewer, or none; "
            "in a script, put the call under `if __name__ == '__main__':`"
        ) from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _connected(where: Any) -> Iterator[Client]:
    try:
        client = _client(_address(where) if isinstance(where, str) and os.path.exists(where) else where)
    except ClusterError:
        raise
    except Exception as error:  # whatever answers may send anything: MemoryError, AssertionError, ...
        shown = where if isinstance(where, str) else type(where).__name__
        raise ClusterError(
            f"no Dask scheduler answers at {shown!r} ({_short(error)}): check the address and that the scheduler runs"
        ) from None
    with client:
        yield client


def _address(path: str) -> str:
    """A scheduler's address from the file that it writes."""
    try:
        with open(path, encoding="utf-8") as file:
            address = json.loads(file.read(_SCHEDULER_FILE))["address"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ClusterError(f"{path!r} is no scheduler file ({_short(error)}): expected JSON with an address") from None
    if not isinstance(address, str):
        raise ClusterError(f"{path!r} is no scheduler file (its address is {address!r}): expected JSON with an address")
    return address


def _client(where: Any) -> Client:
    """A client; one that fails half-made is closed here, where that is quiet."""
    client = Client.__new__(Client)
    try:
        client.__init__(where, timeout=_CONNECT, set_as_default=False)
    except BaseException:
        with contextlib.suppress(Exception):
            client.close(timeout=_CONNECT)
        raise
    return client


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
