"""How many slices a pass has, and by which factor."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from bigmm.design import Design
from bigmm.reduction.heads import heads
from bigmm.reduction.slices import Slicing
from bigmm.reduction.sources import Chunk
from bigmm.reduction.work import OnError

#: Rows of the data for which one more slice is worth having. Every chunk sorts its rows for it, which takes about a fifth of the
#: time of a chunk, and the driver holds all slices in the end.
SLICE_ROWS = 2**30
#: Rows, and chunks, from which the leading factor is guessed.
_HEAD_ROWS, _HEADS = 4096, 8


def choose_slicing(design: Design, chunks: Sequence[Chunk], on_error: OnError = "raise", least: int = 1) -> Slicing:
    """As many slices as the rows ask for, by the factor that seems to have the most levels.

    Any factor gives the right sums; the one with most levels gives the smallest slices.
    """
    count = max(1 + sum(chunk.rows or 0 for chunk in chunks) // SLICE_ROWS, least)
    groups = [group.names for group in design.groups]
    if count == 1 or len(groups) == 1:
        return Slicing(groups[0], count)
    names = tuple(dict.fromkeys(name for group in groups for name in group))
    spread = np.linspace(0, len(chunks) - 1, min(_HEADS, len(chunks))).astype(int)
    tables = heads([chunks[position] for position in spread], names, _HEAD_ROWS, on_error)
    seen = pd.concat([pd.DataFrame(columns=list(names)), *(table.to_pandas().astype("str") for table in tables)])
    distinct = [len(seen[list(group)].drop_duplicates()) for group in groups]
    return Slicing(groups[int(np.argmax(distinct))], count)
