"""Arrays and tables from files that anybody may have written: nothing is unpickled, and no more is allocated than the file holds."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from bigmm.errors import StorageError

#: Bytes of a table in memory for each of its file: more is no table of ours.
_MOST_EXPANSION = 1000


def read_arrays(file: Path) -> dict[str, npt.NDArray[Any]]:
    """All arrays of an uncompressed npz file.

    Raises
    ------
    StorageError
        For compressed members, arrays of objects, and headers that promise another size than the file has.
    """
    with zipfile.ZipFile(file) as archive:
        size = file.stat().st_size
        for member in archive.infolist():
            if member.compress_type != zipfile.ZIP_STORED or member.file_size > size:
                raise StorageError(f"{str(file)!r} is damaged: {member.filename!r} is compressed; write the directory again")
            with archive.open(member) as stream:
                if _promised(stream) != member.file_size:
                    raise StorageError(
                        f"{str(file)!r} is damaged: {member.filename!r} has another size than it says; write the directory again"
                    )
    with np.load(file, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _promised(stream: IO[bytes]) -> int:
    """Bytes that an npy file has by its header; -1 for an array of objects."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    return -1 if dtype.hasobject or min(shape, default=0) < 0 else stream.tell() + math.prod(shape) * dtype.itemsize


def read_table(file: Path, rows: int | None = None) -> pd.DataFrame:
    """A Parquet file of so many rows.

    Raises
    ------
    StorageError
        When it has others, or would be many times as large in memory.
    """
    with pq.ParquetFile(file) as parquet:
        about = parquet.metadata
        held = sum(about.row_group(i).total_byte_size for i in range(about.num_row_groups))
        size = file.stat().st_size
        many = about.num_rows > size if rows is None else about.num_rows != rows  # a row of ours is more than a byte
        if many or held > _MOST_EXPANSION * size:
            raise StorageError(f"{str(file)!r} is damaged: {about.num_rows} rows of {held} bytes do not fit; write the directory again")
    table = pd.read_parquet(file)
    pa.default_memory_pool().release_unused()  # Arrow keeps what reading took for the next table; a fit can use it
    return table
