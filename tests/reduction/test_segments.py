"""The driver's sum: few copies, an order of additions that depends on the number of batches alone."""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Sequence
from dataclasses import replace

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest

import bigmm
from bigmm.crossproducts import CrossProducts
from bigmm.reduction import run
from bigmm.reduction.segments import FAN_IN, Segment, extended, total
from bigmm.reduction.work import BATCH, Slices, add_slices


def product(seed: int, rows: int = 20) -> CrossProducts:
    rng = np.random.default_rng(seed)
    levels = rng.permutation(np.arange(rows) % max(rows // 2, 1))
    return bigmm.reduce("y ~ 1 + (1|g)", pd.DataFrame({"g": levels, "y": rng.normal(size=rows) * 10.0 ** (seed % 5)}))


@pytest.mark.parametrize("batches", [1, 7, 8, 9, 64, 75])
def test_segments_cover_the_batches_in_order(batches: int) -> None:
    segments: list[Segment] = []
    for seed in range(batches):
        segments = extended(segments, (product(seed % 3),))
    assert [segment.start for segment in segments] == [0, *(segment.stop for segment in segments[:-1])]
    assert segments[-1].stop == batches
    sizes = [segment.size for segment in segments]
    assert sizes == sorted(sizes, reverse=True)
    assert max(map(sizes.count, set(sizes))) < FAN_IN
    assert total(segments).rows.read == 20 * batches


class Counted:
    """A merge that remembers how many it has merged at a time."""

    def __init__(self) -> None:
        self.parts: list[int] = []

    def __call__(self, parts: Sequence[Slices]) -> Slices:
        self.parts.append(len(parts))
        return add_slices(parts)


def test_batches_of_the_same_levels_are_held_a_few_times() -> None:
    batches, segments, merge = [(product(seed, 400),) for seed in range(3)], list[Segment](), Counted()
    for number in range(1, 1500):
        segments = extended(segments, batches[number % 3], merge)
        levels = 2 if number < FAN_IN**2 else 3
        assert number < FAN_IN or len(segments) <= 2 * levels
    assert total(segments).rows.read == 400 * 1499
    assert sum(merge.parts) < 2.2 * 1499  # and a merge takes more than two at a time


def test_batches_that_are_merged_early_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    digests = []
    for held in (2, FAN_IN):
        monkeypatch.setattr("bigmm.reduction.segments._HELD", held)
        segments: list[Segment] = []
        for number in range(FAN_IN**2):
            segments = extended(segments, (product(number % 40),))
        (whole,) = segments
        digests.append(whole.slices[0].digest)
    assert digests[0] == digests[1]


@pytest.mark.parametrize("large", [1, 1000, 2**25])
def test_large_batches_of_the_same_levels_are_not_many_before_that_is_known(large: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the bits of the sum are those of a merge of all."""
    monkeypatch.setattr("bigmm.reduction.segments._LARGE", large)
    segments, held = list[Segment](), 0
    for seed in range(FAN_IN):
        segments = extended(segments, (product(seed, 400),))
        held = max(held, len(segments))
    assert held == {1: 2, 1000: 2, 2**25: FAN_IN - 1}[large]
    (whole,) = segments
    assert whole.slices[0].digest == add_slices([(product(seed, 400),) for seed in range(FAN_IN)])[0].digest


def levels_from(first: int, count: int = 100) -> Slices:
    return (bigmm.reduce("y ~ 1 + (1|g)", pd.DataFrame({"g": np.arange(first, first + count), "y": np.arange(count) / 4.0}), client=0),)


def test_large_batches_of_their_own_levels_are_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bigmm.reduction.segments._LARGE", 1000)
    segments, merge = list[Segment](), Counted()
    for number in range(2 * FAN_IN):
        segments = extended(segments, levels_from(100 * number), merge)
    assert merge.parts == [4, FAN_IN - 3, FAN_IN]


def test_levels_that_change_by_and_by_are_not_copied_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neighbours have most of their levels in common, as cohorts do, and the sum grows all the same."""
    monkeypatch.setattr("bigmm.reduction.segments._LARGE", 1000)
    segments, copied = list[Segment](), 0

    def merge(parts: Sequence[Slices]) -> Slices:
        nonlocal copied
        whole = add_slices(parts)
        copied += len(whole[0].groups[0].levels)
        return whole

    for number in range(FAN_IN**2):
        segments = extended(segments, levels_from(20 * number), merge)
    (whole,) = segments
    assert len(whole.slices[0].groups[0].levels) == 100 + 20 * (FAN_IN**2 - 1)
    assert not whole.same_levels
    assert copied < 4 * 100 * FAN_IN**2  # for each level that came in


def test_batches_of_their_own_levels_are_merged_as_rarely_as_can_be() -> None:
    segments, merge = list[Segment](), Counted()
    for number in range(FAN_IN**2 + FAN_IN):
        data = pd.DataFrame({"g": [2 * number, 2 * number + 1], "y": [0.5, 0.25]})
        segments = extended(segments, (bigmm.reduce("y ~ 1 + (1|g)", data, client=0),), merge)
    assert merge.parts == [FAN_IN] * (FAN_IN + 2)
    assert [segment.size for segment in segments] == [FAN_IN**2, FAN_IN]


def test_many_batches_lose_no_digits() -> None:
    """Beside an exact sum."""
    whole = product(1)
    values, segments = np.random.default_rng(1).uniform(0.5, 1.5, 3000), list[Segment]()
    for value in values:
        part = replace(whole, groups=(replace(whole.groups[0], ZtXy=np.full_like(whole.groups[0].ZtXy, value)),))
        segments = extended(segments, (part,))
    np.testing.assert_allclose(total(segments).groups[0].ZtXy, math.fsum(values), rtol=1e-15)


def test_total_is_the_sum() -> None:
    segments: list[Segment] = []
    for seed in range(11):
        segments = extended(segments, (product(seed), product(seed + 100)))
    expected = sum(product(seed).XytXy + product(seed + 100).XytXy for seed in range(11))
    assert not any(any(part.design.y_shift.values()) for segment in segments for part in segment.slices)
    np.testing.assert_allclose(total(segments).XytXy, expected, rtol=1e-12)


def test_the_sum_gives_up_what_it_has_summed(monkeypatch: pytest.MonkeyPatch) -> None:
    """When pairs of the second kind are summed, those of the first are gone."""
    rng = np.random.default_rng(1)
    frame = pd.DataFrame({name: rng.integers(0, 50, 400) for name in ("g", "h", "k")} | {"y": rng.normal(size=400)})
    segments: list[Segment] = []
    for start in range(0, 400, 100):
        segments = extended(segments, (bigmm.reduce("y ~ 1 + (1|g) + (1|h) + (1|k)", frame[start : start + 100]),))
    held = [[weakref.ref(segment.slices[0].pairs[key].ZtZ) for segment in segments] for key in ((0, 1), (0, 2), (1, 2))]
    left: list[list[int]] = []

    def count() -> None:
        gc.collect()  # compiling a function for the first time leaves cycles that hold its arguments
        left.append([sum(array() is not None for array in arrays) for arrays in held])

    monkeypatch.setattr("bigmm.reduction.segments.give_back", count)
    assert total(segments).nobs == 400
    assert left == [[4, 4, 4], [0, 4, 4], [0, 0, 4], [0, 0, 0]]


def test_memory_is_given_back_whenever_batches_were_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    """And by then the batches are gone."""
    alive: list[int] = []

    def count() -> None:
        gc.collect()
        alive.append(sum(batch() is not None for batch in batches))

    batches: list[weakref.ref[np.ndarray]] = []

    def note(segments: list[Segment], batch: Slices) -> list[Segment]:
        batches.append(weakref.ref(batch[0].XytXy))
        return extended(segments, batch)

    monkeypatch.setattr(run, "give_back", count)
    monkeypatch.setattr(run, "extended", note)
    data = pd.DataFrame({"y": np.arange(400.0) % 7, "g": np.arange(400)})
    cp = bigmm.reduce("y ~ 1 + (1|g)", dd.from_pandas(data, npartitions=(2 * FAN_IN + 1) * BATCH), client=0)
    assert (cp.nobs, len(batches)) == (400, 2 * FAN_IN + 1)
    assert alive == [1, 1]  # the last of them is still at hand
