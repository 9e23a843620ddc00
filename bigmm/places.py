"""Where a job may write: neither over its data nor among them, where the next pass, or a resumed one, would read it as rows."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from glob import has_magic
from itertools import permutations, takewhile
from pathlib import PurePath

from bigmm.errors import StorageError
from bigmm.urls import located, without_secrets

#: What bigmm writes into its directories, as far as a pattern might tell.
_INSIDE = ("x.json", "arrays.npz", "levels-0.parquet", "ranef-0-g.parquet", "0-1.0/x.json", "0-1.0/arrays.npz", "0-1.0/levels-0.parquet")


def check_apart(data: Iterable[str], files: Mapping[str, str | None], folders: Mapping[str, str | None]) -> None:
    """Refuse to write where the data are, and one thing over or into another.

    Parameters
    ----------
    data : iterable of str
        Paths, folders, patterns or URLs.
    files, folders : dict of {str: str or None}
        What is written where, by the name of its option; folders are replaced as a whole.

    Raises
    ------
    StorageError
        When a pass over the data would read one of these places, or they are not apart from one another.
    """
    places = {option: place for option, place in [*files.items(), *folders.items()] if place is not None and _is_kept(place)}
    for source in data if places else ():
        for option, place in places.items():
            if _reads(source, place, folder=option in folders):
                raise StorageError(
                    f"{option} {without_secrets(place)!r} is one of the data, or among them ({without_secrets(source)!r}): it would be "
                    "read as rows, or written over them; choose another place, or a name that begins with a dot"
                )
    for (option, place), (outer, around) in permutations(places.items(), 2):
        if _is_within(place, around, folder=outer in folders):
            raise StorageError(
                f"{option} {without_secrets(place)!r} is the same place as {outer} {without_secrets(around)!r}, or inside it: "
                "one would replace the other; choose another place"
            )


def _is_kept(place: str) -> bool:
    """Whether what is written there stays: not on the standard output, and not in a device."""
    return place != "-" and (not os.path.exists(place) or os.path.isfile(place) or os.path.isdir(place))


def _is_within(place: str, around: str, *, folder: bool) -> bool:
    (system, path), (other, outer) = _real(*located(place)), _real(*located(around))
    return system == other and (path == outer or (folder and path.startswith(f"{outer}/")))


def _real(system: str, path: str) -> tuple[str, str]:
    return (system, path) if system else ("", os.path.realpath(path))


def _reads(source: str, place: str, *, folder: bool) -> bool:
    """Whether a pass over `source` reads what is written at `place`, or inside it."""
    (system, pattern), (other, path) = located(source, home=True), located(place)
    if system != other:
        return False
    literal = not has_magic(pattern) or (not system and os.path.exists(pattern))
    spelled = [(pattern, path)] if system else [(pattern, path), (os.path.realpath(pattern), os.path.realpath(path))]
    for named, at in spelled:
        inside = [f"{at}/{name}" for name in _INSIDE] if folder else []
        if any(_names(named, one, literal=literal) for one in [at, *inside]):
            return True
    return not system and os.path.exists(path) and any(_is_within(file, path, folder=True) for file in _files(pattern, literal=literal))


def _names(pattern: str, place: str, *, literal: bool) -> bool:
    """Whether data of this name have a file at `place`, which need not be there yet."""
    if place == pattern:
        return True
    if _hidden(place, pattern):
        return False
    if literal:
        return place.startswith(f"{pattern}/")
    from fsspec.utils import glob_translate

    try:
        matches = re.compile(glob_translate(pattern)).match
    except ValueError:  # no pattern after all; whoever lists it says so
        return False
    return any(matches(str(one)) for one in (place, *PurePath(place).parents))


def _files(pattern: str, *, literal: bool) -> Iterator[str]:
    """The files of this machine that a pass reads now; links lead anywhere."""
    from fsspec.implementations.local import LocalFileSystem

    filesystem = LocalFileSystem()
    for found in [pattern] if literal else filesystem.glob(pattern):
        yield from (file for file in filesystem.find(found) if not _hidden(file, pattern))


def _hidden(place: str, folder: str) -> bool:
    """Whether a name below a folder, or below the fixed part of a pattern, is left out of its data."""
    fixed = len(list(takewhile(lambda part: not has_magic(part), PurePath(folder).parts)))
    return any(map(is_hidden, PurePath(place).parts[fixed:]))


def is_hidden(name: str) -> bool:
    """Whether the name of a file or folder marks it as none of the data: ``_SUCCESS``, ``.part.crc``; but not ``_key=1``."""
    return name.startswith(".") or (name.startswith("_") and "=" not in name)
