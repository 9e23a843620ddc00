"""The search: bounds, failures, interruptions, and an honest record of it."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

import bigmm
from bigmm.errors import ModelError
from bigmm.solver.cholmod import NotPositiveDefiniteError
from bigmm.solver.optimize import Optimizer, minimize
from bigmm.solver.pls import PenalizedLeastSquares

#: The search stops where the objective is flat to 4e-14 of itself: theta is known to the square root of that, about.
THETA_ATOL = 1e-5
METHODS = ["bobyqa", "cobyla", "neldermead", "sbplx"]


def bowl(centre: list[float], floor: float = 100.0) -> Callable[[np.ndarray], float]:
    return lambda theta: float(((theta - centre) ** 2).sum() + floor)


def search(function: Any, start: Any, lower: Any = None, settings: Optimizer | None = None, on_evaluation: Any = None) -> Any:
    start = np.array(start, dtype=float)
    lower = np.zeros(len(start)) if lower is None else np.array(lower)
    covariance: Any = SimpleNamespace(lower=lower, entries=[(entry, 0, 0) for entry in range(len(lower))])
    units = [0.1 * np.eye(2)] if np.isinf(lower).any() else [0.1 * np.eye(1)] * len(lower)  # floors of 1e-4
    return minimize(lambda theta: (function(theta), pytest.fail), covariance, start, units, settings or Optimizer("bobyqa"), on_evaluation)


@pytest.mark.parametrize("method", METHODS)
def test_finds_the_minimum(method: str) -> None:
    found = search(bowl([0.3, 2.0]), [1.0, 1.0], settings=Optimizer(method))
    np.testing.assert_allclose(found.theta, [0.3, 2.0], atol=THETA_ATOL)
    assert found.converged
    assert found.objective == pytest.approx(100.0, abs=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_minimum_on_the_bound_is_exactly_there(method: str) -> None:
    found = search(bowl([-0.5, 2.0]), [1.0, 1.0], settings=Optimizer(method))
    assert found.theta[0] == 0.0
    assert found.theta[1] == pytest.approx(2.0, abs=THETA_ATOL)
    assert found.converged


def test_even_functions_are_snapped_to_zero() -> None:
    """An objective is even in theta, so that it is flat at 0: the search ends near it, never on it, and 0 costs nothing."""
    found = search(lambda theta: 1e5 + float(theta[0] ** 2 + (theta[1] - 1.0) ** 2), [1.0, 2.0])
    assert found.theta[0] == 0.0
    assert found.theta[1] == pytest.approx(1.0, abs=1e-3)


def test_small_but_needed_values_are_not_snapped() -> None:
    found = search(lambda theta: 100.0 + 1e6 * float((theta[0] - 5e-4) ** 2), [1.0])
    assert found.theta[0] == pytest.approx(5e-4, rel=1e-3)


def test_a_start_at_zero_is_left_when_zero_is_no_minimum() -> None:
    found = search(lambda theta: 100.0 + float((theta[0] ** 2 - 1.0) ** 2), [0.0])
    assert found.theta[0] == pytest.approx(1.0, abs=THETA_ATOL)


def test_covariances_below_the_diagonal_are_free() -> None:
    found = search(bowl([0.5, -2.0, 0.0]), [1.0, 0.0, 1.0], lower=[0.0, -np.inf, 0.0])
    np.testing.assert_allclose(found.theta, [0.5, -2.0, 0.0], atol=THETA_ATOL)
    assert found.theta[2] == 0.0


@pytest.mark.parametrize("method", ["bobyqa", "cobyla", "sbplx"])  # the first simplex of neldermead may be flat: it stops
def test_cholesky_failures_do_not_ruin_the_search(method: str) -> None:
    def function(theta: np.ndarray) -> float:
        if theta[0] > 1.5:
            raise NotPositiveDefiniteError("no")
        return bowl([1.2, 0.7])(theta)

    found = search(function, [1.0, 1.0], settings=Optimizer(method))
    np.testing.assert_allclose(found.theta, [1.2, 0.7], atol=1e-3)
    assert not np.isinf([value for _, value in found.trace]).any()


def test_failures_are_in_the_trace_as_nan_and_never_reach_nlopt_as_infinity() -> None:
    calls: list[float] = []

    def function(theta: np.ndarray) -> float:
        calls.append(theta[0])
        if 1.0 < theta[0] < 3.0:
            raise NotPositiveDefiniteError("no")
        return bowl([0.5])(theta)

    found = search(function, [1.0])
    values = np.array([value for _, value in found.trace])
    np.testing.assert_array_equal(np.isnan(values), [1.0 < theta < 3.0 for theta in calls])
    assert found.theta[0] == pytest.approx(0.5, abs=THETA_ATOL)


def test_no_objective_at_the_start() -> None:
    def function(theta: np.ndarray) -> float:
        raise NotPositiveDefiniteError("no")

    with pytest.raises(ModelError, match=r"the objective does not exist at the start theta = \[1.\]: give another start"):
        search(function, [1.0])


@pytest.mark.parametrize("limit", [1, 2, 5, 12])
@pytest.mark.parametrize("method", METHODS)
def test_out_of_evaluations(method: str, limit: int) -> None:
    found = search(bowl([3.0, 2.0]), [1.0, 1.0], settings=Optimizer(method, maxeval=limit))
    assert not found.converged
    assert found.reason == "maxeval reached"
    assert found.nevals <= limit + 3  # a search evaluates once at least, and the bounds are looked at
    assert found.objective == min(value for _, value in found.trace)


def test_trace_is_complete_and_honest() -> None:
    calls: list[np.ndarray] = []
    reported: list[tuple[int, np.ndarray, float]] = []

    def function(theta: np.ndarray) -> float:
        calls.append(theta.copy())
        theta_value = bowl([0.0, 2.0])(theta)
        theta[:] = -1.0  # whatever a function does to its argument
        return theta_value

    start = np.array([1.0, 1.0])
    found = search(lambda theta: function(theta.copy()), start, on_evaluation=lambda *args: reported.append(args))
    assert found.nevals == len(calls) == len(found.trace) == len(reported)
    for (theta, value), call, (number, at, seen) in zip(found.trace, calls, reported, strict=True):
        np.testing.assert_array_equal(theta, call)
        np.testing.assert_array_equal(theta, at)
        assert value == seen == bowl([0.0, 2.0])(call)
        assert number <= len(calls)
    assert [number for number, _, _ in reported] == list(range(1, len(calls) + 1))
    np.testing.assert_array_equal(found.trace[0][0], [1.0, 1.0])
    np.testing.assert_array_equal(start, [1.0, 1.0])
    np.testing.assert_array_equal(found.start, [1.0, 1.0])
    assert any(np.array_equal(theta, found.theta) and value == found.objective for theta, value in found.trace)


class Stop(BaseException):
    """Not an Exception, like KeyboardInterrupt, but not one that pytest heeds."""


@pytest.mark.parametrize("kind", [KeyboardInterrupt, Stop, ValueError, MemoryError])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("where", ["objective", "callback"])
def test_whatever_is_raised_comes_out(method: str, kind: type[BaseException], where: str) -> None:
    """At every evaluation: the first, those of the search (its last ones too) and those after it."""
    function, settings = bowl([-0.5, 0.0005]), Optimizer(method)
    evaluations = search(function, [1.0, 1.0], settings=settings).nevals
    for stop_at in range(1, evaluations + 1):
        calls = 0

        def maybe(*args: Any) -> float:
            nonlocal calls
            calls += 1
            if calls == stop_at:  # noqa: B023 (called in this round only)
                raise kind("stop")
            return function(args[0])

        arguments = (maybe, None) if where == "objective" else (function, lambda number, theta, value: maybe(theta))
        with pytest.raises(kind):
            search(arguments[0], [1.0, 1.0], settings=settings, on_evaluation=arguments[1])
        assert calls == stop_at


@pytest.mark.parametrize(
    "wrong", [{"method": "nelder"}, {"method": ""}, {"maxeval": 0}, {"ftol_rel": -1.0}, {"xtol_abs": -1.0}, {"ftol_rel": float("nan")}]
)
def test_settings(wrong: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=r"unknown optimizer|must be"):
        Optimizer(**wrong)


def balanced(groups: int, replicates: int, between: float) -> pd.DataFrame:
    """Group means spread by `between`, replicates around them by 1: closed forms for everything."""
    means = np.linspace(-1.0, 1.0, groups)
    inside = np.linspace(-1.0, 1.0, replicates)
    frame = pd.DataFrame(
        {"g": np.repeat(np.arange(groups), replicates), "y": np.add.outer(means / means.std(ddof=1) * between, inside).ravel()}
    )
    frame["x"] = np.tile(np.arange(replicates) % 2, groups).astype(float)
    return frame


class TestModels:
    @pytest.mark.parametrize("reml", [True, False])
    @pytest.mark.parametrize("start", [None, [0.0], [1e-6], [50.0]])
    def test_closed_form(self, start: Any, reml: bool) -> None:
        groups, replicates = 12, 5
        frame = balanced(groups, replicates, 2.0)
        fit = bigmm.reduce("y ~ 1 + (1 | g)", frame, client=0).fit(reml=reml, start=start)
        within = frame.groupby("g")["y"].var().mean()
        means = replicates * frame.groupby("g")["y"].mean().var() * (1.0 if reml else (groups - 1) / groups)
        assert fit.sigma**2 == pytest.approx(within, rel=1e-7)
        assert fit.theta[0] ** 2 * fit.sigma**2 == pytest.approx((means - within) / replicates, rel=1e-6)
        assert fit.converged

    @pytest.mark.parametrize("start", [None, [0.0], [3.0]])
    def test_singular_fit_ends_exactly_at_zero(self, start: Any) -> None:
        fit = bigmm.reduce("y ~ 1 + (1 | g)", balanced(12, 5, 0.05), client=0).fit(start=start)
        assert fit.theta.tolist() == [0.0]
        assert fit.singular
        assert fit.converged

    def test_singular_slope_ends_exactly_at_zero(self) -> None:
        fit = bigmm.lmer("y ~ x + (x || g)", balanced(12, 6, 2.0), client=0)
        assert fit.theta[0] > 0.5
        assert fit.theta[1] == 0.0

    def test_wrong_start(self) -> None:
        cp = bigmm.reduce("y ~ 1 + (1 | g)", balanced(12, 5, 2.0), client=0)
        with pytest.raises(ModelError, match="expected 1 values"):
            cp.fit(start=[1.0, 1.0])
        with pytest.raises(ModelError, match="below its bound"):
            cp.fit(start=[-1.0])

    @pytest.mark.parametrize("method", METHODS)
    def test_all_methods_agree(self, method: str) -> None:
        cp = bigmm.reduce("y ~ x + (x | g)", balanced(12, 6, 2.0).assign(y=lambda d: d["y"] + d["x"] * np.sin(d["g"])), client=0)
        assert cp.fit(optimizer=method).objective == pytest.approx(cp.fit().objective, abs=1e-6)


@pytest.mark.filterwarnings("ignore::bigmm.IdentificationWarning", "ignore::bigmm.PrecisionWarning")
@pytest.mark.parametrize("method", ["newton", "bobyqa", "lbfgs", "slsqp", "mma"])
@pytest.mark.parametrize("leaves", [True, False])
def test_a_start_beyond_double_precision_is_an_answer_or_an_error_of_bigmm(method: str, leaves: bool) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=400)
    frame = pd.DataFrame(
        {"g": rng.integers(0, 20, 400), "h": rng.integers(0, 9, 400), "x": 1e3 + x, "z": 1e-6 * x, "y": rng.normal(size=400)}
    )
    model = bigmm.reduce("y ~ 1 + (x + z | g) + (1 | h)", frame, client=0).model()
    if not leaves:
        model._pls = PenalizedLeastSquares(model.selected.blocks, model.selected.covariance, leaves=False)
    for size in (1e8, 1e150):
        try:
            assert np.isfinite(model.fit(start=model.theta0 * size, optimizer=method).objective)
        except bigmm.BigmmError as error:
            assert "theta" in str(error) or "objective" in str(error)  # noqa: PT017


@pytest.mark.parametrize("method", METHODS)
def test_a_covariance_that_starts_at_a_rounding_is_free_all_the_same(method: str) -> None:
    """nlopt makes the first step as long as the start."""
    found = search(bowl([0.5, -2.0, 0.3]), [1.0, 1e-17, 1.0], lower=[0.0, -np.inf, 0.0], settings=Optimizer(method))
    np.testing.assert_allclose(found.theta, [0.5, -2.0, 0.3], atol=1e-3)
