"""Directories that appear as a whole or not at all, and the manifests in them.

A directory is written beside its place under another name and moved there when it is complete (one at a URL: uploaded).
Its manifest lists every other file with its SHA-256, so that a damaged file is found before it is used.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Set
from glob import has_magic
from itertools import islice
from pathlib import Path
from typing import Any

from bigmm.errors import StorageError
from bigmm.storage.remote import UNFINISHED, check_writable, remote, remote_folder, uploading
from bigmm.urls import is_url, without_secrets

#: Raised when what is written changes; a version reads and writes one format.
FORMAT = 4
#: Ends of names of data files.
_DATA = (".parquet", ".parq", ".pq", ".csv", ".tsv", ".gz", ".bz2", ".xz", ".zst")
_MANIFESTS = {"crossproducts": "crossproducts.json", "fit": "estimates.json"}
#: Names of what bigmm writes there, and of what file systems and desktops do.
_OWN = re.compile(
    r"crossproducts\.json|estimates\.json|arrays\.npz|sources\.parquet|levels-[0-9]+\.parquet|ranef-[0-9]+-[^/]*\.parquet"
    r"|\.bigmm-[0-9a-f]{32}|\.DS_Store|\._[^/]*|Thumbs\.db|\.nfs[0-9a-f]+|\.fuse_hidden[0-9a-f]+|\.snapshot/"
)
#: Directories in a directory that are looked at.
_LOOKED_AT = 5000
#: Names of files in a message.
_SHOWN = 4
#: Of Linux's renameat2(): two names change places.
_EXCHANGE, _HERE = 2, -100


def saved_kind(path: str | os.PathLike[str]) -> str | None:
    """What a directory, or a URL's folder, holds: "crossproducts", "fit", or None."""
    _check_path(path)
    if is_url(path):
        return None if _holds_rows(path) else _kind_among(_remote_names(path))
    for kind, name in _MANIFESTS.items():
        if (Path(path) / name).is_file():
            return kind
    return None


def saved_inside(path: str | os.PathLike[str]) -> dict[str, str]:
    """What lies one level deeper in a directory: names and kinds of what was saved there, a few thousand at most."""
    found = {}
    for entry in [] if is_url(path) else islice(Path(path).glob("[!.]*/"), _LOOKED_AT):
        with contextlib.suppress(OSError):  # not ours to read
            found[entry.name] = saved_kind(entry)
    return {name: kind for name, kind in sorted(found.items()) if kind is not None}


def _check_path(path: object) -> None:
    if not isinstance(path, (str, os.PathLike)) or not str(path):
        found = "nothing" if path is None or isinstance(path, str) else type(path).__name__
        raise StorageError(f"found {found} for a path: expected that of a directory, or its URL, as text or as a pathlib.Path")
    try:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            Path("." if is_url(path) else path).lstat()
    except (OSError, ValueError) as error:  # too long a name; one with a null byte
        raise StorageError(
            f"{str(path)[:80]!r} cannot be a path ({getattr(error, 'strerror', None) or error}): choose another one"
        ) from None


def _holds_rows(url: str) -> bool:
    """Whether the words of a URL say that it names data, so that nothing has to be asked over the network."""
    return has_magic(url) or url.startswith(("http:", "https:")) or url.endswith(_DATA)


def _remote_names(url: str) -> set[str]:
    with remote(url, "read"):
        return remote_folder(url).names()


def _kind_among(names: set[str]) -> str | None:
    return next((kind for kind, name in _MANIFESTS.items() if name in names), None)


def check_target(path: str | os.PathLike[str], kind: str) -> None:
    """See that a directory could be saved at `path`, before the work that it will hold.

    Parameters
    ----------
    path : str or path
    kind : {"crossproducts", "fit"}
        What will be saved.

    Raises
    ------
    StorageError
        When `path` holds something else, or nothing can be written beside it.
    """
    _check_path(path)
    if is_url(path):
        _check_replaceable_url(path, kind)
        check_writable(path)
        return
    target = _target(path)
    _check_replaceable(target, path, kind)
    parent = next(folder for folder in target.parents if folder.exists())
    with _writing(path):
        Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=parent)).rmdir()


def _target(path: str | os.PathLike[str]) -> Path:
    """What is written or replaced: of a link what it leads to, so that whoever reads that sees it, too."""
    return Path(os.path.realpath(path))


def _check_replaceable(target: Path, path: str | os.PathLike[str], kind: str) -> None:
    with contextlib.suppress(FileNotFoundError):  # a current directory that was removed
        if Path.cwd().is_relative_to(target):
            # Another directory would take its name, and whoever works in it would see an empty one.
            raise StorageError(f"{str(path)!r} is the current directory, or holds it, and cannot be replaced: choose another name")
    if target.is_symlink():
        raise StorageError(f"{str(path)!r} is a link that leads to itself: choose another name")
    if target.exists() and saved_kind(target) != kind and not (target.is_dir() and not any(target.iterdir())):
        raise StorageError(f"{str(path)!r} exists and holds something else than saved {kind}: choose another place")
    if os.path.ismount(target):
        raise StorageError(f"{str(path)!r} is a mount point, which cannot be replaced: choose a directory inside it")
    if target.is_dir():
        manifest = target / _MANIFESTS[kind]
        theirs = set() if _is_ours(manifest) else {manifest.name}
        _check_own({entry.name + ("/" if entry.is_dir() else "") for entry in target.iterdir()}, path, theirs)


def _is_ours(manifest: Path) -> bool:
    """Whether a manifest is bigmm's, damaged ones included, or there is none."""
    try:
        record = json.loads(manifest.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return True
    return isinstance(record, dict) and "kind" in record


def _check_own(names: Set[str], path: str | os.PathLike[str], theirs: Set[str] = frozenset()) -> None:
    """See that nothing is in a directory beside what bigmm writes: it is removed when another takes its place."""
    if foreign := sorted(name for name in names if name in theirs or not _OWN.fullmatch(name)):
        raise StorageError(
            f"{without_secrets(str(path))!r} holds {', '.join(map(repr, foreign[:_SHOWN]))}, which bigmm has not written and would "
            "remove: move it to another place, or choose another one"
        )


def _check_replaceable_url(url: str, kind: str) -> None:
    names = _remote_names(url)
    if names and UNFINISHED not in names and _kind_among(names) != kind:
        raise StorageError(f"{without_secrets(url)!r} exists and holds something else than saved {kind}: choose another place")
    _check_own(names - {UNFINISHED}, url)


@contextlib.contextmanager
def _writing(path: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"cannot write beside {str(path)!r} ({error.strerror or error}): choose another place") from None


@contextlib.contextmanager
def new_directory(path: str | os.PathLike[str], kind: str) -> Iterator[Path]:
    """A directory to fill; moved to `path` when the block ends well, removed when it does not."""
    _check_path(path)
    if is_url(path):
        _check_replaceable_url(path, kind)
        with uploading(path, _MANIFESTS[kind]) as folder:
            yield folder
        return
    target = _target(path)
    _check_replaceable(target, path, kind)
    with _writing(path):
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield folder
        _sync(folder)
        with _writing(path):
            _move(folder, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sync(folder: Path) -> None:
    """Have the files on disk before the directory gets its name."""
    folder.chmod(0o755)
    for file in folder.iterdir():
        with file.open("rb") as handle:
            os.fsync(handle.fileno())


def _move(folder: Path, target: Path) -> None:
    """Give a complete directory its name; what stood there before is left under the other name."""
    if not target.exists():
        folder.rename(target)
    elif not _exchanged(folder, target):
        old = Path(tempfile.mkdtemp(prefix=f".{target.name}-old-", dir=target.parent))
        target.rename(old / target.name)
        try:
            folder.rename(target)
        except OSError:
            (old / target.name).rename(target)
            raise
        finally:
            shutil.rmtree(old, ignore_errors=True)


def _exchanged(one: Path, other: Path) -> bool:
    """Swap two directories in one step, so that a process killed at any moment leaves the old one or the new one."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    return renameat2 is not None and renameat2(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0


def write_manifest(folder: Path, kind: str, record: Mapping[str, Any]) -> None:
    """Write the manifest, last of all files: their digests, then `record`."""
    files = {file.name: _sha256(file) for file in sorted(folder.iterdir())}
    manifest = {"kind": kind, "format": FORMAT, "written_by": f"bigmm {_version()}", "files": files, **record}
    manifest["seal"] = _seal(manifest)
    (folder / _MANIFESTS[kind]).write_text(json.dumps(manifest, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def _seal(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest: estimates are in it, and a changed digit must not pass for another number."""
    text = json.dumps({name: value for name, value in manifest.items() if name != "seal"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _version() -> str:
    from bigmm import __version__

    return __version__


def read_manifest(folder: Path, kind: str) -> dict[str, Any]:
    """The manifest of a directory whose files are all there and undamaged.

    Raises
    ------
    StorageError
    """
    record: dict[str, Any] = json.loads((folder / _MANIFESTS[kind]).read_text(encoding="utf-8"))
    found = record["format"]
    if not isinstance(found, int):
        raise TypeError(f"format {found!r}")
    if found != FORMAT:
        remedy = "update bigmm" if found > FORMAT else "make it again with this version"
        raise StorageError(f"{str(folder)!r} was written by {record['written_by']} in format {found}: expected format {FORMAT}; {remedy}")
    for name, digest in record["files"].items():
        if Path(name).name != name:
            raise StorageError(f"{str(folder)!r} is damaged: its manifest names the file {name!r} outside the directory")
        file = folder / name
        if file.is_symlink():
            raise StorageError(f"{str(file)!r} is a link: expected a file of the directory itself; copy what it points to")
        if not file.is_file() or _sha256(file) != digest:
            raise StorageError(f"{str(file)!r} is {'damaged' if file.is_file() else 'missing'}: write the directory again")
    if record["seal"] != _seal(record):
        raise StorageError(f"{str(folder / _MANIFESTS[kind])!r} is damaged or was edited: its seal does not fit; write the directory again")
    return record


def stored(path: str | os.PathLike[str]) -> dict[str, Any]:
    """How a saved directory was written: path, format, version, bytes in all; and the digest of crossproducts."""
    kind = saved_kind(path)
    if kind is None:
        raise StorageError(f"{without_secrets(str(path))!r} is no longer there: was it moved?")
    if is_url(path):
        place = remote_folder(path)
        with remote(path, "read"):
            text = place.filesystem.cat_file(place.at(_MANIFESTS[kind])).decode("utf-8")
            sizes = [entry["size"] for entry in place.filesystem.ls(place.path, detail=True)]
    else:
        text = Path(path, _MANIFESTS[kind]).read_text(encoding="utf-8")
        sizes = [file.stat().st_size for file in Path(path).iterdir()]
    record = json.loads(text)
    about = {name: record[name] for name in ("format", "written_by", "digest") if name in record}
    return {"path": without_secrets(str(path)), **about, "disk_bytes": sum(sizes)}


def listed(folder: Path, record: Mapping[str, Any], name: str) -> Path:
    """A file whose digest was compared: one inside the directory."""
    if name not in record["files"]:
        raise StorageError(f"{str(folder)!r} is damaged: its manifest has no digest of {name!r}; write it again")
    return folder / name


def _sha256(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
