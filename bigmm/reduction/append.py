"""Rows that are added to crossproducts later: only files that are not in them yet."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from bigmm.accounting import shown
from bigmm.addition import check_same
from bigmm.crossproducts import CrossProducts
from bigmm.design import Design
from bigmm.errors import DataError
from bigmm.reduction.sources.files import DataFile
from bigmm.reduction.sources.paths import is_paths, list_files

logger = logging.getLogger(__name__)

Mask = npt.NDArray[np.bool_]


def new_files(data: Any, into: CrossProducts, storage_options: Mapping[str, Any]) -> tuple[DataFile, ...]:
    """The files of `data` that the crossproducts do not have yet, by name, size and time of change.

    A file of which every row was skipped counts as new. Of one that was skipped in part it is said that the rest is not read now.

    Raises
    ------
    DataError
        For data that are no files, and for files that have changed since they were added.
    """
    if not is_paths(data):
        raise DataError(
            f"into= needs files, whose names tell what is there already, found {type(data).__name__}: reduce it by itself and add the two"
        )
    lines = into.sources.take(~_skipped_whole(into))
    known: dict[str, set[tuple[int, str]]] = {}
    for url, size, version in zip(lines.urls, lines.sizes.tolist(), lines.versions, strict=True):
        known.setdefault(url, set()).add((size, version))
    files = list_files(data, storage_options)
    changed = [file.url for file in files if file.url in known and (file.size, file.version) not in known[file.url]]
    if changed:
        raise DataError(
            f"{shown(changed)} changed after it was added (another size or time), or some of its row groups were added: subtract the "
            "crossproducts of what it was and add it again, or leave it out"
        )
    listed = {file.url for file in files}
    partly = [url for url in itertools.compress(into.sources.urls, _skipped(into) & (into.sources.read > 0)) if url in listed]
    if partly:
        logger.warning(
            "a part of %s was skipped when it was added, and is not read now: for its rows subtract what was added of it, and add it again",
            shown(partly),
        )
    return tuple(file for file in files if file.url not in known)


def _skipped_whole(cp: CrossProducts) -> Mask:
    return np.asarray(_skipped(cp) & (cp.sources.read == 0))


def _skipped(cp: CrossProducts) -> Mask:
    """Files that were skipped, in whole or in part; how many rows that were is not known of every kind of file."""
    urls = {url for chunk in cp.skipped for url in chunk.urls}
    return np.array([url in urls for url in cp.sources.urls], dtype=bool)


def without_skipped(cp: CrossProducts, files: tuple[DataFile, ...]) -> CrossProducts:
    """The same crossproducts, in which files that are about to be read are no longer listed as skipped."""
    urls = {file.url for file in files}
    again = _skipped_whole(cp) & np.array([url in urls for url in cp.sources.urls], dtype=bool)
    if not again.any():
        return cp
    skipped = tuple(chunk for chunk in cp.skipped if not chunk.urls or not urls.issuperset(chunk.urls))
    return replace(cp, sources=cp.sources.take(~again), skipped=skipped)


def with_constants_of(into: CrossProducts, design: Design) -> Design:
    """The design of the pass over the new files: the shifts are those of the crossproducts that it adds to.

    Raises
    ------
    LabelError
        When the formula, weights, offset or kinds of columns are others.
    """
    check_same(into.design, design)
    return replace(design, shift=into.design.shift, y_shift=into.design.y_shift)
