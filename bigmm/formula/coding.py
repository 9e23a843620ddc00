"""From raw columns to coded columns: X = X_raw C.

formulaic decides which categorical factor of which term is coded by contrasts and which by all its indicators, so that
the columns have full rank by construction (the rules of R's model.matrix); the contrast matrices are its too.
"""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import formulaic
import numpy as np
import numpy.typing as npt
import pandas as pd
from formulaic.transforms import contrasts as fc

from bigmm.columns import Array, Column, ColumnKind, Level, covering, is_category, term_block
from bigmm.errors import LabelError, ModelError
from bigmm.formula.expression import CONTRASTS, Expression
from bigmm.formula.terms import Term

ContrastChoice: TypeAlias = "str | fc.Contrasts | npt.ArrayLike"

_BY_NAME: dict[str, Any] = {
    "treatment": fc.TreatmentContrasts,
    "sum": fc.SumContrasts,
    "helmert": fc.HelmertContrasts,
    "poly": fc.PolyContrasts,
}
_POLY_NAMES = (".L", ".Q", ".C")


@dataclass(frozen=True, slots=True)
class Coding:
    """How coded columns come from raw ones.

    Attributes
    ----------
    names : tuple of str, length p
        As R names coefficients: ``(Intercept)``, ``fb``, ``x:fb``; each once.
    matrix : (P, p) float64
        C in X = X_raw C.
    """

    names: tuple[str, ...]
    matrix: Array


@dataclass(frozen=True, slots=True)
class _CodedFactor:
    """One categorical factor: its levels as rows, its coded columns, their names."""

    names: tuple[str, ...]
    matrix: Array


def code_terms(
    terms: Sequence[Term],
    columns: tuple[Column, ...],
    kinds: Mapping[str, ColumnKind],
    categories: Mapping[str, tuple[Level, ...]],
    contrasts: Mapping[str, ContrastChoice] | None = None,
) -> Coding:
    """Coded columns of a linear predictor.

    Parameters
    ----------
    terms : sequence of Term
    columns : tuple of Column, length P
        Raw columns that were collected.
    kinds, categories
        Kinds of the data's columns and declared orders of levels.
    contrasts : dict, optional
        ``{column: contrast}``; treatment contrasts by default.

    Raises
    ------
    LabelError
        When a term needs raw columns that were not collected.
    ModelError
        For an unknown contrast, or one for a category with a single level.
    """
    factors = list(dict.fromkeys(f for term in terms for f in term if is_category(f, kinds)))
    levels = {f: ordered_levels(f.names[0], columns, categories) for f in factors}
    for factor in factors:
        if not levels[factor]:
            raise _not_collected(factor.text)
    names: list[str] = []
    coded: list[Array] = []
    for term, reduced in _structure(terms, levels):
        parts = [_coded_factor(f, levels[f], f in reduced, contrasts or {}) for f in term if f in levels]
        term_names, matrix = _code_term(term, parts, levels, columns, kinds)
        names += term_names
        coded.append(matrix)
    return Coding(distinct_names(names), np.column_stack(coded) if coded else np.zeros((len(columns), 0)))


def distinct_names(names: Sequence[str]) -> tuple[str, ...]:
    """Names with a number behind those that stand before already, for whoever asks by name: R leaves ``fb`` of f and a column fb alike."""
    given, distinct = set(names), dict[str, None]()
    for name in names:
        free, number = name, 0
        while free in distinct or (number and free in given):
            number += 1
            free = f"{name}.{number}"
        distinct[free] = None
    return tuple(distinct)


def check_contrasts(contrasts: Mapping[str, ContrastChoice], terms: Sequence[Term], kinds: Mapping[str, ColumnKind] | None = None) -> None:
    """Refuse contrasts that would do nothing, because the terms have no such category.

    Parameters
    ----------
    contrasts : dict
        ``{column: contrast}``.
    terms : sequence of Term
        The fixed part that they are for.
    kinds : dict, optional
        Kinds of the data's columns; without it any column of the terms may be a category.

    Raises
    ------
    ModelError
    """
    if not isinstance(contrasts, Mapping):
        raise ModelError(f"contrasts is a {type(contrasts).__name__}: expected a mapping such as {{'column': 'sum'}}")
    factors = {factor for term in terms for factor in term if kinds is None or is_category(factor, kinds)}
    known = {name for factor in factors for name in (*factor.names, factor.text)}
    for name in contrasts:
        if name not in known:
            kind = "column" if kinds is None else "category"
            raise ModelError(f"contrasts for {name!r}, which is no {kind} of the fixed part: it has {', '.join(sorted(known)) or 'none'}")


def ordered_levels(name: str, columns: tuple[Column, ...], categories: Mapping[str, tuple[Level, ...]]) -> list[Level]:
    """Levels of a categorical column that occur, in their declared order or sorted by value."""
    present = {level for column in columns for category, level in column.cell if category == name}
    declared = [level for level in categories.get(name, ()) if level in present]
    return declared + sorted(present - set(declared))


def _structure(terms: Sequence[Term], levels: Mapping[Expression, list[Level]]) -> list[tuple[Term, frozenset[Expression]]]:
    """Each piece of each term with the factors in it that are coded by contrasts, as formulaic decides.

    formulaic sees the shape of the formula only: every factor stands there under a name of its own.
    """
    everything = list(dict.fromkeys(f for term in terms for f in term))
    alias = {f: f"v{i}" for i, f in enumerate(everything)}
    frame = pd.DataFrame({alias[f]: pd.Categorical(["a", "b"]) if f in levels else [1.0, 2.0] for f in everything}, index=[0, 1])
    text = " + ".join(["0", *(":".join(alias[f] for f in term) or "1" for term in terms)])
    spec = formulaic.model_matrix(text, frame).model_spec
    by_alias = {name: f for f, name in alias.items()}
    pieces = []
    for encoded in spec.structure:
        for scoped in encoded.scoped_terms:
            term = tuple(by_alias[s.factor.expr] for s in scoped.factors if s.factor.expr in by_alias)
            reduced = frozenset(by_alias[s.factor.expr] for s in scoped.factors if s.reduced)
            pieces.append((_in_order(term, encoded.term, by_alias), reduced))
    return pieces


def _in_order(term: Term, whole: Any, by_alias: Mapping[str, Expression]) -> Term:
    """Factors in the order in which the formula has them."""
    order = [by_alias[factor.expr] for factor in whole.factors if factor.expr in by_alias]
    return tuple(sorted(term, key=order.index))


def _coded_factor(factor: Expression, levels: list[Level], reduced: bool, contrasts: Mapping[str, ContrastChoice]) -> _CodedFactor:
    if not reduced:
        return _CodedFactor(tuple(factor.text + level_text(level) for level in levels), np.eye(len(levels)))
    if len(levels) < 2:
        raise ModelError(f"{factor.text!r} has one level ({levels[0]!r}): contrasts need two or more; leave it out of the formula")
    choice = contrasts.get(factor.names[0], contrasts.get(factor.text, factor.contrast or "treatment"))
    matrix, kind = _contrast_matrix(choice, levels, factor.text)
    return _CodedFactor(tuple(factor.text + suffix for suffix in _suffixes(kind, levels, matrix)), matrix)


def _contrast_matrix(choice: ContrastChoice, levels: list[Level], name: str) -> tuple[Array, str]:
    """Contrast matrix, shape (levels, columns), and its kind."""
    count = len(levels)
    if isinstance(choice, str):
        if choice.removeprefix("contr.") not in _BY_NAME:
            raise ModelError(f"unknown contrast {choice!r} for {name!r}: expected one of {', '.join(CONTRASTS)}, or a matrix")
        kind = choice.removeprefix("contr.")
        return _matrix(_BY_NAME[kind](), levels, name), kind
    if isinstance(choice, fc.Contrasts):
        kind = next((key for key, value in _BY_NAME.items() if type(choice) is value), "custom")
        return _matrix(choice, levels, name), kind
    try:
        matrix = np.asarray(choice, dtype=np.float64)
    except (TypeError, ValueError):  # text, or rows of several lengths
        raise ModelError(f"a contrast matrix for {name!r} holds something else than numbers: expected {count} rows of numbers") from None
    if matrix.ndim != 2 or matrix.shape[0] != count or matrix.shape[1] >= count:
        raise ModelError(
            f"a contrast matrix of shape {matrix.shape} for {name!r}: expected {count} rows (its levels) and at most {count - 1} columns"
        )
    if not np.isfinite(matrix).all():
        raise ModelError(f"a contrast matrix for {name!r} holds values that are missing or infinite: expected {count} rows of numbers")
    return matrix, "custom"


def _matrix(contrast: fc.Contrasts, levels: list[Level], name: str) -> Array:
    try:
        return np.asarray(contrast.get_coding_matrix(levels, reduced_rank=True), dtype=np.float64)
    except ValueError as error:  # a base that is no level, a matrix or scores of another length
        raise ModelError(f"contrasts {contrast!r} do not fit {name!r} with levels {', '.join(map(repr, levels))}: {error}") from None


def _suffixes(kind: str, levels: list[Level], matrix: Array) -> list[str]:
    """R's names of contrast columns: the level for treatment, .L .Q .C ^4 for polynomials, else a number."""
    if kind == "treatment":
        return [level_text(level) for level, row in zip(levels, matrix, strict=True) if row.any()]  # all but the base
    count = matrix.shape[1]
    if kind == "poly":
        return [_POLY_NAMES[i] if i < len(_POLY_NAMES) else f"^{i + 1}" for i in range(count)]
    return [str(i + 1) for i in range(count)]


def level_text(level: Level) -> str:
    """A level as it appears in names and tables: as R writes it."""
    if isinstance(level, bool):
        return "TRUE" if level else "FALSE"
    if isinstance(level, float):
        return f"{level:.15g}"
    if isinstance(level, pd.Timestamp) and level == level.normalize():
        return str(level.date())
    if isinstance(level, datetime.datetime):
        return level.isoformat(sep=" ")
    return str(level)


def _code_term(
    term: Term,
    parts: Sequence[_CodedFactor],
    levels: Mapping[Expression, list[Level]],
    columns: tuple[Column, ...],
    kinds: Mapping[str, ColumnKind],
) -> tuple[list[str], Array]:
    """Names and columns of C for one term: products of the coded factors, the first varying fastest as in R."""
    block = term_block(term, kinds)
    places = covering(columns, block.texts, block.categories)
    if not places:
        raise _not_collected(_term_text(term))
    categorical = [f for f in term if f in levels]
    cells = [dict(columns[place].cell) for place in places]
    rows = [np.array([levels[f].index(cell[f.names[0]]) for cell in cells]) for f in categorical]
    names, out = [], []
    for choice in itertools.product(*(range(len(part.names)) for part in reversed(parts))):
        picked = choice[::-1]
        value = np.ones(len(places))
        for part, column, row in zip(parts, picked, rows, strict=True):
            value = value * part.matrix[row, column]
        out.append(value)
        names.append(_column_name(term, dict(zip(categorical, [p.names[c] for p, c in zip(parts, picked, strict=True)], strict=True))))
    matrix = np.zeros((len(columns), len(out)))
    matrix[places] = np.column_stack(out) if out else np.zeros((len(places), 0))
    return names, matrix


def _not_collected(text: str) -> LabelError:
    return LabelError(
        f"the crossproducts do not hold the columns of {text!r}: only sub-models of the collected formula "
        "can be fitted without reading the rows again; reduce the data with this term"
    )


def _column_name(term: Term, coded: Mapping[Expression, str]) -> str:
    return ":".join(coded.get(factor, factor.text) for factor in term) or "(Intercept)"


def _term_text(term: Term) -> str:
    return ":".join(factor.text for factor in term) or "1"
