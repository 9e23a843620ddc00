"""Threads by size: never more than a caller has allowed, and as many as before when the work is done."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from threading import Event, Thread
from typing import Any

import numba
import numpy as np
import pandas as pd
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

import bigmm
from bigmm.solver import derivatives, openmp, pls, threads


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


def test_limits_of_threads_that_overlap_are_all_gone_at_the_end() -> None:
    begun, end, seen = Event(), Event(), list[set[int]]()

    def other() -> None:
        with threads.blas_limit(2)():
            begun.set()
            end.wait(60)
            seen.append(present())

    with threadpool_limits(3, user_api="blas"):
        thread = Thread(target=other)
        with threads.blas_limit(1)():
            assert present() == {1}
            thread.start()
            assert begun.wait(60)
        end.set()
        thread.join()
        assert seen == [{2}]
        assert present() == {3}


def test_a_limit_of_one_thread_is_in_nobodys_way_later() -> None:
    """Threadpoolctl lets one thread set limits."""

    def seen() -> set[int]:
        with threads.blas_limit(1)():
            return present()

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(seen).result() == {1}  # its thread stays
        assert seen() == {1}
        with threadpool_limits(2, user_api="blas"):
            assert present() == {2}
            assert pool.submit(seen).result() == {1}
            assert present() == {2}


def test_a_forked_process_has_no_limit_of_threads_that_it_lacks() -> None:
    limits = threads._BlasLimits()
    with threadpool_limits(3, user_api="blas"):
        left_behind = limits.hold(1)
        left_behind.__enter__()
        limits.forget()
        assert present() == {3}
        with limits.hold(1):
            assert present() == {1}
        assert present() == {3}


def test_a_limit_ends_with_an_error() -> None:
    with threadpool_limits(3, user_api="blas"):
        with pytest.raises(ZeroDivisionError), threads.blas_limit(1)():
            raise ZeroDivisionError
        assert present() == {3}


def test_loops() -> None:
    before = numba.get_num_threads()
    with threads.looping(1):
        assert numba.get_num_threads() == 1
    assert numba.get_num_threads() == before


def test_blas_has_one_thread_all_through_an_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[int]] = []

    def watch(module: Any, name: str) -> None:
        function = getattr(module, name)

        def watched(*arguments: Any) -> Any:
            seen.append(present())
            return function(*arguments)

        monkeypatch.setattr(module, name, watched)

    for module, name in ((pls, "upper_factor"), (derivatives, "few_columns"), (derivatives, "_add_inverse")):
        watch(module, name)
    refs = np.random.default_rng(1).integers(100, size=(1000, 2))
    data = pd.DataFrame({"y": refs @ [0.01, 0.02] % 1.0, "g": refs[:, 0], "h": refs[:, 1]})
    model = bigmm.reduce("y ~ 1 + (1 | g) + (1 | h)", data, client=0).model()
    with threadpool_limits(2, user_api="blas"):
        model.gradient(model.theta0)
        assert present() == {2}
    assert seen == [{1}] * 3


@pytest.mark.skipif(sys.platform != "linux" or not find_spec("numba.np.ufunc.omppool"), reason="compiled loops have other threads")
@pytest.mark.parametrize("asked", ["", "ACTIVE"])
def test_threads_of_loops_sleep_unless_asked_otherwise(asked: str) -> None:
    given = {name: value for name, value in os.environ.items() if name not in openmp._WAITING}
    environment = {**given, "OMP_DISPLAY_ENV": "TRUE", **({"OMP_WAIT_POLICY": asked} if asked else {})}
    program = "import os, bigmm.solver.model; print(os.environ.get('OMP_WAIT_POLICY', ''))"
    run = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True, timeout=100)
    assert run.stdout.strip() == asked
    assert f"OMP_WAIT_POLICY = '{asked or 'PASSIVE'}'" in run.stderr
