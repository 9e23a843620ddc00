"""Sums of squares that double precision can hold: numbers that are too large or too small for it are refused by name."""

from __future__ import annotations

import warnings

import numpy as np

from bigmm.columns import Array, product_name
from bigmm.crossproducts import CrossProducts
from bigmm.errors import DataError, PrecisionWarning

#: Sums of squares outside of this might over- or underflow when they are multiplied by one another.
_LEAST, _MOST = 1e-140, 1e140


def check_magnitudes(cp: CrossProducts) -> None:
    """See that every column's sum of squares, and its products with other columns, are numbers to compute with.

    Warns of an expression, ``I(x^2)`` for instance, that is 0 in every row: its values may have been too small for a double.

    Raises
    ------
    DataError
        Naming the column.
    """
    _check_zeros(cp)
    numeric = [bool(column.numeric) for column in cp.columns]
    names = [column.name for column in cp.columns] + [response.text for response in cp.design.formula.responses]
    _check(names, np.array(numeric + [True] * (len(names) - len(numeric))), cp.XytXy, cp)
    for group in cp.groups:
        numeric = [bool(column.numeric) for column in group.columns]
        if any(numeric):
            products = np.concatenate([group.ZtZ.sum(axis=0), group.ZtXy.sum(axis=0)], axis=1)
            _check([column.name for column in group.columns], np.array(numeric), products, cp)


def _check_zeros(cp: CrossProducts) -> None:
    """Warn of expressions that are 0 everywhere; columns as they are in the data may be so."""
    parts = [(cp.columns, cp.XytXy), *((group.columns, group.ZtXy) for group in cp.groups)]
    seen: dict[str, bool] = {}
    for columns, products in parts:
        for place, column in enumerate(columns):
            text = product_name(column.numeric)
            if not all(factor in cp.design.kinds for factor in column.numeric):
                seen[text] = seen.get(text, False) or bool(products[..., place, :].any()) or cp.design.shift_of(column.numeric) != 0.0
    zeros = [text for text, is_seen in seen.items() if not is_seen]
    if zeros and cp.rows.used:
        warnings.warn(
            f"{', '.join(map(repr, zeros))} is 0 in every row: if its values are too small for double precision, measure its columns in "
            "another unit",
            PrecisionWarning,
            stacklevel=2,
        )


def _check(names: list[str], numeric: np.ndarray[tuple[int], np.dtype[np.bool_]], products: Array, cp: CrossProducts) -> None:
    squares, used = np.diag(products), (products != 0.0).any(axis=1)
    good = np.isfinite(products).all(axis=1) & ~(used & numeric & ((squares < _LEAST) | (squares > _MOST)))
    if not good.all():
        worst = np.where(good, -1.0, np.abs(np.log10(np.maximum(np.nan_to_num(squares, nan=np.inf), 1e-320))))
        at = int(np.argmax(worst))
        weighted = "weighted " if cp.design.weights else ""
        raise DataError(
            f"the {weighted}squares of {names[at]!r} add up to {squares[at]:.0e}: expected between {_LEAST:.0e} and {_MOST:.0e}, where "
            "products neither overflow nor vanish; measure it in another unit"
        )
