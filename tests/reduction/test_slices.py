"""Rows dealt out by the levels of the leading factor: every row once, a level in one slice, sums unchanged."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import bigmm
from bigmm.reduction import slices
from bigmm.reduction.slices import Slicing, choose_slicing, hash_rows, split_rows
from bigmm.reduction.sources import plan_data

ROWS = 3000


def frame() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    g, h = rng.integers(0, 900, ROWS), rng.integers(0, 5, ROWS)
    data = pd.DataFrame({"g": g, "h": np.array(list("abcde"))[h], "x": rng.normal(size=ROWS)})
    data["y"] = data["x"] + rng.normal(size=900)[g] + rng.normal(size=ROWS)
    data.loc[rng.random(ROWS) < 0.02, "y"] = np.nan
    return data


KEYS: dict[str, Any] = {
    "int64": pa.array([5, 3, 5, None, 2**60], pa.int64()),
    "uint64": pa.array([5, 3, 5, None, 2**63 + 1], pa.uint64()),
    "float64": pa.array([5.0, 3.0, 5.0, None, 1e18]),
    "text": pa.array(["a", "", "a", None, "日本"], pa.large_string()),
    "bool": pa.array([True, False, True, None, False]),
    "date32": pa.array([datetime.date(2020, 1, day) for day in (5, 3, 5, 1, 2)]),
    "timestamp": pa.array([datetime.datetime(2020, 1, day) for day in (5, 3, 5, 1, 2)], pa.timestamp("us")),
}


@pytest.mark.parametrize("kind", KEYS)
def test_equal_keys_hash_alike(kind: str) -> None:
    hashed = hash_rows(pa.table({"key": KEYS[kind]}), ["key"])
    assert hashed[0] == hashed[2]
    assert hashed[0] != hashed[1]


def test_encoding_does_not_matter() -> None:
    plain = pa.table({"key": KEYS["text"]})
    encoded = pa.table({"key": pa.chunked_array([KEYS["text"].slice(2).dictionary_encode(), KEYS["text"].slice(0, 2).dictionary_encode()])})
    np.testing.assert_array_equal(hash_rows(plain, ["key"])[[2, 3, 4, 0, 1]], hash_rows(encoded, ["key"]))


def test_every_row_goes_to_one_slice_and_a_level_to_one() -> None:
    table = pa.Table.from_pandas(frame())
    parts = split_rows(table, Slicing(("g",), 7))
    assert sum(part.num_rows for part in parts) == ROWS
    levels = [set(part["g"].to_pylist()) for part in parts]
    assert sum(map(len, levels)) == len(set.union(*levels))
    assert min(map(len, levels)) > 80
    again = pa.concat_tables(parts).to_pandas().sort_values(["g", "x"], ignore_index=True)
    pd.testing.assert_frame_equal(again, frame().sort_values(["g", "x"], ignore_index=True))


def test_levels_of_combined_factors_are_kept_together() -> None:
    parts = split_rows(pa.Table.from_pandas(frame()), Slicing(("g", "h"), 5))
    levels = [set(zip(part["g"].to_pylist(), part["h"].to_pylist(), strict=True)) for part in parts]
    assert sum(map(len, levels)) == len(set.union(*levels))


def test_small_data_are_one_slice() -> None:
    cp = bigmm.reduce("y ~ x + (1|h) + (1|g)", frame())
    assert choose_slicing(cp.design, plan_data(frame(), cp.design.names).chunks) == Slicing(("h",), 1)


def test_the_largest_factor_leads(monkeypatch: pytest.MonkeyPatch) -> None:
    cp = bigmm.reduce("y ~ x + (1|h) + (1|g)", frame())
    monkeypatch.setattr(slices, "SLICE_ROWS", 1000)
    assert choose_slicing(cp.design, plan_data(frame(), cp.design.names).chunks) == Slicing(("g",), 4)


def test_slices_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    formula = "y ~ x * h + (x|g) + (1|h) + (1|g:h)"
    whole = bigmm.reduce(formula, frame())
    monkeypatch.setattr(slices, "SLICE_ROWS", 500)
    sliced = bigmm.reduce(formula, frame())
    assert sliced.rows == whole.rows
    assert sliced.columns == whole.columns
    np.testing.assert_allclose(sliced.XytXy, whole.XytXy, rtol=1e-12, atol=1e-11)
    for mine, theirs in zip(sliced.groups, whole.groups, strict=True):
        assert mine.levels.tolist() == theirs.levels.tolist()
        np.testing.assert_array_equal(mine.rows, theirs.rows)
        np.testing.assert_allclose(mine.ZtXy, theirs.ZtXy, rtol=1e-12, atol=1e-11)
    for key, pair in sliced.pairs.items():
        np.testing.assert_array_equal(pair.h_refs, whole.pairs[key].h_refs)
        np.testing.assert_allclose(pair.ZtZ, whole.pairs[key].ZtZ, rtol=1e-12, atol=1e-11)
