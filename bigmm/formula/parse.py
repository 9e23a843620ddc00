"""lme4's formula grammar: the bars, slashes and tildes; the algebra of the terms is `bigmm.formula.algebra`'s."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from bigmm.errors import FormulaError
from bigmm.formula.algebra import expand
from bigmm.formula.expression import Expression, parse_expression
from bigmm.formula.scan import Token, check_algebra, scan
from bigmm.formula.terms import Formula, RandomEffectsTerm, Term

_BARS = frozenset({"|", "||"})


def parse_formula(text: str) -> Formula:
    """Read a formula of lme4's grammar.

    Parameters
    ----------
    text : str
        ``response ~ fixed terms + (terms | group) + ...``; ``cbind(y1, y2)`` for several responses. The fixed part and the
        left of each bar take ``+ - * : ^ / %in%``, arithmetic in ``I()``, ``log()`` and the like; right of the bar stand names joined
        by ``:`` (one factor of combined levels) and ``/`` (nesting). ``||`` leaves out the correlations.

    Raises
    ------
    FormulaError
        Marked at the character.

    References
    ----------
    Bates, Maechler, Bolker and Walker (2015), "Fitting linear mixed-effects models using lme4", JSS 67(1), table 2.
    """
    if not _is_text(text):
        raise FormulaError(f"a formula is text such as 'y ~ x + (1 | g)', found {text!r}")
    tokens = scan(text)
    left, right = _sides(tokens, text)
    check_algebra(right, text)
    fixed: list[list[Token]] = []
    random: list[RandomEffectsTerm] = []
    for piece in _addends(right):
        if _has_bar(piece):
            random += _random_effects(piece, text)
        else:
            fixed.append(piece)
    if not random:
        raise FormulaError(
            "no random-effects term: add one, for example (1 | group), or use a linear-model program", text, len(text.rstrip()) - 1
        )
    terms, offsets = _split_offsets(_terms(_joined(fixed), text), text)
    formula = Formula(text, _responses(left, text), terms, tuple(random), offsets)
    _check_names(formula)
    return formula


def _check_names(formula: Formula) -> None:
    """Refuse a column that is named like an expression of the same formula: labels are texts."""
    texts: dict[str, Expression] = {}
    groups: set[str] = set().union(*(random.group for random in formula.random))
    for expression in formula.expressions:
        same = texts.setdefault(expression.text, expression).names == expression.names
        if not same or (expression.text in groups and not expression.is_column):
            raise FormulaError(f"a column is named {expression.text!r} like an expression of the formula: rename the column")


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _sides(tokens: list[Token], text: str) -> tuple[list[Token], list[Token]]:
    tildes = [index for index, token in enumerate(tokens) if token.text == "~"]
    if not tildes:
        raise FormulaError("no '~' between the response and the terms: write 'y ~ x + (1 | g)'", text, 0)
    if len(tildes) > 1:
        raise FormulaError("a second '~': a formula has one", text, tokens[tildes[1]].start)
    left, right = tokens[: tildes[0]], tokens[tildes[0] + 1 :]
    if not left:
        raise FormulaError("no response before '~'", text, tokens[tildes[0]].start)
    if not right:
        raise FormulaError("no terms after '~'", text, tokens[tildes[0]].start)
    return left, right


def _responses(tokens: list[Token], text: str) -> tuple[Expression, ...]:
    """Left of the tilde: one response, or those that cbind() lists."""
    first = tokens[0]
    if not first.text.startswith("cbind("):
        return (_response(text[first.start : tokens[-1].end], first.start, text),)
    if len(tokens) > 1:
        raise FormulaError("cbind() stands alone on the left of '~': put the arithmetic inside it", text, tokens[1].start)
    responses: dict[Expression, None] = {}
    for source, start in _arguments(text, first.start + len("cbind("), first.end - 1):
        if not source.strip():
            raise FormulaError("a response is missing in cbind(): write cbind(y1, y2)", text, start)
        place = start + len(source) - len(source.lstrip())
        response = _response(source.strip(), place, text)
        if response in responses:
            raise FormulaError(f"the response {response.text!r} is listed twice", text, place)
        responses[response] = None
    return tuple(responses)


def _arguments(text: str, start: int, stop: int) -> Iterator[tuple[str, int]]:
    """What stands between the commas of a call, and where it begins; commas in parentheses, quotes and backticks do not count."""
    depth, quote, begin = 0, "", start
    for index in range(start, stop):
        character = text[index]
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"`":
            quote = character
        elif character == "," and depth == 0:
            yield text[begin:index], begin
            begin = index + 1
        depth += 0 if quote else {"(": 1, ")": -1}.get(character, 0)
    yield text[begin:stop], begin


def _response(source: str, start: int, text: str) -> Expression:
    response = parse_expression(source, text, start)
    if response.categorical or not response.names:
        raise FormulaError(f"the response must be a numeric column or arithmetic on columns, found {source!r}", text, start)
    if not response.is_column:
        try:
            scan(response.text)  # it stands alone on the left of '~' in the formula of its own fit
        except FormulaError as error:
            raise FormulaError(error.message, text, start) from None
    return response


def _addends(tokens: list[Token]) -> list[list[Token]]:
    """Pieces between the '+' and '-' signs outside parentheses; a piece keeps the '-' before it."""
    pieces: list[list[Token]] = [[]]
    depth = 0
    for token in tokens:
        depth += {"open": 1, "close": -1}.get(token.kind, 0)
        if token.text in ("+", "-") and depth == 0:
            pieces.append([token] if token.text == "-" else [])
        else:
            pieces[-1].append(token)
    return [piece for piece in pieces if piece]


def _has_bar(tokens: list[Token]) -> bool:
    return any(token.text in _BARS for token in tokens)


def _random_effects(piece: list[Token], text: str) -> list[RandomEffectsTerm]:
    """``(terms | group)`` as one term or, for ``||`` and ``/``, as several."""
    bars = [index for index, token in enumerate(piece) if token.text in _BARS]
    bar = piece[bars[0]]
    if piece[0].text == "-":
        raise FormulaError("a random-effects term cannot be subtracted: leave it out", text, piece[0].start)
    if not _is_enclosed(piece) or _depth_at(piece, bars[0]) != 1:
        raise FormulaError("a bar outside its own parentheses: write a random-effects term as + (terms | group)", text, bar.start)
    if len(bars) > 1:
        raise FormulaError("a second bar in one random-effects term", text, piece[bars[1]].start)
    left, right = piece[1 : bars[0]], piece[bars[0] + 1 : -1]
    terms = _terms(left, text)
    if not terms:
        raise FormulaError("no column on the left of the bar: write (1 | g) or (0 + x | g)", text, left[0].start)
    if any(isinstance(factor, _Offset) for term in terms for factor in term):
        raise FormulaError("an offset belongs to the fixed part", text, left[0].start)
    sides = [(term,) for term in terms] if bar.text == "||" else [terms]
    return [RandomEffectsTerm(side, group) for side in sides for group in _groups(right, text)]


def _is_enclosed(piece: list[Token]) -> bool:
    """Whether the first parenthesis closes with the last token, and not before."""
    depths = list(itertools.accumulate({"open": 1, "close": -1}.get(token.kind, 0) for token in piece))
    return piece[0].kind == "open" and depths[-1] == 0 and min(depths[:-1]) > 0


def _depth_at(tokens: list[Token], index: int) -> int:
    return sum({"open": 1, "close": -1}.get(token.kind, 0) for token in tokens[:index])


def _groups(tokens: list[Token], text: str) -> list[tuple[str, ...]]:
    """Factors on the right of a bar; ``a/b`` is ``b:a`` and ``a``, the finest first, named as lme4 names them."""
    nested: list[tuple[str, ...]] = [()]
    depth = 0
    expected = "expected names joined by ':' or '/', for example (1 | school/class)"
    for token in tokens:
        depth += {"open": 1, "close": -1}.get(token.kind, 0)
        if token.text == "/" and depth:
            raise FormulaError("a '/' inside parentheses on the right of a bar: write (1 | a/b) or (1 | a/b/c)", text, token.start)
        if token.text == "/":
            nested.append(())
        elif token.kind == "name":
            nested[-1] += (token.text.strip("`"),)
        elif token.text != ":" and token.kind not in ("open", "close"):
            raise FormulaError(f"{token.text!r} on the right of a bar: {expected}", text, token.start)
    groups = []
    for level in range(len(nested), 0, -1):
        names = [name for part in reversed(nested[:level]) for name in part]
        groups.append(tuple(dict.fromkeys(names)))
    return groups


def _joined(pieces: list[list[Token]]) -> list[Token]:
    """The fixed pieces as one sum again."""
    plus = Token("operator", "+", 0)
    joined: list[Token] = []
    for piece in pieces:
        joined += [plus, *piece] if joined and piece[0].text != "-" else piece
    return joined


def _terms(tokens: list[Token], text: str) -> tuple[Term, ...]:
    """The terms of a linear predictor; an empty side has only the intercept.

    Factors stand in a term in the order in which the side first names them, as in R: ``z + x:z`` has the term ``z:x``.
    """
    operands: dict[Expression, int] = {}
    intercept, terms = expand(tokens, lambda token: operands.setdefault(_operand(token, text), len(operands)), text)
    factors = list(operands)
    return (((),) if intercept else ()) + tuple(tuple(factors[place] for place in term) for term in terms)


def _operand(token: Token, text: str) -> Expression:
    source = token.text
    if not source.startswith("offset("):
        return parse_expression(source, text, token.start)
    inner = parse_expression(source[len("offset(") : -1], text, token.start + len("offset("))
    if inner.categorical:
        raise FormulaError("an offset is a numeric column or arithmetic on columns", text, token.start)
    return _Offset(inner.text, inner.names)


class _Offset(Expression):
    """An expression inside ``offset()``."""

    __slots__ = ()


def _split_offsets(terms: tuple[Term, ...], text: str) -> tuple[tuple[Term, ...], tuple[Expression, ...]]:
    """Offset terms apart from the others."""
    holding = [term for term in terms if any(isinstance(factor, _Offset) for factor in term)]
    rest = tuple(term for term in terms if term not in holding)
    if any(len(term) > 1 for term in holding):
        raise FormulaError("an offset stands alone, not in an interaction: write + offset(x)", text, text.index("offset("))
    return rest, tuple(Expression(offset.text, offset.names) for (offset,) in holding)
