"""Ratings of movies by users: a crossed graph with heavy-tailed degrees, each cell rated once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from bigmm.columns import Column
from bigmm.crossproducts import CrossProducts, GroupProducts, PairProducts, RowCounts
from bigmm.design import Design
from bigmm.formula import parse_formula

Refs = npt.NDArray[np.int64]
Degrees = tuple[tuple[float, float], ...]

FORMULA = "y ~ 1 + (1|user) + (1|movie)"

#: (degree, part of the users or movies that have it or more): MovieLens-25M, where movies have 50 ratings or more.
_USERS: Degrees = (
    *((20, 1.0), (40, 0.713), (80, 0.4608), (200, 0.19), (500, 0.06)),
    *((1000, 0.02), (3000, 0.0018), (10000, 5e-5), (32202, 6e-6)),
)
_MOVIES: Degrees = ((50, 1.0), (200, 0.65), (1000, 0.336), (5000, 0.121), (20000, 0.0269), (50000, 0.00314), (81491, 7.6e-5))


def all_users() -> CrossProducts:
    """22,201,383 simulated ratings of 13,176 movies by 162,541 users, crossproducts without rows: levels and degrees of MovieLens-25M."""
    user, movie = graph(162_541, 13_176, seed=25)
    return crossproducts(user, movie, rate(user, movie))


def few_users() -> pd.DataFrame:
    """691,525 simulated ratings of 3,706 movies by 6,040 users: levels of MovieLens-1M, degrees of MovieLens-25M."""
    user, movie = graph(6_040, 3_706, seed=1)
    return pd.DataFrame({"y": rate(user, movie), "user": user, "movie": movie})


def graph(users: int, movies: int, seed: int) -> tuple[Refs, Refs]:
    """Users and movies of the cells, sorted by user, then movie; every user and every movie has one or more.

    A configuration model: as many stubs a level as its degree, users' and movies' stubs joined at random, double edges dropped.
    """
    rng = np.random.default_rng(seed)
    stubs = np.repeat(np.arange(users), _draw(rng, _USERS, users))
    weight = _draw(rng, _MOVIES, movies).astype(np.float64)
    ends = rng.choice(movies, size=len(stubs) - movies, p=weight / weight.sum())
    ends = rng.permutation(np.concatenate([np.arange(movies), ends]))
    cells = np.sort(stubs * movies + ends)
    return np.divmod(cells[np.diff(cells, prepend=-1) > 0], movies)


def _draw(rng: np.random.Generator, degrees: Degrees, size: int) -> Refs:
    """Degrees from a survival function that is straight between its points on logarithmic axes."""
    degree, survival = np.log(np.array(degrees)).T
    return np.exp(np.interp(np.log(1.0 - rng.random(size)), survival[::-1], degree[::-1])).astype(np.int64)


def rate(user: Refs, movie: Refs) -> npt.NDArray[np.float64]:
    """A rating for each cell: 3.5, an effect of the user, one of the movie, and noise."""
    rng = np.random.default_rng(5)
    effects = 0.44 * rng.standard_normal(user.max() + 1)[user] + 0.49 * rng.standard_normal(movie.max() + 1)[movie]
    return 3.5 + effects + 0.87 * rng.standard_normal(len(user))


def crossproducts(user: Refs, movie: Refs, y: npt.NDArray[np.float64]) -> CrossProducts:
    """What `bigmm.reduce` makes of one row a cell, with another shift of y; cells sorted by user, then movie."""
    response = y - 3.5
    design = Design(parse_formula(FORMULA), {"y": "number", "user": "number", "movie": "number"}, y_shift={"y": 3.5})
    total = response.sum()
    return CrossProducts(
        design=design,
        columns=(Column(),),
        XytXy=np.array([[len(y), total], [total, response @ response]]),
        groups=(_group("user", user, response), _group("movie", movie, response)),
        pairs={(0, 1): PairProducts(user.astype(np.int32), movie.astype(np.int32), np.ones((len(y), 1, 1), dtype=np.int32))},
        rows=RowCounts(len(y), len(y)),
    )


def _group(name: str, refs: Refs, response: npt.NDArray[np.float64]) -> GroupProducts:
    rows = np.bincount(refs)
    ZtXy = np.column_stack([rows, np.bincount(refs, weights=response)])[:, None, :]
    return GroupProducts((name,), pd.Index(np.arange(len(rows))), (Column(),), rows, rows[:, None, None].astype(np.float64), ZtXy)
