"""Where to cut row groups, or small files, into chunks of balanced size."""

from __future__ import annotations

from itertools import pairwise
from math import ceil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Most rows of a chunk, unless a single row group has more: a chunk's model matrices are held in memory.
MOST_ROWS = 4_000_000


def balanced_runs(sizes: Sequence[tuple[int, int]], chunk_bytes: int, longest: int | None = None) -> list[range]:
    """Cut a sequence of pieces into runs of consecutive ones.

    Parameters
    ----------
    sizes : sequence of (int, int)
        Rows and bytes of each piece.
    chunk_bytes : int
        Bytes that a run should have, about.
    longest : int, optional
        Most pieces in a run.

    Returns
    -------
    list of range
        Runs of indices, which together are all of them. Runs have about equal numbers of bytes, and at most
        `MOST_ROWS` rows each if they have more than one piece.
    """
    total = sum(nbytes for _, nbytes in sizes)
    target = total / max(1, ceil(total / chunk_bytes))
    starts = [0] if sizes else []
    rows = nbytes = 0
    for index, (more_rows, more_bytes) in enumerate(sizes):
        # Nearest to the target: the piece goes on if its middle does.
        beyond = nbytes + more_bytes / 2 > target or index - starts[-1] == longest
        if index > starts[-1] and (beyond or rows + more_rows > MOST_ROWS):
            starts.append(index)
            rows = nbytes = 0
        rows, nbytes = rows + more_rows, nbytes + more_bytes
    return [range(start, stop) for start, stop in pairwise([*starts, len(sizes)])]
