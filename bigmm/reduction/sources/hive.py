"""Columns that are written in the names of folders: `year=2024/site=a/part-0.parquet`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from bigmm.reduction.sources.schema import ENCODED_TEXT, TEXT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bigmm.reduction.sources.files import DataFile

_MISSING = "__HIVE_DEFAULT_PARTITION__"
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")


def hive_types(files: Sequence[DataFile]) -> dict[str, pa.DataType]:
    """Type of each key: int64 when every value is an integer, else text."""
    values: dict[str, set[str]] = {}
    for file in files:
        for key, value in file.keys:
            values.setdefault(key, set()).add(value)
    return {key: pa.int64() if _are_integers(found) else TEXT for key, found in values.items()}


def _are_integers(values: set[str]) -> bool:
    present = values - {_MISSING}
    return bool(present) and all(_INTEGER.fullmatch(value) for value in present)


def with_keys(schema: pa.Schema, file: DataFile, types: dict[str, pa.DataType]) -> pa.Schema:
    """Extend the schema of a file by the keys of its folders; a column of the file hides the key of its name."""
    for key, _ in file.keys:
        if key not in schema.names:
            schema = schema.append(pa.field(key, types[key]))
    return schema


def key_columns(file: DataFile, names: Sequence[str], schema: pa.Schema, rows: int) -> dict[str, pa.ChunkedArray[Any]]:
    """Columns of the keys `names`, each the same value as many times as there are rows."""
    return {name: _repeated(dict(file.keys)[name], schema.field(name).type, rows) for name in names}


def _repeated(text: str, dtype: pa.DataType, rows: int) -> pa.ChunkedArray[Any]:
    if text == _MISSING:
        return pa.chunked_array([pa.nulls(rows).cast(ENCODED_TEXT if dtype == TEXT else dtype)])
    if dtype == TEXT:
        indices = pa.repeat(pa.scalar(0, pa.int32()), rows)
        return pa.chunked_array([pa.DictionaryArray.from_arrays(indices, pa.array([text], TEXT))])
    return pa.chunked_array([pa.repeat(pa.scalar(int(text), pa.int64()), rows).cast(dtype)])
