"""The residual sum of squares from the rows at the final estimates: what crossproducts have lost, measured by one more pass."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa

from bigmm.columns import Array
from bigmm.design import Design
from bigmm.errors import DataError
from bigmm.formula.terms import Formula
from bigmm.inference.predict import Predictor, build_predictor
from bigmm.reduction.rows import evaluate_rows
from bigmm.reduction.sources import Chunk, plan_data
from bigmm.reduction.sources.partitions import read_sent

if TYPE_CHECKING:
    from bigmm.inference.fit import LinearMixedModelFit


@dataclass(frozen=True, slots=True)
class Verification:
    """Two residual sums of squares, weighted: sum of w (y - X beta - Z b)^2.

    Attributes
    ----------
    from_rows : float
        Computed row by row.
    from_crossproducts : float
        pwrss less the penalty u'u.
    rows : int
        Rows that both are of.
    """

    from_rows: float
    from_crossproducts: float
    rows: int

    @property
    def relative(self) -> float:
        """Their difference as a part of what the rows say."""
        return (self.from_crossproducts - self.from_rows) / self.from_rows

    def __str__(self) -> str:
        """One line."""
        return (
            f"residual sum of squares of {self.rows:,} rows: {self.from_rows:.15g} from the rows, "
            f"{self.from_crossproducts:.15g} from crossproducts ({self.relative:.1e} apart)"
        )


def verify(fit: LinearMixedModelFit, data: Any, client: Any = None) -> Verification:
    """Read the rows of a fit once more; see `LinearMixedModelFit.verify`."""
    residuals = _Residuals(build_predictor(fit), fit.formula)
    parts = _of_chunks(residuals, data, client)
    rows = sum(count for count, _ in parts)
    if rows != fit.nobs:
        raise DataError(f"the data have {rows:,} complete rows, the fit was made from {fit.nobs:,}: give the same data")
    return Verification(float(np.sum([square for _, square in parts])), _from_crossproducts(fit), rows)


@dataclass(frozen=True, slots=True)
class _Residuals:
    """A predictor that sees the response, too."""

    predictor: Predictor
    formula: Formula

    @property
    def names(self) -> tuple[str, ...]:
        return self._design.names

    @property
    def _design(self) -> Design:
        return replace(self.predictor.fit.design, formula=self.formula, shift={}, y_shift={}, na_action="omit")

    def squares(self, table: pa.Table, where: str) -> tuple[int, float]:
        """Complete rows, and the weighted sum of their squared residuals."""
        rows = evaluate_rows(table, self._design, where)
        if not rows.counts.used:
            return 0, 0.0
        residual: Array = rows.y[0] - self.predictor.fixed(rows) - self.predictor.random(rows)
        return rows.count, float((residual**2 if rows.weights is None else rows.weights * residual**2).sum())

    def of_chunk(self, chunk: Chunk, frame: pd.DataFrame | None = None) -> tuple[int, float]:
        """The same of a chunk of a plan, whose partition has been computed when it is one of a Dask frame."""
        return self.squares(read_sent(chunk, frame, self.names), chunk.name)


def _of_chunks(residuals: _Residuals, data: Any, client: Any) -> list[tuple[int, float]]:
    """In the order of the chunks, so that the sum does not depend on who was faster."""
    from bigmm.reduction.cluster import connect
    from bigmm.reduction.tally import Tally
    from bigmm.reduction.workers import Workers

    plan = plan_data(data, residuals.names)
    with connect(client, here=plan.readable_here) as connected:
        if connected is None:
            with ThreadPoolExecutor() as pool:
                return list(pool.map(residuals.of_chunk, plan.chunks))
        carried = connected.scatter(residuals, broadcast=True, hash=False)
        with Workers(connected, Tally((), None)) as workers:
            futures = workers.start_each(_verify, [carried] * len(plan.chunks), *workers.sent(plan.chunks))
            found: list[Any] = [workers.result(future) for future in futures]
            return found


def _verify(residuals: _Residuals, chunk: Chunk, frame: pd.DataFrame | None) -> tuple[int, float]:
    """The name that Dask's dashboard shows."""
    return residuals.of_chunk(chunk, frame)


def _from_crossproducts(fit: LinearMixedModelFit) -> float:
    """Pwrss - u'u; u is the shortest solution of T u = b, for it lies in the range of T'."""
    nu = fit.nobs - len(fit.beta) if fit.reml else fit.nobs
    penalty = 0.0
    for group, T in zip(fit.groups, fit.covariance.templates(fit.theta), strict=True):
        penalty += float(((group.b @ np.linalg.pinv(T).T) ** 2).sum())
    return fit.sigma**2 * nu - penalty
