"""What shared crossproducts say about few rows: levels, pairs of levels and cells of the fixed part that are small."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from bigmm.crossproducts import CrossProducts

#: Small cells of each kind that are listed.
_LISTED = 20

Record = dict[str, Any]


def small_cells_record(cp: CrossProducts, least: int) -> Record:
    """Levels, pairs of levels and cells of fewer than `least` rows: how many there are, and the first of them.

    Sums over one row are its values. Pairs of factors with slopes or weights have sums but no counts: all of them might be small.
    """
    found = [_small(group.name, group.levels.tolist(), group.rows, least) for group in cp.groups]
    for (g, h), pair in sorted(cp.pairs.items()):
        one, other = cp.groups[g], cp.groups[h]
        name, counted = f"{one.name} x {other.name}", np.issubdtype(pair.ZtZ.dtype, np.integer)
        rows = pair.ZtZ[:, 0, 0] if counted else np.zeros(len(pair.g_refs), dtype=np.int64)
        at = np.flatnonzero(rows < least)
        labels = [f"{one.levels[pair.g_refs[i]]} x {other.levels[pair.h_refs[i]]}" for i in at[:_LISTED]]
        found.append(_listed(name, len(at), labels, rows[at] if counted else None))
    if cp.design.weights is None:
        cells = [place for place, column in enumerate(cp.columns) if column.cell and not column.numeric]
        found.append(_small("fixed part", [cp.columns[place].name for place in cells], np.rint(np.diag(cp.XytXy)[cells]), least))
    return {"least": least, "where": found}


def _small(name: str, labels: Sequence[Any], rows: npt.NDArray[Any], least: int) -> Record:
    at = np.flatnonzero(rows < least)
    return _listed(name, len(at), [labels[i] for i in at[:_LISTED]], rows[at])


def _listed(name: str, count: int, labels: Sequence[Any], rows: npt.NDArray[Any] | None) -> Record:
    counts = [None] * len(labels) if rows is None else [int(row) for row in rows[: len(labels)]]
    cells = [{"cell": str(label), "rows": number} for label, number in zip(labels, counts, strict=True)]
    return {"name": name, "count": count, "cells": cells}


def small_cells_text(record: Record) -> str:
    """The same for people."""
    lines = [f"cells of fewer than {record['least']} rows"]
    for part in record["where"]:
        lines.append(f"  {part['name']}: {part['count']:,}")
        lines += [f"    {cell['cell']}: {'not counted' if cell['rows'] is None else cell['rows']}" for cell in part["cells"]]
    return "\n".join(lines)
