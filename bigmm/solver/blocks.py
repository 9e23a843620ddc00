"""The selected model's crossproducts: coded columns, grouping factors in order of elimination."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bigmm.columns import Array


@dataclass(frozen=True, slots=True, eq=False)
class GroupBlocks:
    """One grouping factor of the selected model.

    Attributes
    ----------
    name : str
    ZtZ : (q, k, k)
        Diagonal blocks of Z'Z, one a level.
    ZtXy : (q, k, p + 1)
        Z'[X y].
    """

    name: str
    ZtZ: Array
    ZtXy: Array

    @property
    def q(self) -> int:
        """Levels."""
        return len(self.ZtZ)

    @property
    def k(self) -> int:
        """Columns a level."""
        return int(self.ZtZ.shape[1])

    def total(self) -> Array:
        """Sum of Z'Z over the levels, (k, k)."""
        return np.asarray(self.ZtZ.sum(axis=0), dtype=np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class PairBlocks:
    """Z_g'Z_h of two grouping factors, as (k_g, k_h) blocks at pairs of levels.

    Attributes
    ----------
    g_refs, h_refs : (nnz,) int32
    ZtZ : (nnz, k_g, k_h)
    """

    g_refs: npt.NDArray[np.int32]
    h_refs: npt.NDArray[np.int32]
    ZtZ: npt.NDArray[Any]

    def transposed(self) -> PairBlocks:
        """Z_h'Z_g, ordered by (h, g)."""
        order = np.lexsort((self.g_refs, self.h_refs))
        return PairBlocks(self.h_refs[order], self.g_refs[order], self.ZtZ[order].transpose(0, 2, 1))


@dataclass(frozen=True, slots=True, eq=False)
class ModelBlocks:
    """Crossproducts of [Z X y] of one model.

    Attributes
    ----------
    groups : tuple of GroupBlocks
    pairs : dict of {(g, h): PairBlocks}
        For positions g < h in `groups`.
    XytXy : (p + 1, p + 1)
        [X y]'[X y].
    nobs : int
    sum_log_weights : float
    """

    groups: tuple[GroupBlocks, ...]
    pairs: dict[tuple[int, int], PairBlocks]
    XytXy: Array
    nobs: int
    sum_log_weights: float

    @property
    def p(self) -> int:
        """Fixed effects."""
        return len(self.XytXy) - 1

    def pair(self, g: int, h: int) -> PairBlocks:
        """Z_g'Z_h for any two positions."""
        return self.pairs[g, h] if g < h else self.pairs[h, g].transposed()
