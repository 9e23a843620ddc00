"""Lines of delimited text: a row is a line, so that a quote that is never closed takes no rows along."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_BLOCK_BYTES = 2**20
_END, _RETURN = ord("\n"), ord("\r")
#: An empty line; one that has but the mark of UTF-8.
_NOTHING = (b"", b"\xef\xbb\xbf")


class CountedLines(io.RawIOBase):
    """A stream that counts the lines that are read from it.

    Parameters
    ----------
    source : file
        Binary, decompressed.
    """

    def __init__(self, source: Any) -> None:
        self._source = source
        self._ends = self._returns = self._pairs = 0
        self._last = b"\n"

    def readable(self) -> bool:
        """It is."""
        return True

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        data: bytes = self._source.read(size)
        letters = np.frombuffer(data, dtype=np.uint8)
        self._ends += int(np.count_nonzero(letters == _END))
        if returns := int(np.count_nonzero(letters == _RETURN)):
            self._returns += returns
            self._pairs += data.count(b"\r\n")
        self._pairs += self._last == b"\r" and data.startswith(b"\n")
        self._last = data[-1:] or self._last
        return data

    @property
    def lines(self) -> int | None:
        """So far; the last one need not have an end. None when they end in several ways."""
        alike = self._returns == 0 or self._returns == self._pairs == self._ends
        return self._ends + (self._last != b"\n") if alike else None


def count_filled(source: Any) -> int:
    """Lines with something in them, whichever of three ways they end; slower than counting all."""
    filled, rest = 0, b""
    while data := source.read(_BLOCK_BYTES):
        *lines, rest = (rest + data).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        filled += sum(line not in _NOTHING for line in lines)
    return filled + (rest not in _NOTHING)


def broken_column(table: pa.Table) -> str | None:
    """The first column that has a value with a line break in it."""
    for name, column in zip(table.column_names, table.columns, strict=True):
        if pa.types.is_dictionary(column.type):
            blocks: list[Any] = column.chunks
            words = (block.dictionary for block in blocks)
            if any(pc.any(pc.match_substring_regex(some, "[\r\n]")).as_py() for some in words):
                return name
    return None
