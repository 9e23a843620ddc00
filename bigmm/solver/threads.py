"""How many threads an operation gets: two on a small one are slower than one, and wait for each other on a busy machine."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import cache

import numba
from threadpoolctl import ThreadpoolController

#: Matrices below this order are factored by one BLAS thread. (On a busy machine two lose up to order 3000; beyond, they win.)
_BLAS_ORDER = 3000
#: Below this one OpenBLAS factors and solves in one thread by itself, and telling it so would cost more than the work.
_BLAS_TINY = 48
#: Compiled loops with fewer multiplications than this run in one thread.
_LOOP_WORK = 20_000_000


@cache
def _controller() -> ThreadpoolController:
    """The BLAS libraries of this process; looked for once, which takes milliseconds."""
    return ThreadpoolController()


def blas_threads(order: int, tiny: int = _BLAS_TINY) -> Callable[[], contextlib.AbstractContextManager[object]]:
    """A context for BLAS calls on matrices of one order; below `tiny` it does nothing."""
    if order >= _BLAS_ORDER or order < tiny:
        return contextlib.nullcontext
    return lambda: _controller().limit(limits=1, user_api="blas")


def blas_count(order: int) -> int:
    """Threads of such calls."""
    return _threads() if order >= _BLAS_ORDER else 1


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
