"""From theta to a fit: sigma, fixed effects and their covariance, random effects."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bigmm.inference.effects import GroupEffects
from bigmm.inference.fit import LinearMixedModelFit
from bigmm.solver.identification import check_pwrss, check_rounding
from bigmm.solver.optimize import Optimization

if TYPE_CHECKING:
    from bigmm.solver.model import LinearMixedModel


def estimate(model: LinearMixedModel, found: Optimization) -> LinearMixedModelFit:
    """The fit at the theta that a search has found.

    sigma^2 = pwrss / nu;  vcov(beta) = sigma^2 (R_X'R_X)^-1.

    Raises
    ------
    ModelError
        When the model explains the response exactly, so that no residual variance is left.

    References
    ----------
    Bates et al. (2015), JSS 67(1), equations 38 and 54.
    """
    objective, evaluation = model.at_optimum(found.theta)
    check_pwrss(evaluation.pwrss, model.selected.blocks.XytXy)
    check_rounding(model.rounding(found.theta))
    solution = model.pls.solve(evaluation)
    selected, cp = model.selected, model.cp
    sigma = float(np.sqrt(evaluation.pwrss / model.degrees_of_freedom))
    inverse = np.linalg.inv(evaluation.RX) if selected.blocks.p else np.zeros((0, 0))
    groups = tuple(
        GroupEffects(group.names, levels, group.columns, coding.names, b)
        for group, coding, (levels, b) in zip(selected.groups, selected.codings, model.effects(evaluation, solution), strict=True)
    )
    return LinearMixedModelFit(
        formula=selected.formula,
        reml=model.reml,
        design=cp.design,
        columns=cp.columns,
        contrasts=dict(selected.contrasts),
        coef_names=selected.fixed.names,
        dropped=selected.fixed.dropped,
        beta=selected.fixed.beta(solution.beta),
        vcov_beta=sigma**2 * selected.fixed.vcov(inverse @ inverse.T),
        sigma=sigma,
        objective=objective,
        theta=found.theta,
        covariance=selected.covariance,
        groups=groups,
        rows=cp.rows,
        optimization=found,
        model=model,
    )
