"""Pictures of a model; matplotlib is loaded here and nowhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from bigmm.crossproducts import CrossProducts
from bigmm.errors import ModelError
from bigmm.solver.model import build_model
from bigmm.solver.pls import PenalizedLeastSquares
from bigmm.solver.sparse_root import SparseRoot

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Above this order a picture of single entries shows nothing.
_MAX_ORDER = 20_000


def plot_factor(cp: CrossProducts, formula: str | None = None, theta: npt.ArrayLike | None = None, *, permute: bool = True) -> Figure:
    """Draw Lambda'Z'Z Lambda + I and L side by side; see `CrossProducts.plot_factor`.

    Raises
    ------
    ModelError
        Without matplotlib, or for more random effects than a picture can show.
    """
    matrix, L = factor_matrices(cp, formula, theta, permute=permute)
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ModelError("matplotlib is missing: pip install 'bigmm[plot]'") from None
    figure = Figure(figsize=(10, 5.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    _image(left, matrix, f"$\\Lambda'Z'Z\\Lambda + I$ (lower): {matrix.nnz:,} nonzeros")
    _image(right, L, f"$L$: {L.nnz:,} nonzeros")
    return figure


def factor_matrices(
    cp: CrossProducts, formula: str | None = None, theta: npt.ArrayLike | None = None, *, permute: bool = True
) -> tuple[sp.csc_array, sp.csc_array]:
    """Lower triangle of P(Lambda'Z'Z Lambda + I)P' without P, and L, of one model at one theta.

    All random effects are factored by CHOLMOD, in the order of the formula's grouping factors or, with `permute`,
    in a fill-reducing order.
    """
    selected = build_model(cp, formula, reml=False).selected
    order = sum(group.q * group.k for group in selected.blocks.groups)
    if order > _MAX_ORDER:
        raise ModelError(f"{order:,} random effects: a picture shows up to {_MAX_ORDER:,}; draw a model with fewer levels")
    ordering: Any = "default" if permute else "natural"
    pls = PenalizedLeastSquares(selected.blocks, selected.covariance, leaves=False, ordering=ordering, simplicial=True)
    pls.evaluate(selected.covariance.theta0 if theta is None else theta)
    assert isinstance(pls.factor, SparseRoot)
    return pls.factor.matrix(), sp.csc_array(pls.factor.factor.L())


def _image(axes: Axes, matrix: sp.csc_array, title: str) -> None:
    """A square for each nonzero, darker for larger ones."""
    entries = matrix.tocoo()
    order = matrix.shape[0]
    size = np.abs(entries.data)
    shade = np.log1p(size) / max(np.log1p(size).max(initial=0.0), 1e-300)
    points = 300.0 / max(order, 1)  # width of one entry in points
    axes.scatter(
        entries.col, entries.row, s=max(points, 0.6) ** 2, c=0.25 + 0.75 * shade, cmap="Greys", vmin=0, vmax=1, marker="s", linewidths=0
    )
    axes.set(xlim=(-0.5, order - 0.5), ylim=(order - 0.5, -0.5), aspect="equal", title=title, xlabel="column", ylabel="row")
