"""Small problems run faster on one thread, above all on a busy machine."""

from __future__ import annotations

from collections.abc import Iterator

import numba
import pytest
from threadpoolctl import threadpool_limits


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = numba.get_num_threads()
    numba.set_num_threads(1)
    with threadpool_limits(1):
        yield
    numba.set_num_threads(threads)
