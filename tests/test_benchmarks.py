"""The benchmarks' own arithmetic: crossproducts without rows, ratios, and what makes a run fail."""

import importlib
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest

import bigmm


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a module of the benchmarks."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parent.parent / "benchmarks"))

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    return load


def test_crossproducts_of_ratings_are_those_of_their_rows(module: Any) -> None:
    ratings = module("ratings")
    user, movie = ratings.graph(300, 120, seed=3)
    y = ratings.rate(user, movie)
    direct = ratings.crossproducts(user, movie, y)
    reduced = bigmm.reduce(ratings.FORMULA, pd.DataFrame({"y": y, "user": user, "movie": movie}), client=0)
    assert len(user) == len(set(zip(user, movie, strict=True)))
    assert direct.pairs.keys() == reduced.pairs.keys()
    for one, other in zip(direct.groups, reduced.groups, strict=True):
        assert one.levels.equals(other.levels)
        assert one.columns == other.columns
        np.testing.assert_array_equal(one.ZtZ, other.ZtZ)
    for name in ("g_refs", "h_refs", "ZtZ"):
        np.testing.assert_array_equal(getattr(direct.pairs[0, 1], name), getattr(reduced.pairs[0, 1], name))
    for theta in ([0.5, 0.5], [1.0, 0.2]):
        objectives = [cp.model(reml=False).objective(theta) for cp in (direct, reduced)]
        assert objectives[0] == pytest.approx(objectives[1], rel=1e-12)


def test_slopes_have_the_answer_that_is_said(module: Any) -> None:
    generate = module("generate")
    levels = 2000
    pieces = [generate.slopes(start, min(start + 999, 4 * levels), levels) for start in range(0, 4 * levels, 999)]
    frame = pd.concat(pieces, ignore_index=True)
    pd.testing.assert_frame_equal(frame, generate.slopes(0, 4 * levels, levels))
    assert (frame.groupby("g")["x"].agg(["count", "sum"]) == [4, 0]).all(axis=None)
    assert frame["g"].nunique() == levels
    model = bigmm.reduce(generate.SLOPES, frame, client=0).model()
    fit = model.fit(start=model.fit().theta)  # a search with many random effects leaves digits that the objective does not show
    exact = generate.exact_slopes(levels)
    expected = [exact["b0"], exact["b1"], exact["b0.b1"], exact["residual"]]
    np.testing.assert_allclose(fit.varcorr["vcov"], expected, rtol=1e-9)
    np.testing.assert_allclose(fit.fixef, [exact["intercept"], exact["x"]], rtol=1e-12)


def test_ratios_pair_rounds_and_a_stopped_rival_is_a_bound(module: Any) -> None:
    results = module("results")
    rows = [_row(results, "bigmm", "fit", turn, seconds) for turn, seconds in ((1, 1.0), (2, 2.0))]
    rows += [_row(results, "lme4", "fit", turn, seconds) for turn, seconds in ((1, 10.0), (2, 30.0), (3, 5.0))]
    rows += [_row(results, "mixedlm", "lmer", 1, 60.0, state="stopped")]
    assert results.ratios(rows, "lme4", "fit") == [10.0, 15.0]
    assert results.ratios(rows, "mixedlm", "lmer", "fit") == [60.0]
    assert math.isnan(results.seconds(rows, "mixedlm", "lmer"))
    assert "> 60 (stopped at 60 s)" in module("table").markdown(rows)


@pytest.mark.parametrize(
    ("measure", "objective", "wrong"),
    [("evaluation", 100.0, False), ("evaluation", 100.001, True), ("fit", 100.001, False), ("fit", 99.999, True)],
)
def test_a_run_fails_where_competitors_disagree(module: Any, measure: str, objective: float, wrong: bool) -> None:
    results = module("results")
    rows = [_row(results, "bigmm", measure, 1, 1.0), _row(results, "lme4", measure, 1, 1.0, objective=objective)]
    assert bool(results.complaints(rows)) == wrong


def test_rows_survive_the_file(module: Any, tmp_path: Path) -> None:
    results = module("results")
    rows = [_row(results, "bigmm", "fit", 1, 1.5, objective=-3.25), _row(results, "lme4", "", 0, math.nan, state="is missing")]
    for row in rows:
        results.append(tmp_path / "run.csv", [row])
    assert repr(results.read(tmp_path / "run.csv")) == repr(rows)


def test_a_random_model_is_searched_from_near_and_far(module: Any) -> None:
    searches = module("searches")
    found = searches.searched(2, bobyqa=True)
    assert found.converged
    assert found.evaluations <= 25
    assert found.gap < 1e-6
    assert found.bobyqa > -1e-6
    assert "|" in found.formula


def _row(results: Any, competitor: str, measure: str, turn: int, seconds: float, state: str = "measured", objective: float = 100.0) -> Any:
    memory = (2.0**20, 0.0, math.nan, math.nan)
    return results.Row("insteval", 3, "default", competitor, measure, turn, state, seconds, 1, 9, objective, *memory, "v", "b", "CPU", 2)
