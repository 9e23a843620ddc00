"""Crossproducts and fits on disk: directories of JSON, npz and Parquet. Nothing is pickled."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path

from bigmm.crossproducts import CrossProducts
from bigmm.errors import BigmmError, StorageError
from bigmm.inference.fit import LinearMixedModelFit
from bigmm.storage.digest import content_digest
from bigmm.storage.directories import check_target, read_manifest, saved_inside, saved_kind, stored
from bigmm.storage.fits import load_fit, save_fit
from bigmm.storage.products import load_crossproducts, save_crossproducts
from bigmm.storage.remote import downloaded
from bigmm.urls import is_url, without_secrets

__all__ = ["check_target", "content_digest", "load", "save_crossproducts", "save_fit", "saved_inside", "saved_kind", "stored"]

#: Directories that a message names.
_SHOWN = 4


def load(path: str | os.PathLike[str]) -> CrossProducts | LinearMixedModelFit:
    """Read what `CrossProducts.save` or `LinearMixedModelFit.save` wrote.

    Parameters
    ----------
    path : str or path
        The directory, or its URL.

    Raises
    ------
    StorageError
        When there is nothing of bigmm's, when a file is damaged, or when another version wrote it in a format of its own.
    """
    shown = without_secrets(str(path))
    kind = saved_kind(path)
    if kind is None:
        if not is_url(path) and not Path(path).exists():
            raise StorageError(f"{shown!r} does not exist: check the path")
        raise StorageError(f"{shown!r} holds neither crossproducts nor a fit: {_advice(path)}")
    with downloaded(path) if is_url(path) else nullcontext(Path(path)) as folder:
        return _load(folder, kind, shown)


def _advice(path: str | os.PathLike[str]) -> str:
    """What to name instead: fits of several responses lie one level deeper."""
    inside = [str(Path(path, name)) for name in saved_inside(path)]
    if not inside:
        return "expected a directory that bigmm has saved"
    return f"name one of the directories in it that do, {', '.join(map(repr, inside[:_SHOWN]))}{', ...' if len(inside) > _SHOWN else ''}"


def _load(folder: Path, kind: str, shown: str) -> CrossProducts | LinearMixedModelFit:
    try:
        record = read_manifest(folder, kind)
        return load_crossproducts(folder, record) if kind == "crossproducts" else load_fit(folder, record)
    except BigmmError:
        raise
    except Exception as error:  # whatever the libraries raise that read a damaged file, MemoryError among it
        raise StorageError(f"{shown!r} is damaged ({type(error).__name__}: {error}): write it again") from None
