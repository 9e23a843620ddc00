"""What a command writes: results, beside their place when that is lost, and single files that are complete or not there."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from bigmm.errors import StorageError
from bigmm.reduction.progress import Progress, ProgressCallback
from bigmm.urls import is_url, without_secrets

if TYPE_CHECKING:
    from bigmm.crossproducts import CrossProducts
    from bigmm.inference.fit import LinearMixedModelFit
    from bigmm.inference.predict import Predictor
    from bigmm.reduction.sources import Plan

_SCHEMA = pa.schema([("prediction", pa.float64())])


def save(found: CrossProducts | LinearMixedModelFit, place: str) -> None:
    """Save what a job has found; when its place cannot be written any more, beside it, so that hours of work are not lost.

    Raises
    ------
    StorageError
        For a place that cannot be written or holds files that bigmm has not written; it says where it is then.
    """
    try:
        found.save(place)
    except (StorageError, OSError) as error:
        raise rescued(found, place, error) from None


def rescued(found: CrossProducts | LinearMixedModelFit, place: str, error: Exception) -> Exception:
    """Save what a job has found beside its place; the error that kept it from there, which says where it is now."""
    from bigmm.storage import saved_kind

    names = (f"{place.rstrip('/')}.rescued{number or ''}" for number in itertools.count())
    try:
        free = next(name for name in names if not (saved_kind(name) if is_url(name) else os.path.lexists(name)))
        found.save(free)
    except (StorageError, OSError):
        return error
    return StorageError(f"{error}; what was found is in {without_secrets(free)!r}")


@contextlib.contextmanager
def replacing(target: str) -> Iterator[Path]:
    """A file to write; takes the place of `target`, a path or a URL, when the block ends well, is removed when it does not.

    Raises
    ------
    StorageError
        When `target` is a directory, or nothing can be written there.
    """
    with _writing(target) as scratch:
        yield scratch


def _writing(target: str) -> contextlib.AbstractContextManager[Path]:
    if is_url(target):
        return _uploaded(target)
    path = Path(target)
    if path.exists() and not (path.is_file() or path.is_dir()):
        return _copied(path)
    return _beside(Path(os.path.realpath(path)))  # what a link leads to is written, and the link stays


@contextlib.contextmanager
def _copied(target: Path) -> Iterator[Path]:
    """Of a device or a pipe, whose name no other file must take."""
    with tempfile.TemporaryDirectory(prefix="bigmm-") as folder:
        scratch = Path(folder, target.name)
        yield scratch
        try:
            with target.open("wb") as device, scratch.open("rb") as written:
                shutil.copyfileobj(written, device)
        except OSError as error:
            raise StorageError(f"cannot write {str(target)!r} ({error.strerror}): choose another place") from None


@contextlib.contextmanager
def _uploaded(url: str) -> Iterator[Path]:
    from bigmm.storage.remote import check_writable, remote, remote_folder

    parent, _, name = url.rstrip("/").rpartition("/")
    check_writable(parent)
    with tempfile.TemporaryDirectory(prefix="bigmm-") as folder:
        scratch = Path(folder, name)
        yield scratch
        with remote(url, "write"):
            place = remote_folder(url)
            place.filesystem.put_file(str(scratch), place.path)


@contextlib.contextmanager
def _beside(target: Path) -> Iterator[Path]:
    if target.is_dir():
        raise StorageError(f"{str(target)!r} is a directory: expected the name of a file to write")
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.stem}-", suffix=target.suffix, dir=target.parent)
    except OSError as error:
        raise StorageError(f"cannot write {str(target)!r} ({error.strerror}): choose another place") from None
    os.close(handle)
    scratch = Path(name)
    try:
        yield scratch
        scratch.chmod(0o644)
        scratch.replace(target)
    finally:
        scratch.unlink(missing_ok=True)


def write_predictions(predictor: Predictor, plan: Plan, path: Path, progress: ProgressCallback) -> int:
    """Write one column `prediction`, null in incomplete rows, in the order of the data; return the rows."""
    rows = 0
    with pq.ParquetWriter(path, _SCHEMA) as writer:
        for done, chunk in enumerate(plan.chunks, 1):
            values = predictor.table(chunk.read(predictor.names), chunk.name)
            writer.write_table(pa.table([pa.array(values, from_pandas=True)], schema=_SCHEMA))
            rows += len(values)
            progress(Progress("predict", done, len(plan.chunks)))
    return rows
