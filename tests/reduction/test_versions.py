"""Versions on both sides of a cluster."""

from __future__ import annotations

import pytest
from distributed.comm import CommClosedError

from bigmm.reduction.versions import mismatches, versions


def test_the_same_everywhere_is_nothing_to_say() -> None:
    assert mismatches({"tcp://a:1": versions(), "the scheduler": versions()}) == []


def test_another_version_is_named_with_its_place() -> None:
    (found,) = mismatches({"tcp://a:1": versions(), "tcp://b:2": {**versions(), "numpy": "1.0"}})
    assert found.package == "numpy"
    assert found.text.endswith("here, but 1.0 on tcp://b:2")


@pytest.mark.parametrize("error", [ImportError("no module named bigmm"), ValueError("odd")])
def test_what_cannot_say_its_version_is_another_one(error: Exception) -> None:
    (found,) = mismatches({"tcp://a:1": versions(), "tcp://b:2": error})
    assert found.package == "bigmm"
    assert "tcp://b:2" in found.text


def test_a_worker_that_is_lost_meanwhile_is_no_other_version() -> None:
    assert mismatches({"tcp://a:1": versions(), "tcp://b:2": CommClosedError("stream is closed")}) == []
