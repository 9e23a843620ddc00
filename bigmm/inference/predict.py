"""Predictions for new rows: X beta + Z b + offset, without forming X or Z.

A raw column's coefficient is C beta (or C b_j for level j), so that a row's prediction is a sum over blocks of raw
columns: the numeric product times the coefficient of the row's cell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from bigmm.columns import Array, Block, Column, Level, as_level, cell_columns, sort_columns, term_block
from bigmm.design import Design
from bigmm.errors import DataError, FormulaError
from bigmm.formula import Formula, RandomEffectsTerm, parse_formula
from bigmm.formula.coding import Coding, ContrastChoice, code_terms, level_text, ordered_levels
from bigmm.formula.expression import Expression
from bigmm.formula.terms import Term
from bigmm.levels import Refs, combine, level_kinds
from bigmm.reduction.keys import group_levels
from bigmm.reduction.rows import Rows, evaluate_rows
from bigmm.reduction.sources import kind_of, plan_data

if TYPE_CHECKING:
    from bigmm.inference.effects import GroupEffects
    from bigmm.inference.fit import LinearMixedModelFit

NewLevels = Literal["error", "population"]


@dataclass(frozen=True, slots=True)
class Predictor:
    """A fit reduced to what predictions need; small enough to travel to workers once.

    Attributes
    ----------
    fit : LinearMixedModelFit
        Without its model.
    design : Design
        Without response, weights and shift; its formula has the random-effects terms that are conditioned on.
    new_levels : {"error", "population"}
    """

    fit: LinearMixedModelFit
    design: Design
    new_levels: NewLevels

    @property
    def names(self) -> tuple[str, ...]:
        """Columns to read; when the intercept alone predicts, one that tells how many rows there are."""
        return self.design.names or self.fit.formula.random[0].group[:1]

    def table(self, table: pa.Table, where: str = "the data") -> Array:
        """Predictions for the rows of an Arrow table, NaN for incomplete rows."""
        table = _missing_as_fitted(table, self.design)
        _check_kinds(table, self.design)
        rows = evaluate_rows(table, self.design, where)
        out = np.full(len(table), np.nan)
        if not rows.counts.used:
            return out
        out[rows.complete] = self.fixed(rows) - rows.y[0] + self.random(rows)
        return out

    def frame(self, frame: pd.DataFrame) -> pd.Series:
        """Predictions for a pandas frame, with its index."""
        values = np.zeros(0)
        if not self.design.names:  # the intercept alone
            values = np.full(len(frame), self.fit.beta.sum())
        elif len(frame):
            plan = plan_data(frame, self.design.names)
            values = np.concatenate([self.table(chunk.read(self.design.names), chunk.name) for chunk in plan.chunks])
        return pd.Series(values, index=frame.index, name="prediction")

    def fixed(self, rows: Rows) -> Array:
        """X beta."""
        fit = self.fit
        terms, n = fit.formula.fixed, rows.counts.used
        known = self._known_levels(terms, fit.columns)
        coding, columns = self._code(terms, known, rows, fit.contrasts)
        kept = [coding.names.index(name) for name in fit.coef_names]
        return self._sum(terms, columns, (coding.matrix[:, kept] @ fit.beta)[None, :], np.zeros(n, dtype=np.intp), rows)

    def random(self, rows: Rows) -> Array:
        """Sum of the terms that are conditioned on."""
        total = np.zeros(rows.counts.used)
        for term in self.fit.covariance.terms:
            random = self.fit.formula.random[term.position]
            if random in self.design.formula.random:
                group = self.fit.groups[term.group]
                known = self._known_levels(random.terms, group.columns)
                coding, columns = self._code(random.terms, known, rows, {})
                b = np.vstack([group.b[:, term.columns], np.zeros(term.size)])
                total += self._sum(random.terms, columns, b @ coding.matrix.T, self._places(group, rows), rows)
        return total

    def _known_levels(self, terms: Sequence[Term], columns: tuple[Column, ...]) -> dict[str, list[Level]]:
        """Levels of the categories of some terms, as the fit has seen them."""
        names = dict.fromkeys(name for term in terms for name in term_block(term, self.fit.design.kinds).categories)
        return {name: ordered_levels(name, columns, self.fit.design.categories) for name in names}

    def _code(
        self, terms: Sequence[Term], known: Mapping[str, list[Level]], rows: Rows, contrasts: Mapping[str, ContrastChoice]
    ) -> tuple[Coding, tuple[Column, ...]]:
        """The terms' coding on the cells that the new rows have; a cell of known levels need not have occurred before."""
        for name, levels in known.items():
            _check_levels(name, [as_level(level) for level in rows.encoded[name][1].tolist()], levels)
        seen = [Column((), ((name, level),)) for name, levels in known.items() for level in levels]
        cells = [label for block in self._blocks(terms) for label in _cells(block, rows)[1]]
        columns = sort_columns([*seen, *cells])
        return code_terms(terms, columns, self.fit.design.kinds, self.fit.design.categories, contrasts), columns

    def _blocks(self, terms: Sequence[Term]) -> list[Block]:
        return list(dict.fromkeys(term_block(term, self.fit.design.kinds) for term in terms))

    def _sum(self, terms: Sequence[Term], columns: tuple[Column, ...], coefficients: Array, at: Refs, rows: Rows) -> Array:
        """Sum of numeric product x coefficient over blocks; `coefficients` (sets, columns), `at` each row's set.

        The indicators of single categories are blocks too: the coding of an interaction may use them.
        """
        place = {column: position for position, column in enumerate(columns)}
        total = np.zeros(len(at))
        blocks = self._blocks(terms)
        single = [Block((), (name,)) for block in blocks for name in block.categories]
        for block in dict.fromkeys([*blocks, *single]):
            codes, labels = _cells(block, rows)
            per_row = coefficients[at, np.array([place[label] for label in labels], dtype=np.intp)[codes]]
            total += per_row * rows.numeric[block.texts] if block.numeric else per_row
        return total

    def _places(self, group: GroupEffects, rows: Rows) -> Refs:
        """Each row's level among those of the fit; -1, where the coefficients are zero, for a new one."""
        refs, levels = group_levels(group.names, dict(rows.encoded))
        if not len(levels):
            return np.zeros(0, dtype=np.intp)
        _check_level_kinds(group, levels)  # pandas would read dates in text
        places = group.levels.get_indexer(levels)
        new = levels[places < 0]
        if self.new_levels == "error" and len(new):
            shown = ", ".join(str(level) for level in new[:5].tolist())
            raise DataError(
                f"{len(new)} levels of grouping factor {group.name!r} that the fit has not seen: {shown}; "
                "new_levels='population' predicts them without their random effects"
            )
        return places[refs]


def _check_level_kinds(group: GroupEffects, found: pd.Index) -> None:
    """Levels of another kind are neither those of the fit nor new ones."""
    kinds, fitted = level_kinds(found), level_kinds(group.levels)
    if kinds != fitted:
        raise DataError(
            f"levels of grouping factor {group.name!r} are {', '.join(kinds)}: the fit was made with {', '.join(fitted)}; "
            "convert the column to what the fit had"
        )


def _check_levels(name: str, found: list[Level], known: list[Level]) -> None:
    new = [level for level in found if level not in set(known)]
    if new:
        kind, fitted = (_kind(levels) for levels in (found, known))
        if kind != fitted:
            raise DataError(f"levels of {name!r} are {kind}: the fit was made with {fitted}; convert the column to what the fit had")
        shown = ", ".join(level_text(level) for level in new[:5])
        raise DataError(
            f"levels of {name!r} that the fit has no coefficient for: {shown}; it knows {', '.join(map(level_text, known[:12]))}"
        )


def _kind(levels: list[Level]) -> str:
    """What some levels are, in words."""
    (kind,) = level_kinds(pd.Index(levels, dtype=object))
    return f"{kind} with a time zone" if getattr(levels[0], "tzinfo", None) is not None else kind


def predict(fit: LinearMixedModelFit, data: Any, re_form: Any = None, new_levels: str = "error") -> Any:
    """Predicted response for new rows; see `LinearMixedModelFit.predict`."""
    predictor = build_predictor(fit, re_form, new_levels)
    if type(data).__module__.partition(".")[0] == "dask":
        return _lazily(predictor, data)
    if isinstance(data, pd.DataFrame):
        return predictor.frame(data)
    names = predictor.names
    plan = plan_data(data, names)
    parts = [predictor.table(chunk.read(names), chunk.name) for chunk in plan.chunks]
    return pd.Series(np.concatenate(parts), name="prediction")


def build_predictor(fit: LinearMixedModelFit, re_form: Any = None, new_levels: str = "error") -> Predictor:
    """What predictions need, from a fit and the user's choices.

    Raises
    ------
    FormulaError
        For a `re_form` whose terms the fit has not.
    DataError
        For an unknown `new_levels`.
    """
    if new_levels not in ("error", "population"):
        raise DataError(f"new_levels={new_levels!r}: expected 'error' or 'population'")
    formula = replace(fit.formula, responses=(_no_response(fit.design.names),), random=_conditioned(fit.formula, re_form))
    design = replace(fit.design, formula=formula, weights=None, shift={}, y_shift={}, na_action="omit")
    return Predictor(replace(fit, model=None), design, new_levels)  # type: ignore[arg-type]


def _no_response(columns: Sequence[str]) -> Expression:
    """A response that is 0, under a text that no column has: values are known by their texts."""
    text = "0"
    while text in columns:
        text += " + 0"
    return Expression(text, ())


def _conditioned(formula: Formula, re_form: Any) -> tuple[RandomEffectsTerm, ...]:
    """The random-effects terms that a prediction is conditional on."""
    if re_form is None:
        return formula.random
    text = re_form.strip() if isinstance(re_form, str) else re_form
    if (text.replace(" ", "") in ("NA", "~0", "0")) if isinstance(text, str) else (pd.api.types.is_scalar(text) and pd.isna(text)):
        return ()
    if not isinstance(text, str):
        raise FormulaError(f"re_form={re_form!r}: expected None, NA, or a formula such as '~ (1 | g)'")
    if "|" not in text:
        raise FormulaError(f"re_form={re_form!r}: expected random-effects terms such as '~ (1 | g)', or '~0' for none")
    wanted = parse_formula(f"y ~ {text.lstrip('~ ')}").random
    for term in wanted:
        if term not in formula.random:
            raise FormulaError(f"re_form asks for a term on {term.name!r} that {formula.text!r} does not have in this form")
    return wanted


def _lazily(predictor: Predictor, frame: Any) -> Any:
    """A Dask Series, partition by partition; the table of random effects travels once."""
    import dask

    needed = frame[list(predictor.design.names)]
    carried = dask.delayed(predictor, pure=True)
    meta = pd.Series(np.zeros(0), index=frame._meta.index, name="prediction")
    return needed.map_partitions(_predict_partition, carried, meta=meta)


def _predict_partition(frame: pd.DataFrame, predictor: Predictor) -> pd.Series:
    return predictor.frame(frame)


def _missing_as_fitted(table: pa.Table, design: Design) -> pa.Table:
    """The rows with columns of nothing but missing values as text where the fit had categories: they have no kind of their own."""
    for position, field in enumerate(table.schema):
        unlike = design.kinds.get(field.name) == "category" and kind_of(field.type) == "number"
        if unlike and pc.all(table.column(position).is_null(nan_is_null=True), min_count=0).as_py():
            table = table.set_column(position, field.name, pa.nulls(len(table), pa.string()))
    return table


def _check_kinds(table: pa.Table, design: Design) -> None:
    for name in design.names:
        found = kind_of(table.schema.field(name).type)
        if name in design.kinds and found != design.kinds[name] and name not in design.categories:
            words = {"number": "numbers", "category": "text, truth values or dates"}
            raise DataError(f"column {name!r} holds {words[found]}: the fit was made with {words[design.kinds[name]]}; convert it")


def _cells(block: Block, rows: Rows) -> tuple[Refs, tuple[Column, ...]]:
    """Each row's cell of a block, and the cells' labels."""
    if not block.categories:
        return np.zeros(rows.counts.used, dtype=np.intp), (Column(block.texts),)
    encoded = [rows.encoded[name] for name in block.categories]
    codes, labels = combine([refs for refs, _ in encoded], [levels for _, levels in encoded])
    return codes, cell_columns(block, labels)
