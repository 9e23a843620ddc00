"""Sorted levels and where they stand in one another."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigmm.levels import combine, factorize, union

VALUES: dict[str, list[Any]] = {
    "integers": [10, 9, -1, 2**62],
    "text": ["b", "B", "é", "", "10", "9"],
    "truth": [True, False],
    "dates": [pd.Timestamp("2024-01-02"), pd.Timestamp("1969-12-31")],
}
EXPECTED = {"text": ["", "10", "9", "B", "b", "é"]}


@pytest.mark.parametrize("kind", VALUES)
def test_factorize_sorts_by_value(kind: str) -> None:
    values = VALUES[kind]
    refs, levels = factorize(pd.Index([*values, *values]))
    assert levels.tolist() == EXPECTED.get(kind, sorted(values))
    assert [levels[ref] for ref in refs] == [*values, *values]


def test_integers_stay_integers_and_text_stays_text() -> None:
    assert factorize(pd.Index([3, 1], dtype="int64"))[1].dtype == "int64"
    assert factorize(pd.Index(["b", "a"], dtype="str"))[1].dtype == "str"


def test_union_of_equal_indexes_copies_nothing() -> None:
    first, second = pd.Index(["a", "b"]), pd.Index(["a", "b"])
    levels, refs = union([first, second])
    assert levels is first
    assert [ref.tolist() for ref in refs] == [[0, 1], [0, 1]]


def test_union_with_empty_parts() -> None:
    empty = pd.Index([], dtype="str")
    levels, (a, b, c) = union([empty, pd.Index(["q", "z"], dtype="str"), pd.Index(["a", "q"], dtype="str")])
    assert levels.tolist() == ["a", "q", "z"]
    assert levels.dtype == "str"
    assert (a.tolist(), b.tolist(), c.tolist()) == ([], [1, 2], [0, 1])
    nothing, refs = union([empty, empty])
    assert len(nothing) == 0
    assert [len(ref) for ref in refs] == [0, 0]


def test_combination_holds_only_what_occurs() -> None:
    a, b = factorize(pd.Index(["x", "y", "y", "x"])), factorize(pd.Index([2, 1, 2, 2]))
    refs, levels = combine([a[0], b[0]], [a[1], b[1]])
    assert levels.tolist() == [("x", 2), ("y", 1), ("y", 2)]
    assert refs.tolist() == [0, 1, 2, 0]


def test_combination_of_no_rows() -> None:
    empty = (np.zeros(0, dtype=np.intp), pd.Index([], dtype="str"))
    refs, levels = combine([empty[0]] * 3, [empty[1]] * 3)
    assert (len(refs), len(levels), levels.nlevels) == (0, 0, 3)


def test_combination_of_one_is_itself() -> None:
    refs, levels = np.array([0, 1]), pd.Index(["a", "b"])
    assert combine([refs], [levels]) == (refs, levels)


def test_many_large_factors_do_not_overflow() -> None:
    count = 2**16
    refs = [np.arange(count, dtype=np.intp)] * 6  # 2^96 combinations could be
    found, levels = combine(refs, [pd.RangeIndex(count)] * 6)
    assert len(levels) == count
    np.testing.assert_array_equal(found, np.arange(count))


LABELS = st.lists(st.tuples(st.sampled_from("abcé"), st.integers(-3, 3)), max_size=12)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(LABELS, min_size=1, max_size=4))
def test_union_is_the_sorted_set_of_labels(parts: list[list[tuple[str, int]]]) -> None:
    indexes = []
    for part in parts:
        a, b = factorize(pd.Index([label for label, _ in part], dtype="str")), factorize(pd.Index([n for _, n in part], dtype="int64"))
        refs, levels = combine([a[0], b[0]], [a[1], b[1]])
        assert [levels[ref] for ref in refs] == part
        indexes.append(levels)
    levels, refs = union(indexes)
    assert levels.tolist() == sorted({label for part in parts for label in part})
    for index, places in zip(indexes, refs, strict=True):
        assert levels[places].tolist() == index.tolist()
