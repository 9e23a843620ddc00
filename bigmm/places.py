"""Where a job may write: neither over its data nor among them, where the next pass, or a resumed one, would read it as rows."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from glob import has_magic
from itertools import permutations, product, takewhile
from pathlib import PurePath

from bigmm.errors import StorageError
from bigmm.urls import located, without_secrets

#: What bigmm writes into its directories, as far as a pattern might tell.
_INSIDE = ("x.json", "arrays.npz", "levels-0.parquet", "ranef-0-g.parquet", "0-1.0/x.json", "0-1.0/arrays.npz", "0-1.0/levels-0.parquet")


@dataclass(frozen=True, slots=True)
class _Place:
    """Where something is written.

    Attributes
    ----------
    option, given : str
        As the user says it.
    system, path, real : str
        The file system, "" for this machine's; the path there; the same without links.
    folder : bool
        Whether it is one of bigmm's directories, in which nothing else has a place.
    """

    option: str
    given: str
    system: str
    path: str
    real: str
    folder: bool

    @classmethod
    def of(cls, option: str, given: str, *, folder: bool) -> _Place:
        system, path = located(given)
        return cls(option, given, system, path, path if system else os.path.realpath(path), folder)

    def __str__(self) -> str:
        return f"{self.option} {without_secrets(self.given)!r}"

    def is_in(self, other: _Place) -> bool:
        """Whether it is the same place as another, or inside it."""
        inside = self.real == other.real or (other.folder and self.real.startswith(f"{other.real}/"))
        return self.system == other.system and inside

    @property
    def within(self) -> list[str]:
        """Names, below `path`, of what is written."""
        return ["", *(f"/{name}" for name in _INSIDE)] if self.folder else [""]


def check_apart(data: Iterable[str], files: Mapping[str, str | None], folders: Mapping[str, str | None], saved: Iterable[str] = ()) -> None:
    """Refuse to write where the data are, and one thing over or into another.

    Parameters
    ----------
    data : iterable of str
        Paths, folders, patterns or URLs.
    files, folders : dict of {str: str or None}
        What is written where, by the name of its option; nothing else has a place in the folders.
    saved : iterable of str
        Saved crossproducts or fits that are read; they may be replaced, but nothing is written into them.

    Raises
    ------
    StorageError
        When a pass over the data would read one of these places, or they are not apart from one another.
    """
    given = [(option, place, folder) for folder, places in ((False, files), (True, folders)) for option, place in places.items()]
    places = [_Place.of(option, place, folder=folder) for option, place, folder in given if place is not None and _is_kept(option, place)]
    for source in data if places else ():
        for place in _read_by(source, places):
            raise StorageError(
                f"{place} is one of the data, or among them ({without_secrets(source)!r}): it would be read as rows, or written over "
                "them; choose another place, or a name that begins with a dot"
            )
    kept = [_Place.of("what is read,", directory, folder=True) for directory in saved if places and _is_kept("data", directory)]
    for place, other in [*permutations(places, 2), *product(places, kept)]:
        if place.is_in(other) and not (other in kept and place.folder and place.real == other.real):
            raise StorageError(f"{place} is the same place as {other}, or inside it: one would replace the other; choose another place")


def _is_kept(option: str, place: str) -> bool:
    """Whether what is written there stays: not on the standard output, and not in a device."""
    if not place:
        raise StorageError(f"{option} is empty: expected a path")
    if "\0" in place:
        raise StorageError(f"{option} {place!r} cannot be a path, with a null byte in it: choose another one")
    return place != "-" and (not os.path.exists(place) or os.path.isfile(place) or os.path.isdir(place))


def _read_by(source: str, places: Iterable[_Place]) -> Iterator[_Place]:
    """The places that a pass over `source` reads, or inside which it reads."""
    system, pattern = located(source, home=True) if "\0" not in source else ("none", source)
    real = pattern if system else os.path.realpath(pattern)
    literal = not has_magic(pattern) or (not system and os.path.exists(pattern))
    there = [place for place in places if place.system == system]
    for place in there:
        spelled = {(pattern, place.path), (real, place.real)}
        if any(_names(named, f"{path}{name}", literal=literal) for named, path in spelled for name in place.within):
            yield place
    if not system:  # over what links lead to
        existing = [place for place in there if os.path.exists(place.real)]
        found = set(_without_links(_files(pattern, literal=literal))) if existing else set()
        yield from (place for place in existing if any(file == place.real or file.startswith(f"{place.real}/") for file in found))


def _names(pattern: str, place: str, *, literal: bool) -> bool:
    """Whether data of this name have a file at `place`, which need not be there yet."""
    if place == pattern:
        return True
    if literal and not place.startswith(f"{pattern}/"):
        return False
    if _hidden(place, pattern, literal=literal):
        return False
    matches = None if literal else _matcher(pattern)
    return literal or (matches is not None and any(matches(str(one)) for one in (place, *PurePath(place).parents)))


@cache
def _matcher(pattern: str) -> Callable[[str], object] | None:
    from fsspec.utils import glob_translate

    try:
        return re.compile(glob_translate(pattern)).match
    except ValueError:  # no pattern after all; whoever lists it says so
        return None


def _files(pattern: str, *, literal: bool) -> Iterator[str]:
    """The files of this machine that a pass reads now; links lead anywhere."""
    from fsspec.implementations.local import LocalFileSystem

    filesystem = LocalFileSystem()
    for found in [pattern] if literal else filesystem.glob(pattern):
        inside = filesystem.find(found) if os.path.isdir(found) else [found]
        yield from (file for file in inside if not _hidden(file, pattern, literal=literal))


def _without_links(files: Iterable[str]) -> Iterator[str]:
    real: dict[str, str] = {}  # of the folders, each looked at once
    for file in files:
        folder, name = os.path.split(file)
        if folder not in real:
            real[folder] = os.path.realpath(folder)
        yield os.path.realpath(file) if os.path.islink(file) else os.path.join(real[folder], name)


def _hidden(place: str, folder: str, *, literal: bool) -> bool:
    """Whether a name below a folder, or below the fixed part of a pattern, is left out of its data."""
    parts = PurePath(folder).parts
    fixed = len(parts) if literal else len(list(takewhile(lambda part: not has_magic(part), parts)))
    return any(map(is_hidden, PurePath(place).parts[fixed:]))


def is_hidden(name: str) -> bool:
    """Whether the name of a file or folder marks it as none of the data: ``_SUCCESS``, ``.part.crc``; but not ``_key=1``."""
    return name.startswith(".") or (name.startswith("_") and "=" not in name)
