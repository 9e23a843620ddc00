"""After the pass: every row that the footers promise was read, or is listed as skipped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from bigmm.crossproducts import CrossProducts
from bigmm.errors import DataError
from bigmm.reduction.sources import Chunk


def check_accounts(chunks: Sequence[Chunk], cp: CrossProducts) -> None:
    """Compare what was read of each file with what its footer says.

    Raises
    ------
    DataError
        Naming a file of which more or fewer rows were read: one that changed during the pass.
    """
    planned: Counter[str] = Counter()
    unknown: set[str] = set()
    for chunk in chunks:
        for origin in chunk.origins:
            planned[origin.url] += origin.rows or 0
            if origin.rows is None:
                unknown.add(origin.url)
    found: Counter[str] = Counter()
    for url, rows in zip(cp.sources.urls, (cp.sources.read + cp.sources.skipped).tolist(), strict=True):
        found[url] += rows
    for url in planned:
        if url not in unknown and found[url] != planned[url]:
            raise DataError(f"{found[url]:,} rows of {url!r} were read, its footer says {planned[url]:,}: did it change? start again")
    _check_totals(cp)


def _check_totals(cp: CrossProducts) -> None:
    """See that the files' counts are those of the whole."""
    rows, sources = cp.rows, cp.sources
    by_file = {name: int(counts.sum()) for name, counts in sources.missing.items() if counts.any()}
    if (rows.read, rows.used, {name: count for name, count in rows.missing.items() if count}) != (
        int(sources.read.sum()),
        int(sources.used.sum()),
        by_file,
    ):
        raise DataError(f"{int(sources.read.sum()):,} rows by file and {rows.read:,} in all: the counts disagree, please report it")
