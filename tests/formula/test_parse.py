"""lme4's grammar: what formulas mean, what is refused and where the error points, and that nothing is ever evaluated."""

from __future__ import annotations

import builtins
import os
import pickle
import time
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bigmm.errors import FormulaError
from bigmm.formula import Formula, RandomEffectsTerm, Term, parse_formula

#: Seconds that a formula of 100 kB may take; a slow machine under load needs much less.
PATIENCE = 10.0


def shown(terms: tuple[Term, ...]) -> str:
    """Terms as R labels them, the intercept as 1."""
    return " ".join(":".join(factor.text for factor in term) or "1" for term in terms)


def shown_random(random: tuple[RandomEffectsTerm, ...]) -> list[tuple[str, str]]:
    return [(shown(term.terms), term.name) for term in random]


G = [("1", "g")]

# Formula -> fixed terms, (terms, group) of each random-effects term. The fixed terms are those of R's terms().
GRAMMAR: dict[str, tuple[str, list[tuple[str, str]]]] = {
    # scalar and vector terms
    "y ~ 1 + (1 | g)": ("1", G),
    "y ~ (1 | g)": ("1", G),
    "y ~ +(1 | g)": ("1", G),
    "y~x+(1|g)": ("1 x", G),
    "y ~ x + (x | g)": ("1 x", [("1 x", "g")]),
    "y ~ x + (1 + x | g)": ("1 x", [("1 x", "g")]),
    "y ~ x + (x + z | g)": ("1 x", [("1 x z", "g")]),
    "y ~ x + (x * z | g)": ("1 x", [("1 x z x:z", "g")]),
    "y ~ x + (0 + x | g)": ("1 x", [("x", "g")]),
    "y ~ x + (x - 1 | g)": ("1 x", [("x", "g")]),
    "y ~ x + (-1 + x | g)": ("1 x", [("x", "g")]),
    "y ~ x + (I(x^2) | g)": ("1 x", [("1 I(x^2)", "g")]),
    "y ~ x + (factor(k) | g)": ("1 x", [("1 factor(k)", "g")]),
    # no correlations
    "y ~ x + (1 || g)": ("1 x", G),
    "y ~ x + (x || g)": ("1 x", [("1", "g"), ("x", "g")]),
    "y ~ x + (0 + x || g)": ("1 x", [("x", "g")]),
    "y ~ x + (x * z || g)": ("1 x", [("1", "g"), ("x", "g"), ("z", "g"), ("x:z", "g")]),
    "y ~ x + (x || a/b)": ("1 x", [("1", "b:a"), ("1", "a"), ("x", "b:a"), ("x", "a")]),
    # nesting and combined factors
    "y ~ x + (1 | a/b)": ("1 x", [("1", "b:a"), ("1", "a")]),
    "y ~ x + (x | a/b)": ("1 x", [("1 x", "b:a"), ("1 x", "a")]),
    "y ~ x + (1 | a/b/c)": ("1 x", [("1", "c:b:a"), ("1", "b:a"), ("1", "a")]),
    "y ~ x + (1 | a:b)": ("1 x", [("1", "a:b")]),
    "y ~ x + (1 | a:b:c)": ("1 x", [("1", "a:b:c")]),
    "y ~ x + (1 | (a:b))": ("1 x", [("1", "a:b")]),
    "y ~ x + (1 | a:b/c)": ("1 x", [("1", "c:a:b"), ("1", "a:b")]),
    "y ~ x + (1 | a/b:c)": ("1 x", [("1", "b:c:a"), ("1", "a")]),
    "y ~ x + (1 | a/(b:c))": ("1 x", [("1", "b:c:a"), ("1", "a")]),
    "y ~ x + (1 | g:g)": ("1 x", G),
    # several terms
    "y ~ x + (1 | g) + (0 + x | g)": ("1 x", [("1", "g"), ("x", "g")]),
    "y ~ x + (1 | g) + (1 | g)": ("1 x", [("1", "g"), ("1", "g")]),
    "y ~ (1 | h) + x + (x | g) + z": ("1 x z", [("1", "h"), ("1 x", "g")]),
    "y ~ (1 | g/h) + (1 | h)": ("1", [("1", "h:g"), ("1", "g"), ("1", "h")]),
    # the intercept
    "y ~ x - 1 + (1 | g)": ("x", G),
    "y ~ -1 + x + (1 | g)": ("x", G),
    "y ~ 0 + x + (1 | g)": ("x", G),
    "y ~ x + 0 + (1 | g)": ("x", G),
    "y ~ x + (1 | g) - 1": ("x", G),
    "y ~ (1 | g) - 1 + x": ("x", G),
    "y ~ (1 | g) - 1": ("", G),
    "y ~ 0 + (1 | g)": ("", G),
    "y ~ 0 + x + 1 + (1 | g)": ("1 x", G),
    "y ~ x - 1 + 1 + (1 | g)": ("1 x", G),
    "y ~ (0 + x) + z + (1 | g)": ("x z", G),
    "y ~ (x - 1) * z + (1 | g)": ("x z x:z", G),
    "y ~ z - (1 + x) + (1 | g)": ("z", G),
    "y ~ x * 1 + (1 | g)": ("1 x", G),
    "y ~ x:1 + (1 | g)": ("1", G),
    "y ~ (1 + x):z + (1 | g)": ("1 x:z", G),
    # algebra
    "y ~ a * b + (1 | g)": ("1 a b a:b", G),
    "y ~ a * b * c + (1 | g)": ("1 a b c a:b a:c b:c a:b:c", G),
    "y ~ a * b * c - a:b + (1 | g)": ("1 a b c a:c b:c a:b:c", G),
    "y ~ a * b - a + (1 | g)": ("1 b a:b", G),
    "y ~ a:b + (1 | g)": ("1 a:b", G),
    "y ~ (a + b):(c + d) + (1 | g)": ("1 a:c a:d b:c b:d", G),
    "y ~ (a + b) * c + (1 | g)": ("1 a b c a:c b:c", G),
    "y ~ a / b + (1 | g)": ("1 a a:b", G),
    "y ~ a / b / c + (1 | g)": ("1 a a:b a:b:c", G),
    "y ~ (a + b) / c + (1 | g)": ("1 a b a:b:c", G),
    "y ~ a / (b + c) + (1 | g)": ("1 a a:b a:c", G),
    "y ~ (a * b) / c + (1 | g)": ("1 a b a:b a:b:c", G),
    "y ~ a / 1 + (1 | g)": ("1 a", G),
    "y ~ a %in% b + (1 | g)": ("1 a:b", G),
    "y ~ a + b %in% a + (1 | g)": ("1 a a:b", G),
    "y ~ (a + b) %in% c + (1 | g)": ("1 a:c b:c", G),
    "y ~ a * b %in% c + (1 | g)": ("1 a b:c a:b:c", G),
    "y ~ (a + b + c)^2 + (1 | g)": ("1 a b c a:b a:c b:c", G),
    "y ~ (a + b + c)^2 - a:b + (1 | g)": ("1 a b c a:c b:c", G),
    "y ~ (a + b)**2 + (1 | g)": ("1 a b a:b", G),
    "y ~ (a + b)^3 + (1 | g)": ("1 a b a:b", G),
    "y ~ (a + 1)^2 + (1 | g)": ("1 a", G),
    "y ~ a^2:b + (1 | g)": ("1 a:b", G),
    "y ~ a:b^2 + (1 | g)": ("1 a:b", G),
    "y ~ x^2 + (1 | g)": ("1 x", G),
    "y ~ x:x + (1 | g)": ("1 x", G),
    "y ~ x - x + (1 | g)": ("1", G),
    # factors of a term stand in the order in which the formula first names them
    "y ~ x + z:x + x:z + (1 | g)": ("1 x x:z", G),
    "y ~ b:a + a + (1 | g)": ("1 a b:a", G),
    "y ~ z + a * b + x:a + (1 | g)": ("1 z a b a:b a:x", G),
    "y ~ c:(b + a) + a + (1 | g)": ("1 a c:b c:a", G),
    "y ~ a:b:c + a * b + (1 | g)": ("1 a b a:b a:b:c", G),
    # names and expressions
    "y ~ I(x^2) + log(x) + (1 | g)": ("1 I(x^2) log(x)", G),
    "y ~ I(x ^ 2+1) + (1 | g)": ("1 I(x^2 + 1)", G),
    "y ~ x + I(x) + (1 | g)": ("1 x I(x)", G),
    "y ~ `a b` + (1 | `g h`)": ("1 a b", [("1", "g h")]),
    "y ~ `x` + x + (1 | `g`)": ("1 x", G),
    "y ~ my.var + (1 | my.group)": ("1 my.var", [("1", "my.group")]),
    "y ~ été + (1 | ñ)": ("1 été", [("1", "ñ")]),
    "y ~ if + lambda + (1 | class)": ("1 if lambda", [("1", "class")]),
    "y ~ I(lambda^2) + (1 | g)": ("1 I(lambda^2)", G),
    "y ~ operand0 + x + (1 | g)": ("1 operand0 x", G),
    "y ~ factor(k) + (1 | g)": ("1 factor(k)", G),
    "y ~ C(a, contr.sum) * x + (1 | g)": ("1 C(a, contr.sum) x C(a, contr.sum):x", G),
    "y ~ C(a) + (1 | g)": ("1 C(a)", G),
    "y ~ x +\n\t(1 | g)\n": ("1 x", G),
}


@pytest.mark.parametrize("text", GRAMMAR)
def test_grammar(text: str) -> None:
    fixed, random = GRAMMAR[text]
    formula = parse_formula(text)
    assert shown(formula.fixed) == fixed
    assert shown_random(formula.random) == random
    assert formula.text == text


def test_groups_are_tuples_of_columns_not_pasted_names() -> None:
    combined, quoted = parse_formula("y ~ (1 | a:b) + (1 | `a:b`)").random
    assert combined.group == ("a", "b")
    assert quoted.group == ("a:b",)
    assert combined.name == quoted.name == "a:b"


@pytest.mark.parametrize(
    ("text", "response", "names"),
    [
        ("y ~ (1 | g)", "y", ("y",)),
        ("log(y) ~ (1 | g)", "log(y)", ("y",)),
        ("y + z ~ (1 | g)", "y + z", ("y", "z")),
        ("y^2 ~ (1 | g)", "y^2", ("y",)),
        ("-y ~ (1 | g)", "-y", ("y",)),
        ("(y) ~ (1 | g)", "y", ("y",)),
        ("`the y` ~ (1 | g)", "the y", ("the y",)),
        ("I(y/2) ~ (1 | g)", "I(y/2)", ("y",)),
    ],
)
def test_response(text: str, response: str, names: tuple[str, ...]) -> None:
    (found,) = parse_formula(text).responses
    assert (found.text, found.names) == (response, names)


@pytest.mark.parametrize(
    ("text", "fixed", "offsets"),
    [
        ("y ~ x + offset(z) + (1 | g)", "1 x", ["z"]),
        ("y ~ offset(log(z)) + (1 | g)", "1", ["log(z)"]),
        ("y ~ offset(a + 2*b) - 1 + (1 | g)", "", ["a + 2 * b"]),
        ("y ~ offset(z) + offset(w) + (1 | g)", "1", ["z", "w"]),
        ("y ~ offset(`a b`) + (1 | g)", "1", ["a b"]),
        ("y ~ `offset(z)` + (1 | g)", "1 offset(z)", []),
    ],
)
def test_offsets(text: str, fixed: str, offsets: list[str]) -> None:
    formula = parse_formula(text)
    assert shown(formula.fixed) == fixed
    assert [offset.text for offset in formula.offsets] == offsets


def test_names_are_every_column_once() -> None:
    formula = parse_formula("log(y) ~ x*I(x^2 + z) + offset(w) + (x + factor(k) | g:h) + (1 | `a b`)")
    assert formula.names == ("y", "x", "z", "k", "w", "g", "h", "a b")


def test_contrast_of_a_category() -> None:
    (_, (treated,), (summed,), (quoted,)) = parse_formula("y ~ factor(k) + C(a, contr.sum) + C(b, 'contr.helmert') + (1 | g)").fixed
    assert (treated.categorical, treated.contrast) == (True, None)
    assert (summed.categorical, summed.contrast, summed.names) == (True, "sum", ("a",))
    assert (quoted.categorical, quoted.contrast) == (True, "helmert")


def test_equal_whatever_the_spelling() -> None:
    assert parse_formula("y ~ x*z + (x | g)") == parse_formula("y~ x + z + x:z + ( 1+x|g )")
    assert parse_formula("y ~ x + (x | g)") != parse_formula("y ~ x + (x || g)")


def test_pickles() -> None:
    formula = parse_formula("y ~ I(x^2) + offset(z) + (x || a/b)")
    assert pickle.loads(pickle.dumps(formula)) == formula


# Formula with ^ after the character that the error marks (the ^ is taken out), part of the message.
ERRORS: list[tuple[str, int, str]] = [
    ("y", 0, "no '~' between the response and the terms"),
    ("y + x + (1 | g)", 0, "no '~'"),
    ("~ x + (1 | g)", 0, "no response before '~'"),
    ("y ~", 2, "no terms after '~'"),
    ("y ~ x ~ (1 | g)", 6, "a second '~'"),
    ("y ~ x", 4, "no random-effects term"),
    ("y ~ x  ", 4, "no random-effects term"),
    ("y ~ . + (1 | g)", 4, "bigmm does not expand '.'"),
    ("y ~ x $ z + (1 | g)", 6, "'$' has no meaning"),
    ("y ~ x, z + (1 | g)", 5, "',' has no meaning"),
    ("y ~ x\0 + (1 | g)", 5, "'\\x00' has no meaning"),
    ("y ~ 'x' + (1 | g)", 4, "has no meaning"),
    ("y ~ x & z + (1 | g)", 6, "'&' has no meaning"),
    ("y ~ `a + (1 | g)", 4, "a backtick that is never closed"),
    ("y ~ `` + (1 | g)", 4, "a backtick that is never closed"),
    ("y ~ log(x + (1 | g)", 7, "a '(' that is never closed"),
    ("y ~ (x + (1 | g)", 4, "a '(' that is never closed"),
    ("y ~ x) + (1 | g)", 5, "a ')' that was never opened"),
    ("y ~ () + (1 | g)", 5, "a term is missing before ')'"),
    ("y ~ x + + z + (1 | g)", 8, "a term is missing before '+'"),
    ("y ~ * x + (1 | g)", 4, "a term is missing before '*'"),
    ("y ~ x + -z + (1 | g)", 8, "a term is missing before '-'"),
    ("y ~ x + (1 | g) +", 16, "a term is missing after '+'"),
    ("y ~ x z + (1 | g)", 6, "no operator between 'x' and 'z'"),
    ("y ~ x (1 | g)", 6, "no operator between 'x' and '('"),
    ("y ~ I(x)(z) + (1 | g)", 8, "no operator between 'I(x)' and '('"),
    ("y ~ x + 2 + (1 | g)", 8, "the number 2 cannot stand as a term"),
    ("y ~ 2*x + (1 | g)", 4, "the number 2 cannot stand as a term"),
    ("y ~ x + 3.5 + (1 | g)", 8, "the number 3.5 cannot stand as a term"),
    ("y ~ x + 1e0 + (1 | g)", 8, "the number 1e0 cannot stand as a term"),
    ("y ~ x + .5 + (1 | g)", 8, "the number .5 cannot stand as a term"),
    ("y ~ (a + b)^0 + (1 | g)", 11, "a power of terms is a whole number"),
    ("y ~ (a + b)^a + (1 | g)", 11, "a power of terms is a whole number"),
    ("y ~ (a + b)^(2) + (1 | g)", 13, "the number 2 cannot stand as a term"),
    ("y ~ (a + b)^2.5 + (1 | g)", 11, "a power of terms is a whole number"),
    ("y ~ (a + b)^2^2 + (1 | g)", 12, "the number 2 cannot stand as a term"),  # as R reads it, from the right
    ("y ~ x + 1 | g", 10, "a bar outside its own parentheses"),
    ("y ~ x * (1 | g)", 11, "a bar outside its own parentheses"),
    ("y ~ x:(1 | g)", 9, "a bar outside its own parentheses"),
    ("y ~ (1 | g):x", 7, "a bar outside its own parentheses"),
    ("y ~ (1 | g)^2", 7, "a bar outside its own parentheses"),
    ("y ~ (x):(1 | g)", 11, "a bar outside its own parentheses"),
    ("y ~ (1 | g):(x)", 7, "a bar outside its own parentheses"),
    ("y ~ ((1 | g))", 8, "a bar outside its own parentheses"),
    ("y ~ (x + (1 | g))", 12, "a bar outside its own parentheses"),
    ("y ~ (1 + (x | g) | h)", 12, "a bar outside its own parentheses"),
    ("y ~ x - (1 | g)", 6, "a random-effects term cannot be subtracted"),
    ("y ~ x + (1 | g | h)", 15, "a second bar"),
    ("y ~ x + (1 || g | h)", 16, "a second bar"),
    ("y ~ x + (| g)", 9, "a term is missing before '|'"),
    ("y ~ x + (1 |)", 12, "a term is missing before ')'"),
    ("y ~ x + (0 | g)", 9, "no column on the left of the bar"),
    ("y ~ x + (-1 | g)", 9, "no column on the left of the bar"),
    ("y ~ x + (x - x - 1 || g)", 9, "no column on the left of the bar"),
    ("y ~ x + (1 | a + b)", 15, "'+' on the right of a bar"),
    ("y ~ x + (1 | a * b)", 15, "'*' on the right of a bar"),
    ("y ~ x + (1 | 2)", 13, "'2' on the right of a bar"),
    ("y ~ x + (1 | factor(k))", 13, "'factor(k)' on the right of a bar"),
    ("y ~ x + (1 | a/)", 15, "a term is missing before ')'"),
    ("y ~ x + (1 | a//b)", 15, "a term is missing before '/'"),
    ("y ~ x + (1 | (a/b))", 15, "a '/' inside parentheses"),
    ("y ~ x + (1 | (a/b):c)", 15, "a '/' inside parentheses"),
    ("y ~ x + (offset(z) | g)", 9, "an offset belongs to the fixed part"),
    ("y ~ x + x:offset(z) + (1 | g)", 10, "an offset stands alone"),
    ("y ~ x * offset(z) + (1 | g)", 8, "an offset stands alone"),
    ("y ~ offset(factor(k)) + (1 | g)", 4, "an offset is a numeric column"),
    ("y ~ offset() + (1 | g)", 11, "is not an expression"),
    ("cbind(a, b) + c ~ x + (1 | g)", 12, "cbind() stands alone on the left"),
    ("cbind(a, , b) ~ x + (1 | g)", 8, "a response is missing in cbind"),
    ("cbind() ~ x + (1 | g)", 6, "a response is missing in cbind"),
    ("cbind(a, b % 2) ~ x + (1 | g)", 9, "'%' has no meaning in a formula"),
    ("a %in% b ~ x + (1 | g)", 0, "'%' has no meaning in a formula"),
    ("cbind(a, b, a) ~ x + (1 | g)", 12, "the response 'a' is listed twice"),
    ("cbind(a, factor(b)) ~ x + (1 | g)", 9, "must be a numeric column"),
    ("cbind(a, zork(b)) ~ x + (1 | g)", 9, "zork"),
    ("factor(y) ~ x + (1 | g)", 0, "the response must be a numeric column"),
    ("1 ~ x + (1 | g)", 0, "the response must be a numeric column"),
    ("y z ~ x + (1 | g)", 2, "'y z' is not an expression"),
    ("y ~ scale(x) + (1 | g)", 4, "scale() depends on all rows at once"),
    ("y ~ poly(x, 2) + (1 | g)", 4, "poly() depends on all rows at once"),
    ("y ~ x + (bs(x) | g)", 9, "bs() depends on all rows at once"),
    ("y ~ foo(x) + (1 | g)", 4, "unknown function foo()"),
    ("y ~ I(foo(x)) + (1 | g)", 4, "unknown function foo()"),
    ("y ~ log(x, 2) + (1 | g)", 4, "log() takes one argument"),
    ("y ~ exp() + (1 | g)", 4, "exp() takes one argument"),
    ("y ~ I(x=1) + (1 | g)", 4, "I() takes one argument"),
    ("y ~ factor(x + 1) + (1 | g)", 4, "a category is written factor(column)"),
    ("y ~ factor() + (1 | g)", 4, "a category is written factor(column)"),
    ("y ~ C(a, contr.foo) + (1 | g)", 4, "unknown contrast 'contr.foo'"),
    ("y ~ I(x ~ z) + (1 | g)", 6, "is not an expression"),
    ("y ~ I(x == 'a') + (1 | g)", 4, "is not arithmetic on columns"),
    ("y ~ I(x | z) + (1 | g)", 4, "is not arithmetic on columns"),
    ("y ~ I(1:3) + (1 | g)", 7, "is not an expression"),
    ("y ~ I(x * 1e999) + (1 | g)", 4, "too large for double precision"),
]


@pytest.mark.parametrize(("text", "position", "message"), ERRORS)
def test_error_marks_the_character(text: str, position: int, message: str) -> None:
    with pytest.raises(FormulaError) as caught:
        parse_formula(text)
    assert message in caught.value.message
    assert caught.value.formula == text
    assert caught.value.position == position
    assert str(caught.value).splitlines()[-1] == " " * (position + 2) + "^"


@pytest.mark.parametrize("value", ["", "  \n", None, 5, b"y ~ x", ["y ~ x"]])
def test_no_text(value: Any) -> None:
    with pytest.raises(FormulaError, match="a formula is text such as"):
        parse_formula(value)


def test_error_pickles() -> None:
    with pytest.raises(FormulaError) as caught:
        parse_formula("y ~ x $ z + (1 | g)")
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.position) == (str(caught.value), 6)


SUM = "+".join(f"x{i}" for i in range(15_000))
HOSTILE = {
    "import": "y ~ I(__import__('os').system('true')) + (1 | g)",
    "eval": "y ~ eval('1') + (1 | g)",
    "open": "y ~ I(open('f', 'w')) + (1 | g)",
    "attribute": "y ~ I((x).__class__) + (1 | g)",
    "attribute of a call": "y ~ I(log(x).tofile) + (1 | g)",
    "method": "y ~ x.tofile('f') + (1 | g)",
    "dunder call": "y ~ __import__(x) + (1 | g)",
    "module": "y ~ np.save(x) + (1 | g)",
    "deep module": "y ~ np.linalg.inv(x) + (1 | g)",
    "attribute of a module": "y ~ I(np.pi) + (1 | g)",
    "lambda": "y ~ I((lambda: 1)()) + (1 | g)",
    "walrus": "y ~ I((q := 5)) + (1 | g)",
    "comprehension": "y ~ I([c for c in x]) + (1 | g)",
    "f-string": "y ~ I(f'{open(1)}') + (1 | g)",
    "subscript": "y ~ I(x[0]) + (1 | g)",
    "star": "y ~ I(*x) + (1 | g)",
    "double star": "y ~ I(**x) + (1 | g)",
    "await": "y ~ I(await x) + (1 | g)",
    "yield": "y ~ I((yield x)) + (1 | g)",
    "condition": "y ~ I(x if z else y) + (1 | g)",
    "boolean": "y ~ I(x and z) + (1 | g)",
    "string": "y ~ I('a' * 9) + (1 | g)",
    "none": "y ~ I(None) + (1 | g) + (None",
    "complex": "y ~ I(1j) + (1 | g)",
    "statement": "y ~ I(x); import os + (1 | g)",
    "statement inside": "y ~ I(x; z) + (1 | g)",
    "comment": "y ~ I(x # ) + (1 | g)",
    "null byte": "y ~ I(x\0) + (1 | g)",
    "surrogate": "y ~ I(\ud800) + (1 | g)",
    "call of a call": "y ~ I(log(x)(z)) + (1 | g)",
    "call of backticks": "y ~ I(`log`(x)) + (1 | g)",
    "huge integer": "y ~ I(x * 1" + "0" * 400 + ") + (1 | g)",
    "larger integer": "y ~ I(x * 1" + "0" * 100_000 + ") + (1 | g)",
    "deep calls": "y ~ " + "log(" * 1000 + "x" + ")" * 1000 + " + (1 | g)",
    "deeper calls": "y ~ " + "log(" * 20_000 + "x" + ")" * 20_000 + " + (1 | g)",
    "deep signs": "y ~ I(" + "-" * 900 + "x) + (1 | g)",
    "deeper signs": "y ~ I(" + "-" * 100_000 + "x) + (1 | g)",
    "deep sum": "y ~ I(" + "x+" * 900 + "x) + (1 | g)",
    "deeper sum": "y ~ I(" + "x+" * 50_000 + "x) + (1 | g)",
    "deep power": "y ~ I(" + "x^" * 900 + "x) + (1 | g)",
    "100 kB of (": "y ~ " + "(" * 100_000,
    "100 kB of calls": "y ~ " + "a(" * 50_000,
    "100 kB of )": "y ~ " + ")" * 100_000,
    "100 kB of `": "y ~ " + "`" * 100_000,
    "100 kB of $": "y ~ " + "$" * 100_000,
    "100 kB of ~": "y " + "~" * 100_000,
    "100 kB of |": "y ~ " + "|" * 100_000,
    "100 kB of +": "y ~ " + "+" * 100_000,
    "100 kB of names": "y ~ x " * 20_000,
    "many terms": f"y ~ {SUM} + (1 | g)",
    "many products": "y ~ " + "*".join(f"x{i}" for i in range(40)) + " + (1 | g)",
    "a high power": "y ~ (" + "+".join(f"x{i}" for i in range(100)) + ")^9 + (1 | g)",
    "powers of powers": "y ~ " + "(" * 50 + "a+b+c+d+e+f+h+i+j+k+l+m+n+o" + ")^99" * 50 + " + (1 | g)",
    "many products in a term": "y ~ x + (" + "*".join(f"x{i}" for i in range(40)) + " | g)",
}


@pytest.fixture
def no_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError(f"called with {args}")

    for module, name in [(builtins, "eval"), (builtins, "exec"), (os, "system")]:
        monkeypatch.setattr(module, name, refuse)


@pytest.mark.usefixtures("no_evaluation")
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile(name: str) -> None:
    began = time.perf_counter()
    with pytest.raises(FormulaError) as caught:
        parse_formula(HOSTILE[name])
    assert time.perf_counter() - began < PATIENCE
    assert len(caught.value.message) < 500


@pytest.mark.parametrize(
    "text",
    [
        "y ~ " + "(" * 40_000 + "x" + ")" * 40_000 + " + (1 | g)",
        "y ~ " + "x+" * 50_000 + "x + (1 | g)",
        "y ~ " + ":".join(f"x{i}" for i in range(3000)) + " + (1 | g)",
        "y ~ " + "x" * 100_000 + " + (1 | g)",
        "y ~ (a + b + c + d + e + f)^99 + (1 | g)",
        "y ~ x + " + " + ".join(f"(1 | g{i})" for i in range(2000)),
        "y ~ x + (1 | " + "/".join(f"g{i}" for i in range(500)) + ")",
    ],
    ids=lambda text: text[:20],
)
def test_long_but_sound(text: str) -> None:
    began = time.perf_counter()
    parse_formula(text)
    assert time.perf_counter() - began < PATIENCE


WORDS = [
    "y",
    "x",
    "g",
    "~",
    "(",
    ")",
    "|",
    "||",
    "+",
    "-",
    "*",
    "/",
    ":",
    "^",
    "%in%",
    "0",
    "1",
    "2",
    " ",
    "`a b`",
    "I(",
    "log(",
    "offset(",
    "factor(",
    ".",
    ",",
]


def parsed(text: str) -> Formula | FormulaError:
    """Whatever becomes of a text; any other error is a failure."""
    try:
        return parse_formula(text)
    except FormulaError as error:
        return error


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.one_of(st.text(max_size=60), st.lists(st.sampled_from(WORDS), max_size=25).map("".join)))
@example("y~(1|g)")
def test_any_text_is_a_formula_or_an_error(text: str) -> None:
    found = parsed(text)
    if isinstance(found, FormulaError):
        assert found.position is None or 0 <= found.position <= len(text)
        assert str(found)
    else:
        assert found.random


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(WORDS), max_size=14).map("".join), st.lists(st.sampled_from(WORDS), max_size=8).map("".join))
def test_any_words_between_response_and_group(fixed: str, left: str) -> None:
    assert isinstance(parsed(f"y ~ x + {fixed} + (x + {left} | g)"), Formula | FormulaError)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text(alphabet="xyz.12+-*/^()<>=!, `'\"_[]{}:", max_size=40))
def test_any_expression_is_read_again_as_itself(text: str) -> None:
    try:
        (*_, term) = parse_formula(f"y ~ I({text}) + (1 | g)").fixed
    except FormulaError:
        return
    for factor in term:
        if factor.text.startswith("I("):
            (*_, (again,)) = parse_formula(f"y ~ {factor.text} + (1 | g)").fixed
            assert again == factor


def test_a_column_named_like_an_expression() -> None:
    with pytest.raises(FormulaError, match="rename the column"):
        parse_formula("y ~ log(z) + `log(z)` + (1 | g)")
    with pytest.raises(FormulaError, match="rename the column"):
        parse_formula("y ~ log(z) + (1 | `log(z)`)")
