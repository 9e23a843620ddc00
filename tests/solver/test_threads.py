"""Threads by size: never more than a caller has allowed, and as many as before when the work is done."""

from __future__ import annotations

import numba
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from bigmm.solver import threads


def present() -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


@pytest.fixture(autouse=True)
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_threads", lambda: 4)


def test_by_size() -> None:
    assert [threads.dense_threads(order) for order in (10, 599, 600, 1100, 50_000)] == [1, 1, 2, 3, 4]
    assert [threads.front_threads(rows) for rows in (10, 2_999, 3_000)] == [1, 1, 4]
    assert [threads.loop_threads(work) for work in (1e3, 1e9)] == [1, 4]


@pytest.mark.parametrize("allowed", [1, 2])
def test_a_limit_lowers_and_never_raises(allowed: int) -> None:
    with threadpool_limits(allowed, user_api="blas"):
        for wanted in (1, 2, 3, 4):
            with threads.blas_limit(wanted)():
                assert present() == {min(wanted, allowed)}
            assert present() == {allowed}


def test_loops() -> None:
    before = numba.get_num_threads()
    with threads.looping(1):
        assert numba.get_num_threads() == 1
    assert numba.get_num_threads() == before
