"""What a formula says: its responses, its fixed terms, its random-effects terms."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from bigmm.formula.expression import Expression
from bigmm.formula.scan import scan

#: A term of a linear predictor is a product of factors; the empty product is the intercept.
Term: TypeAlias = tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class RandomEffectsTerm:
    """One random-effects term, ``(1 + x | g)``.

    Attributes
    ----------
    terms : tuple of Term
        Left of the bar: each level of the group has one coefficient for each column they give.
    group : tuple of str
        Right of the bar: the columns whose combined values are the levels; one name for a plain factor.
    """

    terms: tuple[Term, ...]
    group: tuple[str, ...]

    @property
    def name(self) -> str:
        """The grouping factor's name, as lme4 prints it: ``cask:batch`` for ``(1 | batch/cask)``."""
        return ":".join(self.group)


@dataclass(frozen=True, slots=True)
class Formula:
    """A mixed-model formula, read.

    Attributes
    ----------
    text : str
        As it was written; two formulas that say the same are equal.
    responses : tuple of Expression
        Left of the tilde; several for ``cbind(y1, y2)``.
    fixed : tuple of Term
        Fixed-effects terms, ordered by degree; the intercept, if any, is the empty term.
    random : tuple of RandomEffectsTerm
        In the order of the text; ``||`` and ``/`` are expanded.
    offsets : tuple of Expression
        ``offset(z)`` terms.
    """

    text: str = field(compare=False)
    responses: tuple[Expression, ...]
    fixed: tuple[Term, ...]
    random: tuple[RandomEffectsTerm, ...]
    offsets: tuple[Expression, ...] = ()

    @property
    def expressions(self) -> tuple[Expression, ...]:
        """Every expression outside the grouping factors, in order of appearance, each once."""
        sides = [self.fixed, *(term.terms for term in self.random)]
        factors = [factor for side in sides for term in side for factor in term]
        return tuple(dict.fromkeys([*self.responses, *factors, *self.offsets]))

    @property
    def names(self) -> tuple[str, ...]:
        """Every column that the formula reads, each once."""
        columns = [name for expression in self.expressions for name in expression.names]
        groups = [name for term in self.random for name in term.group]
        return tuple(dict.fromkeys(columns + groups))

    def for_response(self, response: Expression) -> Formula:
        """The same terms for one of the responses."""
        plain = not response.is_column or re.fullmatch(r"[^\W\d][\w.]*", response.text)
        left = response.text if plain else f"`{response.text}`"
        tilde = next(token for token in scan(self.text) if token.text == "~")
        right = self.text[tilde.end :].strip()
        return replace(self, text=f"{left} ~ {right}", responses=(response,))
