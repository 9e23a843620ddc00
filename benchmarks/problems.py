"""What is fitted: a function a problem, whose docstring says what shape it has and where it comes from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import pandas as pd
import ratings
import simulations

from bigmm.crossproducts import CrossProducts

#: Where data files are.
DATA = Path(__file__).resolve().parent.parent / "tests" / "data"

#: What a problem gives: rows, or crossproducts where there are no rows.
Given: TypeAlias = pd.DataFrame | CrossProducts


@dataclass(frozen=True, slots=True)
class Problem:
    """One model of one set of data.

    Attributes
    ----------
    name : str
    formula : str
        Terms by decreasing number of levels, so that nobody's order of theta differs.
    reml : bool
    make : callable
        Gives the data, always the same; its docstring describes them.
    large : bool
        Takes minutes and gigabytes; left out unless asked for.
    command : bool
        The whole command ``bigmm fit`` is measured too.
    """

    name: str
    formula: str
    reml: bool
    make: Callable[[], Given]
    large: bool = False
    command: bool = False

    @property
    def description(self) -> str:
        """One line."""
        return (self.make.__doc__ or "").strip()


def insteval() -> pd.DataFrame:
    """73,421 ratings of 1,128 lecturers of 14 departments by 2,972 students: InstEval of lme4."""
    return _csv("insteval.csv", ["s", "d", "dept", "service", "studage", "lectage"])


def sleepstudy() -> pd.DataFrame:
    """180 reaction times of 18 subjects: sleepstudy of lme4."""
    return _csv("sleepstudy.csv", ["Subject"])


def penicillin() -> pd.DataFrame:
    """144 diameters, 24 plates crossed with 6 samples: Penicillin of lme4."""
    return _csv("penicillin.csv", ["plate", "sample"])


def _csv(name: str, categories: list[str]) -> pd.DataFrame:
    return pd.read_csv(DATA / name, dtype=dict.fromkeys(categories, "str"))


PROBLEMS = (
    Problem("insteval", "y ~ 1 + service + (1|s) + (1|d) + (1|dept)", False, insteval, command=True),
    Problem("insteval-5", "y ~ 1 + service + (1|s) + (1|d) + (1+service|dept)", False, insteval),
    Problem("insteval-9", "y ~ 1 + service + (1+service|s) + (1+service|d) + (1+service|dept)", False, insteval),
    Problem("insteval-14", "y ~ 1 + service + studage + (1|s) + (1+studage|d) + (1+service|dept)", False, insteval, large=True),
    Problem("maximal", "y ~ 1 + a + b + c + (1+a+b+c|subject) + (1+a+b+c|item)", False, simulations.maximal),
    Problem("nested", "y ~ 1 + x + (1|pupil) + (1|class) + (1|school) + (1|district)", False, simulations.nested),
    Problem("slopes", "y ~ 1 + time + (1+time|subject)", False, simulations.slopes),
    Problem("grade-points", "y ~ 1 + (1|student) + (1|instructor) + (1|department)", False, simulations.grade_points, command=True),
    Problem("ratings-small", ratings.FORMULA, False, ratings.few_users),
    Problem("ratings", ratings.FORMULA, False, ratings.all_users, large=True),
    Problem("sleepstudy", "Reaction ~ 1 + Days + (1+Days|Subject)", True, sleepstudy),
    Problem("penicillin", "diameter ~ 1 + (1|plate) + (1|sample)", False, penicillin),
)


def find(name: str) -> Problem:
    """The problem of that name."""
    return next(problem for problem in PROBLEMS if problem.name == name)
