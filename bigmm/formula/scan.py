"""Cut a formula's text into tokens that remember where they stand, so that an error can mark the character."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from bigmm.errors import FormulaError

Kind = Literal["name", "call", "number", "operator", "open", "close"]

_TOKEN = re.compile(
    r"""(?P<space>\s+)
      | (?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)
      | (?P<quoted>`[^`]+`)
      | (?P<name>[^\W\d][\w.]*)
      | (?P<operator>%in%|\|\||\*\*|[~+\-*/:^|])
      | (?P<open>\()
      | (?P<close>\))""",
    re.VERBOSE,
)
#: Operators that may stand before an operand without one on their left.
_UNARY = frozenset({"+", "-"})


@dataclass(frozen=True, slots=True)
class Token:
    """One piece of a formula: its kind, its text and the index of its first character.

    A call, ``log(x)``, is one token: what stands in its parentheses is an expression, not formula algebra.
    """

    kind: Kind
    text: str
    start: int

    @property
    def end(self) -> int:
        """Index of the first character behind the token."""
        return self.start + len(self.text)

    @property
    def is_operand(self) -> bool:
        """Whether the token is a name, a call or a number."""
        return self.kind in ("name", "call", "number")


def scan(formula: str) -> list[Token]:
    """Tokens of a formula, in order.

    Raises
    ------
    FormulaError
        At a character that no formula holds, or a parenthesis or backtick that is never closed.
    """
    tokens: list[Token] = []
    position = 0
    while position < len(formula):
        match = _TOKEN.match(formula, position)
        if match is None:
            raise FormulaError(_unreadable(formula[position]), formula, position)
        if match.lastgroup == "name" and formula[match.end() : match.end() + 1] == "(":
            end = closing(formula, match.end()) + 1
            tokens.append(Token("call", formula[position:end], position))
            position = end
            continue
        if match.lastgroup != "space":
            tokens.append(Token(_kind(match), match.group(), position))
        position = match.end()
    return tokens


def _kind(match: re.Match[str]) -> Kind:
    kinds: dict[str, Kind] = {"number": "number", "operator": "operator", "open": "open", "close": "close"}
    return kinds.get(match.lastgroup or "", "name")


def _unreadable(character: str) -> str:
    if character == "`":
        return "a backtick that is never closed: write `the column name` between two backticks"
    if character == ".":
        return "a '.' that is not part of a name: bigmm does not expand '.', name the columns"
    return f"{character!r} has no meaning in a formula: quote odd column names in backticks, wrap arithmetic in I(...)"


def closing(text: str, start: int) -> int:
    """Index of the parenthesis that closes the one at `start`; text in quotes and backticks does not count.

    Raises
    ------
    FormulaError
        When it is never closed.
    """
    depth, quote = 0, ""
    for index in range(start, len(text)):
        character = text[index]
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"`":
            quote = character
        elif character == "(":
            depth += 1
        elif character == ")":
            depth -= 1
            if depth == 0:
                return index
    raise FormulaError("a '(' that is never closed: add the missing ')'", text, start)


def check_algebra(tokens: list[Token], formula: str, *, unary: bool = True) -> None:
    """See that operands and operators alternate and that parentheses match.

    Raises
    ------
    FormulaError
        Marked at the token that stands in the wrong place.
    """
    depth: list[Token] = []
    wants_operand = True
    for index, token in enumerate(tokens):
        if token.kind == "open" or token.is_operand:
            if not wants_operand:
                before = tokens[index - 1].text
                raise FormulaError(f"no operator between {before!r} and {token.text!r}: join them with + : or *", formula, token.start)
            wants_operand = token.kind == "open"
            depth += [token] if token.kind == "open" else []
        elif token.kind == "close":
            _close(token, depth, formula, wants_operand)
        else:
            sign = unary and token.text in _UNARY and (index == 0 or tokens[index - 1].kind == "open" or tokens[index - 1].text == "~")
            if wants_operand and not sign:
                raise FormulaError(f"a term is missing before {token.text!r}", formula, token.start)
            wants_operand = True
    if depth:
        raise FormulaError("a '(' that is never closed: add the missing ')'", formula, depth[-1].start)
    if tokens and wants_operand:
        raise FormulaError(f"a term is missing after {tokens[-1].text!r}", formula, tokens[-1].start)


def _close(token: Token, depth: list[Token], formula: str, wants_operand: bool) -> None:
    if not depth:
        raise FormulaError("a ')' that was never opened: remove it or add the missing '('", formula, token.start)
    if wants_operand:
        raise FormulaError("a term is missing before ')'", formula, token.start)
    depth.pop()
