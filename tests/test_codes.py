"""Codes of integers, whatever their range, and unions of sorted integers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigmm.codes import encode, merge_sorted

EXTREMES = [-(2**63), 2**63 - 1, 0, -1]
RANGES = {"narrow": (-3, 40), "some": (10**12, 10**12 + 10**7), "wide": (-(2**63), 2**63)}


def check(values: np.ndarray) -> None:
    codes, levels = encode(values)
    expected_levels, expected = np.unique(values, return_inverse=True)
    assert (codes.dtype, levels.dtype) == (np.int32, np.int64)
    np.testing.assert_array_equal(levels, expected_levels)
    np.testing.assert_array_equal(codes, expected)


@pytest.mark.parametrize("kind", RANGES)
@pytest.mark.parametrize("distinct", [1, 50, 70_000, 200_000])
def test_codes_are_those_of_numpy(kind: str, distinct: int) -> None:
    rng = np.random.default_rng(distinct)
    values = rng.integers(*RANGES[kind], distinct)
    check(values)
    check(values[rng.integers(0, distinct, 100_000)])
    check(np.repeat(np.sort(values), 2))


def test_extremes_and_none() -> None:
    check(np.array(EXTREMES * 3))
    check(np.zeros(0, dtype=np.int64))
    check(np.array(EXTREMES[:1] * 5))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-5, 5), max_size=30))
def test_codes_of_any_integers(values: list[int]) -> None:
    check(np.array(values, dtype=np.int64))


NUMBERS = st.sets(st.sampled_from(EXTREMES) | st.integers(-10, 10) | st.integers(10**9, 10**9 + 10**6), max_size=12)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(NUMBERS, min_size=1, max_size=9))
def test_unions(sets: list[Any]) -> None:
    parts = [np.array(sorted(part), dtype=np.int64) for part in sets]
    merged, places = merge_sorted(parts)
    assert merged.tolist() == sorted(set().union(*sets))
    assert [merged[place].tolist() for place in places] == [part.tolist() for part in parts]


@pytest.mark.parametrize("gap", [1, 10**15])
def test_ranges_that_follow_one_another(gap: int) -> None:
    parts = [np.arange(start * 100 * gap, (start + 1) * 100 * gap, gap) for start in (2, 0, 1)]
    merged, places = merge_sorted(parts)
    np.testing.assert_array_equal(merged, np.arange(0, 300 * gap, gap))
    for part, place in zip(parts, places, strict=True):
        np.testing.assert_array_equal(merged[place], part)
