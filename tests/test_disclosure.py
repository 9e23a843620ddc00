"""Small cells of crossproducts that somebody might share."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
from click.testing import CliRunner

import bigmm
from bigmm.cli import main

FRAME = pd.DataFrame(
    {
        "y": [1.0, 2.0, 4.0, 3.0, 5.5, 7.0, 1.5],
        "g": ["a", "a", "a", "b", "b", "b", "once"],
        "h": [1, 1, 2, 1, 2, 2, 2],
        "f": ["p", "p", "q", "p", "p", "p", "p"],
    }
)


def test_small_cells(tmp_path: Path) -> None:
    bigmm.reduce("y ~ f + (1 | g) + (1 | h)", FRAME, client=0).save(tmp_path / "cp")
    result = CliRunner().invoke(main, ["inspect", str(tmp_path / "cp"), "--small-cells", "2", "--json"])
    assert result.exit_code == 0
    found = {part["name"]: part for part in json.loads(result.stdout)["small_cells"]["where"]}
    assert found["g"] == {"name": "g", "count": 1, "cells": [{"cell": "once", "rows": 1}]}
    assert found["h"]["count"] == 0
    assert [(cell["cell"], cell["rows"]) for cell in found["g x h"]["cells"]] == [("a x 2", 1), ("b x 1", 1), ("once x 2", 1)]
    assert found["fixed part"]["cells"] == [{"cell": "f[q]", "rows": 1}]
    text = CliRunner().invoke(main, ["inspect", str(tmp_path / "cp"), "--small-cells", "2"]).stdout
    assert "g: 1\n    once: 1" in text


def test_pairs_without_counts_are_not_called_safe(tmp_path: Path) -> None:
    bigmm.reduce("y ~ 1 + (1 | g) + (1 | h)", FRAME.assign(w=2.0), weights="w", client=0).save(tmp_path / "cp")
    text = CliRunner().invoke(main, ["inspect", str(tmp_path / "cp"), "--small-cells", "2"]).stdout
    assert "g x h: 5" in text
    assert "not counted" in text
