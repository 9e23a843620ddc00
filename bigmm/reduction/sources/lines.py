"""Lines of delimited text: a row is a line, so that a quote that is never closed takes no rows along."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

_BLOCK_BYTES = 2**20
_END = ord("\n")


class CountedLines(io.RawIOBase):
    """A stream that counts the lines that are read from it.

    Parameters
    ----------
    source : file
        Binary, decompressed.
    """

    def __init__(self, source: Any) -> None:
        self._source = source
        self._ends = 0
        self._open = False

    def readable(self) -> bool:
        """It is."""
        return True

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        data: bytes = self._source.read(size)
        self._ends += int(np.count_nonzero(np.frombuffer(data, dtype=np.uint8) == _END))
        self._open = not data.endswith(b"\n") if data else self._open
        return data

    @property
    def lines(self) -> int:
        """So far; the last one need not have an end."""
        return self._ends + self._open


def count_filled(source: Any) -> int:
    """Lines with something in them, whichever of three ways they end; slower than counting all."""
    filled, rest = 0, b""
    while data := source.read(_BLOCK_BYTES):
        *lines, rest = (rest + data).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        filled += sum(map(bool, lines))
    return filled + bool(rest)
