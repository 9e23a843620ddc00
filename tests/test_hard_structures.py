"""Data that nobody wants and everybody has: the right number, a clear refusal or a warning, never a silent wrong answer."""

from __future__ import annotations

import datetime
import decimal
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import bigmm
from bigmm import levels as levels_module
from bigmm.codes import encode
from bigmm.inference.fit import LinearMixedModelFit
from bigmm.levels import combine, union
from bigmm.pairs import Run, merge_counts
from bigmm.solver import identification
from tests.oracle import Dense

CODES = np.repeat(np.arange(12), 5)
N = len(CODES)


def response(seed: int = 7) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=12)[CODES] + rng.normal(size=N)


Y = response()


def fit_keys(keys: Any, y: Any = Y) -> LinearMixedModelFit:
    return bigmm.lmer("y ~ 1 + (1 | g)", pd.DataFrame({"y": y, "g": keys}))


def check_against_dense(fit: LinearMixedModelFit, dense: Dense, reml: bool = True) -> None:
    """The objective, beta and sigma at the estimate, by brute force on the rows."""
    expected = dense.at(fit.theta)
    assert fit.objective == pytest.approx(expected.objective(reml), rel=1e-9, abs=1e-8)
    np.testing.assert_allclose(fit.beta, expected.beta, rtol=1e-7, atol=1e-9)
    assert fit.sigma**2 == pytest.approx(expected.sigma2(reml), rel=1e-8)


def check_levels(fit: LinearMixedModelFit, keys: Sequence[Any], expected: int, y: np.ndarray = Y) -> None:
    """So many levels, and the numbers of the same partition with plain codes."""
    assert len(fit.groups[0].levels) == expected
    complete = ~pd.isna(pd.Series(list(keys), dtype=object)).to_numpy()
    codes = pd.factorize(pd.Series([repr(key) for key in keys])[complete])[0]
    check_against_dense(fit, Dense(pd.DataFrame({"y": y[complete], "g": codes}), "1", (("1", "g"),)))


# Keys


@pytest.mark.parametrize(
    "keys",
    [
        2**53 + CODES,
        np.where(CODES % 2 == 0, np.iinfo(np.int64).min + CODES, np.iinfo(np.int64).max - CODES),
        np.uint64(2**63) + CODES.astype(np.uint64),
        pd.array([2**62 + int(code) for code in CODES], dtype="Int64"),
    ],
    ids=["above 2^53", "both ends of int64", "uint64", "nullable"],
)
def test_huge_integers_are_levels_of_their_own(keys: Any) -> None:
    check_levels(fit_keys(keys), list(keys), 12)


def test_huge_integers_with_a_missing_one() -> None:
    keys = [2**53 + int(code) for code in CODES]
    keys[3] = None
    check_levels(fit_keys(pd.array(keys, dtype="Int64")), keys, 12)


def test_floats_that_stand_for_several_integers_are_refused() -> None:
    """What pandas makes of large integers as soon as one is missing."""
    keys = [2**53 + int(code) for code in CODES]
    keys[3] = None
    with pytest.raises(bigmm.DataError, match=re.escape("from 2^53 on they stand for several whole numbers")):
        fit_keys(pd.Series(keys, dtype="float64"))


def test_integers_beyond_64_bits_are_refused() -> None:
    with pytest.raises(bigmm.DataError, match="column 'g'"):
        fit_keys(pd.Series([2**70 + int(code) for code in CODES], dtype=object))


def test_sums_of_signed_and_unsigned_levels_merge_none() -> None:
    small, large = 2**53 + CODES, np.uint64(2**63) + CODES.astype(np.uint64)
    one, other = (bigmm.reduce("y ~ 1 + (1 | g)", pd.DataFrame({"y": Y, "g": keys})) for keys in (small, large))
    both = one + other
    assert both.groups[0].levels.tolist() == sorted({*small.tolist(), *large.tolist()})
    frame = pd.DataFrame({"y": np.tile(Y, 2), "g": np.append(CODES, CODES + 12)})
    check_against_dense(both.fit(), Dense(frame, "1", (("1", "g"),)))


def test_signed_and_unsigned_levels_of_no_common_type_are_refused() -> None:
    one, other = (
        bigmm.reduce("y ~ 1 + (1 | g)", pd.DataFrame({"y": Y, "g": keys}))
        for keys in (CODES - 5, np.uint64(2**63) + CODES.astype(np.uint64))
    )
    with pytest.raises(bigmm.LabelError, match="64 bits"):
        _ = one + other


def test_interactions_of_huge_integers() -> None:
    frame = pd.DataFrame({"y": Y, "g": 2**62 + CODES, "h": -(2**62) + CODES % 3})
    fit = bigmm.lmer("y ~ 1 + (1 | g:h)", frame)
    assert len(fit.groups[0].levels) == 12
    check_against_dense(fit, Dense(frame, "1", (("1", "g:h"),)))


def test_spellings_of_one_character_are_levels_of_their_own() -> None:
    """Composed and decomposed: text is compared by its bytes, as R does."""
    keys = ["caf\u00e9" if code % 2 else "cafe\u0301" for code in CODES]
    check_levels(fit_keys(keys), keys, 2)


def test_nothing_and_blank_and_nan_differ() -> None:
    """Missing ones are dropped; the empty text, a blank and the word NaN are levels."""
    special: list[Any] = ["", " ", "NaN", None, float("nan"), pd.NA, "None"]
    keys = [special[code] if code < len(special) else f"k{code}" for code in CODES]
    fit = fit_keys(pd.Series(keys, dtype=object))
    assert fit.rows.missing == {"g": 15}
    check_levels(fit, keys, 9)


@pytest.mark.parametrize(
    ("other", "merged"), [(str, False), (bool, False), (lambda code: str(code).encode(), False)], ids=["text", "truth values", "bytes"]
)
def test_keys_of_mixed_type_are_refused(other: Any, merged: bool) -> None:
    keys = [int(code) if code % 2 else other(code) for code in CODES]
    with pytest.raises(bigmm.DataError, match="values of no single type"):
        fit_keys(pd.Series(keys, dtype=object))


def test_whole_floats_are_integers_and_zero_has_no_sign() -> None:
    keys = np.where((CODES == 0) & (np.arange(N) % 2 == 0), -0.0, CODES.astype(float))
    fit = fit_keys(keys)
    assert fit.groups[0].levels.tolist() == list(range(12))


@pytest.mark.parametrize(
    "keys",
    [
        [decimal.Decimal(int(code)) for code in CODES],
        [datetime.date(2024, 2, 28) + datetime.timedelta(int(code)) for code in CODES],
        [datetime.datetime(2024, 2, 28, 23, 59, int(code), 999999) for code in CODES],
        pd.Categorical([f"k{code}" for code in CODES], categories=[f"k{code}" for code in range(40)]),
    ],
    ids=["decimals", "dates", "moments", "categories that do not occur"],
)
def test_other_keys(keys: Any) -> None:
    check_levels(fit_keys(keys), list(keys), 12)


def test_truth_values_as_keys() -> None:
    keys = CODES % 2 == 0
    check_levels(fit_keys(keys), list(keys), 2)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ([decimal.Decimal(int(code)) / 4 for code in CODES], "fraction"),
        ([decimal.Decimal(10**30 + int(code)) for code in CODES], "does not fit int64"),
        (CODES / 2, "fraction"),
        (pd.Series(pd.to_datetime(np.int64(1.6e18) + CODES)), "would lose data"),
        ([datetime.time(int(code)) for code in CODES], "expected numbers, text"),
        (pd.to_timedelta(CODES, unit="s"), "expected numbers, text"),
        ([[int(code)] for code in CODES], "expected numbers, text"),
        (CODES + 0j, "expected numbers, text"),
        (np.where(CODES == 0, np.inf, CODES), "does not fit"),
    ],
    ids=["fractions", "decimals of 31 digits", "halves", "nanoseconds", "times", "durations", "lists", "complex", "infinite"],
)
def test_keys_that_are_refused(keys: Any, message: str) -> None:
    with pytest.raises(bigmm.DataError, match=message):
        fit_keys(keys)


# Numbers


@pytest.mark.parametrize("dtype", ["int64", "uint64"])
def test_integers_that_double_precision_rounds_are_refused(dtype: str) -> None:
    y = (2**55 + np.round(100 * Y).astype(np.int64)).astype(dtype)
    with pytest.raises(bigmm.DataError, match=re.escape("column 'y' holds integers beyond 2^53")):
        fit_keys(CODES, y)


def test_large_integers_that_are_exact_in_double_precision() -> None:
    steps = np.round(100 * Y).astype(np.int64)
    moved, plain = fit_keys(CODES, 2**55 + 8 * steps), fit_keys(CODES, 8 * steps)
    assert moved.objective == pytest.approx(plain.objective, rel=1e-12)
    np.testing.assert_allclose(moved.theta, plain.theta, rtol=1e-7)


def test_decimal_numbers() -> None:
    y = [decimal.Decimal(f"{value:.6f}") for value in Y]
    check_levels(fit_keys(CODES, y), list(CODES), 12, np.round(Y, 6))


@pytest.mark.parametrize("size", [1e-200, 1e-75, 1e75, 1e200])
@pytest.mark.parametrize("formula", ["y ~ x + (1 | g)", "y ~ 1 + (0 + x | g)", "y ~ x:z + (1 | g)", "x ~ 1 + (1 | g)"])
def test_numbers_whose_squares_leave_double_precision_are_named(formula: str, size: float) -> None:
    rng = np.random.default_rng(1)
    frame = pd.DataFrame({"y": Y, "g": CODES, "x": size * rng.normal(size=N), "z": rng.normal(size=N)})
    with pytest.raises(bigmm.DataError, match=r"squares of 'x(:z)?' add up to .* in another unit"):
        bigmm.lmer(formula, frame)


@pytest.mark.parametrize("size", [1e-200, 1e-165, 1e-155])
@pytest.mark.parametrize("formula", ["y ~ x:z + (1 | g)", "y ~ 1 + (0 + x:z | g)", "y ~ x:z:h + (1 | g)", "y ~ 0 + h + x:z + (1 | g)"])
@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_products_that_underflow_are_named(formula: str, size: float, spread: float) -> None:
    """Each factor is a good number; x z is 0, or its square is."""
    x, z = size * (1.0 + spread * np.random.default_rng(1).normal(size=(2, N)))
    frame = pd.DataFrame({"y": Y, "g": CODES, "x": x, "z": z, "h": np.where(np.arange(N) % 2, "a", "b")})
    with pytest.raises(bigmm.DataError, match=r"squares of 'x:z(:h\[a\])?' add up to .* in another unit"):
        bigmm.lmer(formula, frame)


def test_products_that_underflow_in_some_rows_are_zeros(tmp_path: Path) -> None:
    """Beside products of ordinary size 1e-400 is 0, whatever else its file holds."""
    x, z = np.random.default_rng(1).normal(size=(2, N))
    small = np.arange(N) < N // 2
    frame = pd.DataFrame({"y": Y, "g": CODES, "x": np.where(small, 1e-200, x), "z": np.where(small, 1e-200, z)})
    expected = bigmm.lmer("y ~ x:z + (1 | g)", frame.assign(x=np.where(small, 0.0, x)))
    frame[small].to_parquet(tmp_path / "0.parquet")
    frame[~small].to_parquet(tmp_path / "1.parquet")
    for data in (frame, tmp_path):
        np.testing.assert_allclose(bigmm.lmer("y ~ x:z + (1 | g)", data).beta, expected.beta, rtol=1e-12)


@pytest.mark.parametrize("expression", ["I(x^2)", "exp(-1 / abs(x))", "z:I(x * x)"])
def test_expressions_that_underflow_are_said(expression: str) -> None:
    frame = pd.DataFrame({"y": Y, "g": CODES, "x": 1e-200, "z": np.arange(N)})
    with pytest.warns(bigmm.PrecisionWarning, match="is 0 in every row"):
        assert bigmm.lmer(f"y ~ {expression} + (1 | g)", frame).dropped


@pytest.mark.parametrize("expression", ["I(x^2)", "x", "x:z", "I(z > 0)", "z:h"])
def test_zeros_and_constants_in_the_data_are_dropped(expression: str) -> None:
    frame = pd.DataFrame({"y": Y, "g": CODES, "x": 2.0, "z": 0.0, "h": "a"})
    frame.loc[0, "z"] = float(expression == "I(z > 0)")
    kept = expression == "I(z > 0)"
    assert bool(bigmm.lmer(f"y ~ {expression} + (1 | g)", frame).dropped) != kept


@pytest.mark.parametrize("size", [1e-60, 1e60])
def test_numbers_whose_squares_are_far_out_but_safe(size: float) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=N)
    plain, scaled = (bigmm.lmer("y ~ x + (1 + x | g)", pd.DataFrame({"y": Y, "g": CODES, "x": x * by})) for by in (1.0, size))
    assert scaled.objective == pytest.approx(plain.objective + 2 * np.log(size), rel=1e-9)
    np.testing.assert_allclose(scaled.beta * [1, size], plain.beta, rtol=1e-6)


@pytest.mark.parametrize("spread", [0.0, 1e-9])
def test_no_residual_variance(spread: float) -> None:
    rng = np.random.default_rng(3)
    with pytest.raises(bigmm.ModelError, match="explains the response exactly"):
        fit_keys(CODES, rng.normal(size=12)[CODES] + spread * rng.normal(size=N))


def test_little_residual_variance_is_said() -> None:
    rng = np.random.default_rng(3)
    noise = rng.normal(size=N)
    with pytest.warns(bigmm.PrecisionWarning, match="the model leaves"):
        fit = fit_keys(CODES, rng.normal(size=12)[CODES] + 1e-5 * noise)
    within = ((noise - np.bincount(CODES, noise)[CODES] / 5) ** 2).sum() / (N - 12)
    assert fit.sigma == pytest.approx(1e-5 * np.sqrt(within), rel=1e-4)


@pytest.mark.parametrize("y", [np.full(N, 3.3), np.zeros(N), np.full(N, 1e15 + 0.3)])
def test_constant_response(y: np.ndarray) -> None:
    with pytest.raises(bigmm.ModelError, match="explain the response exactly"):
        fit_keys(CODES, y)


def test_large_response_without_an_intercept_is_said() -> None:
    """The shift of y is no combination of the columns, so that it cannot help."""
    with pytest.warns(bigmm.PrecisionWarning, match="the model leaves"):
        bigmm.lmer("y ~ 0 + (1 | g)", pd.DataFrame({"y": Y + 1e5, "g": CODES}))


@pytest.mark.parametrize(("noise", "outcome"), [(1e-5, "its coefficient has few digits"), (3e-7, "it was dropped")])
def test_columns_that_are_nearly_dependent_are_said(noise: float, outcome: str) -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=N)
    frame = pd.DataFrame({"y": Y, "g": CODES, "x": x, "z": x + noise * rng.normal(size=N)})
    with pytest.warns(bigmm.PrecisionWarning, match=f"column 'z' is a combination .* {outcome}"):
        bigmm.lmer("y ~ x + z + (1 | g)", frame)


@pytest.mark.parametrize(("offset", "warning"), [(1e6, bigmm.PrecisionWarning), (1e8, bigmm.IdentificationWarning)])
def test_slopes_far_from_zero_are_said(offset: float, warning: type[Warning]) -> None:
    x = np.random.default_rng(2).normal(size=N)
    with pytest.warns(warning, match="subtract a number near its mean"):
        bigmm.reduce("y ~ x + (1 + x | g)", pd.DataFrame({"y": Y, "g": CODES, "x": x + offset})).model()


# Levels and chunks


def write_chunks(folder: Path, tables: Sequence[dict[str, Any]]) -> Path:
    for number, table in enumerate(tables):
        pq.write_table(pa.table(table), folder / f"part-{number:02}.parquet")
    return folder


def test_empty_chunks_dropped_chunks_and_levels_in_one_chunk_only(tmp_path: Path) -> None:
    keys = [f"k{code:02}" for code in CODES]
    part = [slice(start, start + 15) for start in range(0, N, 15)]
    tables: list[dict[str, Any]] = [{"y": Y[rows], "g": keys[rows]} for rows in part]
    tables[1] = {"y": pa.nulls(15, pa.float64()), "g": keys[part[1]]}
    tables.insert(0, {"y": pa.array([], pa.float64()), "g": pa.array([], pa.string())})
    tables.append({"y": np.ones(3), "g": pa.nulls(3, pa.string())})
    tables.append({"y": Y[:15], "g": keys[:15]})
    fit = bigmm.lmer("y ~ 1 + (1 | g)", write_chunks(tmp_path, tables))
    kept = [*range(15), *range(30, N), *range(15)]
    assert fit.rows.missing == {"y": 15, "g": 3}
    assert fit.groups[0].levels.tolist() == sorted({keys[row] for row in kept})
    check_against_dense(fit, Dense(pd.DataFrame({"y": Y[kept], "g": CODES[kept]}), "1", (("1", "g"),)))


def test_no_complete_row() -> None:
    with pytest.raises(bigmm.DataError, match="all 60 rows are incomplete"):
        fit_keys(CODES, np.full(N, np.nan))


def test_a_level_that_is_seen_once() -> None:
    keys = np.where(np.arange(N) == 0, 99, CODES)
    check_levels(fit_keys(keys), list(keys), 13)


def test_every_level_seen_once() -> None:
    with pytest.raises(bigmm.ModelError, match="as many random effects"):
        fit_keys(np.arange(N))


def test_one_level() -> None:
    with pytest.raises(bigmm.ModelError, match="has 1 level"):
        fit_keys(np.zeros(N, dtype=int))


# Designs


def test_disconnected_designs() -> None:
    frame = pd.DataFrame({"y": Y, "g": CODES, "h": np.where(CODES < 6, np.arange(N) % 3, 10 + np.arange(N) % 3)})
    check_against_dense(bigmm.lmer("y ~ 1 + (1 | g) + (1 | h)", frame), Dense(frame, "1", (("1", "g"), ("1", "h"))))


def test_a_factor_under_two_names_is_said() -> None:
    frame = pd.DataFrame({"y": Y, "g": CODES, "h": [f"level {code}" for code in CODES]})
    with pytest.warns(bigmm.IdentificationWarning, match="'g' and 'h', which are one but for the names of their levels"):
        fit = bigmm.lmer("y ~ 1 + (1 | g) + (1 | h)", frame)
    single = bigmm.lmer("y ~ 1 + (1 | g)", frame)
    assert fit.objective == pytest.approx(single.objective, rel=1e-10)
    assert np.hypot(*fit.theta) == pytest.approx(single.theta[0], rel=1e-6)


def test_a_factor_under_two_names_with_other_columns_is_fine() -> None:
    x = np.random.default_rng(1).normal(size=N)
    frame = pd.DataFrame({"y": Y, "g": CODES, "h": 100 - CODES, "x": x})
    check_against_dense(bigmm.lmer("y ~ x + (1 | g) + (0 + x | h)", frame), Dense(frame, "x", (("1", "g"), ("0 + x", "h"))))


@pytest.mark.parametrize("random", ["(1 | g) + (1 + x | g)", "(1 | g) + (0 + f | g)", "(x || g) + (0 + x | g)"])
def test_terms_that_overlap_are_said(random: str) -> None:
    rng = np.random.default_rng(1)
    frame = pd.DataFrame({"y": Y, "g": CODES, "x": rng.normal(size=N), "f": rng.choice(["a", "b"], N)})
    with pytest.warns(bigmm.IdentificationWarning, match="depend on one another"):
        bigmm.lmer(f"y ~ 1 + {random}", frame)


def test_random_slopes_of_categories_that_never_meet_are_said() -> None:
    frame = pd.DataFrame({"y": Y, "g": CODES, "f": np.where(CODES < 6, "a", "b")})
    with pytest.warns(bigmm.IdentificationWarning, match=r"no level of 'g' has rows of both 'f\[a\]' and 'f\[b\]'"):
        fit = bigmm.lmer("y ~ 1 + (0 + f | g)", frame)
    check_against_dense(fit, Dense(frame, "1", (("0 + f", "g"),)))


def test_slopes_that_half_of_the_levels_have() -> None:
    frame = pd.DataFrame({"y": Y, "g": CODES, "x": np.where(CODES < 6, np.tile(np.arange(5.0), 12), 0.0)})
    check_against_dense(bigmm.lmer("y ~ 1 + (1 + x | g)", frame), Dense(frame, "1", (("1 + x", "g"),)))


def test_slopes_of_a_column_of_zeros_are_said() -> None:
    frame = pd.DataFrame({"y": Y, "g": CODES, "x": 0.0})
    with pytest.warns(bigmm.IdentificationWarning, match="the data say nothing about"):
        bigmm.lmer("y ~ 1 + (1 + x | g)", frame)


# Sizes


def test_two_hundred_fixed_effects() -> None:
    rng = np.random.default_rng(11)
    n, names = 600, [f"x{i}" for i in range(200)]
    frame = pd.DataFrame(rng.normal(size=(n, 200)), columns=names).assign(g=rng.integers(0, 20, n))
    frame["y"] = frame[names].sum(axis=1) + rng.normal(size=20)[frame["g"]] + rng.normal(size=n)
    fit = bigmm.lmer(f"y ~ {' + '.join(names)} + (1 | g)", frame)
    check_against_dense(fit, Dense(frame, " + ".join(names), (("1", "g"),)))


def test_forty_five_thetas() -> None:
    rng = np.random.default_rng(12)
    n, names = 1200, [f"x{i}" for i in range(8)]
    frame = pd.DataFrame(rng.normal(size=(n, 8)), columns=names).assign(g=rng.integers(0, 40, n))
    frame["y"] = (frame[names].to_numpy() * rng.normal(size=(40, 8))[frame["g"]]).sum(axis=1) + rng.normal(size=n)
    slopes = " + ".join(["1", *names])
    fit = bigmm.lmer(f"y ~ 1 + ({slopes} | g)", frame)
    assert fit.converged
    assert len(fit.theta) == 45
    check_against_dense(fit, Dense(frame, "1", ((slopes, "g"),)))


def test_ten_grouping_factors() -> None:
    rng = np.random.default_rng(13)
    n, names = 800, [f"g{i}" for i in range(10)]
    frame = pd.DataFrame({name: rng.integers(0, 4 + 3 * i, n) for i, name in enumerate(names)})
    frame["y"] = sum(rng.normal(size=40)[frame[name]] for name in names) + rng.normal(size=n)
    fit = bigmm.lmer("y ~ 1 + " + " + ".join(f"(1 | {name})" for name in names), frame)
    check_against_dense(fit, Dense(frame, "1", tuple(("1", name) for name in names)))


# Integers that might overflow


def test_combinations_of_more_levels_than_32_bits_are_coded_in_64() -> None:
    many = pd.RangeIndex(2**31 - 1)
    refs = np.array([0, 2**31 - 2, 2**31 - 2, 5], dtype=np.int32)
    key, _ = encode(refs.astype(np.int64) * len(many) + refs)
    assert key.tolist() == [0, 2, 2, 1]
    _, levels = combine([refs % 4, refs // 2**29], [pd.Index(range(4)), pd.Index(range(4))])
    assert levels.tolist() == [(0, 0), (1, 0), (2, 3)]


def test_codes_of_the_widest_range() -> None:
    ends = np.array([np.iinfo(np.int64).max, np.iinfo(np.int64).min, 0, np.iinfo(np.int64).max])
    codes, values = encode(ends)
    assert values[codes].tolist() == ends.tolist()
    assert values.tolist() == sorted(set(ends.tolist()))


def test_more_levels_than_codes_have_bits_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(levels_module, "_MOST_LEVELS", 3)
    assert len(union([pd.Index([1, 2]), pd.Index([2, 3])])[0]) == 3
    for parts in ([pd.Index([1, 2]), pd.Index([3, 4])], [pd.Index(["a", "b"]), pd.Index(["c", "d"])]):
        with pytest.raises(bigmm.DataError, match="4 levels: expected at most 3"):
            union(parts)


def test_counts_of_pairs_grow_to_64_bits() -> None:
    place = np.zeros(1, dtype=np.int32)
    run = Run(place, place, place, place, np.array([2**31 - 1], dtype=np.int32))
    _, _, counts = merge_counts([run, run], 1, 1)
    assert counts.dtype == np.int64
    assert counts.tolist() == [2**32 - 2]


def test_more_random_effects_than_indices_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identification, "_MOST_EFFECTS", 11)
    with pytest.raises(bigmm.ModelError, match="12 random effects: expected at most 11"):
        fit_keys(CODES)


@pytest.mark.parametrize("formula", ["y ~ 1 + (0 + x | g)", "y ~ 1 + (0 + x | g) + (1 | h)"])
@pytest.mark.parametrize("size", [1e-150, 1e-155, 1e-158, 1e-162])
def test_a_slope_that_is_next_to_nothing_in_one_level(size: float, formula: str) -> None:
    """Its squares are too small for double precision: the objective was not a number at any theta."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"g": rng.integers(0, 20, 300), "h": rng.integers(0, 10, 300), "x": rng.normal(size=300), "y": rng.normal(size=300)}
    )
    tiny, none = (bigmm.lmer(formula, frame.assign(x=frame["x"].mask(frame["g"] == 3, value)), client=0) for value in (size, 0.0))
    assert tiny.objective == pytest.approx(none.objective, abs=1e-9)
