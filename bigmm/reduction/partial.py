"""Crossproducts of one chunk of rows."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from bigmm.accounting import Origin, Sources, count_sources
from bigmm.codes import Codes
from bigmm.columns import Array, Block, Column, cell_columns
from bigmm.crossproducts import CrossProducts, GroupProducts, PairProducts
from bigmm.design import Design, GroupDesign
from bigmm.levels import Refs, combine
from bigmm.pairs import count_pairs, find_pairs, level_starts
from bigmm.reduction.keys import group_levels
from bigmm.reduction.rows import Rows, evaluate_rows
from bigmm.reduction.slices import Slicing, split_rows
from bigmm.sums import gram, level_products, level_sums


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

    @property
    def is_ones(self) -> bool:
        return self.values is None and self.cells is None


@dataclass(frozen=True, slots=True)
class _GroupRefs:
    """A grouping factor in one chunk.

    Attributes
    ----------
    codes : (n,) int32
    levels : Index, length q
    starts : (q + 1,) int64
        Where the rows of each level begin once they are gathered.
    gathered : bool
        Whether they are so already.
    """

    codes: Codes
    levels: pd.Index
    starts: npt.NDArray[np.int64]
    gathered: bool


@dataclass(frozen=True)  # no slots: some of it is computed when it is needed
class _Block:
    """Pieces side by side: the columns of Z of a grouping factor, or [X y].

    Attributes
    ----------
    pieces : tuple of _Piece
    rows : int
    """

    pieces: tuple[_Piece, ...]
    rows: int

    @cached_property
    def starts(self) -> list[int]:
        """First column of each piece, and the number of columns."""
        return list(itertools.accumulate((piece.width for piece in self.pieces), initial=0))

    @cached_property
    def plain(self) -> npt.NDArray[np.intp]:
        """Places of the columns without cells."""
        return np.array([start for start, piece in zip(self.starts, self.pieces, strict=False) if piece.cells is None], dtype=np.intp)

    @cached_property
    def dense(self) -> Array:
        """The columns without cells, one a line."""
        values = [piece.values for piece in self.pieces if piece.cells is None]
        out = np.empty((len(values), self.rows))
        for line, value in zip(out, values, strict=True):
            line[:] = 1.0 if value is None else value
        return out

    @property
    def width(self) -> int:
        return self.starts[-1]

    @property
    def columns(self) -> tuple[Column, ...]:
        return tuple(column for piece in self.pieces for column in piece.columns)

    @property
    def is_intercept(self) -> bool:
        """Whether it is a column of ones."""
        return len(self.pieces) == 1 and self.pieces[0].is_ones

    def places(self, piece: int) -> slice:
        """Columns of a piece."""
        return slice(self.starts[piece], self.starts[piece + 1])


def partial_crossproducts(table: pa.Table, design: Design, where: str = "the data", origins: Sequence[Origin] = ()) -> CrossProducts:
    """Crossproducts of one chunk.

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
    (whole,) = sliced_crossproducts(table, design, Slicing(()), where, origins)
    return whole


def sliced_crossproducts(
    table: pa.Table, design: Design, slicing: Slicing, where: str, origins: Sequence[Origin]
) -> tuple[CrossProducts, ...]:
    """Crossproducts of one chunk, one for each slice; the accounts of the rows by file are with the first."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):  # `bigmm.reduction.magnitudes` names the column
        rows = evaluate_rows(table, design, where)
        first, *rest = (_crossproducts(part, design) for part in split_rows(rows, slicing))
    sources = count_sources(origins, rows.complete, rows.missing, where) if origins else Sources()
    return replace(first, sources=sources), *rest


def _crossproducts(rows: Rows, design: Design) -> CrossProducts:
    x_pieces = [_x_piece(block, rows, design) for block in design.x_blocks]
    y_pieces = [_Piece((Column(("response",)),), y, None) for y in rows.y]
    columns = tuple(column for piece in x_pieces for column in piece.columns)
    xy = _Block((*x_pieces, *y_pieces), rows.count)
    refs = [_refs(*group_levels(group.names, dict(rows.encoded))) for group in design.groups]
    z = [_Block(tuple(_piece(block, rows) for block in group.blocks), rows.count) for group in design.groups]
    groups = tuple(_group(group, one, block, xy, rows.weights) for group, one, block in zip(design.groups, refs, z, strict=True))
    pairs = {(g, h): _pair(refs[g], refs[h], z[g], z[h], rows.weights) for g, h in itertools.combinations(range(len(groups)), 2)}
    log_weights = 0.0 if rows.weights is None else float(np.log(rows.weights).sum())
    return CrossProducts(design, columns, _XytXy(xy, rows.weights), groups, pairs, rows.counts, log_weights)


def _x_piece(block: Block, rows: Rows, design: Design) -> _Piece:
    """A block of X, shifted: differences of nearby doubles are exact, squares of large ones are not."""
    piece = _piece(block, rows)
    shift = design.shift_of(block.texts)
    return piece if piece.values is None or shift == 0.0 else _Piece(piece.columns, piece.values - shift, piece.cells)


def _piece(block: Block, rows: Rows) -> _Piece:
    values = rows.numeric[block.texts] if block.numeric else None
    if not block.categories:
        return _Piece((Column(block.texts),), values, None)
    encoded = [rows.encoded[name] for name in block.categories]
    cells, labels = combine([refs for refs, _ in encoded], [levels for _, levels in encoded])
    return _Piece(cell_columns(block, labels), values, cells)


def _XytXy(xy: _Block, weights: Array | None) -> Array:
    """[X y]'[X y]."""
    out = np.zeros((xy.width, xy.width))
    dense = xy.dense
    out[np.ix_(xy.plain, xy.plain)] = gram(dense if weights is None else dense * weights, dense)
    for i, left in enumerate(xy.pieces):
        for j, right in enumerate(xy.pieces[: i + 1]):
            if left.cells is None and right.cells is None:
                continue
            block = _cell_sums(None, np.array([xy.rows]), left, right, weights)[0]
            out[xy.places(i), xy.places(j)] = block
            out[xy.places(j), xy.places(i)] = block.T
    return out


def _refs(codes: Refs, levels: pd.Index) -> _GroupRefs:
    codes = codes.astype(np.int32, copy=False)
    return _GroupRefs(codes, levels, *level_starts(codes, len(levels)))


def _group(design: GroupDesign, refs: _GroupRefs, z: _Block, xy: _Block, weights: Array | None) -> GroupProducts:
    rows = np.diff(refs.starts)
    if weights is None and z.is_intercept:
        ZtZ, ZtXy = rows.astype(np.float64)[:, None, None], _intercept_products(refs.codes, rows, xy)
    else:
        ZtZ, ZtXy = (_products(refs.codes, rows, z, right, weights) for right in (z, xy))
    return GroupProducts(design.names, refs.levels, z.columns, rows, ZtZ, ZtXy)


def _intercept_products(codes: Refs, rows: npt.NDArray[np.int64], xy: _Block) -> Array:
    """Sums of the columns of [X y] over the rows of each level: ones are counted already."""
    ZtXy = np.zeros((len(rows), 1, xy.width))
    ones = sum(piece.is_ones for piece in xy.pieces)  # at most one, and then the first
    ZtXy[:, 0, :ones] = rows[:, None]
    level_sums(codes, xy.dense[ones:], xy.plain[ones:], ZtXy[:, 0], _most(rows))
    for j, piece in enumerate(xy.pieces):
        if piece.cells is not None:
            ZtXy[:, 0, xy.places(j)] = _cell_sums(codes, rows, _Piece((Column(),), None, None), piece, None)[:, 0]
    return ZtXy


def _pair(g: _GroupRefs, h: _GroupRefs, left: _Block, right: _Block, weights: Array | None) -> PairProducts:
    g_refs, h_refs, counts = count_pairs(g.codes, h.codes, g.starts, g.gathered, h.starts)
    if weights is None and left.is_intercept and right.is_intercept:
        return PairProducts(g_refs, h_refs, counts[:, None, None])
    refs = find_pairs(g.codes, h.codes, g_refs, h_refs, len(g.levels))
    return PairProducts(g_refs, h_refs, _products(refs, counts, left, right, weights))


def _products(refs: Refs, rows: npt.NDArray[np.integer], left: _Block, right: _Block, weights: Array | None) -> Array:
    """Sum of left x right x weight over the rows of each ref, (q, left.width, right.width); `rows` (q,) says how many there are."""
    out = np.zeros((len(rows), left.width, right.width))
    one = left.dense
    level_products(refs, one if weights is None else one * weights, right.dense, left.plain, right.plain, out, _most(rows))
    for i, a in enumerate(left.pieces):
        for j, b in enumerate(right.pieces):
            if a.cells is not None or b.cells is not None:
                out[:, left.places(i), right.places(j)] = _cell_sums(refs, rows, a, b, weights)
    return out


def _cell_sums(refs: Refs | None, rows: npt.NDArray[np.integer], left: _Piece, right: _Piece, weights: Array | None) -> Array:
    """The same for two pieces, at least one of which has cells."""
    index = refs
    for piece in (left, right):
        if piece.cells is not None:
            index = piece.cells if index is None else index.astype(np.int64, copy=False) * piece.width + piece.cells
    assert index is not None
    shape = (len(rows), left.width, right.width)
    values = _multiply(left.values, right.values, weights)
    if values is None:
        return np.bincount(index, minlength=int(np.prod(shape))).astype(np.float64).reshape(shape)
    sums = np.zeros((int(np.prod(shape)), 1))
    level_sums(index.astype(np.int64, copy=False), values[None], np.zeros(1, dtype=np.intp), sums, _most(rows))
    return sums.reshape(shape)


def _most(rows: npt.NDArray[np.integer]) -> int:
    """Rows of the largest level."""
    return int(rows.max(initial=0))


def _multiply(*factors: Array | None) -> Array | None:
    product: Array | None = None
    for factor in factors:
        if factor is not None:
            product = factor if product is None else product * factor
    return product
