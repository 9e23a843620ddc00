"""What a long run says while it goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias


@dataclass(frozen=True, slots=True)
class Progress:
    """One report of a running pass or search.

    Attributes
    ----------
    stage : {"reduce", "optimize", "predict"}
    done : int
        Chunks reduced or predicted, or evaluations made.
    total : int or None
        Chunks in all; None for a search, whose end is not known.
    objective : float or None
        The last objective of a search.
    rows, nbytes : int
        Of a pass: rows read and bytes read, as far as they are known.
    """

    stage: Literal["reduce", "optimize", "predict"]
    done: int
    total: int | None = None
    objective: float | None = None
    rows: int = 0
    nbytes: int = 0


ProgressCallback: TypeAlias = Callable[[Progress], None]
