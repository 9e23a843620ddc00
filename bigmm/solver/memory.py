"""How much memory this process may still take, and arrays that take no more of it than they need."""

from __future__ import annotations

import math
import mmap
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bigmm.errors import ModelError

#: Overrides what is found: bytes, or a number with a unit.
VARIABLE = "BIGMM_MEMORY"
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
#: Bytes from which an array has pages of its own.
_PAGES = 2**20
_CGROUPS = Path("/sys/fs/cgroup")
_PROC = Path("/proc")


def available_memory() -> float:
    """Bytes: the environment's BIGMM_MEMORY, or the smaller of what the machine and the process's control groups have left.

    Raises
    ------
    ModelError
        When BIGMM_MEMORY is no amount of memory.
    """
    asked = os.environ.get(VARIABLE, "")
    return read_bytes(asked, f"{VARIABLE}=") if asked else min([_machine(_PROC), *_groups(_PROC, _CGROUPS)])


def zeros(*shape: int) -> npt.NDArray[np.float64]:
    """Doubles that take memory when they are written, and none when the array is gone.

    Arrays of up to 32 MB that come and go would else be cut from one heap of the C library, which keeps what lies between them, and
    writes the zeros there. Small ones are: a process may have so many mappings and no more.
    """
    nbytes = 8 * math.prod(shape)
    if nbytes < _PAGES:
        return np.zeros(shape)
    pages = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(pages, dtype=np.float64).reshape(shape)


def read_bytes(text: str, name: str = "") -> float:
    """``8GiB``, ``500 MB`` or a number of bytes; `name` is what a message calls it.

    Raises
    ------
    ModelError
    """
    number = text.strip().rstrip("BKMGTIbkmgti")
    unit = text.strip()[len(number) :].upper()
    try:
        value = float(number) * _UNITS[unit]
    except (KeyError, ValueError):
        value = -1.0
    if not value > 0.0:
        raise ModelError(f"{name}{text!r} is no amount of memory: expected bytes, or a number with a unit such as 8GiB")
    return value


def _machine(proc: Path) -> float:
    try:
        lines = (proc / "meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024.0 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):  # not Linux
        return float(os.sysconf("SC_PAGE_SIZE")) * os.sysconf("SC_PHYS_PAGES")


def _groups(proc: Path, root: Path) -> list[float]:
    """What each control group that this process is in, or its parents, has left; both versions of the interface."""
    left = []
    try:
        entries = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return []
    for entry in entries:
        _, controllers, path = entry.split(":", 2)
        second = not controllers
        if not (second or "memory" in controllers.split(",")):
            continue
        names = ("memory.max", "memory.current") if second else ("memory.limit_in_bytes", "memory.usage_in_bytes")
        base = root if second else root / "memory"
        folder = base / path.strip("/")
        for group in [folder, *folder.parents]:
            if group.is_relative_to(base):
                left += _left(group, *names)
    return left


def _left(group: Path, limit: str, usage: str) -> list[float]:
    """Limit less usage; the file cache that would be given back does not count as used."""
    try:
        most, used = (group / limit).read_text().strip(), int((group / usage).read_text())
        statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return []
    cached = int(statistics.get("total_inactive_file", statistics.get("inactive_file", 0)))
    return [] if most == "max" else [float(max(int(most) - used + cached, 0))]
