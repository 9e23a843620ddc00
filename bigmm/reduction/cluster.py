"""Find a Dask client, or start a local cluster and close it again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import multiprocessing
import os
import signal
import ssl
import time
import uuid
from collections.abc import Iterator
from multiprocessing import resource_tracker
from typing import Any

import dask
from distributed import Client, LocalCluster
from distributed.scheduler import NoWorkerError

from bigmm.errors import ClusterError
from bigmm.reduction.settings import seconds, setting
from bigmm.reduction.signals import undisturbed
from bigmm.reduction.versions import check_versions

#: Most characters that are read of a scheduler file, which could be any file by mistake.
_SCHEDULER_FILE = 2**20

#: Without these a lost worker is waited for without end, a stopped one for ten minutes, preempted workers are blamed on
#: their tasks, a worker that is lost twice, the second time a quarter of a minute after the first, is given up for good, and
#: those that want something of a lost one try to reach it for half a minute.
_CONFIG = {
    "distributed.scheduler.no-workers-timeout": "5 minutes",
    "distributed.scheduler.worker-ttl": "2 minutes",
    "distributed.scheduler.allowed-failures": 30,
    "distributed.comm.retry.count": 3,
    "distributed.deploy.lost-worker-timeout": "1 day",
    "distributed.comm.timeouts.connect": "10 seconds",
}
#: Dask's loggers that have levels of their own, in this process.
_LOGGERS = ("distributed", "distributed.client", "distributed.gc")
#: Of a local cluster: what goes wrong in a worker reaches the caller as an exception, and its log would say it again.
_QUIET_WORKERS = {
    "distributed.nanny.pre-spawn-environ.DASK_LOGGING": repr(dict.fromkeys(["distributed", "tornado", "tornado.application"], "critical"))
}


@contextlib.contextmanager
def connect(client: Any, *, here: bool, check: bool = True) -> Iterator[Client | None]:
    """A client to reduce with, or None to reduce in this process.

    Parameters
    ----------
    client : None, Client, str, cluster or int
        None takes the running client, if there is one; else nothing where that will do, and a local cluster otherwise.
        Text is a scheduler's address or the path of a scheduler file, a number the processes of a local cluster: 0 is
        this process.
    here : bool
        Without a cluster this process can do the work.
    check : bool
        Refuse a cluster with another bigmm; see `check_versions`.

    Raises
    ------
    ClusterError
        When no scheduler answers, it has no worker, or workers have no bigmm of this version.
    """
    if client is None:
        client = _running()
        if client is None and here:
            yield None
            return
    if isinstance(client, Client):
        yield _ready(client, check)
    elif isinstance(client, int) and client == 0:
        yield None
    elif client is None or (isinstance(client, int) and client > 0):
        with local_cluster(client) as started:
            yield started
    elif isinstance(client, str) or hasattr(client, "scheduler_address"):
        with _connected(client) as connected:
            yield _ready(connected, check)
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
        Processes; unless given those of the settings, or one a processor.

    Raises
    ------
    ClusterError
        When called while a worker process imports the main script.
    """
    if getattr(multiprocessing.process.current_process(), "_inheriting", False):
        raise ClusterError("a local cluster starts this script again in each worker: put the call under `if __name__ == '__main__':`")
    count = workers or setting("local-cluster.workers") or len(os.sched_getaffinity(0))
    with dask.config.set({**_CONFIG, **_QUIET_WORKERS}), _quiet(), contextlib.ExitStack() as opened:
        with undisturbed():
            cluster = opened.enter_context(_starting(count))
        yield opened.enter_context(Client(cluster, set_as_default=False))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence Dask's log by its loggers.

    The cluster's own `silence_logs` does it by their handlers, which may be the caller's for all that is logged.
    """
    # Those that another local cluster has silenced are its own to restore.
    before = {logger: logger.level for logger in map(logging.getLogger, _LOGGERS) if logger.level != logging.CRITICAL}
    for logger in before:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in before.items():
            logger.setLevel(level)


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
            memory_limit=setting("local-cluster.memory-limit"),
            # Without a dashboard it still listens, on 8787 and everywhere.
            scheduler_kwargs={"dashboard_address": setting("local-cluster.dashboard-address")},
            silence_logs=False,
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
    if isinstance(where, str) and ":" not in where and not os.path.exists(where):
        raise ClusterError(f"{where!r} does not exist: expected the file that a scheduler writes, or its address, as tcp://host:8786")
    try:
        client = _client(_address(where) if isinstance(where, str) and os.path.exists(where) else where)
    except ClusterError:
        raise
    except Exception as error:  # whatever answers may send anything: MemoryError, AssertionError, ...
        shown = where if isinstance(where, str) else type(where).__name__
        raise ClusterError(f"no Dask scheduler answers at {shown!r} ({_reason(error)}): {_remedy(error)}") from None
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


class _Patient(Client):  # type: ignore[misc]  # Dask has no types
    """Its patience has an end: Dask's own waits without one for the first answer of what has taken a connection."""

    async def _start(self, timeout: float, **options: Any) -> Client:
        try:
            async with asyncio.timeout(2 * timeout):  # `timeout` is for the connection
                started: Client = await super()._start(timeout=timeout, **options)
        except TimeoutError as error:
            raise TimeoutError(str(error) or f"it takes connections, but has said nothing for {timeout:g} s") from None
        return started


def _client(where: Any) -> Client:
    """A client; one that fails half-made is closed here, where that is quiet."""
    client, timeout = _Patient.__new__(_Patient), seconds("timeouts.connect")
    try:
        client.__init__(where, timeout=timeout, set_as_default=False)  # type: ignore[misc]
    except BaseException:
        with contextlib.suppress(Exception):
            client.close(timeout=timeout)
        raise
    return client


def _reason(error: BaseException) -> str:
    """Dask says of every certificate that it does not match; what is wrong with it lies underneath."""
    return _short(error.__cause__ if isinstance(error.__cause__, ssl.SSLError) else error)


def _remedy(error: BaseException) -> str:
    if any(word in _reason(error) for word in ("TLS", "SSL")):
        return "see that scheduler and client have certificates of the same authority that are still valid (DASK_CONFIG, deploy/README.md)"
    return "check the address and that the scheduler runs"


def _short(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:160] if text else type(error).__name__


def _ready(client: Client, check: bool) -> Client:
    """A client whose workers are there and can do the work."""
    if client.asynchronous:
        raise ClusterError(
            "the client is asynchronous, and a pass would stop the event loop that it lives in: expected a synchronous one, or in a thread "
            "the scheduler's address: await asyncio.to_thread(bigmm.reduce, formula, data, client=client.scheduler.address)"
        )
    _wait_for_worker(client)
    if check:
        check_versions(client)
    return client


def _wait_for_worker(client: Client) -> None:
    """Have a first task done: a cluster that adapts starts no worker before there is one."""
    patience = seconds("timeouts.first-worker")
    if client.scheduler_info(n_workers=1)["workers"]:
        return
    first = client.submit(time.time, key=f"bigmm-hello-{uuid.uuid4().hex}", pure=False)
    try:
        first.result(patience)
    except (TimeoutError, NoWorkerError):
        first.cancel()
        raise ClusterError(
            f"the scheduler at {client.scheduler.address!r} has had no worker for {patience:g} s: start workers and run again"
        ) from None
