"""The constants that are subtracted from y and from the numeric columns of X, fixed before the pass.

A crossproduct of numbers around 1e6 with spread 1 keeps four digits of their variance; of the same numbers less a
nearby constant it keeps them all. The constant needs to be near, not exact, so the first rows decide.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from bigmm.columns import Array, product_name
from bigmm.design import Design
from bigmm.reduction.heads import heads
from bigmm.reduction.rows import numeric_values
from bigmm.reduction.sources import Chunk
from bigmm.reduction.work import OnError

#: First rows of a chunk that the constants are taken from; chunks whose first rows, and whose rows, are looked at.
_HEAD_ROWS = 4096
_HEADS, _WHOLE = 64, 8
#: Numbers below this are left as they are, so that `bigmm.reduction.magnitudes` sees them.
_LEAST = 1e-140


def with_shift(design: Design, chunks: Sequence[Chunk], on_error: OnError = "raise") -> Design:
    """The design with constants near the medians of the first rows that have a value.

    Each column has its own: the rows need not be complete, and a column that begins late is looked for further on. A design
    that has its constants keeps them.
    """
    if design.y_shift:
        return design
    constants: dict[tuple[str, ...] | str, float] = {}  # a response's key is its text
    responses = [response.text for response in design.formula.responses]
    wanted = {*responses, *(block.texts for block in design.x_blocks if block.numeric)}
    for table in _first_rows(design, chunks, on_error):
        with np.errstate(over="ignore", invalid="ignore"):
            numeric, y = numeric_values(table, design)
        found: list[tuple[tuple[str, ...] | str, Array]] = [*y.items(), *numeric.items()]
        for key, values in found:
            known = values[np.isfinite(values)]
            if key not in constants and len(known):
                constants[key] = _near_middle(known)
        if constants.keys() >= wanted:
            break
    shift = {product_name(texts): constants[texts] for texts in sorted(texts for texts in constants if isinstance(texts, tuple))}
    return replace(design, shift=shift, y_shift={text: constants.get(text, 0.0) for text in responses})


def _first_rows(design: Design, chunks: Sequence[Chunk], on_error: OnError) -> Iterator[pa.Table]:
    """The heads of many chunks, then all rows of a few."""
    yield from heads(chunks[:_HEADS], design.names, _HEAD_ROWS, on_error)
    yield from heads(chunks[:_WHOLE], design.names, None, on_error)


def _near_middle(values: Array) -> float:
    """The median, rounded to a multiple of a power of two near the spread; 0 when that loses nothing.

    Few bits make most differences exact (and a constant that people can read).
    """
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    spread = float(high - low) or float(np.std(values))
    if abs(middle) <= max(spread, _LEAST):
        return 0.0
    unit = 2.0 ** np.floor(np.log2(max(spread, abs(middle) * 2.0**-40)))
    return float(np.round(middle / unit) * unit)
