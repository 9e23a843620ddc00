"""Signals that wait while processes are being born."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import threading
from collections.abc import Iterator
from types import FrameType

#: Seconds that a signal waits at most. A job scheduler that has sent one kills after half a minute or so.
_PATIENCE = 10.0
#: Told in place of a signal: the processes have started.
_BORN = 0


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """A first Ctrl-C, SIGTERM or alarm waits until the processes have started, for ten seconds at most; a second of its kind does not.

    A process whose parent ends while it is being born prints a traceback, and a cluster can only be closed whole.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)}
    raising = {number: handler for number, handler in handlers.items() if callable(handler)}
    waiting: list[int] = []
    told: queue.SimpleQueue[int] = queue.SimpleQueue()  # its `put` may be called in a signal handler

    def wait(number: int, _: FrameType | None) -> None:
        if not waiting:
            told.put(number)
        waiting.append(number)
        signal.signal(number, raising[signal.Signals(number)])

    for number in raising:
        signal.signal(number, wait)
    threading.Thread(target=_repeat, args=(told,), name="bigmm-signals", daemon=True).start()
    try:
        yield
    finally:
        told.put(_BORN)
        for number, handler in raising.items():
            signal.signal(number, handler)
        for held_back in waiting:
            signal.raise_signal(held_back)


def _repeat(told: queue.SimpleQueue[int]) -> None:
    """Send the first signal once more when the processes are not there in time.

    They may never be: a signal to the whole group kills those that are just being born, and Dask before 2026.7 then waits
    for them without end.
    """
    number = told.get()
    if number == _BORN:
        return
    try:
        told.get(timeout=_PATIENCE)
    except queue.Empty:
        os.kill(os.getpid(), number)
