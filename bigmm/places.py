"""Where a job may write: neither over its data nor among them, where the next pass, or a resumed one, would read it as rows."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from fnmatch import fnmatch
from glob import has_magic
from itertools import takewhile
from pathlib import PurePath

from bigmm.errors import StorageError
from bigmm.urls import is_url, without_secrets


def check_apart(data: Iterable[str], places: Mapping[str, str | None]) -> None:
    """Refuse to write where the data are.

    Parameters
    ----------
    data : iterable of str
        Paths, folders, patterns or URLs.
    places : dict of {str: str or None}
        What is written where, by the name of its option.

    Raises
    ------
    StorageError
        When a pass over the data would read one of these places.
    """
    given = {option: place for option, place in places.items() if place is not None and place != "-"}
    for source in data if given else ():
        for option, place in given.items():
            if _reads(source, place):
                raise StorageError(
                    f"{option} {without_secrets(place)!r} is one of the data, or among them ({without_secrets(source)!r}): it would be "
                    "read as rows, or written over them; choose another place, or a name that begins with a dot"
                )


def _reads(source: str, place: str) -> bool:
    """Whether a pass over `source` reads what is written at `place`."""
    if is_url(source) or is_url(place):
        return _inside(place.rstrip("/"), source.rstrip("/"))
    pattern, place = os.path.realpath(source), os.path.realpath(place)
    if os.path.exists(source) or not has_magic(source):
        return _inside(place, pattern)
    named = [PurePath(place), *PurePath(place).parents]
    return any(fnmatch(str(path), pattern) if "**" in pattern else path.match(pattern) for path in named) and not _hidden(place, pattern)


def _inside(place: str, folder: str) -> bool:
    return place == folder or (place.startswith(f"{folder}/") and not _hidden(place, folder))


def _hidden(place: str, folder: str) -> bool:
    """Whether a name below a folder, or below the fixed part of a pattern, is left out of its data."""
    fixed = len(list(takewhile(lambda part: not has_magic(part), PurePath(folder).parts)))
    return any(map(is_hidden, PurePath(place).parts[fixed:]))


def is_hidden(name: str) -> bool:
    """Whether the name of a file or folder marks it as none of the data: ``_SUCCESS``, ``.part.crc``; but not ``_key=1``."""
    return name.startswith(".") or (name.startswith("_") and "=" not in name)
