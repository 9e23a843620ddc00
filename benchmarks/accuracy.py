"""Correct digits of sigma^2 and sigma_a^2 on NIST's balanced one-way sets: bigmm, lme4 (if R is there), MixedLM (if statsmodels is).

python benchmarks/accuracy.py writes results/accuracy.csv and results/accuracy.md.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).parent.parent))

import bigmm
from tests.accuracy.nist import ANOVA_SETS, anova_rows, digits, one_way

RESULTS = Path(__file__).parent / "results"
LME4 = (
    "suppressMessages(library(lme4)); d <- read.csv(commandArgs(TRUE)[1], colClasses = c('character', 'numeric'));"
    "m <- suppressWarnings(suppressMessages(lmer(y ~ 1 + (1 | g), d)));"
    "v <- as.data.frame(VarCorr(m))$vcov; cat(sprintf('%.17g\\n', rev(v)))"
)


def by_bigmm(frame: pd.DataFrame) -> tuple[float, float]:
    fit = bigmm.lmer("y ~ 1 + (1 | g)", frame, client=0)
    return fit.sigma**2, fit.sigma**2 * float(fit.theta[0]) ** 2


def by_lme4(frame: pd.DataFrame) -> tuple[float, float] | None:
    with tempfile.NamedTemporaryFile(suffix=".csv") as file:
        frame.to_csv(file.name, index=False)
        done = subprocess.run(["Rscript", "-e", LME4, file.name], capture_output=True, text=True, check=False)
    return None if done.returncode else tuple(map(float, done.stdout.split()))  # type: ignore[return-value]


def by_mixedlm(frame: pd.DataFrame) -> tuple[float, float] | None:
    import statsmodels.formula.api as smf

    try:
        fit = smf.mixedlm("y ~ 1", frame, groups="g").fit(reml=True)
    except Exception:  # singular matrices, no convergence
        return None
    return float(fit.scale), float(fit.cov_re.iloc[0, 0])


def has_lme4() -> bool:
    found = shutil.which("Rscript") and subprocess.run(["Rscript", "-e", "library(lme4)"], capture_output=True, check=False)
    return bool(found) and found.returncode == 0


def programs() -> dict[str, Callable[[pd.DataFrame], tuple[float, float] | None]]:
    """Those that are installed: one that is not has no line, for "fails" says that it has tried."""
    found: dict[str, Callable[[pd.DataFrame], tuple[float, float] | None]] = {"bigmm": by_bigmm}
    if has_lme4():
        found["lme4"] = by_lme4
    if importlib.util.find_spec("statsmodels"):
        found["MixedLM"] = by_mixedlm
    for name in {"lme4", "MixedLM"} - set(found):
        print(f"{name} is not installed: left out", file=sys.stderr)
    return found


def main() -> None:
    warnings.simplefilter("ignore")
    lines, present = [], programs()
    for name in ANOVA_SETS:
        groups, y = anova_rows(name)
        exact = one_way(groups, [Fraction(value) for value in y])
        best = one_way(groups, [Fraction(float(value)) for value in y])
        frame = pd.DataFrame({"g": [f"t{group}" for group in groups], "y": [float(value) for value in y]})
        found = {"best possible": tuple(map(float, best)), **{program: run(frame) for program, run in present.items()}}
        for program, values in found.items():
            marks = [None, None] if values is None else [round(max(digits(v, e), 0.0), 1) for v, e in zip(values, exact, strict=True)]
            lines.append({"set": name, "program": program, "sigma2": marks[0], "sigma_a2": marks[1]})
    table = pd.DataFrame(lines)
    table.to_csv(RESULTS / "accuracy.csv", index=False)
    (RESULTS / "accuracy.md").write_text(markdown(table))
    print(markdown(table))


def markdown(table: pd.DataFrame) -> str:
    programs = list(dict.fromkeys(table["program"]))
    text = f"| set | {' | '.join(programs)} |\n|{'---|' * (len(programs) + 1)}\n"
    for name, part in table.groupby("set", sort=False):
        cells = ["fails" if pd.isna(row.sigma2) else f"{row.sigma2} / {row.sigma_a2}" for row in part.itertuples()]
        text += f"| {name} | {' | '.join(cells)} |\n"
    return text


if __name__ == "__main__":
    main()
