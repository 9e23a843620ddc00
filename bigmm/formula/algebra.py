"""Formula algebra: ``(a + b)^2 - a:b`` into terms, by the rules of R's terms().

A term is the set of its operands, held as the bits of an integer. The intercept is no term: the last 0 or 1 decides it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from bigmm.errors import FormulaError
from bigmm.formula.scan import Token

#: Terms of one side of a formula; products of long sums would fill the memory before anyone read them.
MAX_TERMS = 10_000

_PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2, "%in%": 3, ":": 4, "^": 6, "**": 6}
_UNARY = 5


@dataclass(frozen=True, slots=True)
class _Sum:
    """Terms in order of appearance, and what was said about the intercept (None: nothing); `token` of a bare operand."""

    terms: dict[int, None] = field(default_factory=dict)
    intercept: bool | None = None
    token: Token | None = None


def expand(tokens: Sequence[Token], operand: Callable[[Token], int], formula: str) -> tuple[bool, list[tuple[int, ...]]]:
    """Terms of one side of a formula: whether there is an intercept, and the operands of each term, ascending.

    Parameters
    ----------
    tokens : sequence of Token
        Operands and operators alternate, parentheses match (`bigmm.formula.scan.check_algebra`).
    operand : callable
        Number of the operand that a name or a call stands for; numbers ascend from 0 in order of appearance.
    formula : str
        The whole formula, to mark an error.

    Returns
    -------
    intercept : bool
    terms : list of tuple
        Ordered by degree, within a degree by appearance.

    Raises
    ------
    FormulaError
        For a number that is no term, a power that is no whole number, or more than `MAX_TERMS` terms.
    """
    stack = _Stack(formula)
    for token in tokens:
        if token.kind == "open":
            stack.operators.append((token, 0, 0))
        elif token.kind == "close":
            stack.apply(1)
            stack.operators.pop()
            stack.values[-1] = _Sum(*_read(stack.values[-1], formula))
        elif token.kind == "number":
            stack.values.append(_Sum(token=token))
        elif token.is_operand:
            stack.values.append(_Sum({1 << operand(token): None}))
        else:
            stack.push(token)
        stack.wants_operand = not (token.is_operand or token.kind == "close")
    stack.apply(1)
    terms, intercept = _read(stack.values[0], formula) if stack.values else ({}, None)
    ordered = sorted((term for term in terms if term), key=int.bit_count)
    return intercept is not False, [_bits(term) for term in ordered]


@dataclass(slots=True)
class _Stack:
    """Values, and the operators (token, precedence, operands) that wait for their right side."""

    formula: str
    values: list[_Sum] = field(default_factory=list)
    operators: list[tuple[Token, int, int]] = field(default_factory=list)
    wants_operand: bool = True

    def push(self, token: Token) -> None:
        if self.wants_operand:
            self.operators.append((token, _UNARY, 1))
            return
        precedence = _PRECEDENCE.get(token.text, 0)
        self.apply(precedence + (token.text in ("^", "**")))  # powers are read from the right
        self.operators.append((token, precedence, 2))

    def apply(self, lowest: int) -> None:
        """Apply the operators that bind at least as tightly, back to the last open parenthesis."""
        while self.operators and self.operators[-1][2] and self.operators[-1][1] >= lowest:
            token, _, operands = self.operators.pop()
            right = self.values.pop()
            left = self.values.pop() if operands == 2 else _Sum()
            self.values.append(_combine(token, left, right, self.formula))


def _bits(term: int) -> tuple[int, ...]:
    found = []
    while term:
        low = term & -term
        found.append(low.bit_length() - 1)
        term ^= low
    return tuple(found)


def _read(value: _Sum, formula: str) -> tuple[dict[int, None], bool | None]:
    """A sum; the numbers 0 and 1 speak about the intercept, others have no meaning."""
    if value.token is None:
        return value.terms, value.intercept
    if value.token.text not in ("0", "1"):
        raise FormulaError(
            f"the number {value.token.text} cannot stand as a term: 0 and 1 control the intercept, I(...) holds arithmetic",
            formula,
            value.token.start,
        )
    return {}, value.token.text == "1"


def _combine(operator: Token, left: _Sum, right: _Sum, formula: str) -> _Sum:
    """One operator applied, as R's terms() does."""
    if operator.text in ("^", "**"):
        return _power(operator, left, right, formula)
    (a, before), (b, after) = _read(left, formula), _read(right, formula)
    intercept = before if after is None else after
    match operator.text:
        case "+":
            terms = a | b
        case "-":
            terms, intercept = {term: None for term in a if term not in b}, before if after is None else not after
        case ":":
            terms = _products(a, b, operator, formula)
        case "*":
            terms = a | b | _products(a, b, operator, formula)
        case "/":
            terms = a | _products({_union(a): None}, b, operator, formula)
        case "%in%":
            terms = _products(a, {_union(b): None}, operator, formula)
        case _:
            raise FormulaError(f"{operator.text!r} has no meaning between terms: use + - * : ^ / %in%", formula, operator.start)
    if len(terms) > MAX_TERMS:
        _refuse(operator, formula)
    return _Sum(terms, intercept)


def _union(terms: dict[int, None]) -> int:
    union = 0
    for term in terms:
        union |= term
    return union


def _products(a: dict[int, None], b: dict[int, None], operator: Token, formula: str) -> dict[int, None]:
    if len(a) * len(b) > 10 * MAX_TERMS:
        _refuse(operator, formula)
    return {one | other: None for one in a for other in b}


def _power(operator: Token, left: _Sum, right: _Sum, formula: str) -> _Sum:
    text = right.token.text if right.token is not None else ""
    if not (text.isascii() and text.isdigit() and 1 <= len(text) <= 3 and int(text) >= 1):
        raise FormulaError("a power of terms is a whole number from 1 on: (a + b)^2; arithmetic stands in I(x^2)", formula, operator.start)
    base, intercept = _read(left, formula)
    terms = base
    for _ in range(int(text) - 1):
        grown = _products(terms, base, operator, formula) if base else terms
        if grown.keys() == terms.keys():
            break
        terms = grown
        if len(terms) > MAX_TERMS:
            _refuse(operator, formula)
    return _Sum(terms, intercept)


def _refuse(operator: Token, formula: str) -> NoReturn:
    raise FormulaError(f"this expands to more than {MAX_TERMS:,} terms: write the terms that are meant", formula, operator.start)
