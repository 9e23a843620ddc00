"""Crossproducts of one chunk, against dense model matrices."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from bigmm.columns import Column
from bigmm.crossproducts import CrossProducts
from bigmm.design import Design
from bigmm.formula import parse_formula
from bigmm.formula.expression import parse_expression
from bigmm.reduction.partial import partial_crossproducts

KINDS: dict[str, Any] = dict.fromkeys(("y", "x", "z", "w", "h", "o"), "number") | dict.fromkeys(("g", "a", "b"), "category")
FORMULAS = [
    "y ~ 1 + (1 | g)",
    "y ~ x + (x | g)",
    "y ~ 0 + x + (0 + x | g)",
    "y ~ a + (1 | g) + (1 | h)",
    "y ~ a * b + (a | g)",
    "y ~ a * b * x + (a * x | g) + (z | h)",
    "y ~ x:z + I(x^2) + log(w) + (I(x^2) + x:z | g) + (0 + a:x | h)",
    "y ~ factor(h) + h + (factor(h) | g)",
    "y ~ a:x + b:x + (1 | g/h) + (x | a)",
    "y ~ x + (x || g) + (0 + a | g) + (1 | a:b:g)",
    "log(w) ~ offset(z) + x + (1 | g)",
]


def frame(n: int = 90) -> pd.DataFrame:
    rng = np.random.default_rng(n)
    return pd.DataFrame(
        {
            "y": rng.normal(size=n),
            "x": rng.normal(size=n),
            "z": rng.normal(size=n),
            "w": rng.uniform(0.5, 2, n),
            "o": rng.normal(size=n),
            "h": rng.integers(3, 8, n),
            "g": rng.choice(list("defghi"), n),
            "a": rng.choice(list("pqr"), n),
            "b": rng.choice(list("uv"), n),
        }
    )


def dense(columns: tuple[Column, ...], data: pd.DataFrame, shift: Any = None) -> np.ndarray:
    """Columns spread out; numeric parts less their shift."""
    numbers = {name: data[name].to_numpy(float) for name in data.select_dtypes("number")}
    out = np.ones((len(data), len(columns)))
    for place, column in enumerate(columns):
        for text in column.numeric:
            out[:, place] *= parse_expression(text).evaluate(numbers, len(data))
        if column.numeric:
            out[:, place] -= (shift or {}).get(":".join(column.numeric), 0.0)
        for name, level in column.cell:
            out[:, place] *= data[name].to_numpy() == level
    return out


def reduced(data: pd.DataFrame, design: Design) -> CrossProducts:
    return partial_crossproducts(pa.Table.from_pandas(data, preserve_index=False), design)


@pytest.mark.parametrize("weights", [None, "w"])
@pytest.mark.parametrize("formula", FORMULAS)
def test_against_dense_matrices(formula: str, weights: str | None) -> None:
    data, shift = frame(), {"x": 0.5, "I(x^2)": -1.0, "x:z": 0.25}
    design = Design(parse_formula(formula), KINDS, weights=weights, offset="o", shift=shift, y_shift={"y": 2.0, "log(w)": 2.0})
    cp = reduced(data, design)
    w = data["w"].to_numpy() if weights else np.ones(len(data))
    numbers = {name: data[name].to_numpy() for name in ("y", "w", "z")}
    y = design.formula.responses[0].evaluate(numbers, len(data)) - 2.0 - data["o"].to_numpy()
    y = y - (data["z"].to_numpy() if design.formula.offsets else 0.0)
    W = np.column_stack([dense(cp.columns, data, shift), y])
    np.testing.assert_allclose(cp.XytXy, (W * w[:, None]).T @ W, rtol=1e-12, atol=1e-11)
    assert cp.sum_log_weights == pytest.approx(np.log(w).sum())
    codes = []
    for group in cp.groups:
        labels = list(zip(*(data[name] for name in group.names), strict=True)) if len(group.names) > 1 else data[group.names[0]].tolist()
        assert group.levels.tolist() == sorted(set(labels))
        position = {level: place for place, level in enumerate(group.levels)}
        codes.append(np.array([position[label] for label in labels]))
        Z = dense(group.columns, data)
        for j in range(len(group.levels)):
            mine = codes[-1] == j
            assert group.rows[j] == mine.sum()
            np.testing.assert_allclose(group.ZtZ[j], (Z[mine] * w[mine, None]).T @ Z[mine], rtol=1e-12, atol=1e-11)
            np.testing.assert_allclose(group.ZtXy[j], (Z[mine] * w[mine, None]).T @ W[mine], rtol=1e-12, atol=1e-11)
    for g, h in itertools.combinations(range(len(cp.groups)), 2):
        pair = cp.pairs[g, h]
        Zg, Zh = dense(cp.groups[g].columns, data), dense(cp.groups[h].columns, data)
        met = sorted(set(zip(codes[g].tolist(), codes[h].tolist(), strict=True)))
        assert list(zip(pair.g_refs.tolist(), pair.h_refs.tolist(), strict=True)) == met
        for (i, j), block in zip(met, pair.ZtZ, strict=True):
            both = (codes[g] == i) & (codes[h] == j)
            np.testing.assert_allclose(block, (Zg[both] * w[both, None]).T @ Zh[both], rtol=1e-12, atol=1e-11)


def test_symmetric_to_the_bit() -> None:
    cp = reduced(frame(), Design(parse_formula("y ~ a * b * x + (a * x | g)"), KINDS, weights="w"))
    np.testing.assert_array_equal(cp.XytXy, cp.XytXy.T)
    np.testing.assert_allclose(cp.groups[0].ZtZ, cp.groups[0].ZtZ.transpose(0, 2, 1), rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("formula", FORMULAS)
def test_one_row_and_no_row(formula: str) -> None:
    design = Design(parse_formula(formula), KINDS)
    one, none = reduced(frame().iloc[:1], design), reduced(frame().iloc[:0], design)
    assert (one.nobs, none.nobs) == (1, 0)
    assert all(len(group.levels) == 1 for group in one.groups)
    assert all(len(group.levels) == 0 for group in none.groups)
    assert none.XytXy.shape == (len(none.columns) + 1,) * 2
    assert not none.XytXy.any()


def test_size_in_bytes() -> None:
    cp = reduced(frame(), Design(parse_formula("y ~ x + (x | g) + (1 | h)"), KINDS))
    arrays = [
        cp.XytXy,
        *(a for g in cp.groups for a in (g.ZtZ, g.ZtXy, g.rows)),
        *(a for p in cp.pairs.values() for a in (p.ZtZ, p.g_refs, p.h_refs)),
    ]
    assert sum(array.nbytes for array in arrays) <= cp.nbytes < sum(array.nbytes for array in arrays) + 2000


def test_repr_is_a_line() -> None:
    cp = reduced(frame(), Design(parse_formula("y ~ x + (x | g) + (1 | h)"), KINDS))
    assert repr(cp).startswith("<CrossProducts 'y ~ x + (x | g) + (1 | h)': 90 rows, g 6, h 5, ")
