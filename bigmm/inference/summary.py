"""A fit as text, in the layout of lme4's summary()."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bigmm.columns import Array

if TYPE_CHECKING:
    from bigmm.inference.fit import LinearMixedModelFit
    from bigmm.solver.optimize import Optimization

#: lme4's max(3, getOption("digits") - 3).
_DIGITS = 4
#: More coefficients than this: no table of correlations (lme4.summary.cor.max).
_MAX_CORRELATIONS = 12


def summarize(fit: LinearMixedModelFit) -> str:
    """Title, criterion, random effects, counts, fixed effects, correlations, and what the reader should know."""
    parts = [_title(fit), _criterion(fit), _random_effects(fit), _fixed_effects(fit), _correlations(fit), _notes(fit)]
    return "\n".join(part for part in parts if part)


def _title(fit: LinearMixedModelFit) -> str:
    by = "REML" if fit.reml else "maximum likelihood"
    lines = [f"Linear mixed model fit by {by}", f"Formula: {fit.formula.text.strip()}"]
    lines += [f"Weights: {fit.design.weights}"] if fit.design.weights else []
    lines += [f" Offset: {fit.design.offset}"] if fit.design.offset else []
    return "\n".join(lines) + "\n"


def _criterion(fit: LinearMixedModelFit) -> str:
    if fit.reml:
        return f"REML criterion at convergence: {fit.objective:.1f}\n"
    values = [fit.aic, fit.bic, fit.loglik, fit.objective, fit.nobs - fit.npar]
    names = ["AIC", "BIC", "logLik", "deviance", "df.resid"]
    cells = [*(f"{value:.1f}" for value in values[:-1]), str(values[-1])]
    widths = [max(len(name), len(cell)) for name, cell in zip(names, cells, strict=True)]
    return "\n".join(" ".join(text.rjust(w) for text, w in zip(row, widths, strict=True)) for row in (names, cells)) + "\n"


def _random_effects(fit: LinearMixedModelFit) -> str:
    table = fit.varcorr
    variances = table[table["var2"].isna()]
    vcov, sd = format_numbers(variances["vcov"].to_numpy()), format_numbers(variances["sdcor"].to_numpy())
    rows, position = [["Groups", "Name", "Variance", "Std.Dev.", "Corr"]], 0
    for index, (label, term) in enumerate(zip(fit.covariance.labels, fit.covariance.terms, strict=True)):
        correlations = _correlation_rows(fit.template(index))
        for i, name in enumerate(term.names):
            rows.append([label if i == 0 else "", name, vcov[position], sd[position], correlations[i]])
            position += 1
    rows.append(["Residual", "", vcov[position], sd[position], ""])
    counts = "; ".join(f"{name}, {count}" for name, count in fit.ngroups.items())
    if not any(row[4] for row in rows[1:]):
        rows = [row[:4] for row in rows]
    return "Random effects:\n" + _columns(rows, numbers_from=5) + f"\nNumber of obs: {fit.nobs}, groups:  {counts}\n"


def _correlation_rows(T: Array) -> list[str]:
    """Lower triangle of a term's correlations, a row a line."""
    cov = T @ T.T
    sd = np.sqrt(np.diag(cov))
    with np.errstate(invalid="ignore", divide="ignore"):
        corr = np.round(cov / np.outer(sd, sd), 2) + 0.0  # no -0.00
    return [" ".join("  NaN" if math.isnan(c) else f"{c:5.2f}" for c in corr[i, :i]) for i in range(len(T))]


def _fixed_effects(fit: LinearMixedModelFit) -> str:
    if not len(fit.beta):
        return "No fixed effects\n"
    estimates, errors = fit.beta, fit.stderr.to_numpy()
    both = np.concatenate([estimates, errors])
    nonzero = np.abs(both[both != 0.0])
    smallest = 1 + math.floor(math.log10(nonzero.min())) if len(nonzero) else 0
    cells = format_numbers(np.round(both, max(1, _DIGITS - smallest)))
    t_values = format_numbers(np.round(estimates / errors, _DIGITS - 1))
    rows = [["", "Estimate", "Std. Error", "t value"]]
    p = len(estimates)
    rows += [list(row) for row in zip(fit.coef_names, cells[:p], cells[p:], t_values, strict=True)]
    return "Fixed effects:\n" + _columns(rows, numbers_from=1, indent="") + "\n"


def _correlations(fit: LinearMixedModelFit) -> str:
    p = len(fit.beta)
    if p < 2:
        return ""
    if p > _MAX_CORRELATIONS:
        return f"Correlation of Fixed Effects: not shown for {p} > {_MAX_CORRELATIONS} coefficients, see fit.vcov\n"
    sd = fit.stderr.to_numpy()
    corr = np.round(fit.vcov_beta / np.outer(sd, sd), 3) + 0.0  # no -0.000
    names, heads = abbreviate(fit.coef_names, 11), abbreviate(fit.coef_names, 6)
    rows = [["", *heads[:-1]]]
    rows += [[names[i], *(f"{corr[i, j]:.3f}" for j in range(i)), *[""] * (p - 1 - i)] for i in range(1, p)]
    return "Correlation of Fixed Effects:\n" + _columns(rows, numbers_from=1, indent="") + "\n"


def _notes(fit: LinearMixedModelFit) -> str:
    search = fit.optimization
    notes = []
    if fit.dropped:
        plural = "s" if len(fit.dropped) > 1 else ""
        notes.append(f"fixed-effects model matrix is rank deficient: dropped {len(fit.dropped)} column{plural} ({', '.join(fit.dropped)})")
    if fit.rows.dropped:
        missing = ", ".join(f"{name} {count}" for name, count in fit.rows.missing.items())
        notes.append(f"{fit.rows.dropped} of {fit.rows.read} rows dropped because they are incomplete (missing: {missing})")
    notes.append(f"optimizer ({search.settings.method}): {search.reason} after {search.nevals} evaluations{_certificate(search)}")
    if not fit.converged:
        notes.append("NOT CONVERGED: the estimates are those of the best theta seen; allow more evaluations")
    if fit.singular:
        notes.append("boundary (singular) fit: a variance is estimated as zero or a correlation as one")
    return "\n".join(notes)


def _certificate(search: Optimization) -> str:
    """By which numbers the search has converged."""
    if search.gradient is None or search.decrement is None:
        return ""
    return f" (gradient {search.gradient:.0e}, Newton decrement {search.decrement:.0e})"


def format_numbers(values: Array, digits: int = _DIGITS) -> list[str]:
    """Numbers with common decimals, so that each shows `digits` significant ones where it needs them: R's format()."""
    values = values + 0.0  # no -0.000
    finite = [float(v) for v in values if math.isfinite(v)]
    decimals = max((_decimals(v, digits) for v in finite), default=0)
    fixed = [f"{v:.{decimals}f}" for v in values]
    significant = max((_significant(v, digits) for v in finite), default=1)
    scientific = [f"{v:.{significant - 1}e}" for v in values]
    cells = fixed if max(map(len, fixed), default=0) <= max(map(len, scientific), default=0) else scientific
    width = max(map(len, cells), default=0)
    return [cell.replace("nan", "NaN").replace("inf", "Inf").rjust(width) for cell in cells]


def _mantissa(value: float, digits: int) -> tuple[int, int]:
    """Significant digits that a value needs, at most `digits`, and its exponent."""
    mantissa, exponent = f"{abs(value):.{digits - 1}e}".split("e")
    return len(mantissa.replace(".", "").rstrip("0")), int(exponent)


def _decimals(value: float, digits: int) -> int:
    needed, exponent = _mantissa(value, digits)
    return max(0, needed - 1 - exponent) if value else 0


def _significant(value: float, digits: int) -> int:
    return max(_mantissa(value, digits)[0], 1)


def abbreviate(names: Sequence[str], length: int) -> list[str]:
    """Shorten names as R's abbreviate(): those that would become equal keep more letters."""
    names = [name.strip() for name in names]
    distinct = list(dict.fromkeys(names))
    short = {name: _shorten(name, length) for name in distinct}
    while len(set(short.values())) < len(distinct):
        length += 1
        taken = list(short.values())
        short |= {name: _shorten(name, length) for name in distinct if taken.count(short[name]) > 1}
    return [short[name] for name in names]


def _shorten(name: str, length: int) -> str:
    """Drop lower-case vowels, then lower-case letters (first those that end a word), then anything; from the right.

    The letter that starts a word stays. Spaces part words and go at the end when anything is dropped.
    """
    letters = list(name)
    if len(letters) <= length:
        return "".join(letters)
    lower = "abcdefghijklmnopqrstuvwxyz"
    for removable, only_last in (("aeiou", True), ("aeiou", False), (lower, True), (lower, False), (None, False)):
        for i in range(len(letters) - 1, 0, -1):
            if len(letters) - letters.count(" ") <= length:
                break
            starts, ends = letters[i - 1] == " ", i + 1 == len(letters) or letters[i + 1] == " "
            if not starts and letters[i] != " " and (ends or not only_last) and (removable is None or letters[i] in removable):
                del letters[i]
    return "".join(letters).replace(" ", "")


def _columns(rows: Sequence[Sequence[str]], numbers_from: int = 2, indent: str = " ") -> str:
    """Rows of text as aligned columns: names to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [cell.ljust(w) if i < numbers_from else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
        lines.append((indent + " ".join(cells)).rstrip())
    return "\n".join(lines)
