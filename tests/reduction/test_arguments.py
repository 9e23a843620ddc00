"""Arguments that are wrong whatever the data are."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

import bigmm
from bigmm.errors import DataError
from bigmm.reduction.arguments import check_column_names

WRONG = [pd.Series([1.0, 2.0]), 1.0, ["w"]]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: type(wrong).__name__)
def test_weights_and_offset_are_names(wrong: Any) -> None:
    with pytest.raises(DataError, match=rf"^weights must name a column, found a {type(wrong).__name__}: "):
        check_column_names(wrong, None)
    with pytest.raises(DataError, match=r"^offset must name a column, "):
        bigmm.lmer("y ~ 1 + (1 | g)", pd.DataFrame({"y": [1.0]}), offset=wrong)


def test_names() -> None:
    check_column_names("w", None)
