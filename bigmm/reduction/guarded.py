"""What a task on a worker does before and beside its work: it refuses another version, and sends what it logs to its own driver."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from distributed import Worker, get_worker

import bigmm
from bigmm.errors import ClusterError


@dataclass(frozen=True, slots=True)
class Guarded:
    """A function as a worker runs it.

    Workers that join after the versions were compared are met here, where none can be missed. The records go to a topic of
    the run's own, so that drivers that share a cluster hear their own tasks alone, and none can end the other's forwarding.

    Attributes
    ----------
    function : callable
    version : str
        The driver's bigmm.
    topic : str or None
        Where to send what the function logs under "bigmm"; None sends it nowhere.
    """

    function: Callable[..., Any]
    version: str
    topic: str | None

    def __call__(self, *arguments: Any) -> Any:
        """Call it.

        Raises
        ------
        ClusterError
            On a worker with another bigmm.
        """
        worker = get_worker()
        if bigmm.__version__ != self.version:
            raise ClusterError(
                f"bigmm {self.version} here, but {bigmm.__version__} on worker {worker.address}, which joined during the run: "
                "install the same version there or stop that worker, and run again"
            )
        with _forwarded(worker, self.topic):
            return self.function(*arguments)


@contextlib.contextmanager
def _forwarded(worker: Worker, topic: str | None) -> Iterator[None]:
    if topic is None:
        yield
        return
    logger, handler = logging.getLogger("bigmm"), _Forward(worker, topic)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _Forward(logging.Handler):
    """Sends the records of the thread that made it: other threads of the worker may have tasks of other drivers."""

    def __init__(self, worker: Worker, topic: str) -> None:
        super().__init__()
        self._worker, self._topic, self._thread = worker, topic, threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        """Send it as plain values: what its arguments are need not exist at the other end."""
        if record.thread != self._thread:
            return
        self.format(record)  # writes the traceback, if any, into exc_text
        sent = {**record.__dict__, "msg": record.getMessage(), "args": None, "exc_info": None, "worker": self._worker.address}
        sent.pop("message", None)
        self._worker.log_event(self._topic, sent)


def log_forwarded(event: tuple[float, dict[str, Any]]) -> None:
    """Log a record of a worker here, at the levels that are set here."""
    record = logging.makeLogRecord(event[1])
    logger = logging.getLogger(record.name)
    if logger.isEnabledFor(record.levelno):
        logger.handle(record)
