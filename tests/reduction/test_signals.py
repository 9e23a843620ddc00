"""Signals that come while processes are being born."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

import pytest

from bigmm.reduction import signals


class StoppedError(Exception):
    pass


@pytest.fixture(autouse=True)
def handler() -> Iterator[None]:
    def stop(_: int, __: FrameType | None) -> None:
        raise StoppedError

    before = signal.signal(signal.SIGTERM, stop)
    yield
    signal.signal(signal.SIGTERM, before)


def repeaters() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "bigmm-signals"]


def terminate() -> None:
    signal.raise_signal(signal.SIGTERM)


def undisturbed(*steps: Callable[[], object]) -> int:
    """How many of the steps were done when SIGTERM raised."""
    done = 0
    try:
        with signals.undisturbed():
            for step in steps:
                step()
                done += 1
    except StoppedError:
        return done
    raise AssertionError("SIGTERM did not raise")


def test_waits_until_all_have_started() -> None:
    assert undisturbed(terminate, lambda: time.sleep(0.05)) == 2


def test_no_longer_than_its_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "_PATIENCE", 0.2)
    assert undisturbed(terminate, lambda: time.sleep(30)) == 1


def test_a_second_one_does_not_wait() -> None:
    assert undisturbed(terminate, terminate) == 1


def test_no_signal_leaves_nothing_behind() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with signals.undisturbed():
        (repeater,) = repeaters()
    repeater.join(10)
    assert not repeater.is_alive()
    assert signal.getsignal(signal.SIGTERM) is before


def test_another_thread_holds_nothing_back() -> None:
    found = []

    def enter() -> None:
        with signals.undisturbed():
            found.extend(repeaters())

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == []
