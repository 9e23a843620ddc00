"""Coded columns X = X_raw C, against R's model.matrix() and formulaic's model matrix."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import formulaic
import numpy as np
import pandas as pd
import pytest
from formulaic.transforms import contrasts as fc

import bigmm
from bigmm.columns import Column
from bigmm.crossproducts import CrossProducts
from bigmm.errors import LabelError, ModelError
from bigmm.formula import parse_formula
from bigmm.formula.coding import Coding, check_contrasts, code_terms, level_text
from bigmm.formula.expression import parse_expression

#: X_raw C multiplies and adds numbers of size 1.
TOLERANCE = 1e-12
CUSTOM = np.array([[1.0, 0.5], [0.0, -1.0], [-1.0, 0.5]])
FRAME = pd.DataFrame(
    {
        "a": list("pqr" * 4),
        "b": list("uuuvvvvuuuvv"),
        "k": [1, 2, 10, 10, 2, 1, 1, 2, 10, 1, 10, 2],
        "x": [0.5, -1, 2, 3, 1.5, -2, 0, 4, -3, 2.5, 1, -0.5],
        "z": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13.0],
        "g": list("mn" * 6),
    }
)
#: Written by model_matrix.R.
R_CASES: list[dict[str, Any]] = json.loads((Path(__file__).parent / "model_matrix.json").read_text())["cases"]


def raw_matrix(columns: tuple[Column, ...], frame: pd.DataFrame) -> np.ndarray:
    """The raw columns, spread out."""
    numbers = {name: frame[name].to_numpy(float) for name in frame.select_dtypes("number")}
    out = np.ones((len(frame), len(columns)))
    for position, column in enumerate(columns):
        for text in column.numeric:
            out[:, position] *= parse_expression(text).evaluate(numbers, len(frame))
        for name, level in column.cell:
            out[:, position] *= frame[name].to_numpy() == level
    return out


def coded(cp: CrossProducts, formula: str | None = None, contrasts: Any = None) -> Coding:
    fixed = cp.design.formula.fixed if formula is None else parse_formula(formula).fixed
    return code_terms(fixed, cp.columns, cp.design.kinds, cp.design.categories, contrasts)


def matrix(formula: str, frame: pd.DataFrame = FRAME, contrasts: Any = None) -> tuple[tuple[str, ...], np.ndarray]:
    cp = bigmm.reduce(formula, frame, client=0)
    coding = coded(cp, contrasts=contrasts)
    return coding.names, raw_matrix(cp.columns, frame) @ coding.matrix


@pytest.mark.parametrize("case", R_CASES, ids=lambda case: case["formula"])
def test_model_matrix_of_R(case: dict[str, Any]) -> None:
    contrasts = {name: CUSTOM if kind == "custom" else kind for name, kind in dict(case["contrasts"] or {}).items()}
    names, X = matrix(case["formula"], contrasts=contrasts)
    expected = np.array(case["X"])
    if case["formula"] == "z ~ a:b + (1 | g)":  # R keeps a dependent column, to be dropped later; ours span the same space
        assert len(names) == np.linalg.matrix_rank(X) == case["rank"]
        assert np.linalg.matrix_rank(np.column_stack([X, expected]), tol=1e-9) == case["rank"]
        return
    assert list(names) == case["names"]
    np.testing.assert_allclose(X, expected, rtol=0, atol=TOLERANCE)


FORMULAIC = [
    ("a", {}, "a"),
    ("a * b * x", {}, "a * b * x"),
    ("a + b", {"a": "sum"}, "C(a, contr.sum) + b"),
    ("a * x", {"a": "helmert"}, "C(a, contr.helmert) * x"),
    ("a * b", {"a": "poly"}, "C(a, contr.poly) * b"),
    ("a + x", {"a": CUSTOM}, "C(a, custom) + x"),
    ("a + x", {"a": fc.TreatmentContrasts(base="q")}, "C(a, contr.treatment(base='q')) + x"),
    ("a + x", {"a": fc.SumContrasts()}, "C(a, contr.sum) + x"),
    ("0 + a * b", {}, "0 + a * b"),
    ("a:b", {}, "a:b"),
    ("a:x + b", {}, "a:x + b"),
    ("0 + x:a + x", {}, "0 + x:a + x"),
    ("b / (a + x)", {"b": "sum"}, "C(b, contr.sum) / (a + x)"),
]


@pytest.mark.parametrize(("fixed", "contrasts", "expected"), FORMULAIC)
def test_model_matrix_of_formulaic(fixed: str, contrasts: Any, expected: str) -> None:
    _, X = matrix(f"z ~ {fixed} + (1 | g)", contrasts=contrasts)
    frame = FRAME.assign(a=pd.Categorical(FRAME["a"]), b=pd.Categorical(FRAME["b"]))
    theirs = formulaic.model_matrix(expected, frame, context={"custom": fc.CustomContrasts(CUSTOM)}).to_numpy(float)
    assert X.shape == theirs.shape
    # formulaic orders columns in its own way
    np.testing.assert_allclose(X[:, np.lexsort(X.round(9))], theirs[:, np.lexsort(theirs.round(9))], atol=TOLERANCE)


def test_contrast_by_the_text_of_the_factor() -> None:
    names, _ = matrix("z ~ factor(k) + a + (1 | g)", contrasts={"factor(k)": "sum", "a": "contr.helmert"})
    assert names == ("(Intercept)", "factor(k)1", "factor(k)2", "a1", "a2")


def test_contrasts_argument_wins_over_the_formula() -> None:
    names, _ = matrix("z ~ C(a, contr.sum) + (1 | g)", contrasts={"a": "poly"})
    assert names == ("(Intercept)", "C(a, contr.sum).L", "C(a, contr.sum).Q")


def test_names_of_many_polynomials() -> None:
    frame = pd.DataFrame({"f": np.repeat(list("abcdef"), 4), "z": np.arange(24.0) ** 2, "g": list("mn" * 12)})
    names, X = matrix("z ~ f + (1 | g)", frame, {"f": "poly"})
    assert names == ("(Intercept)", "f.L", "f.Q", "f.C", "f^4", "f^5")
    np.testing.assert_allclose(X.T @ X, np.diag([24.0, 4, 4, 4, 4, 4]), atol=1e-12)


def test_declared_order_sets_the_reference_level() -> None:
    frame = FRAME.assign(a=pd.Categorical(FRAME["a"], categories=["r", "unused", "p", "q"]))
    assert matrix("z ~ a + (1 | g)", frame)[0] == ("(Intercept)", "ap", "aq")


def test_truth_values_and_dates_are_categories() -> None:
    frame = FRAME.assign(t=FRAME["x"] > 1, d=pd.to_datetime("2024-02-28") + pd.to_timedelta(FRAME["k"], unit="D"))
    names, X = matrix("z ~ t + d + (1 | g)", frame)
    assert names == ("(Intercept)", "tTRUE", "d2024-03-01", "d2024-03-09")
    np.testing.assert_array_equal(X[:, 1], frame["t"])


@pytest.mark.parametrize(
    ("level", "text"), [(2, "2"), (2.5, "2.5"), (1e-20, "1e-20"), (True, "TRUE"), ("u", "u"), (pd.Timestamp("2024-01-02"), "2024-01-02")]
)
def test_level_text(level: Any, text: str) -> None:
    assert level_text(level) == text


class TestSubModels:
    """Coding on crossproducts that hold more than the formula asks for."""

    CP = bigmm.reduce("z ~ a * b * x + factor(k) + (1 | g)", FRAME, client=0)

    @pytest.mark.parametrize(
        "fixed",
        ["1", "0", "a", "b", "x", "0 + a", "a + b", "a:b", "a * x", "a:x", "0 + x:a:b", "factor(k) + b * x", "0 + x", "x:b + a:x", "b:a"],
    )
    @pytest.mark.parametrize("contrasts", [{}, {"a": "sum", "b": "helmert"}, {"a": CUSTOM}], ids=["treatment", "sum", "custom"])
    def test_same_as_collected_for_it(self, fixed: str, contrasts: Any) -> None:
        formula = f"z ~ {fixed} + (1 | g)"
        names, X = matrix(formula, contrasts=contrasts)
        coding = coded(self.CP, formula, contrasts)
        assert coding.names == names
        np.testing.assert_allclose(raw_matrix(self.CP.columns, FRAME) @ coding.matrix, X, rtol=0, atol=TOLERANCE)

    @pytest.mark.parametrize("fixed", ["x + I(x^2)", "factor(k) * x", "k", "factor(k):a", "log(x)"])
    def test_what_was_not_collected(self, fixed: str) -> None:
        with pytest.raises(LabelError, match="do not hold the columns of"):
            coded(self.CP, f"z ~ {fixed} + (1 | g)")


def test_names_of_treatment_contrasts_with_another_base() -> None:
    assert matrix("z ~ a + (1 | g)", contrasts={"a": fc.TreatmentContrasts(base="q")})[0] == ("(Intercept)", "ap", "ar")


class TestErrors:
    @pytest.mark.parametrize("wrong", [fc.TreatmentContrasts(base="s"), fc.CustomContrasts(np.eye(4))])
    def test_contrasts_that_do_not_fit(self, wrong: Any) -> None:
        with pytest.raises(ModelError, match="do not fit 'a' with levels 'p', 'q', 'r'"):
            matrix("z ~ a + (1 | g)", contrasts={"a": wrong})

    def test_category_with_one_level(self) -> None:
        cp = bigmm.reduce("z ~ a + (1 | g)", FRAME.assign(a="p"), client=0)
        with pytest.raises(ModelError, match=r"'a' has one level \('p'\): contrasts need two or more"):
            coded(cp)
        assert coded(cp, "z ~ 0 + a + (1 | g)").names == ("ap",)

    def test_unknown_contrast(self) -> None:
        with pytest.raises(ModelError, match="unknown contrast 'simple' for 'a': expected one of treatment, sum, helmert, poly"):
            matrix("z ~ a + (1 | g)", contrasts={"a": "simple"})

    @pytest.mark.parametrize("wrong", [np.eye(3), np.ones((2, 1)), np.ones(3), [[1, 0]]])
    def test_matrix_of_the_wrong_shape(self, wrong: Any) -> None:
        with pytest.raises(ModelError, match="expected 3 rows"):
            matrix("z ~ a + (1 | g)", contrasts={"a": wrong})


@pytest.mark.parametrize(
    "wrong", [[["u"], ["v"], ["w"]], [[1.0], [2.0, 3.0], [0.0]], [[1.0], [np.nan], [0.0]], [[1.0], [None], [0.0]]], ids=str
)
def test_contrast_matrix_that_is_no_numbers(wrong: Any) -> None:
    with pytest.raises(ModelError, match=r"^a contrast matrix for 'a' holds .*: expected 3 rows of numbers$"):
        matrix("z ~ a + (1 | g)", contrasts={"a": wrong})


@pytest.mark.parametrize("wrong", ["sum", ["a"], 1])
def test_contrasts_are_a_mapping(wrong: Any) -> None:
    with pytest.raises(ModelError, match=r"^contrasts is a \w+: expected a mapping such as {'column': 'sum'}$"):
        check_contrasts(wrong, parse_formula("z ~ a + (1 | g)").fixed)
