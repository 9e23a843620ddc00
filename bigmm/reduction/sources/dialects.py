"""How delimited text is written: delimiter and compression by the name, missing values by custom."""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
from pyarrow import csv

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from bigmm.reduction.sources.files import DataFile

Codec = Literal["gzip", "bz2", "zstd", "lz4"]

_DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
_CODECS: dict[str, Codec] = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4"}
_NAME = re.compile(r".*(\.csv|\.tsv|\.tab)(\.gz|\.bz2|\.zst|\.lz4)?", re.IGNORECASE | re.DOTALL)
_MISSING = ["", "NA", "N/A", "n/a", "#N/A", "#NA", "<NA>", "NaN", "nan", "-NaN", "-nan", "NULL", "null"]
#: Arrow would take 1 and 0 for these, too: in a column that has both they are other levels.
_TRUE, _FALSE = ["true", "True", "TRUE"], ["false", "False", "FALSE"]
_BLOCK_BYTES = 2**20

#: Types are inferred from the first block; the task that reads is one of many, so it takes one thread.
READ_OPTIONS = csv.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES)


@dataclass(frozen=True, slots=True)
class Dialect:
    """Delimiter and compression of a file.

    Parameters
    ----------
    delimiter : str
        Between the values of a row.
    codec : str or None
        Arrow's name of the compression.
    """

    delimiter: str
    codec: Codec | None

    @property
    def parse_options(self) -> csv.ParseOptions:
        """For Arrow's reader."""
        return csv.ParseOptions(delimiter=self.delimiter)

    @contextmanager
    def opened(self, file: DataFile) -> Iterator[Any]:
        """Open a file for reading from its beginning, decompressed."""
        with file.open(read_ahead=True) as source:
            yield source if self.codec is None else pa.CompressedInputStream(source, self.codec)


def dialect_of(name: str) -> Dialect | None:
    """Dialect by the end of a name, None when it is not one of delimited text."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    ending, compression = match.groups()
    return Dialect(_DELIMITERS[ending.lower()], _CODECS.get((compression or "").lower()))


def convert_options(types: Mapping[str, pa.DataType]) -> csv.ConvertOptions:
    """Read these columns in these types; all columns, with inferred types, if there are none."""
    return csv.ConvertOptions(
        column_types=dict(types),
        include_columns=list(types),
        null_values=_MISSING,
        true_values=_TRUE,
        false_values=_FALSE,
        strings_can_be_null=True,
    )
