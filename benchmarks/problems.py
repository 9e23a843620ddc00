"""What is fitted: one row a problem."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

#: Where data files are looked for; more folders come from the command line.
DATA = Path(__file__).resolve().parent.parent / "tests" / "data"


@dataclass(frozen=True, slots=True)
class Problem:
    """One model of one data file.

    Attributes
    ----------
    name : str
    data : str
        Name of a CSV file.
    formula : str
    reml : bool
    categories : tuple of str
        Columns that are read as text, whatever they look like.
    """

    name: str
    data: str
    formula: str
    reml: bool
    categories: tuple[str, ...]

    def path(self, folders: Iterable[Path]) -> Path | None:
        """The data file in the first of the folders that has it."""
        return next((folder / self.data for folder in folders if (folder / self.data).is_file()), None)


_INSTEVAL = ("s", "d", "dept", "service")

_SCHOOLS = ("classid", "schoolid")

PROBLEMS = (
    Problem("insteval", "insteval.csv", "y ~ 1 + service + (1|s) + (1|d) + (1|dept)", False, _INSTEVAL),
    Problem("insteval-slopes", "insteval.csv", "y ~ 1 + service + (1|s) + (1|d) + (1+service|dept)", False, _INSTEVAL),
    Problem("sleepstudy", "sleepstudy.csv", "Reaction ~ 1 + Days + (1+Days|Subject)", True, ("Subject",)),
    Problem("penicillin", "penicillin.csv", "diameter ~ 1 + (1|plate) + (1|sample)", False, ("plate", "sample")),
    Problem("classroom", "classroom.csv", "mathgain ~ mathkind + minority + ses + (1|classid) + (1|schoolid)", True, _SCHOOLS),
)
