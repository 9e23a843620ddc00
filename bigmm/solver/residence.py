"""Where the leaves live, chosen by memory: here, or on the workers of a cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from bigmm.crossproducts import CrossProducts
from bigmm.design import Design
from bigmm.errors import ModelError
from bigmm.solver.plan import format_bytes

#: What is asked for: "auto" chooses by memory.
LeavesChoice: TypeAlias = Literal["auto", "workers", "local"]

#: Bytes of the label of a level that no row has shown yet, for each column that makes it: enough for short text.
_LABEL = 100


@dataclass(frozen=True, slots=True)
class Residence:
    """Where the leaves of a model live.

    Attributes
    ----------
    where : {"workers", "local"}
    reason : str
        Why.
    """

    where: Literal["workers", "local"]
    reason: str

    def __str__(self) -> str:
        """For a plan's last line."""
        return f"{self.where}, {self.reason}"


@dataclass(frozen=True, slots=True)
class LeafSizes:
    """What decides the memory of a factor's leaves.

    Attributes
    ----------
    levels, k, width : int
        Levels, columns of Z a level, columns of [X y].
    entries : int
        Numbers in the blocks of Z'Z that it shares with other factors.
    nbytes : int
        Of the crossproducts.
    """

    levels: int
    k: int
    width: int
    entries: int
    nbytes: int

    @property
    def needed(self) -> float:
        """Bytes at the peak of a reduction and a fit in one process, without the root.

        Crossproducts twice (as they arrive and added up, later as a model codes them), B with the places of its entries, V,
        and the vectors of `bigmm.solver.costs`: few where no other factor meets these leaves.
        """
        columns = self.width + self.k * (self.k + 1) // 2 if self.entries else 1
        factors = 20.0 * self.entries + 8.0 * self.levels * (self.k * self.k + 1)
        return 2.0 * self.nbytes + factors + 32.0 * self.levels * self.k * columns


def count_bytes(cp: CrossProducts, leading: int) -> tuple[npt.NDArray[np.int64]]:
    """Levels of a factor in a slice, numbers in the blocks that it shares with others, and bytes of the slice."""
    entries = sum(pair.ZtZ.size for key, pair in cp.pairs.items() if leading in key)
    return (np.array([len(cp.groups[leading].levels), entries, cp.nbytes]),)


def needed_at_most(design: Design, rows: int | None) -> float:
    """Bytes that some rows can ask for when each has new levels of everything; infinite where categories or rows are not counted."""
    blocks = [*design.x_blocks, *(block for group in design.groups for block in group.blocks)]
    if rows is None or any(block.categories for block in blocks):
        return float("inf")
    columns = [len(group.blocks) for group in design.groups]
    width, needed = len(design.x_blocks) + len(design.formula.responses), 0.0
    for group, k in zip(design.groups, columns, strict=True):
        entries = rows * k * (sum(columns) - k)
        own = rows * (8 * (k * k + k * width + 1) + _LABEL * len(group.names))
        needed += LeafSizes(rows, k, width, entries, own + 8 * entries + 8 * rows * (len(columns) - 1)).needed
    return needed


def choose_residence(needed: float, available: float) -> Residence:
    """Here where memory holds them, for nothing has to travel then."""
    figures = f"{format_bytes(needed)} at the peak of a fit here, {format_bytes(available)} available"
    if needed <= available:
        return Residence("local", f"memory holds them: {figures}")
    return Residence("workers", f"memory will not hold them: {figures}")


def check_leaves(leaves: str) -> None:
    """Refuse a choice that there is not.

    Raises
    ------
    ModelError
    """
    if leaves not in ("auto", "workers", "local"):
        raise ModelError(f"leaves={leaves!r}: expected 'auto', 'workers' or 'local'")
