"""Arithmetic on columns: values as R computes them, names as R prints them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigmm.errors import FormulaError
from bigmm.formula.expression import parse_expression

NAN, INF = float("nan"), float("inf")
X = np.array([-2.0, -0.5, 0.0, 1.0, 3.0, NAN])
Z = np.array([2.0, 0.5, 0.0, NAN, -3.0, 1.0])
COLUMNS = {"x": X, "z": Z, "a b": X, "x.y": Z, "_column_0": X + 10.0, "lambda": X, "ﬁ": Z}

# What R 4.2 gives for x and z above (NA and NaN are both missing).
R_VALUES: dict[str, list[float]] = {
    "I(x^2)": [4, 0.25, 0, 1, 9, NAN],
    "I(-x^2)": [-4, -0.25, 0, -1, -9, NAN],
    "I((-x)^2)": [4, 0.25, 0, 1, 9, NAN],
    "I(2^-x)": [4, np.sqrt(2), 1, 0.5, 0.125, NAN],
    "I(2^3^2 + 0 * x)": [512, 512, 512, 512, 512, NAN],
    "I(x^0)": [1, 1, 1, 1, 1, 1],
    "I(1^x)": [1, 1, 1, 1, 1, 1],
    "I(x^0.5)": [NAN, NAN, 0, 1, np.sqrt(3), NAN],
    "I(1/x)": [-0.5, -2, INF, 1, 1 / 3, NAN],
    "I(x/z)": [-1, -1, NAN, NAN, -1, NAN],
    "I(x - z - 1)": [-5, -2, -1, NAN, 5, NAN],
    "I(x - (z - 1))": [-3, 0, 1, NAN, 7, NAN],
    "I(x + z * 2)": [2, 0.5, 0, NAN, -3, NAN],
    "log(x)": [NAN, NAN, -INF, 0, np.log(3), NAN],
    "sqrt(x)": [NAN, NAN, 0, 1, np.sqrt(3), NAN],
    "exp(x)": [np.exp(-2), np.exp(-0.5), 1, np.e, np.exp(3), NAN],
    "log1p(x)": [NAN, np.log(0.5), 0, np.log(2), np.log(4), NAN],
    "log2(x)": [NAN, NAN, -INF, 0, np.log2(3), NAN],
    "log10(x)": [NAN, NAN, -INF, 0, np.log10(3), NAN],
    "abs(x)": [2, 0.5, 0, 1, 3, NAN],
    "sign(x)": [-1, -1, 0, 1, 1, NAN],
    "floor(x)": [-2, -1, 0, 1, 3, NAN],
    "ceiling(x)": [-2, 0, 0, 1, 3, NAN],
    "I(x > 0)": [0, 0, 0, 1, 1, NAN],
    "I(x >= z)": [0, 0, 1, NAN, 1, NAN],
    "I(x != z)": [1, 1, 0, NAN, 1, NAN],
    "I(x == z)": [0, 0, 1, NAN, 0, NAN],
    "I((x > 0) * z)": [0, 0, 0, NAN, -3, NAN],
    "I(log(exp(x)) + 1)": [-1, 0.5, 1, 2, 4, NAN],
    "I(7)": [7, 7, 7, 7, 7, 7],
    "I(`a b` + x.y)": [0, 0, 0, NAN, 0, NAN],
    "I(_column_0 + 0 * `a b`)": [8, 9.5, 10, 11, 13, NAN],
    "I(lambda * 2)": [-4, -1, 0, 2, 6, NAN],
    "I(ﬁ)": [2, 0.5, 0, NAN, -3, 1],
    "np.log(exp(x))": [-2, -0.5, 0, 1, 3, NAN],
}


@pytest.mark.parametrize("text", R_VALUES)
def test_values(text: str) -> None:
    value = parse_expression(text).evaluate(COLUMNS, len(X))
    assert value.dtype == np.float64
    np.testing.assert_allclose(value, R_VALUES[text], rtol=1e-15)


def test_a_column_is_itself() -> None:
    assert parse_expression("x").evaluate(COLUMNS, len(X)) is X
    assert parse_expression("`a b`").evaluate(COLUMNS, len(X)) is X


def test_no_rows() -> None:
    empty = {"x": np.zeros(0)}
    for text in ("I(x^2)", "I(x > 1)", "I(3)", "log(x)"):
        assert parse_expression(text).evaluate(empty, 0).shape == (0,)


# Text -> R's deparse(), checked with R 4.2.
R_NAMES = {
    "I( x^2 )": "I(x^2)",
    "I(x**2)": "I(x^2)",
    "I(x/2)": "I(x/2)",
    "I(x*2)": "I(x * 2)",
    "I(x*1e5)": "I(x * 1e+05)",
    "I(x/100000)": "I(x/1e+05)",
    "I(x/123456)": "I(x/123456)",
    "I(x*0.1)": "I(x * 0.1)",
    "I(x*1e-5)": "I(x * 1e-05)",
    "I(x*0.0001)": "I(x * 1e-04)",
    "I(x*0.00012)": "I(x * 0.00012)",
    "I(1e15*x)": "I(1e+15 * x)",
    "I(123456789012*x)": "I(123456789012 * x)",
    "I(x+1.0)": "I(x + 1)",
    "I(-x^2)": "I(-x^2)",
    "I(x-(z-1))": "I(x - (z - 1))",
    "I(x/(z*2))": "I(x/(z * 2))",
    "I((x+z)^2)": "I((x + z)^2)",
    "I(1/3*x)": "I(1/3 * x)",
    "I(x>=2)": "I(x >= 2)",
    "I(x!=z)": "I(x != z)",
    "exp( -x )": "exp(-x)",
    "log(`a b`)": "log(`a b`)",
    "I(`a b`^2)": "I(`a b`^2)",
    "I(x.y^2)": "I(x.y^2)",
    "I(`x`+1)": "I(x + 1)",
    "C(k,contr.sum)": "C(k, contr.sum)",
    "factor( k )": "factor(k)",
    "as.factor(k)": "as.factor(k)",
    "as_factor(k)": "as.factor(k)",
}


@pytest.mark.parametrize("text", R_NAMES)
def test_names(text: str) -> None:
    expression = parse_expression(text)
    assert expression.text == R_NAMES[text]
    assert parse_expression(expression.text) == expression


def test_numbers_keep_all_their_digits() -> None:
    expression = parse_expression("I(x * 0.12345678901234567)")
    assert expression.evaluate({"x": np.ones(1)}, 1)[0] == 0.12345678901234567


def test_names_of_the_columns_it_reads() -> None:
    assert sorted(parse_expression("I(z + x*z + `a b` + `x`)").names) == ["a b", "x", "z"]
    assert parse_expression("log(log)").names == ("log",)
    assert parse_expression("I(2)").names == ()


@pytest.mark.parametrize("text", ["I(_column_1 + `a b`)", "I(`a b` + _column_1)", "I(`_column_2`/_column_0 + `a b`*_column_1)"])
def test_names_that_look_like_those_of_the_parser(text: str) -> None:
    columns = {"_column_0": 2.0, "_column_1": 3.0, "_column_2": 5.0, "a b": 7.0}
    expected = eval(text[1:].replace("`a b`", "7.0").replace("`", ""), {"__builtins__": {}}, columns)
    expression = parse_expression(text)
    for found in (expression, parse_expression(expression.text)):
        assert found.evaluate({name: np.full(2, value) for name, value in columns.items()}, 2).tolist() == [expected] * 2


def test_backticks_keep_a_name_from_being_an_expression() -> None:
    quoted, computed = parse_expression("`I(x)`"), parse_expression("I(x)")
    assert (quoted.names, quoted.is_column) == (("I(x)",), True)
    assert (computed.names, computed.is_column) == (("x",), False)


@pytest.mark.parametrize(
    "text",
    ["x +", "(x", "x x", "`a", "1 +* 2", "'x'", "x.y(z)", "x[1]", "(x).real", "x := 1", "x if z else 1", "~x", "x @ z", "x <= 1 < 2"],
)
def test_errors(text: str) -> None:
    with pytest.raises(FormulaError, match=r"not an expression|not arithmetic|unknown function"):
        parse_expression(text)


def _ge(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """R's >=, NA where a side is missing."""
    return np.where(np.isnan(left) | np.isnan(right), NAN, np.where(left >= right, 1.0, 0.0))


BINARY = {"+": np.add, "-": np.subtract, "*": np.multiply, "/": np.divide, "^": np.power, ">=": _ge}
UNARY = {"-": np.negative, "sqrt": np.sqrt, "abs": np.abs, "floor": np.floor}
ATOMS = st.one_of(
    st.floats(0, 1e3).map(lambda value: (repr(value), np.full(len(X), value))),
    st.sampled_from([("x", X), ("z", Z), ("`a b`", X), ("x.y", Z)]),
)
ARITHMETIC = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(list(BINARY)), inner).map(
            lambda t: (f"({t[0][0]} {t[1]} {t[2][0]})", BINARY[t[1]](t[0][1], t[2][1]))
        ),
        st.tuples(st.sampled_from(list(UNARY)), inner).map(lambda t: (f"({t[0]}({t[1][0]}))", UNARY[t[0]](t[1][1]))),
    ),
    max_leaves=8,
)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@settings(max_examples=150, deadline=None, derandomize=True)
@given(ARITHMETIC)
def test_same_values_as_numpy(drawn: tuple[str, np.ndarray]) -> None:
    text, expected = drawn
    expression = parse_expression(f"I({text})")
    np.testing.assert_array_equal(expression.evaluate(COLUMNS, len(X)), expected)
    assert parse_expression(expression.text) == expression
