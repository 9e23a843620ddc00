"""Crossproducts of one chunk of rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa

from bigmm.accounting import Origin, Sources, count_sources
from bigmm.addition import pairs_from_keys
from bigmm.columns import Array, Block, Column, cell_columns
from bigmm.crossproducts import CrossProducts, GroupProducts, PairProducts
from bigmm.design import Design, GroupDesign
from bigmm.levels import Refs, combine
from bigmm.reduction.keys import group_levels
from bigmm.reduction.rows import Rows, evaluate_rows


@dataclass(frozen=True, slots=True)
class _Piece:
    """A block of raw columns in one chunk, never spread out into indicator columns.

    Attributes
    ----------
    columns : tuple of Column
    values : (n,) float64 or None
        What the columns hold in the rows of their cell; None for ones.
    cells : (n,) int or None
        Which of the columns a row belongs to; None when there is one.
    """

    columns: tuple[Column, ...]
    values: Array | None
    cells: Refs | None

    @property
    def width(self) -> int:
        return len(self.columns)


def partial_crossproducts(table: pa.Table, design: Design, where: str = "the data", origins: Sequence[Origin] = ()) -> CrossProducts:
    """Crossproducts of one chunk: the task that runs on a worker.

    Parameters
    ----------
    table : Table
        The design's columns.
    design : Design
    where : str
        The chunk's name, for messages.
    origins : sequence of Origin
        The files that the rows come from, in order.

    Raises
    ------
    DataError
        As `bigmm.reduction.rows.evaluate_rows`, and when there are more or fewer rows than the origins say.
    """
    rows = evaluate_rows(table, design, where)
    x_pieces = [_x_piece(block, rows, design) for block in design.x_blocks]
    columns = tuple(column for piece in x_pieces for column in piece.columns)
    pieces = [*x_pieces, *(_Piece((Column(("response",)),), y, None) for y in rows.y)]
    refs = [group_levels(group.names, dict(rows.encoded)) for group in design.groups]
    z_pieces = [[_piece(block, rows) for block in group.blocks] for group in design.groups]
    groups = tuple(
        _group(group, levels, codes, z, pieces, rows.weights)
        for group, (codes, levels), z in zip(design.groups, refs, z_pieces, strict=True)
    )
    pairs = {
        (g, h): _pair(refs[g], refs[h], z_pieces[g], z_pieces[h], rows.weights)
        for g in range(len(groups))
        for h in range(g + 1, len(groups))
    }
    log_weights = 0.0 if rows.weights is None else float(np.log(rows.weights).sum())
    sources = count_sources(origins, rows.complete, rows.missing, where) if origins else Sources()
    return CrossProducts(design, columns, _XytXy(pieces, rows.weights), groups, pairs, rows.counts, log_weights, sources=sources)


def _x_piece(block: Block, rows: Rows, design: Design) -> _Piece:
    """A block of X, shifted: differences of nearby doubles are exact, squares of large ones are not."""
    piece = _piece(block, rows)
    shift = design.shift.get(":".join(block.texts), 0.0)
    return piece if piece.values is None or shift == 0.0 else _Piece(piece.columns, piece.values - shift, piece.cells)


def _piece(block: Block, rows: Rows) -> _Piece:
    values = rows.numeric[block.texts] if block.numeric else None
    if not block.categories:
        return _Piece((Column(block.texts),), values, None)
    encoded = [rows.encoded[name] for name in block.categories]
    cells, labels = combine([refs for refs, _ in encoded], [levels for _, levels in encoded])
    return _Piece(cell_columns(block, labels), values, cells)


def _sums(refs: Refs | None, size: int, left: _Piece, right: _Piece, weights: Array | None, rows: int) -> Array:
    """Sum of left x right x weight over the rows of each ref, shape (size, left.width, right.width)."""
    index = refs
    for piece in (left, right):
        if piece.cells is not None:
            index = piece.cells if index is None else index * piece.width + piece.cells
    value = _multiply(left.values, right.values, weights)
    if index is None:
        total = float(rows) if value is None else value.sum()
        return np.full((1, 1, 1), total)
    shape = (size, left.width, right.width)
    return np.bincount(index, value, minlength=int(np.prod(shape))).astype(np.float64, copy=False).reshape(shape)


def _multiply(*factors: Array | None) -> Array | None:
    product: Array | None = None
    for factor in factors:
        if factor is not None:
            product = factor if product is None else product * factor
    return product


def _XytXy(pieces: Sequence[_Piece], weights: Array | None) -> Array:
    """[X y]'[X y]: BLAS for the columns that all rows share, counting for the cells."""
    y = pieces[-1].values
    assert y is not None
    starts = np.cumsum([0, *(piece.width for piece in pieces)])
    out = np.zeros((starts[-1], starts[-1]))
    plain = [i for i, piece in enumerate(pieces) if piece.cells is None]
    dense = np.column_stack([_dense(pieces[i], len(y)) for i in plain])
    places = starts[plain]
    out[np.ix_(places, places)] = (dense if weights is None else dense * weights[:, None]).T @ dense
    for i, left in enumerate(pieces):
        for j, right in enumerate(pieces[: i + 1]):
            if left.cells is None and right.cells is None:
                continue
            block = _sums(None, 1, left, right, weights, len(y))[0]
            out[starts[i] : starts[i + 1], starts[j] : starts[j + 1]] = block
            out[starts[j] : starts[j + 1], starts[i] : starts[i + 1]] = block.T
    return out


def _dense(piece: _Piece, rows: int) -> Array:
    return np.ones(rows) if piece.values is None else piece.values


def _group(
    design: GroupDesign, levels: pd.Index, refs: Refs, z: Sequence[_Piece], xy: Sequence[_Piece], weights: Array | None
) -> GroupProducts:
    q = len(levels)
    columns = tuple(column for piece in z for column in piece.columns)
    ZtZ = np.block([[_sums(refs, q, left, right, weights, len(refs)) for right in z] for left in z])
    ZtXy = np.block([[_sums(refs, q, left, right, weights, len(refs)) for right in xy] for left in z])
    return GroupProducts(design.names, levels, columns, np.bincount(refs, minlength=q), ZtZ, ZtXy)


def _pair(
    g: tuple[Refs, pd.Index], h: tuple[Refs, pd.Index], left: Sequence[_Piece], right: Sequence[_Piece], weights: Array | None
) -> PairProducts:
    keys = g[0].astype(np.int64) * len(h[1]) + h[0]
    if weights is None and _is_intercept(left) and _is_intercept(right):
        distinct, counts = np.unique(keys, return_counts=True)
        return pairs_from_keys(distinct, counts.astype(np.int32)[:, None, None], len(h[1]))
    distinct, refs = np.unique(keys, return_inverse=True)
    blocks = np.block([[_sums(refs, len(distinct), a, b, weights, len(refs)) for b in right] for a in left])
    return pairs_from_keys(distinct, blocks, len(h[1]))


def _is_intercept(pieces: Sequence[_Piece]) -> bool:
    return len(pieces) == 1 and pieces[0].values is None and pieces[0].cells is None
