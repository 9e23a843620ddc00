"""One chunk of rows on one core: decoding alone, crossproducts, and their merge, in nanoseconds of CPU time a row.

python benchmarks/chunk.py [--rows N] [--chunks N] [--rounds N] [--out FILE]

Rows have the shape of grade points: two large integer keys, a text key, two covariates and y. "decode" is pyarrow
alone on the same columns; "read" is a chunk of the plan; the steps take turns, and the smallest time of each counts.
"""

from __future__ import annotations

import csv
import dataclasses
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import results

import bigmm
from bigmm.addition import add
from bigmm.design import Design
from bigmm.formula import parse_formula
from bigmm.reduction.partial import partial_crossproducts
from bigmm.reduction.sources import Chunk, plan_data

FORMULA = "y ~ 1 + x1 + x2 + (1 | student) + (1 | instructor) + (1 | dept)"
#: Rows a student has in all, and levels of the other factors.
ROWS_A_STUDENT, INSTRUCTORS, DEPARTMENTS = 31, 7_915, 102
#: "shuffled": chunks of a table of so many rows in random order; "sorted": students follow one another.
ALL_ROWS = 100_000_000
#: "wide" keys are random numbers of 62 bits.
ORDERS = ("sorted", "shuffled", "sorted, wide keys", "shuffled, wide keys")
STEPS = ("decode", "read", "crossproducts", "merge")


@click.command(help=__doc__.split("\n\n")[0] if __doc__ else None)
@click.option("--rows", default=1_000_000, show_default=True, help="Rows of a chunk, which is a row group.")
@click.option("--chunks", default=8, show_default=True, help="Chunks that are merged.")
@click.option("--rounds", default=5, show_default=True)
@click.option("--order", "orders", multiple=True, type=click.Choice(ORDERS), default=ORDERS, help="Which orders of rows.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the rows of the table to this CSV file.")
def main(rows: int, chunks: int, rounds: int, orders: tuple[str, ...], out: Path | None) -> None:
    """Measure every order of rows, and print a table."""
    pa.set_cpu_count(1)
    model, cores = results.machine()
    click.echo(f"{model}, {cores} cores; bigmm {bigmm.__version__}; {chunks} chunks of {rows:,} rows; ns of one core a row")
    click.echo(f"{'':22}" + "".join(f"{step:>14}" for step in STEPS) + f"{'all/decode':>14}")
    records = []
    for order in orders:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "rows.parquet"
            write(path, order, rows, chunks)
            ns = measure(path, rows, chunks, rounds)
        ratio = (ns["read"] + ns["crossproducts"] + ns["merge"]) / ns["decode"]
        click.echo(f"{order:22}" + "".join(f"{ns[step]:14.1f}" for step in STEPS) + f"{ratio:14.2f}")
        records.append({"order": order, "rows": rows, "chunks": chunks, **{s: f"{ns[s]:.4g}" for s in STEPS}, "cpu": model})
    if out is not None:
        with out.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(records[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(records)


def write(path: Path, order: str, rows: int, chunks: int) -> None:
    """Simulated rows as a Parquet file with one row group a chunk."""
    rng, n = np.random.default_rng(1), rows * chunks
    students = ALL_ROWS // ROWS_A_STUDENT
    in_order = order.startswith("sorted")
    student = rng.integers(0, max(n // ROWS_A_STUDENT, 1) if in_order else students, n)
    student = np.sort(student) if in_order else student
    keys = np.sort(rng.integers(0, 2**62, students)) if order.endswith("wide keys") else 10_000_000 + 3 * np.arange(students)
    instructor = rng.choice(INSTRUCTORS, n, p=rng.dirichlet(np.ones(INSTRUCTORS)))
    dept = np.where(rng.random(n) < 0.9, instructor % DEPARTMENTS, rng.integers(0, DEPARTMENTS, n))
    x1, x2 = rng.normal(size=(2, n))
    names = pa.array([f"department {i}" for i in range(DEPARTMENTS)])
    table = pa.table(
        {
            "student": keys[student],
            "instructor": 500_000 + 7 * instructor,
            "dept": pa.DictionaryArray.from_arrays(pa.array(dept.astype(np.int32)), names).cast(pa.string()),
            "x1": x1,
            "x2": x2,
            "y": 70 + x1 + rng.normal(size=n),
        }
    )
    pq.write_table(table, path, row_group_size=rows, compression="zstd", use_dictionary=["dept", "instructor"])


def measure(path: Path, rows: int, chunks: int, rounds: int) -> dict[str, float]:
    """Nanoseconds a row of each step, the smallest over the rounds."""
    kinds = dict.fromkeys(("y", "x1", "x2", "student", "instructor"), "number") | {"dept": "category"}
    design = Design(parse_formula(FORMULA), kinds, shift={"x1": 0.1, "x2": 0.1}, y_shift={"y": 70.0})
    pieces = row_groups(path, design, rows, chunks)
    file = pq.ParquetFile(path, read_dictionary=["dept"])
    table = pieces[-1].read(design.names)
    parts = [partial_crossproducts(piece.read(design.names), design) for piece in pieces]
    add(parts)
    steps: dict[str, tuple[Callable[[], object], int]] = {
        "decode": (lambda: file.read_row_group(chunks - 1, columns=list(design.names), use_threads=False), rows),
        "read": (lambda: pieces[-1].read(design.names), rows),
        "crossproducts": (lambda: partial_crossproducts(table, design), rows),
        "merge": (lambda: add(parts), rows * chunks),
    }
    turns = [{name: cpu_seconds(step) / n * 1e9 for name, (step, n) in steps.items()} for _ in range(rounds)]
    return {name: min(turn[name] for turn in turns) for name in steps}


def row_groups(path: Path, design: Design, rows: int, chunks: int) -> list[Chunk]:
    """One chunk a row group, whatever the plan would join."""
    whole = plan_data(str(path), design.names).chunks[0]
    first = whole.pieces[0]  # type: ignore[attr-defined]
    pieces = [dataclasses.replace(first, start=i, stop=i + 1, rows=rows) for i in range(chunks)]
    return [dataclasses.replace(whole, pieces=(piece,)) for piece in pieces]  # type: ignore[type-var]


def cpu_seconds(step: Callable[[], object]) -> float:
    """CPU time of the whole process: other programs on the machine do not count."""
    start = time.process_time()
    step()
    return time.process_time() - start


if __name__ == "__main__":
    main()
