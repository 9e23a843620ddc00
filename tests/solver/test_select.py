"""Models inside crossproducts: the same numbers as from a pass of their own, and as from the rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

import bigmm
from bigmm.errors import FormulaError, LabelError, ModelError
from tests.oracle import Dense, random_theta

#: Sums of the same products in another order.
RTOL = 1e-10


def _frame() -> pd.DataFrame:
    rng = np.random.default_rng(11)
    n = 160
    frame = pd.DataFrame(
        {
            "g": rng.choice([f"g{i:02}" for i in range(16)], n),
            "h": rng.integers(0, 6, n),
            "a": rng.choice(list("pqr"), n),
            "b": rng.choice(list("uv"), n),
            "x": rng.normal(3.0, 1.0, n),
            "z": rng.uniform(-1, 1, n),
            "w": rng.uniform(0.5, 2.0, n),
            "o": rng.normal(0.0, 3.0, n),
        }
    )
    frame["y"] = 4 + frame["x"] + (frame["a"] == "q") + rng.normal(size=16)[pd.factorize(frame["g"])[0]] + rng.normal(size=n)
    return frame


FRAME = _frame()
WIDE = "y ~ a * b * x + z + I(x^2) + (a * x | g) + (z | h) + (1 | g:h)"
CP = bigmm.reduce(WIDE, FRAME, weights="w", offset="o", client=0)

SUB_MODELS = [
    "y ~ 1 + (1 | g)",
    "y ~ a * b * x + (1 | g)",
    "y ~ a + x + (1 | g) + (1 | h)",
    "y ~ a:b + x + (1 | h)",
    "y ~ 0 + a + (1 | g)",
    "y ~ 0 + x + (1 | g)",
    "y ~ 0 + (1 | g)",
    "y ~ z + (x | g)",
    "y ~ z + (x || g)",
    "y ~ z + (0 + x | g)",
    "y ~ z + (1 | g) + (0 + x | g)",
    "y ~ z + (a | g)",
    "y ~ z + (0 + a | g)",
    "y ~ z + (0 + a:x | g)",
    "y ~ x + I(x^2) + (z | h)",
    "y ~ x + (0 + z | h) + (x | g)",
    "y ~ x + (1 | h:g)",
    "y ~ x + (1 | g/h)",
]


@pytest.mark.parametrize("reml", [False, True])
@pytest.mark.parametrize("formula", SUB_MODELS)
def test_same_as_a_pass_of_its_own(formula: str, reml: bool) -> None:
    inside = CP.model(formula, reml=reml)
    own = bigmm.reduce(formula, FRAME, weights="w", offset="o", client=0).model(reml=reml)
    assert inside.selected.fixed.names == own.selected.fixed.names
    assert [name.replace("h:g", "g:h") for name in inside.theta_names] == [name.replace("h:g", "g:h") for name in own.theta_names]
    rng = np.random.default_rng(1)
    for scale in (0.0, 1.0, 3.0):
        theta = np.where(own.lower == 0.0, np.abs(rng.normal(size=len(own.lower))), rng.normal(size=len(own.lower))) * scale
        assert inside.objective(theta) == pytest.approx(own.objective(theta), rel=RTOL)


@pytest.mark.parametrize("reml", [False, True])
def test_same_as_from_the_rows(reml: bool) -> None:
    dense = Dense(FRAME, "a + x", (("x", "g"), ("1", "h")), weights="w", offset="o")
    theta = random_theta(dense, np.random.default_rng(2))
    assert CP.model("y ~ a + x + (x | g) + (1 | h)", reml=reml).objective(theta) == pytest.approx(dense.at(theta).objective(reml), rel=1e-9)


def test_coding_changes_reml_by_the_known_constant_and_ml_by_nothing() -> None:
    theta = [0.7]
    treatment, summed = ({}, {"a": "sum"})
    ml = [CP.model("y ~ a + x + (1 | g)", reml=False, contrasts=c).objective(theta) for c in (treatment, summed)]
    assert ml[0] == pytest.approx(ml[1], rel=RTOL)
    reml = [CP.model("y ~ a + x + (1 | g)", reml=True, contrasts=c).objective(theta) for c in (treatment, summed)]
    # X_sum = X_treatment C; log|R_X|^2 changes by 2 log|det C|
    C = np.linalg.solve(np.array([[1, 0, 0], [1, 1, 0], [1, 0, 1.0]]), np.array([[1, 1, 0], [1, 0, 1], [1, -1, -1.0]]))
    assert reml[1] - reml[0] == pytest.approx(2 * np.log(abs(np.linalg.det(C))), abs=1e-7)


class TestNotCollected:
    @pytest.mark.parametrize(
        ("formula", "message"),
        [
            ("log(y) ~ x + (1 | g)", "collected for the response 'y': found 'log(y)'"),
            ("z ~ x + (1 | g)", "collected for the response 'y': found 'z'"),
            ("y ~ x + offset(z) + (1 | g)", "collected for the response and offset of"),
            ("y ~ q + (1 | g)", "hold nothing about column 'q', only about y, a, b, x, z, g, h"),
            ("y ~ x + (1 | q)", "hold nothing about column 'q'"),
            ("y ~ x + (1 | a)", "have no grouping factor 'a', only 'g', 'h', 'g:h'"),
            ("y ~ log(x) + (1 | g)", "do not hold the columns of 'log(x)'"),
            ("y ~ x:z + (1 | g)", "do not hold the columns of 'x:z'"),
            ("y ~ z:a + (1 | g)", "do not hold the columns of 'z:a'"),
            ("y ~ x + (z | g)", "do not hold the columns of 'z'"),
            ("y ~ x + (a | h)", "do not hold the columns of 'a'"),
            ("y ~ x + (factor(x) | h)", "do not hold the columns of 'factor(x)'"),
            ("y ~ x + (x | h)", "do not hold the columns of 'x'"),
            ("y ~ x + (x | g:h)", "do not hold the columns of 'x'"),
        ],
    )
    def test_says_what(self, formula: str, message: str) -> None:
        with pytest.raises(LabelError) as caught:
            CP.model(formula)
        assert message in str(caught.value)

    def test_a_formula_that_is_none(self) -> None:
        with pytest.raises(FormulaError, match="no '~'"):
            CP.model("x + (1 | g)")


class TestNotIdentified:
    @staticmethod
    def model(formula: str, **columns: Any) -> Any:
        rng = np.random.default_rng(0)
        frame = pd.DataFrame({"y": rng.normal(size=12), "x": rng.normal(size=12), "g": np.arange(12) % 4, "i": np.arange(12), **columns})
        return bigmm.reduce(formula, frame, client=0).model()

    def test_a_level_for_every_row(self) -> None:
        with pytest.raises(ModelError, match=r"as many random effects \(12 levels\) as there are rows \(12\)"):
            self.model("y ~ x + (1 | i)")

    def test_as_many_effects_as_rows(self) -> None:
        with pytest.raises(ModelError, match="6 levels x 2 columns"):
            self.model("y ~ x + (x | j)", j=np.arange(12) % 6)

    def test_one_level(self) -> None:
        with pytest.raises(ModelError, match="'one' has 1 level: a random effect needs two or more"):
            self.model("y ~ x + (1 | one)", one=1)

    @pytest.mark.parametrize("value", [0.0, 7.0, 1e9])
    def test_constant_response(self, value: float) -> None:
        with pytest.raises(ModelError, match="explain the response exactly"):
            self.model("y ~ x + (1 | g)", y=value)

    def test_more_coefficients_than_rows(self) -> None:
        with pytest.raises(ModelError, match="12 complete rows for 12 fixed effects"):
            self.model("y ~ factor(i) + (1 | g)")


#: Means of x and y, in units of their spread.
LARGE = [0.0, 1e3, 1e6]


@pytest.mark.filterwarnings("ignore::bigmm.PrecisionWarning")  # x and y are large, and nothing takes their means away
class TestNoShiftInTheColumnSpace:
    """Without an intercept nothing in X can undo the shift of y; with 0 + x nothing can undo that of x."""

    @staticmethod
    def frame(x_mean: float, y_mean: float) -> pd.DataFrame:
        rng = np.random.default_rng(4)
        n = 120
        frame = pd.DataFrame({"x": x_mean + rng.normal(size=n), "g": rng.integers(0, 12, n), "a": rng.choice(list("pq"), n)})
        frame["y"] = y_mean + (frame["x"] - x_mean) + rng.normal(size=12)[frame["g"]] + rng.normal(size=n)
        return frame

    @pytest.mark.filterwarnings("ignore::bigmm.PrecisionWarning")  # (x | g) far from zero
    @pytest.mark.parametrize("reml", [False, True])
    @pytest.mark.parametrize("y_mean", LARGE)
    @pytest.mark.parametrize("x_mean", LARGE)
    @pytest.mark.parametrize(
        ("fixed", "random"), [("0", "1"), ("0 + x", "1"), ("0 + x", "x"), ("0 + a:x", "1"), ("0 + a + a:x", "1"), ("x", "1")]
    )
    def test_brute_force(self, fixed: str, random: str, x_mean: float, y_mean: float, reml: bool) -> None:
        frame = self.frame(x_mean, y_mean)
        dense = Dense(frame, fixed, ((random, "g"),))
        model = bigmm.reduce(f"y ~ {fixed} + ({random} | g)", frame, client=0).model(reml=reml)
        theta = np.full(len(model.lower), 0.5)
        if random == "x":
            theta /= max(x_mean, 1.0)
        found, expected = model.objective(theta), dense.at(theta).objective(reml)
        # the dense inverse loses digits of its own: y'V^-1 y is (mean / spread)^2 times what is left of it
        lost = max(x_mean, y_mean, 1.0) ** 2
        assert found == pytest.approx(expected, rel=max(1e-9, lost * 1e-14))

    @pytest.mark.parametrize("formula", ["y ~ 0 + x + (1 | g)", "y ~ 0 + a:x + (1 | g)", "y ~ 0 + (1 | g)"])
    def test_sub_model_of_one_with_an_intercept(self, formula: str) -> None:
        frame = self.frame(1e3, 1e3)
        own = bigmm.reduce(formula, frame, client=0).model()
        inside = bigmm.reduce("y ~ a * x + (1 | g)", frame, client=0).model(formula)
        assert inside.objective([0.5]) == pytest.approx(own.objective([0.5]), rel=1e-9)

    def test_estimates_are_those_of_the_unshifted_columns(self) -> None:
        frame = self.frame(1e6, 1e6)
        near = frame.assign(x=frame["x"] - 1e6, y=frame["y"] - 1e6)
        far_fit, near_fit = (bigmm.lmer("y ~ x + (1 | g)", data, client=0) for data in (frame, near))
        assert far_fit.objective == pytest.approx(near_fit.objective, rel=1e-9)
        assert far_fit.fixef["x"] == pytest.approx(near_fit.fixef["x"], rel=1e-7)
        assert far_fit.fixef["(Intercept)"] == pytest.approx(near_fit.fixef["(Intercept)"] + 1e6 - 1e6 * near_fit.fixef["x"], abs=1.0)
        assert far_fit.stderr["x"] == pytest.approx(near_fit.stderr["x"], rel=1e-6)
        assert far_fit.sigma == pytest.approx(near_fit.sigma, rel=1e-6)


class TestShiftInTheColumnSpace:
    """The column of ones is a sum of other columns than those of the coding."""

    @pytest.mark.parametrize("mean", [1e5, 1e7])
    @pytest.mark.parametrize("fixed", ["0 + f + k", "0 + f + k + x", "0 + f * k + x"])
    def test_same_model_with_an_intercept(self, fixed: str, mean: float) -> None:
        rng = np.random.default_rng(0)
        n = 600
        frame = pd.DataFrame({"g": rng.integers(0, 20, n), "f": rng.choice(list("abc"), n), "k": rng.choice(list("uv"), n)})
        frame["x"] = mean + rng.normal(size=n)
        frame["y"] = mean + frame["x"] - mean + rng.normal(size=20)[frame["g"]] + rng.normal(size=n)
        found = bigmm.reduce(f"y ~ {fixed} + (1 | g)", frame, client=0).model(reml=False)
        expected = bigmm.reduce(f"y ~ {fixed.replace('0', '1')} + (1 | g)", frame, client=0).model(reml=False)
        assert not found.selected.fixed.dropped
        assert found.objective([1.0]) == pytest.approx(expected.objective([1.0]), rel=1e-10)


class TestContrastsFarFromZero:
    """The coefficients that undo a shift are right to the last digits, for it multiplies them."""

    @staticmethod
    def error(weight: float, contrasts: Any, mean: float) -> float:
        """Largest difference of predictions from those of the same columns near zero; one level in four has small weights."""
        rng = np.random.default_rng(8)
        frame = pd.DataFrame({"f": rng.choice(list("abcd"), 400), "x": rng.normal(size=400), "g": rng.integers(0, 7, 400)})
        slope = frame["f"].map({"a": 2.0, "b": -2.0, "c": 1.0, "d": 0.5})
        frame["y"] = rng.normal(size=400) + rng.normal(size=7)[frame["g"]] + slope * frame["x"]
        frame["w"] = np.where(frame["f"] == "d", weight, 1.0)
        far = frame.assign(x=frame["x"] + mean)
        near_fit = bigmm.reduce("y ~ f * x + (1 | g)", frame, weights="w", client=0).fit()
        far_fit = bigmm.reduce("y ~ f * x + (1 | g)", far, weights="w", client=0).fit(contrasts={"f": contrasts})
        return float(np.abs(near_fit.predict(frame) - far_fit.predict(far)).max())

    @pytest.mark.parametrize("contrasts", ["treatment", "sum", "helmert", "poly"])
    @pytest.mark.parametrize("weight", [1.0, 1e-6, 1e-8])
    def test_rare_levels(self, contrasts: str, weight: float) -> None:
        assert self.error(weight, contrasts, 1e9) < 1e-5

    def test_a_matrix_of_few_digits(self) -> None:
        third = 0.33333333 * np.vstack([np.eye(3), -np.ones(3)])
        assert self.error(1.0, third, 1e9) < 1e-5
        assert self.error(1.0, third.astype(np.float32), 1e9) < 1e-5


def test_groups_that_are_the_same_in_another_order() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"y": rng.normal(size=400), "x": rng.normal(size=400), "a": rng.integers(0, 8, 400), "b": rng.integers(0, 6, 400)})
    both = bigmm.reduce("y ~ 1 + (1 | a:b) + (0 + x | b:a)", frame, client=0).model(reml=False)
    one = bigmm.reduce("y ~ 1 + (1 | a:b) + (0 + x | a:b)", frame, client=0).model(reml=False)
    assert both.objective([0.5, 0.7]) == pytest.approx(one.objective([0.5, 0.7]), rel=1e-12)


def test_warns_when_little_of_the_response_is_left() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"y": rng.normal(size=400), "s": np.repeat(["a", "b"], 200), "g": rng.integers(0, 8, 400)})
    cp = bigmm.reduce("y ~ s + (1 | g)", frame.assign(y=frame["y"] + 1e6 * (frame["s"] == "b")), client=0)
    with pytest.warns(bigmm.PrecisionWarning, match="few digits"):
        cp.model()
