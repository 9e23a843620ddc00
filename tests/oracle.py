"""A linear mixed model by brute force: V = W^-1 + Z Lambda Lambda' Z', dense, with X and Z built by formulaic and pandas."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property

import formulaic
import numpy as np
import pandas as pd

LOG_2PI = np.log(2.0 * np.pi)


@dataclass(frozen=True, eq=False)
class Term:
    """Z of one random-effects term, its grouping factor and how many levels that has."""

    group: str
    names: tuple[str, ...]
    Z: np.ndarray
    codes: np.ndarray
    levels: int

    @property
    def size(self) -> int:
        return self.Z.shape[1]

    @cached_property
    def spread(self) -> np.ndarray:
        """Z with one block of columns a level, shape (n, levels * size)."""
        out = np.zeros((len(self.Z), self.levels * self.size))
        for row, code in enumerate(self.codes):
            out[row, code * self.size : (code + 1) * self.size] = self.Z[row]
        return out


@dataclass(frozen=True, eq=False)
class Dense:
    """A model with its rows.

    `fixed` and the left sides of `random` are formulaic's formulas; `random` pairs them with "g" or "g:h".
    """

    frame: pd.DataFrame
    fixed: str
    random: tuple[tuple[str, str], ...]
    response: str = "y"
    weights: str | None = None
    offset: str | None = None

    @cached_property
    def y(self) -> np.ndarray:
        y = self.frame[self.response].to_numpy(float)
        return y if self.offset is None else y - self.frame[self.offset].to_numpy(float)

    @cached_property
    def w(self) -> np.ndarray:
        return np.ones(len(self.frame)) if self.weights is None else self.frame[self.weights].to_numpy(float)

    @cached_property
    def X(self) -> np.ndarray:
        return _matrix(self.fixed, self.frame)

    @cached_property
    def terms(self) -> list[Term]:
        """In lme4's order: as written unless a later factor has more levels, else rev(order(levels))."""
        terms = [_term(left, group, self.frame) for left, group in self.random]
        counts = [term.levels for term in terms]
        if all(a >= b for a, b in itertools.pairwise(counts)):
            return terms
        return [terms[i] for i in sorted(range(len(terms)), key=lambda i: (counts[i], i))[::-1]]

    def templates(self, theta: np.ndarray) -> list[np.ndarray]:
        out, start = [], 0
        for term in self.terms:
            T = np.zeros((term.size, term.size))
            for column in range(term.size):
                rows = term.size - column
                T[column:, column] = theta[start : start + rows]
                start += rows
            out.append(T)
        assert start == len(theta)
        return out

    def at(self, theta: np.ndarray) -> Estimates:
        """Everything at one theta."""
        G = [np.kron(np.eye(term.levels), T @ T.T) for term, T in zip(self.terms, self.templates(np.asarray(theta, float)), strict=True)]
        V = np.diag(1.0 / self.w)
        for term, g in zip(self.terms, G, strict=True):
            V += term.spread @ g @ term.spread.T
        inverse = np.linalg.inv(V)
        XtVX = self.X.T @ inverse @ self.X
        beta = np.linalg.solve(XtVX, self.X.T @ inverse @ self.y) if self.X.shape[1] else np.zeros(0)
        r = self.y - self.X @ beta
        return Estimates(self, G, inverse, np.linalg.slogdet(V)[1], XtVX, beta, r)


@dataclass(frozen=True, eq=False)
class Estimates:
    """What follows from theta."""

    model: Dense
    G: list[np.ndarray]
    inverse: np.ndarray
    logdet: float
    XtVX: np.ndarray
    beta: np.ndarray
    r: np.ndarray

    def nu(self, reml: bool) -> int:
        n, p = self.model.X.shape
        return n - p if reml else n

    @property
    def pwrss(self) -> float:
        return float(self.r @ self.inverse @ self.r)

    def objective(self, reml: bool) -> float:
        nu = self.nu(reml)
        extra = np.linalg.slogdet(self.XtVX)[1] if reml else 0.0
        return float(self.logdet + extra + nu * (1.0 + LOG_2PI + np.log(self.pwrss / nu)))

    def sigma2(self, reml: bool) -> float:
        return self.pwrss / self.nu(reml)

    def vcov(self, reml: bool) -> np.ndarray:
        return self.sigma2(reml) * np.linalg.inv(self.XtVX)

    @property
    def b(self) -> list[np.ndarray]:
        """Conditional modes of each term, (levels, size)."""
        return [
            (g @ term.spread.T @ self.inverse @ self.r).reshape(term.levels, term.size)
            for term, g in zip(self.model.terms, self.G, strict=True)
        ]

    def condvar(self, reml: bool, group: str) -> np.ndarray:
        """Conditional variances of one factor's random effects, all its terms side by side, (levels, k, k)."""
        mine = [i for i, term in enumerate(self.model.terms) if term.group == group]
        levels = self.model.terms[mine[0]].levels
        sizes = [self.model.terms[i].size for i in mine]
        starts = np.cumsum([0, *sizes])
        out = np.zeros((levels, starts[-1], starts[-1]))
        for s, i in enumerate(mine):
            for t, j in enumerate(mine):
                left, right = self.model.terms[i], self.model.terms[j]
                inner = -self.G[i] @ left.spread.T @ self.inverse @ right.spread @ self.G[j]
                inner = inner + self.G[i] if i == j else inner
                blocks = inner.reshape(levels, sizes[s], levels, sizes[t])
                out[:, starts[s] : starts[s + 1], starts[t] : starts[t + 1]] = blocks[np.arange(levels), :, np.arange(levels), :]
        return self.sigma2(reml) * out


def _matrix(text: str, frame: pd.DataFrame) -> np.ndarray:
    return formulaic.model_matrix(text, frame).to_numpy(float) if text != "0" else np.zeros((len(frame), 0))


def _term(left: str, group: str, frame: pd.DataFrame) -> Term:
    names = group.split(":")
    codes = frame.groupby(names, sort=True, observed=True).ngroup().to_numpy()
    return Term(group, tuple(names), _matrix(left, frame), codes, int(codes.max()) + 1)


def random_theta(model: Dense, rng: np.random.Generator, *, zeros: bool = False) -> np.ndarray:
    """A theta inside its bounds; with `zeros`, some diagonal entries lie on theirs."""
    values: list[float] = []
    for term in model.terms:
        for column in range(term.size):
            diagonal = abs(rng.normal()) * (0.0 if zeros and rng.random() < 0.5 else 1.0)
            values += [diagonal, *rng.normal(size=term.size - column - 1)]
    return np.array(values)
