"""Predictions for new rows. Numbers in lists are predict() of lme4 1.1-31 at its default tolerances."""

from __future__ import annotations

import datetime as dt
import math
from pathlib import Path
from typing import Any

import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

import bigmm
from tests.reference.cases import read_data

pl = pytest.importorskip("polars")

#: lme4's default search ends this far from the optimum, relative to a prediction.
R_RTOL = 1e-5


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    with dask.config.set(scheduler="sync"):
        yield


@pytest.fixture(scope="module")
def sleepstudy() -> pd.DataFrame:
    data = read_data("sleepstudy")
    return data.assign(Subject="s" + data["Subject"].astype("str"))  # text in a CSV file, too


@pytest.fixture(scope="module")
def fit(sleepstudy: pd.DataFrame) -> bigmm.LinearMixedModelFit:
    return bigmm.lmer("Reaction ~ Days + (Days | Subject)", sleepstudy)


@pytest.fixture(scope="module")
def by_hand(fit: bigmm.LinearMixedModelFit, sleepstudy: pd.DataFrame) -> np.ndarray:
    coefficients = fit.ranef()["Subject"].loc[sleepstudy["Subject"]].to_numpy() + fit.fixef.to_numpy()
    return coefficients[:, 0] + coefficients[:, 1] * sleepstudy["Days"].to_numpy()


@pytest.fixture(scope="module")
def simulated() -> bigmm.LinearMixedModelFit:
    return bigmm.lmer("y ~ x + (x | g) + (1 | s)", read_data("simulated"), offset="o")


# Kinds of data --------------------------------------------------------------------------------------------------------


def table_of(frame: pd.DataFrame) -> pa.Table:
    return pa.Table.from_pandas(frame, preserve_index=False)


def parquet_of(frame: pd.DataFrame, folder: Path) -> str:
    for number, start in enumerate(range(0, len(frame), 70)):
        pq.write_table(table_of(frame.iloc[start : start + 70]), folder / f"part-{number}.parquet", row_group_size=33)
    return str(folder / "*.parquet")


def csv_of(frame: pd.DataFrame, folder: Path) -> str:
    pc.write_csv(table_of(frame), folder / "rows.csv")
    return str(folder / "rows.csv")


KINDS = {
    "pandas": lambda frame, folder: frame,
    "polars": lambda frame, folder: pl.from_pandas(frame),
    "arrow": lambda frame, folder: table_of(frame),
    "dataset": lambda frame, folder: ds.dataset(table_of(frame)),
    "parquet": parquet_of,
    "csv": csv_of,
    "dask": lambda frame, folder: dd.from_pandas(frame, npartitions=4),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def values(prediction: Any) -> np.ndarray:
    assert isinstance(prediction, dd.Series | pd.Series)
    assert prediction.name == "prediction"
    return np.asarray(prediction.compute() if isinstance(prediction, dd.Series) else prediction)


@every_kind
def test_every_kind_of_data(
    kind: str, fit: bigmm.LinearMixedModelFit, sleepstudy: pd.DataFrame, by_hand: np.ndarray, tmp_path: Path
) -> None:
    data = KINDS[kind](sleepstudy, tmp_path)
    np.testing.assert_allclose(values(fit.predict(data)), by_hand, rtol=1e-12)


@every_kind
def test_population_needs_no_grouping_factor(kind: str, fit: bigmm.LinearMixedModelFit, sleepstudy: pd.DataFrame, tmp_path: Path) -> None:
    data = KINDS[kind](sleepstudy[["Days"]], tmp_path)
    np.testing.assert_allclose(values(fit.predict(data, re_form="NA")), fit.beta[0] + fit.beta[1] * sleepstudy["Days"], rtol=1e-12)


@every_kind
@pytest.mark.parametrize("formula", ["Reaction ~ 1 + (1 | Subject)", "Reaction ~ 0 + (1 | Subject)"])
def test_population_of_the_intercept_alone(kind: str, formula: str, sleepstudy: pd.DataFrame, tmp_path: Path) -> None:
    fit = bigmm.lmer(formula, sleepstudy)
    data = KINDS[kind](sleepstudy[["Subject"]], tmp_path)
    assert values(fit.predict(data, re_form="NA")).tolist() == [fit.beta.sum()] * 180


def test_index_of_pandas(fit: bigmm.LinearMixedModelFit, sleepstudy: pd.DataFrame, by_hand: np.ndarray) -> None:
    shuffled = sleepstudy.sample(frac=1.0, random_state=1).set_index(pd.Index([f"row {i}" for i in range(180)], name="key"))
    found = fit.predict(shuffled)
    assert found.index.equals(shuffled.index)
    expected = pd.Series(by_hand).loc[sleepstudy.sample(frac=1.0, random_state=1).index]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_no_rows(fit: bigmm.LinearMixedModelFit, sleepstudy: pd.DataFrame) -> None:
    found = fit.predict(sleepstudy.iloc[:0])
    assert len(found) == 0
    assert found.dtype == np.float64


# Dask -----------------------------------------------------------------------------------------------------------------


def test_dask_is_lazy(fit: bigmm.LinearMixedModelFit, sleepstudy: pd.DataFrame, by_hand: np.ndarray) -> None:
    computed: list[int] = []
    indexed = sleepstudy.set_index(pd.Index(range(1000, 1180), name="key"))

    def part(number: int) -> pd.DataFrame:
        computed.append(number)
        return indexed.iloc[60 * number : 60 * (number + 1)]

    frame = dd.from_map(part, range(3), meta=indexed.iloc[:0])
    computed.clear()
    lazy = fit.predict(frame)
    assert isinstance(lazy, dd.Series)
    assert (lazy.name, lazy.dtype, lazy.index.name, lazy.npartitions) == ("prediction", np.float64, "key", 3)
    assert computed == []
    found = lazy.compute()
    assert sorted(computed) == [0, 1, 2]
    assert found.index.equals(indexed.index)
    np.testing.assert_allclose(found, by_hand, rtol=1e-12)
    assert found.name == lazy.name
    assert found.dtype == lazy.dtype


@pytest.mark.parametrize("re_form", [None, "NA"])
@pytest.mark.parametrize("formula", ["Reaction ~ Days + (Days | Subject)", "Reaction ~ 1 + (1 | Subject)"])
def test_dask_with_empty_partitions(formula: str, re_form: str | None, sleepstudy: pd.DataFrame) -> None:
    fit = bigmm.lmer(formula, sleepstudy)
    frame = dd.from_pandas(sleepstudy, npartitions=6)
    late = frame.map_partitions(lambda part: part[part.index >= 100], meta=sleepstudy.iloc[:0])  # nothing is left of three partitions
    found = fit.predict(late, re_form=re_form).compute()
    pd.testing.assert_series_equal(found, fit.predict(sleepstudy, re_form=re_form).loc[100:])


def test_new_level_in_dask(fit: bigmm.LinearMixedModelFit, sleepstudy: pd.DataFrame) -> None:
    frame = dd.from_pandas(sleepstudy.replace({"Subject": {"s372": "new"}}), npartitions=3)
    lazy = fit.predict(frame)
    with pytest.raises(bigmm.DataError, match="1 levels of grouping factor 'Subject' that the fit has not seen: new"):
        lazy.compute()
    found = fit.predict(frame, new_levels="population").compute()
    np.testing.assert_allclose(found.iloc[-1], fit.beta[0] + 9 * fit.beta[1])


# re_form --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("re_form", ["NA", "~0", "~ 0", " NA ", float("nan"), np.nan, pd.NA, math.nan], ids=repr)
def test_population_level(re_form: Any, fit: bigmm.LinearMixedModelFit, sleepstudy: pd.DataFrame) -> None:
    found = fit.predict(sleepstudy, re_form=re_form)
    np.testing.assert_allclose(found, fit.beta[0] + fit.beta[1] * sleepstudy["Days"], rtol=1e-12)


# predict(m, simulated[c(2, 5, 9), ], re.form = ...); with new data R leaves out lmer's `offset`, added here.
@pytest.mark.parametrize(
    ("re_form", "without_offset"),
    [
        (None, [-2.05673362000, 3.33277800385, 3.78858694576]),
        ("~ (x | g)", [-1.00667892368, 2.54258578218, 3.89120786946]),
        ("~ (1 + x | g)", [-1.00667892368, 2.54258578218, 3.89120786946]),
        ("(1 | s)", [-0.246755450605, 2.464833295524, 2.537899311586]),
        ("~ (1 | s) + (x | g)", [-2.05673362000, 3.33277800385, 3.78858694576]),
    ],
)
def test_some_of_the_terms(re_form: str | None, without_offset: list[float], simulated: bigmm.LinearMixedModelFit) -> None:
    rows = read_data("simulated").iloc[[1, 4, 8]]
    np.testing.assert_allclose(simulated.predict(rows, re_form=re_form), np.array(without_offset) + rows["o"], rtol=R_RTOL)


# m <- lmer(y ~ x + (1 | g/sub), simulated); predict(m, simulated[c(2, 5, 9), ], re.form = ...)
@pytest.mark.parametrize(
    ("re_form", "expected"),
    [
        ("~ (1 | g)", [4.86607432372, 7.12601137175, 8.58190054879]),
        ("~ (1 | sub:g)", [4.81919587095, 6.37806175127, 7.55061279136]),
    ],
)
def test_part_of_nested_terms(re_form: str, expected: list[float]) -> None:
    fit = bigmm.lmer("y ~ x + (1 | g/sub)", read_data("simulated"))
    np.testing.assert_allclose(fit.predict(read_data("simulated").iloc[[1, 4, 8]], re_form=re_form), expected, rtol=R_RTOL)


def test_terms_not_conditioned_on_need_no_column(simulated: bigmm.LinearMixedModelFit) -> None:
    rows = read_data("simulated").iloc[[1, 4, 8]]
    some, whole = (simulated.predict(data, re_form="~ (1 | s)") for data in (rows[["x", "o", "s"]], rows))
    pd.testing.assert_series_equal(some, whole)
    with pytest.raises(bigmm.DataError, match="'g'"):
        simulated.predict(rows[["x", "o", "s"]])


@pytest.mark.parametrize("re_form", ["~ (1 | g)", "~ (z | g)", "~ (1 | k)", 0, False, ["NA", "NA"]])
def test_terms_that_the_fit_has_not(re_form: Any, simulated: bigmm.LinearMixedModelFit) -> None:
    with pytest.raises(bigmm.FormulaError, match="re_form"):
        simulated.predict(read_data("simulated"), re_form=re_form)


# Levels ---------------------------------------------------------------------------------------------------------------


def test_new_levels(fit: bigmm.LinearMixedModelFit) -> None:
    rows = pd.DataFrame({"Days": [0, 1, 1], "Subject": ["s308", "x", "y"]})
    with pytest.raises(bigmm.DataError, match="2 levels of grouping factor 'Subject' that the fit has not seen: x, y"):
        fit.predict(rows)
    found = fit.predict(rows, new_levels="population").to_list()
    assert found[0] == pytest.approx(fit.beta[0] + fit.ranef()["Subject"].loc["s308", "(Intercept)"])
    assert found[1] == found[2] == pytest.approx(fit.beta.sum())
    with pytest.raises(bigmm.DataError, match="new_levels='allow': expected 'error' or 'population'"):
        fit.predict(rows, new_levels="allow")


@pytest.mark.parametrize(
    ("subjects", "kind"), [([dt.date(2024, 1, 1), dt.date(2024, 1, 2)], "dates"), ([True, False], "truth values")], ids=["dates", "truth"]
)
def test_levels_of_another_kind_are_not_new_ones(subjects: list[Any], kind: str, fit: bigmm.LinearMixedModelFit) -> None:
    rows = pd.DataFrame({"Days": [0, 1], "Subject": subjects})
    for new_levels in ("error", "population"):
        with pytest.raises(bigmm.DataError, match=f"'Subject' are {kind}: the fit was made with text"):
            fit.predict(rows, new_levels=new_levels)


@pytest.mark.parametrize("formula", ["y ~ 1 + (1 | t)", "y ~ 1 + (1 | t:h)"])
@pytest.mark.parametrize("new_levels", ["error", "population"])
def test_dates_are_of_one_kind(formula: str, new_levels: str) -> None:
    """Pandas would take "2024" for the first of January, and "02/01/2024" for the first of February."""
    rng = np.random.default_rng(1)
    days = pd.to_datetime("2024-01-01") + pd.to_timedelta(rng.integers(0, 60, 600), "D")
    rows = pd.DataFrame({"y": rng.normal(size=600), "t": days, "h": rng.choice(list("ab"), 600)})
    fit = bigmm.lmer(formula, rows, client=0)
    assert fit.predict(rows, new_levels=new_levels).notna().all()
    for text in (days.strftime("%Y"), days.strftime("%m/%d/%Y"), days.astype(str)):
        with pytest.raises(bigmm.DataError, match=r"are text(, text)?: the fit was made with dates(, text)?; convert"):
            fit.predict(rows.assign(t=text), new_levels=new_levels)
    with pytest.raises(bigmm.DataError, match=r"are dates with a time zone(, text)?: the fit was made with dates"):
        fit.predict(rows.assign(t=days.tz_localize("UTC")), new_levels=new_levels)


def test_new_level_of_a_fixed_category() -> None:
    fit = bigmm.lmer("angle ~ recipe + temp + (1 | recipe:replicate)", read_data("cake"))
    rows = read_data("cake").head(2).assign(recipe=["A", "D"])
    for new_levels in ("error", "population"):
        with pytest.raises(bigmm.DataError, match="levels of 'recipe' that the fit has no coefficient for: D; it knows A, B, C"):
            fit.predict(rows, new_levels=new_levels)


def test_new_combination_of_a_combined_factor() -> None:
    fit = bigmm.lmer("angle ~ recipe + temp + (1 | recipe:replicate)", read_data("cake"))
    rows = read_data("cake").head(2).assign(replicate=[1, 99])
    with pytest.raises(bigmm.DataError, match=r"grouping factor 'recipe:replicate' .*: \('A', 99\)"):
        fit.predict(rows)
    assert fit.predict(rows, new_levels="population").notna().all()


def test_some_levels_of_a_category(simulated: bigmm.LinearMixedModelFit) -> None:
    rows = read_data("simulated")
    fit = bigmm.lmer("y ~ f * h * x + (1 | g)", rows, contrasts={"f": "sum", "h": "helmert"})
    whole = fit.predict(rows)
    for position in (0, 1, 5, 9):
        row = rows.iloc[[position]]
        np.testing.assert_allclose(fit.predict(row), whole.iloc[[position]], rtol=1e-12)


# No row of `deficient` has f = "c", h = "yes"; new rows: that cell, (c, no), (a, yes), with x1 = 0.5, g = "g02".
# The cell's prediction depends on the contrasts, because lme4 and bigmm leave the last dependent column out.
@pytest.mark.parametrize(
    ("formula", "contrasts", "expected"),
    [
        ("y ~ f * h + x1 + (1 | g)", "treatment", [1.421813938809, 0.676864380838, 1.541175410833]),
        ("y ~ f * h + x1 + (1 | g)", "sum", [1.158144166995, 0.676864380838, 1.541175410841]),
        ("y ~ f * h + x1 + (1 | g)", "helmert", [1.355896495857, 0.676864380838, 1.541175410832]),
        ("y ~ 0 + f:h + x1 + (1 | g)", "treatment", [0.901373910892, 0.676864380837, 1.541175410844]),
    ],
)
def test_unseen_cell_of_known_levels(formula: str, contrasts: str, expected: list[float]) -> None:
    fit = bigmm.lmer(formula, read_data("deficient"), contrasts={"f": contrasts, "h": contrasts})
    rows = pd.DataFrame({"x1": 0.5, "f": ["c", "c", "a"], "h": ["yes", "no", "yes"], "g": "g02"})
    np.testing.assert_allclose(fit.predict(rows), expected, rtol=R_RTOL)
    np.testing.assert_allclose(fit.predict(rows.iloc[:1]), expected[:1], rtol=R_RTOL)


def test_unseen_cell_of_a_random_slope() -> None:
    # lmer(y ~ f + x1 + (0 + f | g), d <- deficient[!(g == "g02" & f == "b"), ])
    data = read_data("deficient")
    fit = bigmm.lmer("y ~ f + x1 + (0 + f | g)", data[~((data.g == "g02") & (data.f == "b"))])
    rows = pd.DataFrame({"x1": [0.0], "f": "b", "g": "g02"})
    np.testing.assert_allclose(fit.predict(rows), [1.27596914574], rtol=R_RTOL)


def test_declared_order_of_a_category() -> None:
    data = read_data("simulated")
    data["f"] = pd.Categorical(data["f"], categories=["mid", "low", "high"])
    fit = bigmm.lmer("y ~ f + x + (1 | g)", data)
    assert list(fit.coef_names) == ["(Intercept)", "flow", "fhigh", "x"]
    for same in (data, data.astype({"f": "str"}), data.assign(f=pd.Categorical(data["f"].astype("str")))):
        np.testing.assert_array_equal(fit.predict(same), fit.predict(data))


# Rows -----------------------------------------------------------------------------------------------------------------


@every_kind
def test_incomplete_rows(kind: str, fit: bigmm.LinearMixedModelFit, sleepstudy: pd.DataFrame, by_hand: np.ndarray, tmp_path: Path) -> None:
    rows = sleepstudy.drop(columns="Reaction").astype({"Days": "float64"})
    rows.loc[3, "Days"] = np.nan
    rows.loc[[5, 100], "Subject"] = None
    found = values(fit.predict(KINDS[kind](rows, tmp_path)))
    assert np.flatnonzero(np.isnan(found)).tolist() == [3, 5, 100]
    complete = ~np.isnan(found)
    np.testing.assert_allclose(found[complete], by_hand[complete], rtol=1e-12)


def test_all_rows_incomplete(fit: bigmm.LinearMixedModelFit) -> None:
    rows = pd.DataFrame({"Days": [np.nan, np.nan], "Subject": ["s308", "s309"]})
    assert fit.predict(rows).isna().all()


@every_kind
@pytest.mark.parametrize("missing", [None, np.nan, pd.Categorical([None, None])])
def test_category_of_which_every_value_is_missing(
    kind: str, missing: Any, fit: bigmm.LinearMixedModelFit, sleepstudy: pd.DataFrame, tmp_path: Path
) -> None:
    rows = sleepstudy.drop(columns="Reaction").head(2).assign(Subject=missing)
    assert np.isnan(values(fit.predict(KINDS[kind](rows, tmp_path)))).all()


def test_offset_is_needed_and_added(simulated: bigmm.LinearMixedModelFit) -> None:
    rows = read_data("simulated").dropna().head(3)
    plain = simulated.predict(rows)
    np.testing.assert_allclose(simulated.predict(rows.assign(o=rows["o"] + 10)), plain + 10, rtol=1e-12)
    with pytest.raises(bigmm.DataError, match="'o'"):
        simulated.predict(rows.drop(columns="o"))


def test_offset_in_the_formula() -> None:
    data = read_data("simulated")
    inside = bigmm.lmer("y ~ x + offset(o) + (1 | g)", data)
    beside = bigmm.lmer("y ~ x + (1 | g)", data, offset="o")
    np.testing.assert_allclose(inside.predict(data), beside.predict(data), rtol=1e-12)


def test_neither_response_nor_weights_are_needed() -> None:
    data = read_data("simulated").dropna()
    fit = bigmm.lmer("y ~ x + I(x^2) + (1 | g)", data, weights="w")
    np.testing.assert_array_equal(fit.predict(data[["x", "g"]]), fit.predict(data))


def test_text_where_the_fit_had_numbers(fit: bigmm.LinearMixedModelFit, sleepstudy: pd.DataFrame) -> None:
    with pytest.raises(bigmm.DataError, match=r"column 'Days' holds text.*the fit was made with numbers"):
        fit.predict(sleepstudy.assign(Days="many"))


def test_levels_of_other_types() -> None:
    rng = np.random.default_rng(1)
    days = [dt.date(2024, 1, 1) + dt.timedelta(days=int(i)) for i in rng.integers(0, 8, 200)]
    data = pd.DataFrame({"b": rng.random(200) < 0.5, "d": pd.Series(days), "k": rng.integers(0, 9, 200), "y": rng.normal(size=200)})
    data["y"] += data["k"] + 2.0 * data["b"]
    fit = bigmm.lmer("y ~ b + (1 | d) + (1 | k)", data)
    tables = fit.ranef()
    expected = [
        fit.beta[0] + fit.beta[1] * row.b + tables["d"].loc[pd.Timestamp(row.d)].iloc[0] + tables["k"].loc[row.k].iloc[0]
        for row in data.head(20).itertuples()
    ]
    np.testing.assert_allclose(fit.predict(data.head(20)), expected, rtol=1e-12)


@pytest.mark.parametrize("formula", ["y ~ c:f + (1 | g)", "y ~ 1 + (c:f | g)", "y ~ c %in% f + (1 | g)", "y ~ c:f:k + (c:f | g)"])
def test_interactions_without_main_effects(formula: str) -> None:
    """Their coding uses the indicators of one category alone."""
    rng = np.random.default_rng(0)
    n = 600
    frame = pd.DataFrame({name: rng.choice(list(values), n) for name, values in {"c": "abc", "f": "lmh", "k": "uv"}.items()})
    frame["g"] = rng.integers(0, 12, n)
    frame["y"] = 3.0 * ((frame["c"] == "a") & (frame["f"] == "l")) + rng.normal(size=12)[frame["g"]] + rng.normal(size=n)
    fit = bigmm.lmer(formula, frame, client=0)
    assert (frame["y"] - fit.predict(frame)).std() < 1.05 * fit.sigma


def test_no_complete_row() -> None:
    frame = read_data("sleepstudy").assign(f=["a", "b"] * 90)
    fit = bigmm.lmer("Reaction ~ Days * f + (1 | Subject)", frame, client=0)
    assert fit.predict(frame[:2].assign(Days=np.nan)).isna().all()


# Names ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fixed", "names"),
    [
        ("f + fb", ["fb", "fb.1"]),
        ("q1 + q11", ["q112", "q112.1"]),
        ("x * f + x:fb", ["x", "fb", "x:fb", "x:fb.1"]),
        ("`(Intercept)`", ["(Intercept).1"]),
        ("f + fb + `fb.1`", ["fb", "fb.2", "fb.1"]),
    ],
)
def test_coefficients_of_one_name(fixed: str, names: list[str]) -> None:
    rng = np.random.default_rng(5)
    frame = pd.DataFrame({name: rng.normal(size=200) for name in ("x", "fb", "(Intercept)", "fb.1")})
    frame = frame.assign(f=rng.choice(["a", "b"], 200), q1=rng.choice(["1", "12"], 200), q11=rng.choice(["1", "2"], 200))
    frame = frame.assign(g=rng.integers(0, 10, 200), y=frame["fb"] * 5 + 2 * (frame["f"] == "b") + rng.normal(size=200))
    fit = bigmm.lmer(f"y ~ {fixed} + (1 | g)", frame, client=0)
    assert fit.coef_names == ("(Intercept)", *names)
    found = fit.verify(frame, client=0)
    assert abs(found.relative) < 1e-9


def test_fixed_categories_of_another_type() -> None:
    days = pd.to_datetime(["2024-01-01", "2024-01-02"]).repeat(30)
    rng = np.random.default_rng(1)
    frame = pd.DataFrame({"y": rng.normal(size=60), "day": days, "g": rng.integers(0, 6, 60)})
    fit = bigmm.lmer("y ~ day + (1 | g)", frame, client=0)
    with pytest.raises(bigmm.DataError, match="levels of 'day' are text: the fit was made with dates; convert the column"):
        fit.predict(frame.assign(day=frame["day"].dt.strftime("%Y-%m-%d")))
    with pytest.raises(bigmm.DataError, match="that the fit has no coefficient for: 2025-05-05; it knows 2024-01-01, 2024-01-02"):
        fit.predict(frame.assign(day=pd.Timestamp("2025-05-05")))


def test_moments_with_and_without_a_time_zone() -> None:
    days = pd.to_datetime(["2024-01-01", "2024-01-02"]).repeat(30)
    rng = np.random.default_rng(1)
    frame = pd.DataFrame({"y": rng.normal(size=60), "day": days.tz_localize("Europe/Paris"), "g": rng.integers(0, 6, 60)})
    fit = bigmm.lmer("y ~ day + (1 | g)", frame, client=0)
    with pytest.raises(bigmm.DataError, match="levels of 'day' are dates: the fit was made with dates with a time zone"):
        fit.predict(frame.assign(day=days))


def test_re_form_without_a_bar(fit: bigmm.LinearMixedModelFit, sleepstudy: pd.DataFrame) -> None:
    pd.testing.assert_series_equal(fit.predict(sleepstudy, re_form="~  0"), fit.predict(sleepstudy, re_form="NA"))
    with pytest.raises(bigmm.FormulaError, match=r"re_form='~1': expected random-effects terms such as '~ \(1 \| g\)', or '~0'"):
        fit.predict(sleepstudy, re_form="~1")


def test_columns_that_are_called_like_numbers() -> None:
    """As of a frame that was made from an array."""
    rng = np.random.default_rng(8)
    frame = pd.DataFrame(rng.normal(10.0, 2.0, (200, 2))).rename(columns=str).assign(g=rng.integers(0, 8, 200))
    frame["y"] = 1 + 2 * frame["0"] + frame["1"] + rng.normal(size=200)
    named = frame.rename(columns={"0": "p", "1": "q"})
    fits = bigmm.lmer("y ~ `0` + (1 + `1` | g)", frame, client=0), bigmm.lmer("y ~ p + (1 + q | g)", named, client=0)
    np.testing.assert_array_equal(fits[0].predict(frame), fits[1].predict(named))
