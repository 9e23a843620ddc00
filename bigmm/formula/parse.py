"""lme4's formula grammar: the bars, slashes and tildes here, the algebra of the terms by formulaic."""

from __future__ import annotations

import formulaic
import formulaic.errors

from bigmm.errors import FormulaError
from bigmm.formula.expression import Expression, parse_expression
from bigmm.formula.scan import Token, check_algebra, scan
from bigmm.formula.terms import Formula, RandomEffectsTerm, Term

_BARS = frozenset({"|", "||"})


def parse_formula(text: str) -> Formula:
    """Read a formula of lme4's grammar.

    Parameters
    ----------
    text : str
        ``response ~ fixed terms + (terms | group) + ...``. The fixed part and the left of each bar take
        ``+ - * : ^ / %in%``, arithmetic in ``I()``, ``log()`` and the like; right of the bar stand names joined
        by ``:`` (one factor of combined levels) and ``/`` (nesting). ``||`` leaves out the correlations.

    Raises
    ------
    FormulaError
        Marked at the character.

    References
    ----------
    Bates, Maechler, Bolker and Walker (2015), "Fitting linear mixed-effects models using lme4", JSS 67(1), table 2.
    """
    if not text.strip():
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
    terms, offsets = _split_offsets(_terms(_joined(fixed), text))
    return Formula(text, _response(left, text), terms, tuple(random), offsets)


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


def _response(tokens: list[Token], text: str) -> Expression:
    start = tokens[0].start
    source = text[start : tokens[-1].end]
    if tokens[0].text.startswith("cbind("):
        raise FormulaError("one response at a time: cbind() is not supported", text, start)
    response = parse_expression(source, text, start)
    if response.categorical or not response.names:
        raise FormulaError(f"the response must be a numeric column or arithmetic on columns, found {source!r}", text, start)
    return response


def _addends(tokens: list[Token]) -> list[list[Token]]:
    """Pieces between the '+' signs outside parentheses."""
    pieces: list[list[Token]] = [[]]
    depth = 0
    for token in tokens:
        depth += {"open": 1, "close": -1}.get(token.kind, 0)
        if token.text == "+" and depth == 0:
            pieces.append([])
        else:
            pieces[-1].append(token)
    return [piece for piece in pieces if piece]


def _has_bar(tokens: list[Token]) -> bool:
    return any(token.text in _BARS for token in tokens)


def _random_effects(piece: list[Token], text: str) -> list[RandomEffectsTerm]:
    """``(terms | group)`` as one term or, for ``||`` and ``/``, as several."""
    bars = [index for index, token in enumerate(piece) if token.text in _BARS]
    bar = piece[bars[0]]
    if piece[0].kind != "open" or piece[-1].kind != "close" or _depth_at(piece, bars[0]) != 1:
        raise FormulaError("a bar outside its own parentheses: write a random-effects term as + (terms | group)", text, bar.start)
    if len(bars) > 1:
        raise FormulaError("a second bar in one random-effects term", text, piece[bars[1]].start)
    left, right = piece[1 : bars[0]], piece[bars[0] + 1 : -1]
    terms = _terms(left, text)
    if not terms:
        raise FormulaError("no column on the left of the bar: write (1 | g) or (0 + x | g)", text, left[0].start)
    offsets = _split_offsets(terms)[1]
    if offsets:
        raise FormulaError("an offset belongs to the fixed part", text, left[0].start)
    sides = [(term,) for term in terms] if bar.text == "||" else [terms]
    return [RandomEffectsTerm(side, group) for group in _groups(right, text) for side in sides]


def _depth_at(tokens: list[Token], index: int) -> int:
    return sum({"open": 1, "close": -1}.get(token.kind, 0) for token in tokens[:index])


def _groups(tokens: list[Token], text: str) -> list[tuple[str, ...]]:
    """Factors on the right of a bar; ``a/b`` is ``b:a`` and ``a``, the finest first, named as lme4 names them."""
    nested: list[tuple[str, ...]] = [()]
    expected = "expected names joined by ':' or '/', for example (1 | school/class)"
    for token in tokens:
        if token.text == "/":
            nested.append(())
        elif token.kind == "name":
            nested[-1] += (token.text.strip("`"),)
        elif token.text != ":" and token.kind not in ("open", "close"):
            raise FormulaError(f"{token.text!r} on the right of a bar: {expected}", text, token.start)
    groups = []
    for depth in range(len(nested), 0, -1):
        names = [name for part in reversed(nested[:depth]) for name in part]
        groups.append(tuple(dict.fromkeys(names)))
    return groups


def _joined(pieces: list[list[Token]]) -> list[Token]:
    """The fixed pieces as one sum again."""
    plus = Token("operator", "+", 0)
    joined: list[Token] = []
    for piece in pieces:
        joined += [plus, *piece] if joined else piece
    return joined


def _terms(tokens: list[Token], text: str) -> tuple[Term, ...]:
    """The terms of a linear predictor, expanded by formulaic; an empty side has only the intercept.

    Each operand goes to formulaic under a name of its own, so that what the user wrote never meets its evaluator.
    """
    operands: dict[str, Expression] = {}
    words: list[str] = []
    for token in tokens:
        words.append(_operand(token, operands, text) if token.kind in ("name", "call") else _literal(token, text))
    try:
        expanded = formulaic.Formula(" ".join(words) or "1")
    except formulaic.errors.FormulaicError as error:
        message = str(error).splitlines()[0]
        raise FormulaError(f"terms that cannot be expanded: {message}", text, tokens[0].start) from None
    return tuple(_term([factor.expr for factor in term.factors], operands) for term in expanded)


def _operand(token: Token, operands: dict[str, Expression], text: str) -> str:
    source = token.text
    if source.startswith("offset("):
        inner = parse_expression(source[len("offset(") : -1], text, token.start + len("offset("))
        expression = Expression(f"offset({inner.text})", inner.names)
    else:
        expression = parse_expression(source, text, token.start)
    alias = next((known for known, other in operands.items() if other == expression), f"operand{len(operands)}")
    operands[alias] = expression
    return alias


def _literal(token: Token, text: str) -> str:
    if token.kind == "number" and token.text not in ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9"):
        raise FormulaError(
            f"the number {token.text} cannot stand as a term: 0 and 1 control the intercept, I(...) holds arithmetic", text, token.start
        )
    return token.text


def _term(factors: list[str], operands: dict[str, Expression]) -> Term:
    return tuple(operands[factor] for factor in factors if factor != "1")


def _split_offsets(terms: tuple[Term, ...]) -> tuple[tuple[Term, ...], tuple[Expression, ...]]:
    """Offset terms apart from the others."""
    found = [term[0] for term in terms if len(term) == 1 and term[0].text.startswith("offset(")]
    rest = tuple(term for term in terms if not any(factor.text.startswith("offset(") for factor in term))
    inner = tuple(parse_expression(factor.text[len("offset(") : -1]) for factor in found)
    return rest, inner
