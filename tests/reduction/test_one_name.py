"""One local file has one name, however its path is spelled: else its rows would count twice."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

import bigmm


@pytest.mark.parametrize("spelled", ["a//p.parquet", "a/./p.parquet", "a/../a/p.parquet", "a//*.parquet", "./a", "b/../a"])
def test_another_spelling_is_the_same_file(spelled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in "ab":
        Path(folder).mkdir()
    pd.DataFrame({"y": [1.0, 2.0, 4.0, 3.0] * 5, "g": [1, 1, 2, 3] * 5}).to_parquet("a/p.parquet")
    with pytest.raises(bigmm.DataError, match="listed twice"):
        bigmm.reduce("y ~ 1 + (1 | g)", ["a/p.parquet", spelled], client=0)
