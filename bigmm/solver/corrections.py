"""The quadratic model at each point of a search, corrected by how the slope changed between the points before.

Far from the minimum one change of the slope in Sigma corrects the information; near it some changes in T do, along the principal
axes of each covariance matrix, on top of the exact second derivative where that is known.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from bigmm.columns import Array
from bigmm.solver.conic import Model, curvature_in_T
from bigmm.solver.covariance import RelativeCovariance
from bigmm.solver.derivatives import Derivatives
from bigmm.solver.information import quadratic_model, updated
from bigmm.solver.templates import Blocks
from bigmm.solver.units import Units

#: So many changes of the slope correct the information once a step can lower the objective by no more than this; before, one.
_MEMORY, _CLOSE = 5, 0.1
#: Where a step can lower the objective by no more than this its second derivative, as far as it is known, is better than an average.
_NEAR = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Point:
    """`given` are derivatives in units, `derivatives` those along the axes of the search."""

    theta: Array
    objective: float
    given: Derivatives
    derivatives: Derivatives


class Models:
    """The models of one search, what they have learnt, and the axes along which they are."""

    def __init__(self, covariance: RelativeCovariance, units: Units) -> None:
        self.blocks = Blocks(covariance, units)
        self._changes: list[tuple[Array, Array]] = []
        self._in_T = self._near = False

    def point(self, theta: Array, objective: float, given: Derivatives) -> Point:
        """A point along the axes of now."""
        return Point(theta, objective, given, self.blocks.expressed(theta, given))

    def plain(self, point: Point) -> Model:
        """The model of a point's own derivatives, without a correction."""
        return quadratic_model(point.theta, point.derivatives, self.blocks, near=self._known(point))

    def forget(self) -> None:
        """Changes of the slope correct nothing any more."""
        self._changes.clear()

    def corrected(self, old: Point, new: Point, decrement: float) -> tuple[Model, Point]:
        """The model at the new point, with BFGS updates: it agrees with the last change of the slope, near the end with some before.

        Near the end they are changes in T, of which the objective is more nearly a quadratic function than of Sigma; but not
        where Sigma is almost singular, and T may jump among matrices of almost the same T T'. The point is returned along the
        axes of the model.
        """
        self._near = decrement <= _NEAR
        if decrement <= _CLOSE and not (self._in_T and self.blocks.ranks(new.theta) is not None):
            old, new = self._turned(old, new)
        ranks = self.blocks.ranks(old.theta)
        in_T = decrement <= _CLOSE and ranks is not None and ranks == self.blocks.ranks(new.theta)
        if decrement > _CLOSE or in_T != self._in_T:
            self.forget()
        self._in_T = in_T
        return (self._corrected_in_T if in_T else self._corrected_in_sigma)(old, new), new

    def _known(self, point: Point) -> bool:
        """The exact second derivative counts, and is known of some factor."""
        return self._near and bool(point.derivatives.gap.any())

    def _turned(self, old: Point, new: Point) -> tuple[Point, Point]:
        """Both points along the principal axes of the new one: there the first columns of T hold the rank, and turn slowly."""
        self.blocks = self.blocks.along_principal_axes(new.theta)
        self.forget()
        old, new = (self.point(point.theta, point.objective, point.given) for point in (old, new))
        return old, new

    def _corrected_in_T(self, old: Point, new: Point) -> Model:
        blocks, model, known = self.blocks, self.plain(new), self._known(new)
        change = blocks.gradient(new.theta, new.derivatives) - blocks.gradient(old.theta, old.derivatives)
        self._changes.append((blocks.in_units(new.theta) - blocks.in_units(old.theta), change))
        plain = curvature_in_T(model, blocks, new.theta)
        exact = replace(model, H=new.derivatives.information + new.derivatives.gap)
        best = curvature_in_T(exact, blocks, new.theta) if known else plain
        return Model(model.g, model.H, updated(best, self._changes[-_MEMORY:], bold=True) - plain, known=known)

    def _corrected_in_sigma(self, old: Point, new: Point) -> Model:
        model, moved = self.plain(new), self.blocks.entries(new.theta) - self.blocks.entries(old.theta)
        self._changes.append((moved, model.g - self.blocks.slope(old.derivatives)))
        return Model(model.g, updated(model.H, self._changes[-_MEMORY:]), model.A, secant=True)
