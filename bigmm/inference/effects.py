"""Random effects of one grouping factor, and their levels in the order of a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from bigmm.columns import Array, Column, as_level
from bigmm.design import Design
from bigmm.formula.coding import distinct_names


@dataclass(frozen=True, slots=True, eq=False)
class GroupEffects:
    """Random effects of one grouping factor.

    Attributes
    ----------
    names : tuple of str
        Columns whose combined values are the levels.
    levels : Index, length q
    columns : tuple of Column, length k_raw
        Raw columns of Z that were collected for the factor.
    coef_names : tuple of str, length k
    b : (q, k) float64
        Conditional modes.
    """

    names: tuple[str, ...]
    levels: pd.Index
    columns: tuple[Column, ...]
    coef_names: tuple[str, ...]
    b: Array

    @property
    def name(self) -> str:
        """As lme4 prints it."""
        return ":".join(self.names)


def level_order(group: GroupEffects, design: Design) -> Any:
    """Positions of a factor's levels, (q,) or all, in their declared order (by value where none is declared)."""
    if not any(name in design.categories for name in group.names):
        return slice(None)
    keys = []
    for depth, name in enumerate(group.names):
        values = group.levels.get_level_values(depth) if len(group.names) > 1 else group.levels
        declared = {level: position for position, level in enumerate(design.categories.get(name, ()))}
        by_value = np.unique(values, return_inverse=True)[1] if name not in design.categories else None
        keys.append(by_value if by_value is not None else np.array([declared.get(as_level(value), len(declared)) for value in values]))
    return np.lexsort(keys[::-1])


def level_index(group: GroupEffects) -> pd.Index:
    """The levels, length q, named by the columns that they are values of."""
    return group.levels.set_names(list(group.names)) if len(group.names) > 1 else group.levels.rename(group.name)


def effects_table(group: GroupEffects, design: Design) -> pd.DataFrame:
    """Conditional modes, (q, k), one row a level in `level_order`."""
    table = pd.DataFrame(group.b, index=level_index(group), columns=pd.Index(distinct_names(group.coef_names), dtype="str"))
    order = level_order(group, design)
    return table if isinstance(order, slice) else table.iloc[order]
