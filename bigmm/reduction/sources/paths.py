"""Files of a source, in order: paths, folders, globs and URLs, listed with fsspec."""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from bigmm.urls import is_signed, is_url, plain, without_secrets

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
    check_distinct([(file.url, file.known_by) for file in found])
    _check_names(found)
    root = _common_folder([file.name for file in found])
    return tuple(_data_file(file, root) for file in found)


@dataclass(frozen=True, slots=True)
class _Found:
    """A file where it was found; its name for people, what else tells it apart, and what it is known by, which may have secrets."""

    filesystem: AbstractFileSystem
    info: Info
    name: str
    apart: str
    known_by: str

    @property
    def url(self) -> str:
        return self.name + self.apart


def _expand(source: str, storage_options: Mapping[str, Any]) -> list[_Found]:
    """Files behind one path."""
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
    container = _container(source)
    return [_found(filesystem, info, container) for info in ordered]


def _found(filesystem: AbstractFileSystem, info: Info, container: str) -> _Found:
    path = info["name"]
    if isinstance(filesystem, LocalFileSystem):
        return _Found(filesystem, info, path, "", os.path.realpath(path))  # what links lead to
    name, apart = remote_name(filesystem, path)
    if container:
        apart += "::" + (without_secrets(container) if is_url(container) else plain(container))
    return _Found(filesystem, info, name, apart, f"{filesystem.unstrip_protocol(path)}::{container}")


def _container(source: str) -> str:
    """What the files of a chained URL are in: an archive, ``s3://b/c.zip`` of ``zip://a.csv::s3://b/c.zip``."""
    links = source.split("::")
    while len(links) > 1 and "://" not in links[0]:  # a cache, which is no place
        links = links[1:]
    return "::".join(links[1:])


def remote_name(filesystem: AbstractFileSystem, path: str) -> tuple[str, str]:
    """URL of a file that is not on this machine; and a digest of a query that it leaves out, unless that is signed."""
    url = str(filesystem.unstrip_protocol(path))
    shown, query = without_secrets(url), url.partition("?")[2]
    told = "?" in shown or not query or is_signed(url)
    return shown, "" if told else f"?{hashlib.sha256(query.encode()).hexdigest()[:12]}"


def _check_names(found: Sequence[_Found]) -> None:
    """Refuse files that only a secret tells apart: they would pass for one when files are added later."""
    seen: dict[str, str] = {}
    for file in found:
        if seen.setdefault(file.url, file.known_by) != file.known_by:
            raise DataError(f"two files have the name {file.url!r} without their signatures: read them from places of different names")


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


def _data_file(file: _Found, root: str) -> DataFile:
    filesystem, info, url = file.filesystem, file.info, file.url
    local = isinstance(filesystem, LocalFileSystem)
    if local and os.path.isdir(info["name"]):
        raise DataError(f"{url!r} is a link to a folder, inside of the data: pass that folder itself, too, or remove the link")
    with reading(repr(url), _CHECK):
        size, version = state_of_local(info["name"]) if local else (size_of(info), version_of(info))
    return DataFile(
        path=info["name"],
        url=url,
        name=file.name,
        label=file.name.removeprefix(root).lstrip("/") + file.apart,
        size=size,
        version=version,
        keys=_hive_keys(file.name),
        filesystem=None if local else filesystem,
    )


def _hive_keys(name: str) -> tuple[tuple[str, str], ...]:
    folders = PurePath(posixpath.dirname(name)).parts
    return tuple((unquote(key), unquote(value)) for key, _, value in (part.partition("=") for part in folders) if value)
