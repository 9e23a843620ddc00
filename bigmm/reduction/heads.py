"""First rows of chunks, which decide what has to be known before the pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from bigmm.errors import UnreadableError
from bigmm.reduction.sources import Chunk
from bigmm.reduction.work import OnError


def heads(chunks: Sequence[Chunk], names: Sequence[str], rows: int | None, on_error: OnError) -> Iterator[pa.Table]:
    """The first rows of each chunk (None: all of them); chunks that cannot be read are passed over if the pass skips them."""
    for chunk in chunks:
        try:
            yield chunk.read(names) if rows is None else chunk.head(names, rows)
        except UnreadableError:
            if on_error == "raise":
                raise
