"""A data file: where it is, how to open it, how to say that it cannot be read."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa

from bigmm.accounting import Origin
from bigmm.errors import BigmmError, DataError, UnreadableError
from bigmm.urls import shown_cause, text_without_secrets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from fsspec import AbstractFileSystem

# Footers and headers are latency, not work: more threads than cores.
_OPENERS = 16
_LONGEST_REASON = 200
# Read ahead from an object store: a request takes as long as the transfer of some megabytes.
_BLOCK_BYTES = 8 * 2**20
# What filesystems say of a file that changes when it does, the surest first.
_VERSIONS = ("ETag", "etag", "mtime", "LastModified", "last_modified", "updated", "created")

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file of a source.

    Parameters
    ----------
    path : str
        As its filesystem spells it.
    url : str
        The same for people: with the protocol, unless it is local, and without secrets.
    name : str
        The same without the archive that the file is in and without what stands for a query; its ending tells the format.
    label : str
        The part of `url` that tells the files of a source apart.
    size : int
        Bytes, -1 when the filesystem does not tell.
    version : str
        Entity tag or time of the last change, empty when the filesystem tells none.
    keys : tuple of (str, str)
        Hive keys and values of its folders.
    filesystem : fsspec.AbstractFileSystem or None
        None for local files, which Arrow opens itself.
    """

    path: str = field(repr=False)  # may hold a password, and Dask logs the arguments of a task that fails
    url: str
    name: str
    label: str
    size: int
    version: str
    keys: tuple[tuple[str, str], ...]
    filesystem: AbstractFileSystem | None = field(repr=False)

    def origin(self, rows: int | None = None) -> Origin:
        """The file, for the accounts of the rows that come from it."""
        return Origin(self.url, self.size, self.version, rows)

    def open(self, read_ahead: bool = False) -> pa.NativeFile:
        """Open for reading; with `read_ahead` from beginning to end, else at random."""
        if self.filesystem is None:
            return pa.OSFile(os.fsdecode(self.path), "rb")
        # At random Arrow asks for exactly the ranges it needs: a cache would fetch unused columns.
        cache = "readahead" if read_ahead else "none"
        return pa.PythonFile(self.filesystem.open(self.path, "rb", block_size=_BLOCK_BYTES, cache_type=cache), "r")

    def has_changed(self) -> bool:
        """Whether the file is another than the one that was planned; asks the filesystem."""
        if self.filesystem is None:
            return state_of_local(self.path) != (self.size, self.version)
        self.filesystem.invalidate_cache()
        info = self.filesystem.info(self.path)
        return (size_of(info), version_of(info)) != (self.size, self.version)


def state_of_local(path: str) -> tuple[int, str]:
    """Bytes and time of the last change of a local file; of what a link points at, which fsspec's listings do not tell."""
    status = os.stat(os.fsdecode(path))
    return status.st_size, str(status.st_mtime)


def size_of(info: Mapping[str, Any]) -> int:
    """Bytes of a file by its filesystem's information, -1 when that does not tell."""
    return -1 if info.get("size") is None else int(info["size"])


def version_of(info: Mapping[str, Any]) -> str:
    """Entity tag or time of the last change by a filesystem's information, empty when that tells none."""
    value = next((info[key] for key in _VERSIONS if info.get(key) is not None), "")
    return str(value.timestamp() if isinstance(value, datetime) else value)  # listings and single answers differ in this


@contextmanager
def as_planned(name: str, has_changed: Callable[[], bool]) -> Iterator[None]:
    """See, after a block that reads a file, that it was still the file that was planned.

    Raises
    ------
    DataError
        When it was not, whatever the block made of that.
    """
    try:
        yield
    except Exception:
        _check_unchanged(name, has_changed)
        raise
    _check_unchanged(name, has_changed)


def _check_unchanged(name: str, has_changed: Callable[[], bool]) -> None:
    with reading(repr(name), "the file may be out of reach"):
        changed = has_changed()
    if changed:
        raise DataError(f"{name!r} has changed after it was planned: start again, when nothing writes to it")


@contextmanager
def reading(what: str, remedy: str = "the file may be damaged: write it again or leave it out") -> Iterator[None]:
    """Turn whatever a filesystem or a decoder raises into a one-line `DataError` about `what`.

    Raises
    ------
    UnreadableError
        For what is neither absent nor forbidden: damage, or a storage that fails.
    """
    try:
        yield
    except (BigmmError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise DataError(f"{what} does not exist: check the path") from shown_cause(error)
    except PermissionError as error:
        raise DataError(f"no permission to read {what}: change its permissions or your credentials") from shown_cause(error)
    except Exception as error:  # remote filesystems raise what their libraries raise, not only OSError
        raise UnreadableError(f"cannot read {what}: {reason(error)}; {remedy}") from shown_cause(error)


def reason(error: Exception) -> str:
    """First line of an error's text, without its full stop and without secrets, shortened."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    text = text_without_secrets(lines[0]).rstrip(".")
    return text if len(text) <= _LONGEST_REASON else text[:_LONGEST_REASON] + "..."


def in_threads(function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Results of `function` on all items, in their order."""
    with ThreadPoolExecutor(_OPENERS) as pool:
        return list(pool.map(function, items))
