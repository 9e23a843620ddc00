"""Sizes, rates and times as people read them."""

from __future__ import annotations

import numpy as np


def size(nbytes: float) -> str:
    """Bytes, by powers of 1000."""
    power = min(int(np.log10(max(nbytes, 1)) // 3), 4)
    return f"{nbytes:,.0f} B" if power == 0 else f"{nbytes / 1000**power:,.1f} {('k', 'M', 'G', 'T')[power - 1]}B"


def short(number: float) -> str:
    """A number in few characters: 873, 12.3 k, 4.57 M."""
    power = min(int(np.log10(max(number, 1)) // 3), 4)
    return f"{number:.0f}" if power == 0 else f"{number / 1000**power:.3g} {('k', 'M', 'G', 'T')[power - 1]}"


def duration(seconds: float) -> str:
    """A time in its two largest units."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    large, small, names = (whole // 60, whole % 60, ("min", "s")) if whole < 3600 else (whole // 3600, whole % 3600 // 60, ("h", "min"))
    return f"{large} {names[0]} {small:02d} {names[1]}"
