"""Small values as JSON, and levels as tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import pandas as pd

from bigmm.accounting import RowCounts, Sources
from bigmm.columns import Column
from bigmm.design import Design
from bigmm.formula import parse_formula

_MISSING = "missing:"


def design_record(design: Design) -> dict[str, Any]:
    """A design as JSON; its formula as text."""
    return {
        "formula": design.formula.text,
        "kinds": dict(design.kinds),
        "weights": design.weights,
        "offset": design.offset,
        "categories": {name: [_level_record(level) for level in levels] for name, levels in design.categories.items()},
        "shift": dict(design.shift),
        "y_shift": dict(design.y_shift),
        "na_action": design.na_action,
    }


def read_design(record: Mapping[str, Any]) -> Design:
    """The design that `design_record` wrote."""
    return Design(
        formula=parse_formula(record["formula"]),
        kinds=record["kinds"],
        weights=record["weights"],
        offset=record["offset"],
        categories={name: tuple(_read_level(level) for level in levels) for name, levels in record["categories"].items()},
        shift=record["shift"],
        y_shift=record["y_shift"],
        na_action=record["na_action"],
    )


def rows_record(rows: RowCounts) -> dict[str, Any]:
    """Row counts as JSON."""
    return {"read": rows.read, "used": rows.used, "missing": dict(rows.missing)}


def read_rows(record: Mapping[str, Any]) -> RowCounts:
    """The row counts that `rows_record` wrote."""
    return RowCounts(record["read"], record["used"], record["missing"])


def sources_frame(sources: Sources) -> pd.DataFrame:
    """Files and their rows as a table; a column ``missing:x`` for each column x with missing values."""
    table = pd.DataFrame({"url": sources.urls, "version": sources.versions}, dtype="str")
    table = table.assign(size=sources.sizes, read=sources.read, used=sources.used, skipped=sources.skipped)
    return table.assign(**{f"{_MISSING}{name}": counts for name, counts in sources.missing.items()})


def read_sources(table: pd.DataFrame) -> Sources:
    """The files that `sources_frame` wrote."""
    counts = {str(name): table[name].to_numpy(dtype=np.int64) for name in table.columns if name not in ("url", "version")}
    missing = {name.removeprefix(_MISSING): counts[name] for name in counts if name.startswith(_MISSING)}
    urls, versions = (tuple(table[name].astype("str")) for name in ("url", "version"))
    return Sources(urls, versions, counts["size"], counts["read"], counts["used"], counts["skipped"], missing)


def columns_record(columns: tuple[Column, ...]) -> list[Any]:
    """Labels of raw columns as JSON: numeric factors, then [category, level] pairs."""
    return [[list(column.numeric), [[name, _level_record(level)] for name, level in column.cell]] for column in columns]


def read_columns(record: list[Any]) -> tuple[Column, ...]:
    """The labels that `columns_record` wrote."""
    return tuple(Column(tuple(numeric), tuple((name, _read_level(level)) for name, level in cell)) for numeric, cell in record)


def _level_record(level: Any) -> Any:
    """A level as JSON; moments in time are tagged."""
    return {"time": level.isoformat()} if hasattr(level, "isoformat") else level


def _read_level(record: Any) -> Any:
    return pd.Timestamp(record["time"]) if isinstance(record, dict) else record


def levels_frame(names: tuple[str, ...], levels: pd.Index) -> pd.DataFrame:
    """Levels as a table with one column for each name."""
    return pd.DataFrame({name: levels.get_level_values(depth) for depth, name in enumerate(names)})


def read_levels(table: pd.DataFrame, width: int) -> pd.Index:
    """Levels from a table of `width` columns."""
    if width == 1:
        return cast("pd.Index", pd.Index(table.iloc[:, 0]).rename(None))
    return pd.MultiIndex.from_frame(table, names=[None] * width)
