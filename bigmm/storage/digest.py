"""One number for all that crossproducts hold: equal when they are equal to the bit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from bigmm.crossproducts import CrossProducts
from bigmm.storage.records import columns_record, design_record, rows_record

#: Bytes that are hashed by themselves, so that the processors share a large array; another number is another digest.
_BLOCK = 2**24


def content_digest(cp: CrossProducts) -> str:
    """SHA-256 of a record of labels and counts, then of those of every array's blocks, in one fixed order; hexadecimal.

    Numbers are hashed where they lie, in little-endian order, without a copy. Where the rows came from, by which plan, is
    left out: the same rows in other folders have the same digest.
    """
    digest = hashlib.sha256(json.dumps(_record(cp), sort_keys=True, allow_nan=False).encode())
    with ThreadPoolExecutor() as pool:
        for name, array in _arrays(cp):
            values = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
            digest.update(f"\n{name} {values.dtype.str} {values.shape}\n".encode())
            raw: Any = values.reshape(-1).view(np.uint8)
            for block in pool.map(_sha256, (raw[start : start + _BLOCK] for start in range(0, len(raw), _BLOCK))):
                digest.update(block)
    return digest.hexdigest()


def _sha256(block: Any) -> bytes:
    return hashlib.sha256(block).digest()


def _record(cp: CrossProducts) -> dict[str, Any]:
    return {
        "design": design_record(cp.design),
        "columns": columns_record(cp.columns),
        "groups": [{"names": group.names, "columns": columns_record(group.columns)} for group in cp.groups],
        "pairs": sorted(cp.pairs),
        "rows": rows_record(cp.rows),
        "sum_log_weights": float(cp.sum_log_weights).hex(),
    }


def _arrays(cp: CrossProducts) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    yield "XytXy", cp.XytXy
    for i, group in enumerate(cp.groups):
        for depth in range(group.levels.nlevels):
            for part, array in _label_arrays(group.levels.get_level_values(depth)):
                yield f"levels {i}.{depth} {part}", array
        yield from ((f"group {i} rows", group.rows), (f"group {i} ZtZ", group.ZtZ), (f"group {i} ZtXy", group.ZtXy))
    for g, h in sorted(cp.pairs):
        pair = cp.pairs[g, h]
        yield from ((f"pair {g} {h} {name}", getattr(pair, name)) for name in ("g_refs", "h_refs", "ZtZ"))


def _label_arrays(labels: pd.Index) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """Labels as arrays: the bytes of text and where each ends; numbers, truth values and moments as they are."""
    if len(labels) == 0:
        return
    if isinstance(labels.dtype, np.dtype) and labels.dtype.kind in "iu":
        small = labels.dtype != np.uint64 or int(labels.max()) < 2**63
        yield "integers", labels.to_numpy(dtype=np.int64 if small else np.uint64)  # of any width, like in sums
    elif isinstance(labels.dtype, np.dtype) and labels.dtype.kind in "fb":
        yield str(labels.dtype), labels.to_numpy()
    elif labels.dtype.kind == "M":
        yield str(labels.dtype), np.asarray(labels.asi8)  # type: ignore[attr-defined]
    else:
        text: Any = pa.array(labels, type=pa.large_string())
        text = text.combine_chunks() if isinstance(text, pa.ChunkedArray) else text
        ends = np.frombuffer(text.buffers()[1], dtype=np.int64)[text.offset : text.offset + len(text) + 1]
        yield "ends", ends - ends[0]
        yield "text", np.frombuffer(text.buffers()[2], dtype=np.uint8)[ends[0] : ends[-1]] if ends[-1] else np.zeros(0, dtype=np.uint8)
