"""Saved directories at URLs, in object stores for instance, which know neither folders nor renaming.

A directory is written on this machine and uploaded, its manifest last and an old one removed first: a reader finds all
of it or none of it. What an upload that broke off has left is marked, so that the next one may replace it. It is read
by way of a copy on this machine, whose digests are compared. Credentials are the business of the file system's library,
which takes them from the environment or from its own files.
"""

from __future__ import annotations

import contextlib
import posixpath
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bigmm.errors import BigmmError, StorageError
from bigmm.urls import text_without_secrets, without_secrets

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

#: An object that is there while others are uploaded.
UNFINISHED = "unfinished"
_LONGEST_REASON = 200


@dataclass(frozen=True, slots=True)
class RemoteFolder:
    """The objects under one prefix.

    Attributes
    ----------
    url : str
        For messages: without secrets.
    filesystem : fsspec.AbstractFileSystem
    path : str
        As the file system spells it.
    """

    url: str
    filesystem: AbstractFileSystem
    path: str

    def names(self) -> set[str]:
        """Names of what is directly inside; none when there is nothing."""
        self.filesystem.invalidate_cache()
        try:
            entries = self.filesystem.ls(self.path, detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return set()
        return {posixpath.basename(entry.rstrip("/")) for entry in entries if entry.rstrip("/") != self.path}

    def at(self, name: str) -> str:
        """The path of something inside."""
        return f"{self.path}/{name}"

    def upload(self, folder: Path, last: str) -> None:
        """Make this a copy of a local folder that has no folders in it; `last` is the first to go and the last to come."""
        old = self.names() - {UNFINISHED}
        new = {file.name for file in folder.iterdir()}
        self.filesystem.pipe_file(self.at(UNFINISHED), b"")
        if last in old:
            self.filesystem.rm_file(self.at(last))
        for name in [*sorted(new - {last}), last]:
            self.filesystem.put_file(str(folder / name), self.at(name))
        for name in old - new:
            self.filesystem.rm(self.at(name), recursive=True)
        self.filesystem.rm_file(self.at(UNFINISHED))

    def download(self, folder: Path) -> None:
        """Copy the files directly inside to a new local folder."""
        folder.mkdir(parents=True)
        for name in self.names() - {UNFINISHED}:
            if self.filesystem.isfile(self.at(name)):
                self.filesystem.get_file(self.at(name), str(folder / name))


def remote_folder(url: str) -> RemoteFolder:
    """The folder at a URL; nothing is asked of it yet.

    Raises
    ------
    StorageError
        When no installed library knows the protocol.
    """
    from fsspec.core import url_to_fs

    made = {"auto_mkdir": True} if url.startswith(("file:", "local:")) else {}  # object stores have no folders to make
    with remote(url, "reach"):
        filesystem, path = url_to_fs(url, **made)
    return RemoteFolder(without_secrets(url).rstrip("/"), filesystem, path.rstrip("/"))


@contextlib.contextmanager
def remote(url: str, verb: str) -> Iterator[None]:
    """Turn whatever a file system raises into a `StorageError` of one line."""
    try:
        yield
    except (BigmmError, MemoryError):
        raise
    except Exception as error:  # remote file systems raise what their libraries raise
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise StorageError(
            f"cannot {verb} {without_secrets(url)!r} ({text_without_secrets(lines[0])[:_LONGEST_REASON].rstrip('.')}): "
            "check the name, the credentials of the environment, and that the store answers"
        ) from None


def check_writable(url: str) -> None:
    """See that an object can be written there, by writing one and removing it."""
    folder = remote_folder(url)
    probe = folder.at(f".bigmm-{uuid.uuid4().hex}")
    with remote(url, "write"):
        folder.filesystem.pipe_file(probe, b"")
        folder.filesystem.rm_file(probe)


@contextlib.contextmanager
def uploading(url: str, manifest: str) -> Iterator[Path]:
    """A local directory to fill; uploaded when the block ends well."""
    with tempfile.TemporaryDirectory(prefix="bigmm-") as scratch:
        yield Path(scratch)
        with remote(url, "write"):
            remote_folder(url).upload(Path(scratch), manifest)


@contextlib.contextmanager
def downloaded(url: str) -> Iterator[Path]:
    """A copy on this machine, removed at the end."""
    with tempfile.TemporaryDirectory(prefix="bigmm-") as scratch:
        folder = Path(scratch, "copy")
        with remote(url, "read"):
            remote_folder(url).download(folder)
        try:
            yield folder
        except StorageError as error:  # about the copy, which nobody knows
            raise StorageError(str(error).replace(str(folder), without_secrets(url).rstrip("/"))) from None
