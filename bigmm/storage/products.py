"""Crossproducts on disk: labels as JSON, levels and files as Parquet, arrays as npz."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bigmm.accounting import SkippedChunk
from bigmm.crossproducts import CrossProducts, GroupProducts, PairProducts
from bigmm.errors import StorageError
from bigmm.storage.arrays import read_arrays, read_table
from bigmm.storage.directories import listed, new_directory, write_manifest
from bigmm.storage.records import (
    columns_record,
    design_record,
    levels_frame,
    read_columns,
    read_design,
    read_levels,
    read_rows,
    read_sources,
    rows_record,
    sources_frame,
)

_SOURCES = "sources.parquet"


def save_crossproducts(cp: CrossProducts, path: str | os.PathLike[str]) -> None:
    """Write crossproducts as a directory; see `CrossProducts.save`."""
    with new_directory(path, "crossproducts") as folder:
        arrays: dict[str, Any] = {"XytXy": cp.XytXy}
        for i, group in enumerate(cp.groups):
            arrays |= {f"group{i}.rows": group.rows, f"group{i}.ZtZ": group.ZtZ, f"group{i}.ZtXy": group.ZtXy}
            levels_frame(group.names, group.levels).to_parquet(folder / f"levels-{i}.parquet", index=False)
        for (g, h), pair in cp.pairs.items():
            arrays |= {f"pair{g}-{h}.g_refs": pair.g_refs, f"pair{g}-{h}.h_refs": pair.h_refs, f"pair{g}-{h}.ZtZ": pair.ZtZ}
        sources_frame(cp.sources).to_parquet(folder / _SOURCES, index=False)
        np.savez(folder / "arrays.npz", **arrays)
        write_manifest(folder, "crossproducts", _crossproducts_record(cp))


def _crossproducts_record(cp: CrossProducts) -> dict[str, Any]:
    return {
        "design": design_record(cp.design),
        "columns": columns_record(cp.columns),
        "groups": [{"names": group.names, "columns": columns_record(group.columns)} for group in cp.groups],
        "pairs": list(cp.pairs),
        "rows": rows_record(cp.rows),
        "sum_log_weights": cp.sum_log_weights,
        "skipped": [{"name": chunk.name, "reason": chunk.reason, "rows": chunk.rows, "urls": chunk.urls} for chunk in cp.skipped],
        "plan_digest": cp.plan_digest,
        "digest": cp.digest,
    }


def load_crossproducts(folder: Path, record: Mapping[str, Any]) -> CrossProducts:
    """The crossproducts in a directory; `record` is its manifest.

    Raises
    ------
    StorageError
        When what was read is not what was saved, by the digest.
    """
    arrays = read_arrays(listed(folder, record, "arrays.npz"))
    groups = tuple(
        GroupProducts(
            names=tuple(group["names"]),
            levels=read_levels(
                read_table(listed(folder, record, f"levels-{i}.parquet"), len(arrays[f"group{i}.rows"])), len(group["names"])
            ),
            columns=read_columns(group["columns"]),
            rows=arrays[f"group{i}.rows"],
            ZtZ=arrays[f"group{i}.ZtZ"],
            ZtXy=arrays[f"group{i}.ZtXy"],
        )
        for i, group in enumerate(record["groups"])
    )
    pairs = {
        (g, h): PairProducts(arrays[f"pair{g}-{h}.g_refs"], arrays[f"pair{g}-{h}.h_refs"], arrays[f"pair{g}-{h}.ZtZ"])
        for g, h in record["pairs"]
    }
    XytXy = arrays["XytXy"]
    columns, rows = read_columns(record["columns"]), read_rows(record["rows"])
    design = read_design(record["design"])
    sources = read_sources(read_table(listed(folder, record, _SOURCES)))
    skipped = tuple(SkippedChunk(chunk["name"], chunk["reason"], chunk["rows"], tuple(chunk["urls"])) for chunk in record["skipped"])
    cp = CrossProducts(design, columns, XytXy, groups, pairs, rows, record["sum_log_weights"], str(record["plan_digest"]), sources, skipped)
    if cp.digest != record["digest"]:
        raise StorageError(f"{str(folder)!r} is damaged: its content has digest {cp.digest}, expected {record['digest']}; write it again")
    return cp
