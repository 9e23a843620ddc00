"""How many threads an operation gets: two on a small one are slower than one, and wait for each other on a busy machine."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from functools import cache

import numba
from threadpoolctl import LibController, ThreadpoolController

#: Columns of a dense matrix for each thread of its tiles: at order 600 two take 0.8 of the time of one, at 1142 0.65, at 2284 0.6.
_COLUMNS_A_THREAD = 300
#: The fronts of a sparse factor are many and small: up to a widest one of 2600 rows two threads were never faster than one.
_FRONT = 3000
#: Below this order OpenBLAS factors and solves in one thread by itself, and telling it so would cost more than the work.
_TINY = 48
#: Compiled loops with fewer multiplications than this run in one thread.
_LOOP_WORK = 20_000_000


@cache
def _controller() -> ThreadpoolController:
    """The BLAS libraries of this process; looked for once, which takes milliseconds."""
    return ThreadpoolController()


def dense_threads(order: int) -> int:
    """Threads for the tiles of a dense matrix of one order."""
    return max(1, min(_threads(), order // _COLUMNS_A_THREAD))


def front_threads(rows: int) -> int:
    """BLAS threads for a sparse factor whose widest front has so many rows."""
    return _threads() if rows >= _FRONT else 1


def blas_limit(threads: int) -> Callable[[], contextlib.AbstractContextManager[object]]:
    """A context in which BLAS takes no more threads than this, nor more than it would by itself."""
    return contextlib.nullcontext if threads >= _threads() else lambda: _limits.hold(threads)


class _BlasLimits:
    """Limits that hold for the whole process: models that threads evaluate side by side set them, and the last of these sets them back.

    What a signal breaks off is made good at the end of the same thread's next limit.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders: set[int] = set()
        self._before: list[int] = []

    @contextlib.contextmanager
    def hold(self, threads: int) -> Iterator[None]:
        """Limit BLAS; where several limits hold, by the one that came last."""
        libraries, own = _blas(), threading.get_ident()
        try:
            with self._lock:
                if not self._holders:
                    self._before = [library.num_threads for library in libraries]
                self._holders.add(own)
                _set(libraries, [min([threads, *self._before])] * len(libraries))
            yield
        finally:
            with self._lock:
                if self._holders == {own}:
                    _set(libraries, self._before)
                self._holders.discard(own)

    def forget(self) -> None:
        """In a process that was forked, the other threads, which will set nothing back."""
        self._lock = threading.Lock()  # another thread may have held the old one
        if self._holders:
            _set(_blas(), self._before)
            self._holders.clear()


_limits = _BlasLimits()
os.register_at_fork(after_in_child=_limits.forget)


def _blas() -> list[LibController]:
    return [library for library in _controller().lib_controllers if library.user_api == "blas"]


def _set(libraries: list[LibController], threads: list[int]) -> None:
    """Set what libraries may take, from any thread: threadpoolctl gives that to one, until it ends, unless it is told to forget it."""
    for library, count in zip(libraries, threads, strict=True):
        release = getattr(library, "clear_controlling_thread", lambda **_: None)  # not before 3.8
        release(force=True)
        library.set_num_threads(count)
        release(force=True)


def tiny(order: int) -> bool:
    """Whether BLAS keeps a matrix of this order to one thread anyway."""
    return order < _TINY


def _threads() -> int:
    return int(numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]


def loop_threads(work: float) -> int:
    """Threads for compiled loops with so many multiplications in all."""
    return 1 if work < _LOOP_WORK else _threads()


@contextlib.contextmanager
def looping(threads: int) -> Iterator[None]:
    """A context in which compiled loops use so many threads."""
    before = numba.get_num_threads()
    numba.set_num_threads(threads)
    try:
        yield
    finally:
        numba.set_num_threads(before)
