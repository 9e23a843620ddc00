"""Cut the InstEval ratings into eight Parquet files: ``cut_insteval.py ratings.csv directory``."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

PARTS = 8
#: All columns but the rating hold labels, even where these are digits.
LABELS = ("s", "d", "studage", "lectage", "service", "dept")


def cut(source: Path, directory: Path) -> None:
    """Write ``part-0.parquet`` to ``part-7.parquet``, all of them or none; a directory that is there already stays as it is."""
    if directory.exists():
        return
    table = csv.read_csv(source, convert_options=csv.ConvertOptions(column_types=dict.fromkeys(LABELS, pa.string())))
    rows = -(-table.num_rows // PARTS)
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}-") as scratch:
        parts = Path(scratch, "parts")
        parts.mkdir()
        for part in range(PARTS):
            pq.write_table(table.slice(part * rows, rows), parts / f"part-{part}.parquet")
        parts.rename(directory)


if __name__ == "__main__":
    cut(Path(sys.argv[1]), Path(sys.argv[2]))
