"""Rows dealt out by the levels of the leading factor: every row once, a level in one slice, sums unchanged."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import bigmm
from bigmm.design import Design
from bigmm.formula import parse_formula
from bigmm.reduction import slicing
from bigmm.reduction.rows import Rows, evaluate_rows
from bigmm.reduction.slices import Slicing, hash_rows, split_rows
from bigmm.reduction.slicing import choose_slicing
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
    "int64": pa.array([5, 3, 5, 2**60], pa.int64()),
    "uint64": pa.array([5, 3, 5, 2**63 + 1], pa.uint64()),
    "text": pa.array(["a", "", "a", "日本"], pa.large_string()),
    "bool": pa.array([True, False, True, False]),
    "date32": pa.array([datetime.date(2020, 1, day) for day in (5, 3, 5, 2)]),
    "timestamp": pa.array([datetime.datetime(2020, 1, day) for day in (5, 3, 5, 2)], pa.timestamp("us")),
}


def rows_of(table: pa.Table, formula: str = "y ~ x + (1|g) + (x|h)") -> Rows:
    kinds: Any = {name: "number" if name in "xy" else "category" for name in table.column_names}
    return evaluate_rows(table, Design(parse_formula(formula), kinds))


@pytest.mark.parametrize("kind", KEYS)
def test_equal_keys_hash_alike(kind: str) -> None:
    rows = rows_of(pa.table({"g": KEYS[kind], "y": [1.0, 2.0, 3.0, 4.0]}), "y ~ 1 + (1|g)")
    hashed = hash_rows(rows, ["g"])
    assert hashed[0] == hashed[2]
    assert hashed[0] != hashed[1]
    alone = rows_of(pa.table({"g": KEYS[kind].slice(1, 2), "y": [1.0, 2.0]}), "y ~ 1 + (1|g)")
    np.testing.assert_array_equal(hash_rows(alone, ["g"]), hashed[1:3])


def test_encoding_does_not_matter() -> None:
    y = [1.0, 2.0, 3.0, 4.0]
    plain = rows_of(pa.table({"g": KEYS["text"], "y": y}), "y ~ 1 + (1|g)")
    encoded = rows_of(pa.table({"g": KEYS["text"].dictionary_encode(), "y": y}), "y ~ 1 + (1|g)")
    np.testing.assert_array_equal(hash_rows(plain, ["g"]), hash_rows(encoded, ["g"]))


def levels_of(rows: Rows, name: str) -> list[Any]:
    refs, levels = rows.encoded[name]
    assert set(refs) == set(range(len(levels)))
    return list(levels[refs])


def test_every_row_goes_to_one_slice_and_a_level_to_one() -> None:
    whole = rows_of(pa.Table.from_pandas(frame(), preserve_index=False))
    parts = split_rows(whole, Slicing(("g",), 7))
    assert whole.counts.dropped > 0
    assert sum(part.counts.read for part in parts) == whole.counts.read == ROWS
    assert sum(part.counts.used for part in parts) == sum(part.count for part in parts) == whole.count
    levels = [set(levels_of(part, "g")) for part in parts]
    assert sum(map(len, levels)) == len(set.union(*levels))
    assert min(map(len, levels)) > 80
    rows = sorted((g, h, y) for part in parts for g, h, y in zip(levels_of(part, "g"), levels_of(part, "h"), part.y[0], strict=True))
    assert rows == sorted(zip(levels_of(whole, "g"), levels_of(whole, "h"), whole.y[0], strict=True))


def test_levels_of_combined_factors_are_kept_together() -> None:
    parts = split_rows(rows_of(pa.Table.from_pandas(frame(), preserve_index=False)), Slicing(("g", "h"), 5))
    levels = [set(zip(levels_of(part, "g"), levels_of(part, "h"), strict=True)) for part in parts]
    assert sum(map(len, levels)) == len(set.union(*levels))


def test_small_data_are_one_slice() -> None:
    cp = bigmm.reduce("y ~ x + (1|h) + (1|g)", frame())
    assert choose_slicing(cp.design, plan_data(frame(), cp.design.names).chunks) == Slicing(("h",), 1)


def test_the_largest_factor_leads(monkeypatch: pytest.MonkeyPatch) -> None:
    cp = bigmm.reduce("y ~ x + (1|h) + (1|g)", frame())
    monkeypatch.setattr(slicing, "SLICE_ROWS", 1000)
    assert choose_slicing(cp.design, plan_data(frame(), cp.design.names).chunks) == Slicing(("g",), 4)


def test_slices_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    formula = "y ~ x * h + (x|g) + (1|h) + (1|g:h)"
    whole = bigmm.reduce(formula, frame())
    monkeypatch.setattr(slicing, "SLICE_ROWS", 500)
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
