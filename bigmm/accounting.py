"""What became of the rows: in all, and by the file that they came from."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from bigmm.errors import DataError

Counts = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

#: Urls of what is no file begin with this: nothing tells whether two of them are the same data.
_NO_FILE = "<"
#: Files that an error names.
_NAMED = 3


@dataclass(frozen=True, slots=True)
class RowCounts:
    """What became of the rows: ``read == used + dropped``.

    Attributes
    ----------
    read, used : int
    missing : dict of {column: rows}
        Rows in which the column is missing; a row with two gaps counts under both.
    """

    read: int = 0
    used: int = 0
    missing: Mapping[str, int] = field(default_factory=dict)

    @property
    def dropped(self) -> int:
        """Incomplete rows."""
        return self.read - self.used


@dataclass(frozen=True, slots=True)
class Origin:
    """Where some consecutive rows of a chunk come from: a file, as it was when the plan was made.

    Attributes
    ----------
    url : str
        ``<table>`` and the like for what is no file.
    size : int
        Bytes, -1 when nobody tells.
    version : str
        Entity tag or time of the last change, empty when nobody tells.
    rows : int or None
        Rows by the file's footer, None when they are not known before reading.
    """

    url: str
    size: int = -1
    version: str = ""
    rows: int | None = None


@dataclass(frozen=True, slots=True)
class SkippedChunk:
    """A chunk that could not be read and was left out because the user asked for that.

    Attributes
    ----------
    name : str
        File and row groups.
    reason : str
    rows : int or None
        Rows by the footers, None when they are not known.
    urls : tuple of str
        The files that it is of.
    """

    name: str
    reason: str
    rows: int | None = None
    urls: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Source:
    """One line of `Sources`: a file and what became of its rows."""

    url: str
    size: int
    version: str
    rows: RowCounts
    skipped: int

    @property
    def is_file(self) -> bool:
        """Whether it can be told from others by its name."""
        return not self.url.startswith(_NO_FILE)


def _no_counts() -> Counts:
    return np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Sources:
    """The files that rows came from, in the order of the plan; a hundred thousand of them are a few arrays.

    Attributes
    ----------
    urls, versions : tuple of str, length F
    sizes : (F,) int64
        Bytes when the plan was made; -1 unknown.
    read, used : (F,) int64
        Rows. Those that were taken away again from data that did not list the file count as negative.
    skipped : (F,) int64
        Rows, by the footer, of chunks that were left out.
    missing : dict of {column: (F,) int64}
        Rows in which the column is missing.
    """

    urls: tuple[str, ...] = ()
    versions: tuple[str, ...] = ()
    sizes: Counts = field(default_factory=_no_counts)
    read: Counts = field(default_factory=_no_counts)
    used: Counts = field(default_factory=_no_counts)
    skipped: Counts = field(default_factory=_no_counts)
    missing: Mapping[str, Counts] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.urls)

    def __iter__(self) -> Iterator[Source]:
        for i, (url, version) in enumerate(zip(self.urls, self.versions, strict=True)):
            missing = {name: int(counts[i]) for name, counts in self.missing.items() if counts[i]}
            yield Source(url, int(self.sizes[i]), version, RowCounts(int(self.read[i]), int(self.used[i]), missing), int(self.skipped[i]))

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        counts = [self.sizes, self.read, self.used, self.skipped, *self.missing.values()]
        return sum(each.nbytes for each in counts) + sum(map(sys.getsizeof, itertools.chain(self.urls, self.versions)))

    @property
    def are_files(self) -> Mask:
        """Which can be told from others by their name."""
        return np.array([not url.startswith(_NO_FILE) for url in self.urls], dtype=bool)

    def _key(self, place: int) -> tuple[str, int, str]:
        return self.urls[place], int(self.sizes[place]), self.versions[place]

    def take(self, keep: Mask) -> Sources:
        """Some of the lines."""
        urls, versions = (tuple(itertools.compress(texts, keep)) for texts in (self.urls, self.versions))
        arrays = (self.sizes[keep], self.read[keep], self.used[keep], self.skipped[keep])
        return Sources(urls, versions, *arrays, {name: counts[keep] for name, counts in self.missing.items() if counts[keep].any()})

    def negative(self) -> Sources:
        """The same files, their rows taken away."""
        missing = {name: -counts for name, counts in self.missing.items()}
        return Sources(self.urls, self.versions, self.sizes, -self.read, -self.used, -self.skipped, missing)


def count_sources(origins: Sequence[Origin], complete: Mask, missing: Mapping[str, Mask], where: str) -> Sources:
    """Count one chunk's rows by file.

    Parameters
    ----------
    origins : sequence of Origin
        In the order of the rows.
    complete : (rows read,) bool
    missing : dict of {column: (rows read,) bool}
    where : str
        The chunk's name, for messages.

    Raises
    ------
    DataError
        When the chunk has another number of rows than its plan says.
    """
    known = [origin.rows for origin in origins if origin.rows is not None]
    lengths = known if len(known) == len(origins) else [len(complete)]
    if sum(lengths) != len(complete) or len(lengths) != len(origins):
        raise DataError(
            f"{len(complete)} rows were read of {where}, expected {sum(known)}: did it change after it was planned? start again"
        )
    cuts = list(itertools.pairwise(itertools.accumulate(lengths, initial=0)))

    def by_piece(mask: Mask) -> Counts:
        return np.array([np.count_nonzero(mask[start:stop]) for start, stop in cuts], dtype=np.int64)

    counts = (np.array(lengths, dtype=np.int64), by_piece(complete), np.zeros(len(cuts), dtype=np.int64))
    return add_sources([_sources(origins, *counts, {name: by_piece(mask) for name, mask in missing.items()})])


def skipped_sources(origins: Sequence[Origin]) -> Sources:
    """The files of a chunk that was not read, with the rows that their footers promise."""
    rows = np.array([origin.rows or 0 for origin in origins], dtype=np.int64)
    return add_sources([_sources(origins, np.zeros_like(rows), np.zeros_like(rows), rows, {})])


def _sources(origins: Sequence[Origin], read: Counts, used: Counts, skipped: Counts, missing: Mapping[str, Counts]) -> Sources:
    sizes = np.array([origin.size for origin in origins], dtype=np.int64)
    return Sources(tuple(o.url for o in origins), tuple(o.version for o in origins), sizes, read, used, skipped, missing)


def add_sources(parts: Sequence[Sources]) -> Sources:
    """Lines of the same file, of the same size and version, become one; files stand in order of appearance."""
    filled = [part for part in parts if len(part)]
    if not filled:
        return Sources()
    names = dict.fromkeys(name for part in filled for name in part.missing)
    none = [np.zeros(len(part), dtype=np.int64) for part in filled]
    lines = Sources(
        urls=tuple(itertools.chain.from_iterable(part.urls for part in filled)),
        versions=tuple(itertools.chain.from_iterable(part.versions for part in filled)),
        sizes=np.concatenate([part.sizes for part in filled]),
        read=np.concatenate([part.read for part in filled]),
        used=np.concatenate([part.used for part in filled]),
        skipped=np.concatenate([part.skipped for part in filled]),
        missing={name: np.concatenate([part.missing.get(name, no) for part, no in zip(filled, none, strict=True)]) for name in names},
    )
    begin = np.cumsum([len(part) for part in filled[:-1]], dtype=np.intp)
    goes_on = np.array([one._key(-1) == other._key(0) for one, other in itertools.pairwise(filled)], dtype=bool)
    first = np.ones(len(lines), dtype=bool)
    first[begin[goes_on]] = False
    lines = lines if first.all() else _collapsed(lines, first)
    return lines if len(set(lines.urls)) == len(lines) else _joined(lines)


def _collapsed(lines: Sources, first: Mask) -> Sources:
    """The usual case of a pass: a file that one part ends with and the next begins with."""
    starts = np.flatnonzero(first)
    kept = lines.take(first)
    missing = {name: np.add.reduceat(counts, starts) for name, counts in lines.missing.items()}
    read, used, skipped = (np.add.reduceat(counts, starts) for counts in (lines.read, lines.used, lines.skipped))
    return Sources(kept.urls, kept.versions, kept.sizes, read, used, skipped, missing)


def _joined(lines: Sources) -> Sources:
    """The same counts with each file once."""
    place_of: dict[tuple[str, int, str], int] = {}
    keys = zip(lines.urls, lines.sizes.tolist(), lines.versions, strict=True)
    places = np.array([place_of.setdefault(key, len(place_of)) for key in keys], dtype=np.intp)
    urls, sizes, versions = zip(*place_of, strict=True)

    def total(counts: Counts) -> Counts:
        out = np.zeros(len(place_of), dtype=np.int64)
        np.add.at(out, places, counts)
        return out

    counts = (total(lines.read), total(lines.used), total(lines.skipped))
    missing = {name: total(each) for name, each in lines.missing.items()}
    return Sources(urls, versions, np.array(sizes, dtype=np.int64), *counts, missing)


def shown(urls: Sequence[str]) -> str:
    """A few files by name, and how many more there are."""
    listed = ", ".join(repr(url) for url in urls[:_NAMED])
    return listed if len(urls) <= _NAMED else f"{listed} and {len(urls) - _NAMED:,} more files"
