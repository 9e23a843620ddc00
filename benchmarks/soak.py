"""Steady memory: many fits in one process, or one pass after another for some time.

    python benchmarks/soak.py fits 500            # results/soak_fits.csv and .png
    python benchmarks/soak.py passes --minutes 120

Each line of the table is the resident memory after a fit, or a pass; the first tenth, in which code is compiled, is left out
of the slope that is printed.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import bigmm

RESULTS = Path(__file__).parent / "results"


def rows(n: int, seed: int = 1) -> pd.DataFrame:
    """Two crossed factors, one with a random slope."""
    rng = np.random.default_rng(seed)
    g, h, x = rng.integers(0, n // 30, n), rng.integers(0, 60, n), rng.normal(size=n)
    y = 1.0 + x + rng.normal(size=n // 30)[g] + 0.3 * x * rng.normal(size=n // 30)[g] + rng.normal(size=60)[h] + rng.normal(size=n)
    return pd.DataFrame({"y": y, "x": x, "g": g, "h": h})


def resident() -> float:
    """MiB of this process that are in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def fits(count: int) -> Iterator[float]:
    """Seconds of each fit; crossproducts, model and fit are made anew."""
    frame = rows(30_000)
    for _ in range(count):
        started = time.perf_counter()
        bigmm.lmer("y ~ x + (1 + x | g) + (1 | h)", frame, client=0).ranef()
        yield time.perf_counter() - started


def passes(minutes: float) -> Iterator[float]:
    """Seconds of each pass over three million rows in memory."""
    frame, end = rows(3_000_000), time.monotonic() + 60.0 * minutes
    while time.monotonic() < end:
        started = time.perf_counter()
        bigmm.reduce("y ~ x + (1 + x | g) + (1 | h)", frame, client=0)
        yield time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["fits", "passes"])
    parser.add_argument("count", type=int, nargs="?", default=500)
    parser.add_argument("--minutes", type=float, default=120.0)
    asked = parser.parse_args()
    seen = []
    for number, seconds in enumerate(fits(asked.count) if asked.what == "fits" else passes(asked.minutes), 1):
        gc.collect()
        seen.append({"number": number, "seconds": round(seconds, 4), "resident_mib": round(resident(), 2)})
    table = pd.DataFrame(seen)
    table.to_csv(RESULTS / f"soak_{asked.what}.csv", index=False)
    late = table.iloc[len(table) // 10 :]
    slope = np.polyfit(late["number"], late["resident_mib"], 1)[0] * 1024.0
    print(f"{len(table)} {asked.what} in {table['seconds'].sum():.0f} s: {late['resident_mib'].iloc[0]:.0f} MiB after a tenth, "
          f"{late['resident_mib'].iloc[-1]:.0f} MiB at the end, {slope:.2f} KiB more each")  # fmt: skip
    draw(table, asked.what)


def draw(table: pd.DataFrame, what: str) -> None:
    figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
    axes.plot(table["number"], table["resident_mib"])
    axes.set(xlabel=f"{what}", ylabel="resident memory (MiB)", ylim=(0, None))
    figure.savefig(RESULTS / f"soak_{what}.png", dpi=120)


if __name__ == "__main__":
    main()
