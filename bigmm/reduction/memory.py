"""Memory that is free, but that the C library keeps for later."""

from __future__ import annotations

import contextlib
import ctypes


def give_back() -> None:
    """Return free memory to the operating system, where the C library can do that (glibc's can).

    Chunks come and go in threads, whose arenas keep what they once had: as much as all chunks under way.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):  # no such library, or another one
        ctypes.CDLL(None).malloc_trim(0)
