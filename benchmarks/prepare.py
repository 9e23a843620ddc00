"""Writes one problem to a folder, in a process of its own: Parquet for Python, plain columns for R, crossproducts for bigmm.

python benchmarks/prepare.py PROBLEM FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pandas as pd
from problems import find

import bigmm
from bigmm.crossproducts import CrossProducts
from bigmm.formula import parse_formula


def main(name: str, folder: Path) -> None:
    """Make the data and write them."""
    problem = find(name)
    given = problem.make()
    if isinstance(given, CrossProducts):
        given.save(folder / "crossproducts")
        return
    given.to_parquet(folder / "rows.parquet", index=False)
    keys = {name for term in parse_formula(problem.formula).random for name in term.group}
    write_columns(given, folder, keys)
    bigmm.reduce(problem.formula, given, client=0).save(folder / "crossproducts")


def write_columns(data: pd.DataFrame, folder: Path, keys: set[str]) -> None:
    """A file of doubles for a column of numbers; codes from 1 and a line a level for text and for grouping factors."""
    kinds = {}
    for name in data:
        column = data[name]
        kinds[name] = "number" if pd.api.types.is_numeric_dtype(column) and name not in keys else "factor"
        if kinds[name] == "number":
            column.to_numpy("<f8").tofile(folder / f"{name}.number")
            continue
        codes, levels = pd.factorize(column, sort=True)
        (codes + 1).astype("<i4").tofile(folder / f"{name}.factor")
        (folder / f"{name}.levels").write_text("".join(f"{level}\n" for level in levels))
    (folder / "columns.json").write_text(json.dumps({"rows": len(data), "kinds": kinds}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
