"""Files of a source, in order: paths, folders, globs and URLs, listed with fsspec."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Mapping, Sequence
from glob import has_magic
from itertools import takewhile
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, TypeGuard
from urllib.parse import unquote

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from bigmm.errors import DataError
from bigmm.places import is_hidden
from bigmm.reduction.sources.files import DataFile, reading, size_of, state_of_local, version_of
from bigmm.urls import plain, without_secrets

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

    from fsspec import AbstractFileSystem

_CHECK = "check the path, the storage options and the credentials"

Info = Mapping[str, Any]


def is_paths(data: object) -> TypeGuard[str | os.PathLike[str] | Sequence[str | os.PathLike[str]]]:
    """Whether `data` is a path or a list of paths."""
    if isinstance(data, (str, os.PathLike)):
        return True
    return isinstance(data, (list, tuple)) and all(isinstance(item, (str, os.PathLike)) for item in data)


def list_files(data: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], storage_options: Mapping[str, Any]) -> tuple[DataFile, ...]:
    """List the files of a source.

    Parameters
    ----------
    data : path or sequence of paths
        File, folder, glob or URL, or several of them.
    storage_options : mapping
        For the fsspec filesystem.

    Returns
    -------
    tuple of DataFile
        A folder's and a glob's files in natural order, hidden ones left out; a list's entries in its order.
    """
    sources = [data] if isinstance(data, (str, os.PathLike)) else data
    if not sources:
        raise DataError("the list of paths is empty: pass at least one path")
    found = [file for source in sources for file in _expand(os.fspath(source), storage_options)]
    check_distinct([(url, _identity(filesystem, info["name"])) for filesystem, info, url in found])
    root = _common_folder([url for _, _, url in found])
    return tuple(_data_file(filesystem, info, url, root) for filesystem, info, url in found)


def _expand(source: str, storage_options: Mapping[str, Any]) -> list[tuple[AbstractFileSystem, Info, str]]:
    """Files behind one path, with their information and their URLs."""
    if not source:
        raise DataError("the path is empty: pass a file, folder, glob or URL")
    shown = without_secrets(source)
    with reading(repr(shown), _CHECK):
        filesystem, path = url_to_fs(source, **storage_options)
        path = plain(path) if isinstance(filesystem, LocalFileSystem) else path
        infos = _find(filesystem, path)
    if not infos:
        raise DataError(f"no data files in {shown!r}: expected Parquet or CSV files, hidden ones do not count")
    ordered = sorted(infos, key=lambda info: natural_key(info["name"]))
    return [(filesystem, info, _url(filesystem, info["name"])) for info in ordered]


def _find(filesystem: AbstractFileSystem, path: str) -> list[Info]:
    # A name may hold the characters of a pattern, and a URL a question mark: literal meaning first.
    try:
        info = filesystem.info(path)
    except FileNotFoundError:
        if not has_magic(path):
            raise
        return _match(filesystem, path)
    return _walk(filesystem, path) if info["type"] == "directory" else [{**info, "name": path}]


def _match(filesystem: AbstractFileSystem, pattern: str) -> list[Info]:
    matches: Mapping[str, Info] = filesystem.glob(pattern, detail=True)
    if not matches:
        raise DataError(f"no file matches {without_secrets(pattern)!r}: check the pattern")
    fixed = _fixed_part(pattern)
    found: dict[str, Info] = {}
    for path, info in matches.items():
        if not _is_hidden(path, fixed):
            inside = _walk(filesystem, path) if info["type"] == "directory" else [info]
            found |= {item["name"]: item for item in inside}
    return list(found.values())


def _walk(filesystem: AbstractFileSystem, folder: str) -> list[Info]:
    """Return the visible files under a folder; object stores mark folders by names that end in a slash."""
    files: Mapping[str, Info] = filesystem.find(folder, detail=True)
    return [info for path, info in files.items() if not path.endswith("/") and not _is_hidden(path, folder)]


def _fixed_part(pattern: str) -> str:
    parts = pattern.split("/")
    magic = next(index for index, part in enumerate(parts) if has_magic(part))
    return "/".join(parts[:magic])


def _is_hidden(path: str, root: str) -> bool:
    """Whether a name below `root` is hidden, or in a folder that is."""
    return any(map(is_hidden, path.removeprefix(root).strip("/").split("/")))


def natural_key(path: str) -> tuple[list[list[str | int]], str]:
    """Sort key by which `part-2` comes before `part-10`."""
    parts = [re.split(r"([0-9]+)", part) for part in path.split("/")]
    numbered = [[int(text) if odd % 2 else text for odd, text in enumerate(part)] for part in parts]
    return numbered, path


def _url(filesystem: AbstractFileSystem, path: str) -> str:
    if isinstance(filesystem, LocalFileSystem):
        return path
    return without_secrets(str(filesystem.unstrip_protocol(path)))


def _identity(filesystem: AbstractFileSystem, path: str) -> str:
    """What two names of one file have in common: of local ones the file that links lead to."""
    local = isinstance(filesystem, LocalFileSystem)
    return os.path.realpath(path) if local else str(filesystem.unstrip_protocol(path))


def check_distinct(named: Iterable[tuple[str, Hashable]]) -> None:
    """Refuse names of which two stand for one thing.

    Parameters
    ----------
    named : iterable of (str, hashable)
        A name for people, and what the thing is known by.
    """
    seen: dict[Hashable, str] = {}
    for name, thing in named:
        if thing in seen:
            found = f"{name!r} is listed twice" if seen[thing] == name else f"{seen[thing]!r} and {name!r} are the same file"
            raise DataError(f"{found}, so its rows would count twice: list it once")
        seen[thing] = name


def _common_folder(urls: Sequence[str]) -> str:
    folders = [posixpath.dirname(url).split("/") for url in urls]
    # By parts and not by `commonpath`, which makes one slash of the two of a URL.
    shared = takewhile(lambda parts: len(set(parts)) == 1, zip(*folders, strict=False))
    return "/".join(parts[0] for parts in shared)


def _data_file(filesystem: AbstractFileSystem, info: Info, url: str, root: str) -> DataFile:
    local = isinstance(filesystem, LocalFileSystem)
    if local and os.path.isdir(info["name"]):
        raise DataError(f"{url!r} is a link to a folder, inside of the data: pass that folder itself, too, or remove the link")
    with reading(repr(url), _CHECK):
        size, version = state_of_local(info["name"]) if local else (size_of(info), version_of(info))
    return DataFile(
        path=info["name"],
        url=url,
        label=url.removeprefix(root).lstrip("/"),
        size=size,
        version=version,
        keys=_hive_keys(url),
        filesystem=None if local else filesystem,
    )


def _hive_keys(url: str) -> tuple[tuple[str, str], ...]:
    folders = PurePath(posixpath.dirname(url)).parts
    return tuple((unquote(key), unquote(value)) for key, _, value in (part.partition("=") for part in folders) if value)
