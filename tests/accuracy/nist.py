"""Data with certified answers, in exact arithmetic: NIST's StRD, and formulas that make more of the same kind."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.stats

ANOVA = Path(scipy.stats.__file__).parent / "tests" / "data" / "nist_anova"
DATA = Path(__file__).parents[1] / "data"
ANOVA_SETS = ("SiRstv", "AtmWtAg", *(f"SmLs{number:02}" for number in range(1, 10)))
_HEADER_LINES = 60
#: Digits of a double.
FULL = 15.95


def digits(found: float, exact: Fraction | float) -> float:
    """Correct significant digits: NIST's log relative error."""
    error = abs(Fraction(float(found)) - Fraction(exact))
    return FULL if error == 0 else min(FULL, -math.log10(float(error / abs(Fraction(exact)))))


def anova_rows(name: str) -> tuple[list[str], list[Decimal]]:
    """Treatments and responses of a set, as the file has them."""
    rows = [line.split() for line in (ANOVA / f"{name}.dat").read_text().splitlines()[_HEADER_LINES:] if line.strip()]
    return [row[0] for row in rows], [Decimal(row[1]) for row in rows]


def one_way(groups: Sequence[object], y: Sequence[Fraction]) -> tuple[Fraction, Fraction]:
    """REML's sigma^2 and sigma_a^2 of a balanced one-way model: MSW and (MSB - MSW) / n, exactly."""
    sums: dict[object, Fraction] = {}
    for group, value in zip(groups, y, strict=True):
        sums[group] = sums.get(group, Fraction(0)) + value
    k, n = len(sums), len(y) // len(sums)
    mean = sum(sums.values(), Fraction(0)) / len(y)
    between = n * sum((total / n - mean) ** 2 for total in sums.values()) / (k - 1)
    within = sum((value - sums[group] / n) ** 2 for group, value in zip(groups, y, strict=True)) / (len(y) - k)
    return Fraction(within), Fraction(between - within) / n


def smls(groups: int, replicates: int, base: float) -> pd.DataFrame:
    """The SmLs family for any odd numbers, as doubles: centres base + .4, then .3 and .5 in turn; replicates centre, -.1, +.1, ..."""
    tenths = np.where(np.arange(groups) == 0, 4, np.where(np.arange(groups) % 2 == 1, 3, 5))
    steps = np.where(np.arange(replicates) == 0, 0, np.where(np.arange(replicates) % 2 == 1, -1, 1))
    y = (base * 10.0 + np.add.outer(tenths, steps).ravel()) / 10.0  # the double nearest to each decimal
    return pd.DataFrame({"g": np.repeat(np.arange(groups, dtype=np.int32), replicates), "y": y})


def smls_variances(replicates: int) -> tuple[Fraction, Fraction]:
    """sigma^2 and sigma_a^2 of the decimals: 0.01 and 0.01 (1 - 1/n)."""
    return Fraction(1, 100), Fraction(replicates - 1, 100 * replicates)


def wampler(number: int) -> tuple[pd.DataFrame, list[float], float]:
    """NIST's Wampler sets by their formulas: x and y, certified coefficients of 1 .. x^5, residual standard deviation.

    Wampler1: y = 1 + x + ... + x^5; Wampler2: y = 1 + .1 x + ... + .00001 x^5; Wampler3 to 5 add 1, 100 and 10000 times
    an error to Wampler1 that is orthogonal to the powers of x.
    """
    x = np.arange(21.0)
    beta = [10.0**-power for power in range(6)] if number == 2 else [1.0] * 6
    y = sum(b * x**power for power, b in enumerate(beta))
    errors = [
        759,
        -2048,
        2048,
        -2048,
        2523,
        -2048,
        2048,
        -2048,
        1838,
        -2048,
        2048,
        -2048,
        1838,
        -2048,
        2048,
        -2048,
        2523,
        -2048,
        2048,
        -2048,
        759,
    ]
    size = {1: 0, 2: 0, 3: 1, 4: 100, 5: 10_000}[number]
    frame = pd.DataFrame({"x": x, "y": y + size * np.array(errors, dtype=float)})
    return frame, beta, {3: 2360.14502379268, 4: 236014.502379268, 5: 23601450.2379268}.get(number, 0.0)


def exact_rows(name: str) -> tuple[list[Fraction], list[list[Fraction]]]:
    """NIST's Longley or Filip as the file has them: y, and the other columns."""
    rows = [[Fraction(Decimal(text)) for text in line.split(",")] for line in (DATA / f"{name}.csv").read_text().split()[1:]]
    return [row[0] for row in rows], [row[1:] for row in rows]


#: NIST's coefficients of Longley, and of Filip: a polynomial of degree 10 in x, and their residual standard deviations.
LONGLEY = [
    -3482258.63459582,
    15.0618722713733,
    -0.0358191792925910,
    -2.02022980381683,
    -1.03322686717359,
    -0.0511041056535807,
    1829.15146461355,
]
LONGLEY_SIGMA = 304.854073561965
FILIP = [
    -1467.48961422980,
    -2772.17959193342,
    -2316.37108160893,
    -1127.97394098372,
    -354.478233703349,
    -75.1242017393757,
    -10.8753180355343,
    -1.06221498588947,
    -0.0670191154593408,
    -0.00246781078275479,
    -0.0000402962525080404,
]
FILIP_SIGMA = 0.00334801051324544
