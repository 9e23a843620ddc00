"""Pictures of the factor, and how full it is."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import bigmm
from bigmm.inference.plots import factor_matrices
from tests.reference.cases import read_data

figures = pytest.importorskip("matplotlib.figure")
images = pytest.importorskip("matplotlib.image")


@pytest.fixture(scope="module")
def penicillin() -> bigmm.CrossProducts:
    return bigmm.reduce("diameter ~ 1 + (1 | plate) + (1 | sample)", read_data("penicillin"))


# The theory's slides: theta = (1.2, 2.1).
@pytest.mark.parametrize(
    ("groups", "permute", "nonzeros"),
    [
        ("(1 | plate) + (1 | sample)", False, 189),
        ("(1 | sample) + (1 | plate)", False, 450),
        ("(1 | sample) + (1 | plate)", True, 204),
    ],
)
def test_fill_of_crossed_factors(penicillin: bigmm.CrossProducts, groups: str, permute: bool, nonzeros: int) -> None:
    _, L = factor_matrices(penicillin, f"diameter ~ 1 + {groups}", [1.2, 2.1], permute=permute)
    assert L.nnz == nonzeros


@pytest.mark.parametrize("permute", [False, True])
def test_nested_factors_have_no_fill(permute: bool) -> None:
    cp = bigmm.reduce("strength ~ 1 + (1 | batch/cask)", read_data("pastes"))
    matrix, L = factor_matrices(cp, permute=permute)
    assert matrix.nnz == L.nnz == 70


def test_factor_of_the_matrix(penicillin: bigmm.CrossProducts) -> None:
    matrix, L = (part.toarray() for part in factor_matrices(penicillin, theta=[1.2, 2.1], permute=False))
    np.testing.assert_allclose(L @ L.T, matrix + np.tril(matrix, -1).T, rtol=1e-12, atol=1e-12)


def test_theta_stays_in_lme4s_order(penicillin: bigmm.CrossProducts) -> None:
    matrix, _ = factor_matrices(penicillin, "diameter ~ 1 + (1 | sample) + (1 | plate)", [1.2, 2.1], permute=False)
    diagonal = matrix.diagonal()
    np.testing.assert_allclose(diagonal[:6], 24 * 2.1**2 + 1)  # 24 plates, on which every sample is once
    np.testing.assert_allclose(diagonal[6:], 6 * 1.2**2 + 1)


def test_figure(penicillin: bigmm.CrossProducts, tmp_path: Path) -> None:
    figure = penicillin.plot_factor(theta=[1.2, 2.1], permute=False)
    assert isinstance(figure, figures.Figure)
    assert [axes.get_title() for axes in figure.axes] == ["$\\Lambda'Z'Z\\Lambda + I$ (lower): 174 nonzeros", "$L$: 189 nonzeros"]
    figure.savefig(tmp_path / "factor.png")
    pixels = images.imread(tmp_path / "factor.png")
    for half in np.array_split(pixels[..., :3], 2, axis=1):
        assert 0.02 < (half.min(axis=2) < 0.9).mean() < 0.5  # something is drawn, and not everything


def test_too_many_levels() -> None:
    levels = np.arange(20_001)
    data = {"y": np.tile(levels % 7, 2) + np.repeat([0.0, 0.5], len(levels)), "g": np.tile(levels, 2)}
    cp = bigmm.reduce("y ~ 1 + (1 | g)", pd.DataFrame(data))
    with pytest.raises(bigmm.ModelError, match="20,001 random effects: a picture shows up to 20,000"):
        cp.plot_factor()


def test_without_matplotlib(penicillin: bigmm.CrossProducts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(bigmm.ModelError, match=r"matplotlib is missing: pip install 'bigmm\[plot\]'"):
        penicillin.plot_factor()
