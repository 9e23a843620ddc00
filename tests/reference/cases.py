"""The reference cases: data sets, arguments, and what lme4 says (lme4.json, written by lme4.R)."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

_HERE = Path(__file__).parent
#: classroom.csv may not be copied into the repository; it is read from a folder shared/data beside the checkout.
_DATA = (_HERE.parent / "data", _HERE.parents[2] / "shared" / "data")


@dataclass(frozen=True)
class Case:
    """One model of cases.json."""

    name: str
    data: str
    formula: str
    reml: bool
    weights: str | None = None
    offset: str | None = None
    factors: Sequence[str] = ()
    contrasts: Mapping[str, str] = field(default_factory=dict)

    @property
    def expected(self) -> dict[str, Any]:
        """What lme4 says."""
        return _results()[self.name]

    def frame(self) -> pd.DataFrame:
        """The rows, indexed as in the file; those without a weight, an error in bigmm, are left out."""
        frame = read_data(self.data, self.factors)
        return frame if self.weights is None else frame[frame[self.weights].notna()]


@functools.cache
def _results() -> dict[str, dict[str, Any]]:
    return json.loads((_HERE / "lme4.json").read_text())["cases"]


CASES = {case["name"]: Case(**case) for case in json.loads((_HERE / "cases.json").read_text())}


def read_data(name: str, factors: Sequence[str] = ()) -> pd.DataFrame:
    """A data set; columns in `factors` as Categorical, as R's factor(). Skips the test when it is not here."""
    frame = _read_csv(name).copy()
    for column in factors:
        frame[column] = pd.Categorical(frame[column])
    return frame


@functools.cache
def _read_csv(name: str) -> pd.DataFrame:
    paths = [folder / f"{name}.csv" for folder in _DATA]
    found = next((path for path in paths if path.exists()), None)
    if found is None:
        pytest.skip(f"{name}.csv is not part of the repository")
    return pd.read_csv(found)
