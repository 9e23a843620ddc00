"""A pass on disk: what is done of it, written after every batch, so that a killed pass goes on where it was.

A checkpoint is a directory: one directory of crossproducts for each slice of each segment, and an index that names
those that count. The index is replaced in one step when they are complete, so that a process killed at any moment
leaves the old state or the new one.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bigmm.errors import StorageError
from bigmm.reduction.segments import FAN_IN, Segment
from bigmm.reduction.work import BATCH, Work

logger = logging.getLogger(__name__)

INDEX = "checkpoint.json"
LOCK = "lock"
#: Directories of a checkpoint; and one that was being written.
_SEGMENT = re.compile(r"[0-9]{6,}-[0-9]{6,}\.[0-9]+")
_UNFINISHED = re.compile(rf"\.{_SEGMENT.pattern}-[^/]*")
_FORMAT = 3


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The place of one pass on disk, held by this process.

    Attributes
    ----------
    folder : Path
    identity : dict
        What decides the bits of the pass: data, design, and how the work is cut.
    """

    folder: Path
    identity: Mapping[str, Any]

    def load(self) -> list[Segment]:
        """Segments that are done."""
        found = read_index(self.folder)
        return [] if found is None else [_read_segment(self.folder, record) for record in found["segments"]]

    def save(self, segments: list[Segment]) -> None:
        """Write the segments that are not there yet, then the index, then remove what it no longer names."""
        from bigmm.storage import save_crossproducts

        records: list[dict[str, Any]] = []
        for segment in segments:
            names = [f"{segment.start:06d}-{segment.stop:06d}.{number}" for number in range(len(segment.slices))]
            for name, cp in zip(names, segment.slices, strict=True):
                if not (self.folder / name).exists():
                    save_crossproducts(cp, self.folder / name)
            records.append({"start": segment.start, "stop": segment.stop, "same_levels": segment.same_levels, "slices": names})
        _write_index(self.folder, {"format": _FORMAT, "identity": dict(self.identity), "segments": records})
        self.clear()

    def clear(self) -> None:
        """Remove what the index does not name: segments that were merged, or written by a process that was killed then."""
        found = read_index(self.folder)
        named = {name for record in (found["segments"] if found else ()) for name in record["slices"]}
        for entry in self.folder.iterdir():
            if entry.is_dir() and is_segment(entry.name) and entry.name not in named:
                shutil.rmtree(entry)


def is_segment(name: str) -> bool:
    """Whether a name inside a checkpoint's directory is one that a pass gives; what else lies there is not its to remove."""
    return (_SEGMENT.fullmatch(name) or _UNFINISHED.fullmatch(name)) is not None


@contextlib.contextmanager
def open_checkpoint(path: str | os.PathLike[str], work: Work, data: str, *, resume: bool) -> Iterator[Checkpoint]:
    """A checkpoint for a pass, new or to go on from; no other process can have it meanwhile.

    Parameters
    ----------
    path : str or path
        Its directory; made when it is not there.
    work : Work
    data : str
        Hash by which the data are known.
    resume : bool
        Whether to go on from what is there.

    Raises
    ------
    StorageError
        When the directory holds something else, or the checkpoint of another pass, or one although `resume` is off; when
        another process uses it.
    """
    folder = Path(path)
    _check_empty_or_ours(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK).open("a")
    except OSError as error:
        raise StorageError(f"cannot write the checkpoint {str(path)!r} ({error.strerror}): choose another place") from None
    with lock:
        _take(lock, folder)
        checkpoint = Checkpoint(folder, _identity(work, data))
        _check_same(checkpoint, resume=resume)
        checkpoint.clear()
        yield checkpoint


def _check_empty_or_ours(folder: Path) -> None:
    if folder.exists() and not (folder.is_dir() and is_ours({entry.name for entry in folder.iterdir()})):
        raise StorageError(f"{str(folder)!r} exists and is no checkpoint: choose another place")


def is_ours(names: Set[str]) -> bool:
    """Whether a directory with these names in it is a checkpoint, or may become one: it is empty, or a pass was killed early in it."""
    early = LOCK in names and all(name == LOCK or name.startswith((INDEX, ".")) or is_segment(name) for name in names)
    return INDEX in names or early or not names


def _take(lock: Any, folder: Path) -> None:
    """The lock is the operating system's: it goes with the process, however that ends."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise StorageError(f"another process uses the checkpoint {str(folder)!r}: wait for it, or choose another place") from None
    except OSError as error:  # a file system without locks
        logger.warning("the checkpoint %s cannot be locked (%s): see that one process at a time uses it", folder, error.strerror)


def _identity(work: Work, data: str) -> dict[str, Any]:
    from bigmm.storage.records import design_record

    return {
        "data": data,
        **design_record(work.design),
        "on_error": work.on_error,
        "slicing": [list(work.slicing.names), work.slicing.count],
        "cut": [len(work.chunks), BATCH, FAN_IN],
    }


#: What a person calls the parts of an identity: what was asked for first, for other parts follow from it.
_NAMES = {
    "formula": "formula",
    "weights": "weights",
    "offset": "offset",
    "na_action": "treatment of incomplete rows",
    "on_error": "treatment of what cannot be read",
    "data": "data, for data that have changed, or for another bigmm.chunk-bytes",
    "cut": "version of bigmm, which cuts the work otherwise",
}


def _check_same(checkpoint: Checkpoint, *, resume: bool) -> None:
    found = read_index(checkpoint.folder)
    if found is None:
        return
    place = str(checkpoint.folder)
    if not resume:
        raise StorageError(f"{place!r} holds a checkpoint: resume from it (resume=True, --resume), remove it, or choose another place")
    if found["format"] != _FORMAT:
        raise StorageError(f"the checkpoint {place!r} has format {found['format']}: expected {_FORMAT}; choose another place")
    wanted = json.loads(json.dumps(checkpoint.identity))
    for key, value in {key: wanted[key] for key in [*_NAMES, *wanted]}.items():
        if found["identity"].get(key) != value:
            shown = (
                f" ({found['identity'].get(key)!r:.80}; now {value!r:.80})" if key in ("formula", "weights", "offset", "na_action") else ""
            )
            raise StorageError(
                f"the checkpoint {place!r} was made for other {_NAMES.get(key, key)}{shown}: "
                "run with the same arguments and data, or choose another place"
            )


def read_index(folder: Path) -> dict[str, Any] | None:
    """The index, None where there is none yet.

    Raises
    ------
    StorageError
        When it is damaged.
    """
    index = folder / INDEX
    if not index.exists():
        return None
    try:
        found: dict[str, Any] = json.loads(index.read_text(encoding="utf-8"))
        _ = found["format"], found["identity"]["data"]
        if not all(_is_record(record, found["format"]) for record in found["segments"]):
            raise ValueError("its segments are damaged")
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise StorageError(f"the checkpoint {str(folder)!r} cannot be read ({error}): remove it and start again") from None
    return found


def _is_record(segment: Any, format_number: Any) -> bool:
    numbers, slices = (segment["start"], segment["stop"]), segment["slices"]
    known = all(type(number) is int for number in numbers) and bool(slices) and all(map(_SEGMENT.fullmatch, slices))
    return known and (format_number != _FORMAT or type(segment["same_levels"]) is bool)


def _read_segment(folder: Path, record: Mapping[str, Any]) -> Segment:
    from bigmm.storage import load

    try:
        slices: Any = tuple(load(folder / name) for name in record["slices"])
    except StorageError as error:
        damage = str(error).rpartition(": ")[0]  # without the advice, which is for what was saved by hand
        raise StorageError(f"the checkpoint {str(folder)!r} is damaged ({damage}): remove it and start again") from error
    return Segment(record["start"], record["stop"], slices, record["same_levels"])


def _write_index(folder: Path, record: Mapping[str, Any]) -> None:
    new = folder / f"{INDEX}.new"
    with new.open("w", encoding="utf-8") as file:
        json.dump(record, file, indent=1, ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())
    new.replace(folder / INDEX)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)  # the names, too, are on disk before anything old is removed
    finally:
        os.close(descriptor)
