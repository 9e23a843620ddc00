"""Rows whose answer is known: made in any number of pieces, in any order, on any machine.

Ratings of courses ("grades"): y = 3 + 0.1 x1 - 0.2 x2 + student + instructor + department + residual, simulated.
Students come in cohorts that share some years, so that neighbouring files share levels and distant ones do not.

The SmLs family of NIST's StRD ("smls"): k groups of n replicates, ten times as large as there, so that every value is a small
whole number and the mean squares are whole numbers, too; at any size the answer is exact.

Random slopes ("slopes"): one factor, four rows a level, y = 3 + x / 2 + b0 + b1 x + e with x = -3, -1, 1, 3. The b repeat every
eight levels and e is orthogonal to 1 and x in each level, so that REML's answer is exact at any size; all numbers are halves.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

GRADES = "y ~ 1 + x1 + x2 + (1|student) + (1|instructor) + (1|dept)"
SMLS = "y ~ 1 + (1|g)"
SLOPES = "y ~ x + (1 + x | g)"
INSTRUCTORS, DEPARTMENTS, GRADES_A_STUDENT = 7915, 102, 31
#: Standard deviations of students, instructors, departments and the residual.
SPREADS = {"student": 0.4, "instructor": 0.3, "dept": 0.15, "residual": 0.6}
_FILE_ROWS, _GROUP_ROWS = 2_000_000, 1_000_000


def grades(start: int, stop: int, rows: int, seed: int = 1) -> pd.DataFrame:
    """Rows `start` up to `stop` of a data set of `rows`."""
    rng = np.random.default_rng([seed, start])
    n, students = stop - start, max(rows // GRADES_A_STUDENT, 100)
    window = max(students // 10, 10)
    first = (students - window) * start // max(rows, 1)
    student = first + rng.integers(0, window, n)
    instructor = np.minimum((rng.random(n) ** 1.5 * INSTRUCTORS).astype(np.int64), INSTRUCTORS - 1)
    dept = instructor % DEPARTMENTS
    x1, x2 = rng.normal(size=n), rng.normal(size=n)
    y = 3.0 + 0.1 * x1 - 0.2 * x2 + SPREADS["residual"] * rng.normal(size=n)
    y += SPREADS["student"] * effect(student, 1) + SPREADS["instructor"] * effect(instructor, 2) + SPREADS["dept"] * effect(dept, 3)
    names = np.array([f"department {number:03d}" for number in range(DEPARTMENTS)], dtype=object)
    keys = {"student": 10_000_000 + student, "instructor": 500_000 + instructor}
    return pd.DataFrame({**keys, "dept": pd.Categorical.from_codes(dept, names), "x1": x1, "x2": x2, "y": y})


def effect(levels: np.ndarray, stream: int) -> np.ndarray:
    """A standard normal number for each level, the same in every piece: Box and Muller's from two hashes of it."""
    one, two = (_uniform(levels, 2 * stream + i) for i in (0, 1))
    return np.sqrt(-2.0 * np.log(one)) * np.cos(2.0 * np.pi * two)


def _uniform(levels: np.ndarray, stream: int) -> np.ndarray:
    """splitmix64 of Steele, Lea and Flood (2014), as numbers in (0, 1]."""
    z = (levels.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(stream * 0xD1B54A32D192ED03 % 2**64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) * 2.0**-53 + 2.0**-54


def smls_size(rows: int) -> tuple[int, int]:
    """Odd numbers of groups and of replicates, about a thousand a group, with at least `rows` rows."""
    replicates = 1001 if rows >= 100_000 else 101
    groups = -(-rows // replicates)
    return groups + (groups + 1) % 2, replicates


def smls(start: int, stop: int, groups: int, replicates: int) -> pd.DataFrame:
    """Rows of the SmLs family, ten times as large, as small as they can be stored, in an order that mixes the groups.

    Centres are 4 in the first group, 3 in even and 5 in other odd ones (counted from 1); the first replicate is the centre,
    the others lie one below and one above it in turn.
    """
    rows = groups * replicates
    step = next(step for step in range(int(rows * 0.618) | 1, rows, 2) if np.gcd(step, rows) == 1)
    # The first product is one of Python's numbers: it passes 2^63 where there are more than four billion rows.
    place = (start * step % rows + np.arange(stop - start, dtype=np.int64) * step) % rows
    group, replicate = np.divmod(place, replicates)
    centre = np.where(group == 0, 4, np.where(group % 2 == 1, 3, 5))
    inside = np.where(replicate == 0, 0, np.where(replicate % 2 == 1, -1, 1))
    return pd.DataFrame({"g": group.astype(np.int32), "y": (centre + inside).astype(np.float32)})


def exact_variances(replicates: int) -> tuple[float, float]:
    """REML's sigma^2 and sigma_a^2 of balanced one-way data: MSW and (MSB - MSW) / n.

    Within a group (n - 1) of n values lie 1 from the centre: MSW = 1. The centres are 4, and 3 and 5 in equal numbers, so that
    their squares about the mean 4 add up to k - 1: MSB = n.
    """
    return 1.0, (replicates - 1.0) / replicates


def write_grades(folder: Path, rows: int) -> None:
    """Write Parquet files of two million rows each, in row groups of a million; nothing when they are there."""
    done = folder / f".{rows}"
    if done.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    for number, start in enumerate(range(0, rows, _FILE_ROWS)):
        table = pa.Table.from_pandas(grades(start, min(start + _FILE_ROWS, rows), rows), preserve_index=False)
        pq.write_table(
            table, folder / f"part-{number:04d}.parquet", row_group_size=_GROUP_ROWS, use_dictionary=["dept"], compression="snappy"
        )
    done.touch()


_SLOPES_X, _SLOPES_E = np.array([-3.0, -1.0, 1.0, 3.0]), np.array([1.0, -1.0, -1.0, 1.0])
_SLOPES_B0 = np.array([2.0, 2.0, 2.0, -2.0, -2.0, -2.0, 2.0, -2.0])
_SLOPES_B1 = np.array([1.0, 1.0, 1.0, -1.0, -1.0, -1.0, -1.0, 1.0])


def slopes(start: int, stop: int, levels: int) -> pd.DataFrame:
    """Rows of the slopes problem, in an order that strews the four rows of a level over all of them; `levels` is a multiple of 8."""
    rows = 4 * levels
    step = next(step for step in range(int(rows * 0.618) | 1, rows, 2) if np.gcd(step, rows) == 1)
    level, place = np.divmod(np.arange(start, stop, dtype=np.int64) * step % rows, 4)
    x, cycle = _SLOPES_X[place], level % 8
    y = 3.0 + 0.5 * x + _SLOPES_B0[cycle] + _SLOPES_B1[cycle] * x + _SLOPES_E[place]
    return pd.DataFrame({"g": level.astype(np.int32), "x": x.astype(np.float32), "y": y.astype(np.float32)})


def exact_slopes(levels: int) -> dict[str, float]:
    """REML's answer of the slopes problem.

    Each level's least-squares line has X'X = diag(4, 20) and the residual sum of squares 4 on 2 degrees of freedom, so that
    sigma^2 = 2. The lines' covariance matrix, J / (J - 1) [4 1; 1 1] for J levels, is that of b and sigma^2 (X'X)^-1. Their mean
    is beta.
    """
    between = levels / (levels - 1.0)
    variances = {"b0": 4.0 * between - 0.5, "b1": between - 0.1, "b0.b1": between, "residual": 2.0}
    return {**variances, "intercept": 3.0, "x": 0.5}
