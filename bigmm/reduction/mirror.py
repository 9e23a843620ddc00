"""Checkpoints at URLs: kept on this machine, and copied to an object store after every batch.

The store's index is written after the segments that it names and before others are removed, each in one step, so that a
process killed at any moment leaves the old state or the new one, as on a disk. Object stores have no locks: see that
one process at a time uses a checkpoint.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bigmm.errors import StorageError
from bigmm.reduction.checkpoint import INDEX, LOCK, Checkpoint, is_ours, is_segment, open_checkpoint, read_index
from bigmm.reduction.segments import Segment
from bigmm.reduction.work import Work

if TYPE_CHECKING:
    from bigmm.storage.remote import RemoteFolder


@dataclass(frozen=True, slots=True)
class Mirror:
    """A checkpoint's directory and its copy.

    Attributes
    ----------
    folder : Path
    copy : RemoteFolder
    copied : set of str
        Segments that are in the copy as they are here.
    """

    folder: Path
    copy: RemoteFolder
    copied: set[str] = field(default_factory=set)

    def pull(self) -> None:
        """Fetch the index and the segments that it names.

        Raises
        ------
        StorageError
            When there is something else.
        """
        found = self.copy.names()
        if not is_ours(found):
            raise StorageError(f"{self.copy.url!r} exists and is no checkpoint: choose another place")
        if LOCK not in found:
            self.copy.filesystem.pipe_file(self.copy.at(LOCK), b"")
        if INDEX in found:
            self.folder.mkdir()
            for name in (LOCK, INDEX):
                self.copy.filesystem.get_file(self.copy.at(name), str(self.folder / name))
            self.copied.update(self._named())
            for name in self.copied:
                self._segment(name).download(self.folder / name)

    def push(self) -> None:
        """Copy new segments, then the index, then remove what it no longer names."""
        named = self._named()
        for name in named - self.copied:
            self._segment(name).upload(self.folder / name, "crossproducts.json")
        self.copy.filesystem.put_file(str(self.folder / INDEX), self.copy.at(INDEX))
        for name in filter(is_segment, self.copy.names() - named):
            self.copy.filesystem.rm(self.copy.at(name), recursive=True)
        self.copied.clear()
        self.copied.update(named)

    def _named(self) -> set[str]:
        index = read_index(self.folder)
        return {name for segment in (index["segments"] if index else ()) for name in segment["slices"]}

    def _segment(self, name: str) -> RemoteFolder:
        from bigmm.storage.remote import RemoteFolder

        return RemoteFolder(f"{self.copy.url}/{name}", self.copy.filesystem, self.copy.at(name))


@dataclass(frozen=True, slots=True)
class MirroredCheckpoint(Checkpoint):
    """A checkpoint that is copied to a URL whenever it is saved."""

    mirror: Mirror

    def save(self, segments: list[Segment]) -> None:
        """Save it here, then there."""
        from bigmm.storage.remote import remote

        Checkpoint.save(self, segments)  # super() knows no class with slots
        with remote(self.mirror.copy.url, "write"):
            self.mirror.push()


@contextlib.contextmanager
def open_any_checkpoint(path: str | os.PathLike[str], work: Work, data: str, *, resume: bool) -> Iterator[Checkpoint]:
    """`open_checkpoint`, for a path or a URL."""
    from bigmm.storage.remote import remote, remote_folder
    from bigmm.urls import is_url

    if not is_url(path):
        with open_checkpoint(path, work, data, resume=resume) as checkpoint:
            yield checkpoint
        return
    with tempfile.TemporaryDirectory(prefix="bigmm-") as scratch:
        mirror = Mirror(Path(scratch, "checkpoint"), remote_folder(path))
        try:
            with remote(path, "use"):
                mirror.pull()
            with open_checkpoint(mirror.folder, work, data, resume=resume) as kept:
                yield MirroredCheckpoint(kept.folder, kept.identity, mirror)
        except StorageError as error:  # about the folder here, which nobody knows
            raise StorageError(str(error).replace(str(mirror.folder), mirror.copy.url)) from None
