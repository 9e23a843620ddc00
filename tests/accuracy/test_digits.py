"""Digits of variances and coefficients against certified and exact values: as many as double precision allows, or one less."""

from __future__ import annotations

import warnings
from fractions import Fraction

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import bigmm
from bigmm.inference.fit import LinearMixedModelFit
from bigmm.solver.pls import Evaluation
from tests.accuracy.nist import (
    ANOVA_SETS,
    DATA,
    FILIP,
    FILIP_SIGMA,
    LONGLEY,
    LONGLEY_SIGMA,
    anova_rows,
    digits,
    exact_rows,
    one_way,
    smls,
    smls_variances,
    wampler,
)


def variances(fit: LinearMixedModelFit) -> tuple[float, float]:
    return fit.sigma**2, fit.sigma**2 * float(fit.theta[0]) ** 2


@pytest.mark.parametrize("name", ANOVA_SETS)
def test_nist_anova(name: str) -> None:
    """Against the decimals of the file; the best is what exact arithmetic makes of the doubles nearest to them."""
    groups, y = anova_rows(name)
    certified = one_way(groups, [Fraction(value) for value in y])
    best = one_way(groups, [Fraction(float(value)) for value in y])
    fit = bigmm.lmer("y ~ 1 + (1 | g)", pd.DataFrame({"g": groups, "y": [float(value) for value in y]}), client=0)
    for found, exact, possible in zip(variances(fit), certified, best, strict=True):
        assert digits(found, exact) >= digits(float(possible), exact) - 1.0
    mean = sum(Fraction(value) for value in y) / len(y)
    assert digits(fit.beta[0], mean) >= 12.0


@pytest.mark.parametrize(("base", "expected"), [(1.0, 14.2), (1e6, 9.8), (1e12, 3.8)])
@pytest.mark.parametrize(("groups", "replicates"), [(9, 21), (101, 1001), (9, 100_001), (2999, 21)])
def test_smls(groups: int, replicates: int, base: float, expected: float) -> None:
    fit = bigmm.lmer("y ~ 1 + (1 | g)", smls(groups, replicates, base), client=0)
    for found, exact in zip(variances(fit), smls_variances(replicates), strict=True):
        assert digits(found, exact) >= expected


@pytest.mark.slow
@pytest.mark.parametrize(("base", "expected"), [(1.0, 14.2), (1e6, 9.8), (1e12, 3.8)])
@pytest.mark.parametrize(("groups", "replicates"), [(9999, 1001), (9, 1_111_111)])
def test_smls_of_ten_million_rows(groups: int, replicates: int, base: float, expected: float, tmp_path: object) -> None:
    frame = smls(groups, replicates, base)
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), f"{tmp_path}/rows.parquet", row_group_size=1_000_000)
    fit = bigmm.lmer("y ~ 1 + (1 | g)", f"{tmp_path}/rows.parquet", client=0)
    for found, exact in zip(variances(fit), smls_variances(replicates), strict=True):
        assert digits(found, exact) >= expected


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_balanced_crossed_design(order: tuple[str, str]) -> None:
    """sigma^2 = MSE, sigma_a^2 = (MSA - MSE) / b, sigma_b^2 = (MSB - MSE) / a (Searle, Casella and McCulloch 1992, section 4.7)."""
    rng = np.random.default_rng(8)
    a, b = 12, 9
    y = np.round(3.0 * rng.normal(size=(a, 1)) + 2.0 * rng.normal(size=b) + rng.normal(size=(a, b)), 3)
    rows, columns, mean = y.mean(1, keepdims=True), y.mean(0, keepdims=True), y.mean()
    mse = ((y - rows - columns + mean) ** 2).sum() / ((a - 1) * (b - 1))
    expected = {"a": (b * ((rows - mean) ** 2).sum() / (a - 1) - mse) / b, "b": (a * ((columns - mean) ** 2).sum() / (b - 1) - mse) / a}
    frame = pd.DataFrame({"y": y.ravel(), "a": np.repeat(np.arange(a), b), "b": np.tile(np.arange(b), a)})
    fit = bigmm.lmer(f"y ~ 1 + (1 | {order[0]}) + (1 | {order[1]})", frame, client=0)
    assert digits(fit.sigma**2, mse) >= 12
    for term, theta in zip(fit.covariance.terms, fit.theta, strict=True):
        assert digits((fit.sigma * theta) ** 2, expected[term.factor]) >= 11


def test_balanced_nested_design() -> None:
    """sigma^2 = MSE, sigma_b^2 = (MSB - MSE) / n, sigma_a^2 = (MSA - MSB) / (b n)."""
    rng = np.random.default_rng(9)
    a, b, n = 15, 6, 4
    y = np.round(3.0 * rng.normal(size=(a, 1, 1)) + 2.0 * rng.normal(size=(a, b, 1)) + rng.normal(size=(a, b, n)), 3)
    inner, outer = y.mean(2), y.mean((1, 2))
    mse = ((y - inner[:, :, None]) ** 2).sum() / (a * b * (n - 1))
    msb = n * ((inner - outer[:, None]) ** 2).sum() / (a * (b - 1))
    msa = b * n * ((outer - y.mean()) ** 2).sum() / (a - 1)
    frame = pd.DataFrame({"y": y.ravel(), "a": np.repeat(np.arange(a), b * n), "b": np.tile(np.repeat(np.arange(b), n), a)})
    fit = bigmm.lmer("y ~ 1 + (1 | a / b)", frame, client=0)
    assert digits(fit.sigma**2, mse) >= 12
    expected = {"b:a": (msb - mse) / n, "a:b": (msb - mse) / n, "a": (msa - msb) / (b * n)}
    for term, theta in zip(fit.covariance.terms, fit.theta, strict=True):
        assert digits((fit.sigma * theta) ** 2, expected[term.factor]) >= 11


def as_mixed(frame: pd.DataFrame) -> pd.DataFrame:
    """Every row twice, the twins apart: the least-squares coefficients stay, and theta = 0 is a model of them."""
    return pd.concat([frame.assign(g=np.arange(len(frame)) % 5), frame.assign(g=(np.arange(len(frame)) + 2) % 5)], ignore_index=True)


def exact_least_squares(X: list[list[Fraction]], y: list[Fraction]) -> tuple[list[Fraction], Fraction]:
    """Coefficients and residual sum of squares by Gaussian elimination without rounding."""
    p = len(X[0])
    A = [[sum((row[i] * row[j] for row in X), Fraction(0)) for j in range(p)] for i in range(p)]
    b = [sum((row[i] * value for row, value in zip(X, y, strict=True)), Fraction(0)) for i in range(p)]
    for i in range(p):
        for k in range(i + 1, p):
            factor = A[k][i] / A[i][i]
            A[k] = [left - factor * right for left, right in zip(A[k], A[i], strict=True)]
            b[k] -= factor * b[i]
    beta = [Fraction(0)] * p
    for i in reversed(range(p)):
        beta[i] = (b[i] - sum((A[i][j] * beta[j] for j in range(i + 1, p)), Fraction(0))) / A[i][i]
    rss = sum(((value - sum(c * x for c, x in zip(beta, row, strict=True))) ** 2 for row, value in zip(X, y, strict=True)), Fraction(0))
    return beta, rss


def least_squares(frame: pd.DataFrame, fixed: str) -> tuple[list[float], float]:
    """Coefficients and residual sum of squares that crossproducts give at theta = 0, where the model is ordinary least squares."""
    model = bigmm.reduce(f"y ~ {fixed} + (1 | g)", as_mixed(frame), client=0).model(reml=False)
    assert not model.selected.fixed.dropped
    solution = model.evaluate([0.0])[1]
    return model.selected.fixed.beta(solution.beta).tolist(), solution.pwrss / 2


def polynomial(name: str, degree: int) -> str:
    return " + ".join([name, *(f"I({name}^{power})" for power in range(2, degree + 1))])


@pytest.mark.parametrize("number", [3, 4, 5])
def test_wampler(number: int) -> None:
    """A polynomial of degree 5 in raw powers: the condition number of the scaled and shifted X'X is 5e6."""
    frame, certified, sigma = wampler(number)
    beta, rss = least_squares(frame, polynomial("x", 5))
    assert min(digits(value, exact) for value, exact in zip(beta, certified, strict=True)) >= 9.0
    assert digits(rss, sigma**2 * 15) >= 9.0


@pytest.mark.parametrize("seed", range(5))
def test_rounding_of_the_factor_is_no_matter(seed: int) -> None:
    """One processor's factor of X'X has other last bits than another's: coefficients do not hang on them."""
    rng = np.random.default_rng(seed)
    x = [[Fraction(i) ** power for power in range(6)] for i in range(21)]
    y = [Fraction(int(value)) for value in rng.integers(-1000, 1000, 21)]
    W = [[*row, value] for row, value in zip(x, y, strict=True)]
    rest = np.array([[float(sum(row[i] * row[j] for row in W)) for j in range(7)] for i in range(7)])  # whole numbers below 2^53
    exact, _ = exact_least_squares(x, y)
    R = np.linalg.cholesky(rest).T
    evaluation = Evaluation(np.zeros(1), 0.0, rest, R * (1.0 + 1e-14 * rng.uniform(-1.0, 1.0, R.shape)))
    assert min(digits(value, expected) for value, expected in zip(evaluation.beta, exact, strict=True)) >= 9.0


@pytest.mark.parametrize("number", [1, 2])
def test_wampler_without_residuals(number: int) -> None:
    frame, _, _ = wampler(number)
    with pytest.raises(bigmm.ModelError, match="explain the response exactly"):
        least_squares(frame, polynomial("x", 5))


def test_longley() -> None:
    y, x = exact_rows("longley")
    exact, exact_rss = exact_least_squares([[Fraction(1), *row] for row in x], y)
    for value, certified in zip([*exact, (float(exact_rss) / 9) ** 0.5], [*LONGLEY, LONGLEY_SIGMA], strict=True):
        assert float(value) == pytest.approx(certified, rel=1e-14)
    beta, rss = least_squares(pd.read_csv(DATA / "longley.csv", dtype=float), "x1 + x2 + x3 + x4 + x5 + x6")
    assert min(digits(value, expected) for value, expected in zip(beta, exact, strict=True)) >= 12.0
    assert digits(rss, exact_rss) >= 12.0


def test_filip_is_refused_as_it_is() -> None:
    """The condition number of X is 1e10 and that of X'X 1e20: the model goes without the columns that double precision does not see."""
    y, x = exact_rows("filip")
    exact, exact_rss = exact_least_squares([[row[0] ** power for power in range(11)] for row in x], y)
    for value, certified in zip([*exact, (float(exact_rss) / 71) ** 0.5], [*FILIP, FILIP_SIGMA], strict=True):
        assert float(value) == pytest.approx(certified, rel=1e-13)
    frame = as_mixed(pd.read_csv(DATA / "filip.csv"))
    with pytest.warns(bigmm.PrecisionWarning, match=r"'I\(x\^10\)' is a combination .* it was dropped"):
        model = bigmm.reduce(f"y ~ {polynomial('x', 10)} + (1 | g)", frame, client=0).model(reml=False)
    assert model.selected.fixed.dropped == ("I(x^8)", "I(x^10)")


def test_filip_centred() -> None:
    """What the warning advises gives nearly all digits back."""
    y, _ = exact_rows("filip")
    frame = pd.read_csv(DATA / "filip.csv").assign(x=lambda table: table["x"] + 6.0)
    exact, exact_rss = exact_least_squares([[Fraction(value) ** power for power in range(11)] for value in frame["x"]], y)
    beta, rss = least_squares(frame, polynomial("x", 10))
    assert min(digits(value, expected) for value, expected in zip(beta, exact, strict=True)) >= 10.0
    assert digits(rss, exact_rss) >= 10.0


@pytest.mark.parametrize("degree", range(1, 8))
def test_seven_digits_or_a_warning(degree: int) -> None:
    """Lower degrees of Filip: at 6 each column keeps 4e-9 of its own, but together they leave 5e-12."""
    y, x = exact_rows("filip")
    exact, _ = exact_least_squares([[row[0] ** power for power in range(degree + 1)] for row in x], y)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        beta, _ = least_squares(pd.read_csv(DATA / "filip.csv"), polynomial("x", degree))
    found = min(digits(value, expected) for value, expected in zip(beta, exact, strict=True))
    warned = any(issubclass(warning.category, bigmm.PrecisionWarning) for warning in caught)
    assert warned == (degree >= 5)
    assert warned or found >= 7.0


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_rational_arithmetic(seed: int, offset: float) -> None:
    """pwrss and coefficients at a fixed theta: least squares on the rows and on the penalty's rows, without rounding."""
    rng = np.random.default_rng(seed)
    n, q, theta = 24, 4, Fraction(3, 4)
    x, g, y = np.round(rng.normal(size=n), 3), np.append(np.arange(q), rng.integers(0, q, n - q)), np.round(rng.normal(size=n), 3) + offset
    X = [[Fraction(1), Fraction(float(x[i])), *(theta * int(g[i] == level) for level in range(q))] for i in range(n)]
    X += [[Fraction(0), Fraction(0), *(Fraction(int(i == level)) for level in range(q))] for i in range(q)]
    beta, pwrss = exact_least_squares(X, [*(Fraction(float(value)) for value in y), *[Fraction(0)] * q])
    model = bigmm.reduce("y ~ x + (1 | g)", pd.DataFrame({"y": y, "x": x, "g": g}), client=0).model()
    evaluation = model.evaluate([float(theta)])[1]
    found = model.selected.fixed.beta(evaluation.beta)
    assert digits(evaluation.pwrss, pwrss) >= 13
    assert min(digits(value, exact) for value, exact in zip(found, beta, strict=False)) >= 12
