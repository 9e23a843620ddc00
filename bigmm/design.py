"""What a pass collects: a formula, the kinds of its columns, and the constants fixed before the first row is used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from bigmm.columns import Block, ColumnKind, Level, check_numeric, product_name, x_blocks, z_blocks
from bigmm.errors import DataError, FormulaError
from bigmm.formula.terms import Formula, Term

NaAction: TypeAlias = Literal["omit", "fail"]


@dataclass(frozen=True, slots=True)
class GroupDesign:
    """What is collected for one grouping factor, shared by all random-effects terms on it.

    Attributes
    ----------
    names : tuple of str
        Columns whose combined values are the levels.
    blocks : tuple of Block
        Raw columns of Z.
    """

    names: tuple[str, ...]
    blocks: tuple[Block, ...]

    @property
    def name(self) -> str:
        """As lme4 prints it."""
        return ":".join(self.names)


@dataclass(frozen=True, slots=True)
class Design:
    """Everything that a chunk of rows needs to become crossproducts; small, and the same for every chunk.

    Attributes
    ----------
    formula : Formula
    kinds : dict of {column: "number" or "category"}
    weights, offset : str or None
        Columns of precision weights (Var = sigma^2 / w) and of the offset.
    categories : dict of {column: levels}
        Declared orders of levels; columns without one sort by value.
    shift : dict of {`product_name` of numeric factors: constant}
        Subtracted from the numeric columns of X before anything is multiplied; Z stays unshifted.
    y_shift : dict of {response: constant}
        Subtracted from the responses (after the offset).
    na_action : {"omit", "fail"}
    """

    formula: Formula
    kinds: Mapping[str, ColumnKind]
    weights: str | None = None
    offset: str | None = None
    categories: Mapping[str, tuple[Level, ...]] = field(default_factory=dict)
    shift: Mapping[str, float] = field(default_factory=dict)
    y_shift: Mapping[str, float] = field(default_factory=dict)
    na_action: NaAction = "omit"

    @property
    def names(self) -> tuple[str, ...]:
        """Columns that are read, each once."""
        extra = [name for name in (self.weights, self.offset) if name is not None]
        return tuple(dict.fromkeys([*self.formula.names, *extra]))

    @property
    def x_blocks(self) -> tuple[Block, ...]:
        """Raw blocks of the fixed part."""
        return x_blocks(self.formula.fixed, self.kinds)

    @property
    def groups(self) -> tuple[GroupDesign, ...]:
        """One for each distinct grouping factor, in the formula's order."""
        terms: dict[frozenset[str], list[Term]] = {}
        names: dict[frozenset[str], tuple[str, ...]] = {}  # (1 | a:b) and (1 | b:a) have the same levels
        for random in self.formula.random:
            terms.setdefault(frozenset(random.group), []).extend(random.terms)
            names.setdefault(frozenset(random.group), random.group)
        return tuple(GroupDesign(names[key], z_blocks(on_group, self.kinds)) for key, on_group in terms.items())

    def shift_of(self, texts: tuple[str, ...]) -> float:
        """The constant of a product of numeric factors."""
        return self.shift.get(product_name(texts), 0.0)

    def check(self) -> None:
        """See that the formula's arithmetic, the responses, weights and offset are numbers.

        Raises
        ------
        FormulaError, DataError
        """
        for role, name in {"weights": self.weights, "offset": self.offset}.items():
            if name is not None and self.kinds[name] != "number":
                raise DataError(f"{role} column {name!r} holds text, truth values or dates: expected numbers")
            if any(name == expression.text and expression.names != (name,) for expression in self.formula.expressions):
                raise FormulaError(f"the {role} column is named {name!r} like an expression of the formula: rename the column")
        for response in self.formula.responses:
            check_numeric(response, self.kinds, "the response ")
        for offset in self.formula.offsets:
            check_numeric(offset, self.kinds)
        _ = self.x_blocks, self.groups
