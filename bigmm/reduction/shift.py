"""The constants that are subtracted from y and from the numeric columns of X, fixed before the pass.

A crossproduct of numbers around 1e6 with spread 1 keeps four digits of their variance; of the same numbers less a
nearby constant it keeps them all. The constant needs to be near, not exact, so the first rows decide.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa

from bigmm.columns import Array
from bigmm.design import Design
from bigmm.reduction.rows import evaluate_rows

#: Rows that the constants are taken from.
HEAD_ROWS = 4096


def with_shift(design: Design, head: pa.Table) -> Design | None:
    """The design with constants near the means of the first complete rows; None when there is none.

    Raises
    ------
    DataError
        As `bigmm.reduction.rows.evaluate_rows`.
    """
    rows = evaluate_rows(head, replace(design, na_action="omit"), "the first rows")
    if rows.counts.used == 0:
        return None
    numeric = {block.texts for block in design.x_blocks if block.numeric}
    shift = {":".join(texts): _near_mean(rows.numeric[texts]) for texts in sorted(numeric)}
    return replace(design, shift=shift, y_shift=_near_mean(rows.y))


def _near_mean(values: Array) -> float:
    """The mean, rounded to a multiple of a power of two near the spread; 0 when that loses nothing.

    Few bits make most differences exact (and a constant that people can read).
    """
    mean, spread = float(np.mean(values)), float(np.std(values))
    if abs(mean) <= spread or mean == 0.0:
        return 0.0
    unit = 2.0 ** np.floor(np.log2(max(spread, abs(mean) * 2.0**-40)))
    return float(np.round(mean / unit) * unit)
