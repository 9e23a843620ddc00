"""Crossproducts on disk: labels as JSON and Parquet, arrays as npz."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bigmm.crossproducts import CrossProducts, GroupProducts, PairProducts
from bigmm.storage.directories import listed, new_directory, write_manifest
from bigmm.storage.records import (
    columns_record,
    design_record,
    levels_frame,
    read_columns,
    read_design,
    read_levels,
    read_rows,
    rows_record,
)


def save_crossproducts(cp: CrossProducts, path: str | os.PathLike[str]) -> None:
    """Write crossproducts as a directory; see `CrossProducts.save`."""
    with new_directory(path, "crossproducts") as folder:
        arrays: dict[str, Any] = {"XytXy": cp.XytXy}
        for i, group in enumerate(cp.groups):
            arrays |= {f"group{i}.rows": group.rows, f"group{i}.ZtZ": group.ZtZ, f"group{i}.ZtXy": group.ZtXy}
            levels_frame(group.names, group.levels).to_parquet(folder / f"levels-{i}.parquet", index=False)
        for (g, h), pair in cp.pairs.items():
            arrays |= {f"pair{g}-{h}.g_refs": pair.g_refs, f"pair{g}-{h}.h_refs": pair.h_refs, f"pair{g}-{h}.ZtZ": pair.ZtZ}
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
        "digest": cp.digest,
    }


def load_crossproducts(folder: Path, record: Mapping[str, Any]) -> CrossProducts:
    """The crossproducts in a directory; `record` is its manifest."""
    with np.load(listed(folder, record, "arrays.npz"), allow_pickle=False) as arrays:
        groups = tuple(
            GroupProducts(
                names=tuple(group["names"]),
                levels=read_levels(pd.read_parquet(listed(folder, record, f"levels-{i}.parquet")), len(group["names"])),
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
    return CrossProducts(design, columns, XytXy, groups, pairs, rows, record["sum_log_weights"], record["digest"])
