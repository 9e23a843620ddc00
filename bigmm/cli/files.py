"""Single files that a command writes: complete, or not there."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from bigmm.errors import StorageError
from bigmm.reduction.progress import Progress, ProgressCallback
from bigmm.urls import is_url

if TYPE_CHECKING:
    from bigmm.inference.predict import Predictor
    from bigmm.reduction.sources import Plan

_SCHEMA = pa.schema([("prediction", pa.float64())])


@contextlib.contextmanager
def replacing(target: str) -> Iterator[Path]:
    """A file to write; takes the place of `target`, a path or a URL, when the block ends well, is removed when it does not.

    Raises
    ------
    StorageError
        When `target` is a directory, or nothing can be written there.
    """
    with _uploaded(target) if is_url(target) else _beside(Path(target)) as scratch:
        yield scratch


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
