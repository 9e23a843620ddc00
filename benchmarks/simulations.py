"""Rows drawn from known models; every generator is seeded, so that all runs fit the same data."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

Refs = npt.NDArray[np.int64]


def grade_points() -> pd.DataFrame:
    """1,685,394 simulated grades of 54,711 students by 7,915 instructors in 102 departments: shape of Bates/sls, SuiteSparse collection."""
    rng = np.random.default_rng(2008)
    rows, students, instructors, departments = 1_685_394, 54_711, 7_915, 102
    home = rng.integers(departments, size=instructors)
    instructor = _everyone(rng, rows, rng.gamma(0.7, size=instructors))
    department = np.where(rng.random(rows) < 0.9, home[instructor], rng.integers(departments, size=rows))
    student = rng.permutation(_everyone(rng, rows, rng.gamma(3.0, size=students)))
    y = 2.9 + 0.75 * rng.standard_normal(rows)
    y += _effects(rng, 0.45, student) + _effects(rng, 0.3, instructor) + _effects(rng, 0.15, department)
    return pd.DataFrame({"y": y, "student": student, "instructor": instructor, "department": department})


def slopes() -> pd.DataFrame:
    """7.5 million simulated visits of 1,000,000 subjects, 5 to 10 each, intercepts and slopes by subject: a longitudinal study."""
    rng = np.random.default_rng(1982)
    visits = rng.integers(5, 11, size=1_000_000)
    subject = np.repeat(np.arange(len(visits)), visits)
    first = np.repeat(np.cumsum(visits) - visits, visits)
    time = (np.arange(len(subject)) - first + rng.uniform(-0.3, 0.3, size=len(subject))) / 2.0
    intercept = rng.standard_normal(len(visits))
    slope = 0.4 * (0.3 * intercept + np.sqrt(1 - 0.3**2) * rng.standard_normal(len(visits)))
    y = 10.0 + 0.5 * time + intercept[subject] + slope[subject] * time + rng.standard_normal(len(subject))
    return pd.DataFrame({"y": y, "time": time, "subject": subject})


def nested() -> pd.DataFrame:
    """1,000,000 simulated tests of 250,000 pupils in 10,000 classes in 1,000 schools in 50 districts: a root that stays sparse."""
    rng = np.random.default_rng(1986)
    pupil = np.repeat(np.arange(250_000), 4)
    class_ = pupil // 25
    school = class_ // 10
    district = school // 20
    x = rng.standard_normal(len(pupil))
    y = 50.0 + 2.0 * x + 3.0 * rng.standard_normal(len(pupil))
    y += _effects(rng, 4.0, pupil) + _effects(rng, 2.0, class_) + _effects(rng, 1.5, school) + _effects(rng, 1.0, district)
    return pd.DataFrame({"y": y, "x": x, "pupil": pupil, "class": class_, "school": school, "district": district})


def maximal() -> pd.DataFrame:
    """8,000 simulated responses, 100 subjects crossed with 80 items, three conditions: psycholinguistics' maximal model."""
    rng = np.random.default_rng(2007)
    subject, item = (np.ravel(refs) for refs in np.meshgrid(np.arange(100), np.arange(80), indexing="ij"))
    X = np.column_stack([np.ones(len(subject)), rng.choice([-0.5, 0.5], size=(len(subject), 3))])
    y = X @ [20.0, 1.0, -1.0, 0.5] + 2.0 * rng.standard_normal(len(subject))
    for refs in (subject, item):
        covariance = np.full((4, 4), 0.3) + np.diag([1.5, 0.9, 0.8, 0.7])
        b = rng.multivariate_normal(np.zeros(4), covariance, size=refs.max() + 1)
        y += (X * b[refs]).sum(axis=1)
    return pd.DataFrame({"y": y, "a": X[:, 1], "b": X[:, 2], "c": X[:, 3], "subject": subject, "item": item})


def _everyone(rng: np.random.Generator, rows: int, weights: npt.NDArray[np.float64]) -> Refs:
    """A level for each row: every level once, the rest by weight, in random order."""
    rest = rng.choice(len(weights), size=rows - len(weights), p=weights / weights.sum())
    return rng.permutation(np.concatenate([np.arange(len(weights)), rest]))


def _effects(rng: np.random.Generator, deviation: float, refs: Refs) -> npt.NDArray[np.float64]:
    """Each row's random effect."""
    return (deviation * rng.standard_normal(refs.max() + 1))[refs]
