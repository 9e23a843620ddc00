"""The driver's sum: few copies, an order of additions that depends on the number of batches alone."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import bigmm
from bigmm.crossproducts import CrossProducts
from bigmm.reduction.segments import FAN_IN, Segment, extended, total


def product(seed: int) -> CrossProducts:
    rng = np.random.default_rng(seed)
    return bigmm.reduce("y ~ 1 + (1|g)", pd.DataFrame({"g": rng.integers(0, 9, 20), "y": rng.normal(size=20) * 10.0 ** (seed % 5)}))


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


def test_total_is_the_sum() -> None:
    segments: list[Segment] = []
    for seed in range(11):
        segments = extended(segments, (product(seed), product(seed + 100)))
    expected = sum(product(seed).XytXy + product(seed + 100).XytXy for seed in range(11))
    assert not any(any(part.design.y_shift.values()) for segment in segments for part in segment.slices)
    np.testing.assert_allclose(total(segments).XytXy, expected, rtol=1e-12)
