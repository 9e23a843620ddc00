"""The minimum of a quadratic function of covariance matrices among the positive semidefinite ones.

A model is g's + s'H s / 2 in the change s of the entries of all Sigma, and a correction in T. Without that it is convex,
and the matrices are written as T T' with square T, not triangular: every minimum in T is then the minimum (Burer and
Monteiro 2005, doi:10.1007/s10107-004-0564-1), and Newton's steps find it on the boundary as fast as inside. (A triangular
T has others where its diagonal vanishes: with [[0, 0], [0, 1]] no small change of T changes the covariance at first order.)
All in the units of `Blocks`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from bigmm.columns import Array
from bigmm.solver.templates import Blocks, Pattern, raised
from bigmm.solver.units import FLOOR

#: Steps at most, and when they end: what they still gain, as a part of what was gained.
_STEPS, _ENOUGH = 100, 1e-7
#: Where the search begins, a singular value of T is no smaller than this: at zero every direction looks flat.
_LEAST = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """g's + s'H s / 2 + t'A t / 2, in the changes s of the entries of Sigma and t of those of T.

    `secant` says that H has learnt from changes of the slope in Sigma, so that what it promises may be wrong by much; `known`
    that A is what the exact second derivative has beside H.
    """

    g: Array
    H: Array
    A: Array
    secant: bool = False
    known: bool = False

    @property
    def corrected(self) -> bool:
        """There is a correction, which may make it less than convex."""
        return bool(self.A.any())


def minimize_model(model: Model, blocks: Blocks, theta: Array) -> tuple[Array, float]:
    """Theta of the minimum of a model around `theta`, nothing below the floor, and how much lower it is there."""
    local = _Local(model, blocks, theta, blocks.lower if model.corrected else blocks.square)
    templates = blocks.templates(theta)
    starts = [[raised(T, _LEAST) for T in templates], templates]
    for start in starts:  # the second cannot end higher than the model is at `theta`
        found = blocks.theta(local.pattern.matrices(local.descend(local.pattern.gather(start))))
        gain = -local.value(local.pattern.gather(blocks.templates(found)))
        if gain > 0.0:
            return found, gain
    if model.corrected:  # its minimum lies where a diagonal entry of T would be negative, and a correction in T has no meaning
        return minimize_model(replace(model, A=np.zeros_like(model.A)), blocks, theta)
    return theta, local.unresolved()


def polished(model: Model, blocks: Blocks, theta: Array) -> Array:
    """Theta after one plain Newton step, of whatever size: what it gains may be far below the rounding of the objective.

    None is taken where a singular value would come near the floor.
    """
    local = _Local(model, blocks, theta, blocks.lower)
    found = local.x0 + local.newton_step(local.x0)[0]
    step = np.abs(found - local.x0) <= 1e-3 * np.maximum(np.abs(local.x0), 1.0)
    found = blocks.plain_theta(local.pattern.matrices(found))
    return found if step.all() and blocks.inside(found) else theta


def curvature_in_T(model: Model, blocks: Blocks, theta: Array) -> Array:
    """The model's second derivative in T at `theta`, as far as it is positive."""
    local = _Local(model, blocks, theta, blocks.lower)
    values, vectors = np.linalg.eigh(local.derivatives(local.x0)[1])
    return np.asarray((vectors * np.maximum(values, 1e-8 * values[-1])) @ vectors.T)


class _Local:
    """A model around one theta, as a function of x, the entries of T in units; a correction needs those of the lower triangle."""

    def __init__(self, model: Model, blocks: Blocks, theta: Array, pattern: Pattern) -> None:
        self.model, self.blocks, self.pattern = model, blocks, pattern
        self.templates = blocks.templates(theta)
        self.x0 = pattern.gather(self.templates)

    def change(self, templates: list[Array]) -> Array:
        """How the entries of all Sigma change from theta; by the changes of T, for small ones of large variances are lost otherwise."""
        steps = [(T, T - T0) for T, T0 in zip(templates, self.templates, strict=True)]
        return self.blocks.lower.gather([t @ T.T + (T - t) @ t.T for T, t in steps])

    def unresolved(self) -> float:
        """What a step from theta promises that was not found: nothing, unless rounding hides where the minimum is.

        At the floor there is a promise that cannot be kept, of what the variances there cost.
        """
        promise, slopes = self.newton_step(self.x0)[1], self.blocks.symmetric(self.model.g)
        cost = FLOOR**2 * sum(float(np.maximum(np.linalg.eigvalsh(M), 0.0).sum()) for M in slopes)
        return promise if promise > 2.0 * cost else 0.0

    def value(self, x: Array) -> float:
        """How much higher the model is than at the theta around which it is."""
        s = self.change(self.pattern.matrices(x))
        value = self.model.g @ s + 0.5 * s @ self.model.H @ s
        return float(value + 0.5 * (x - self.x0) @ self.model.A @ (x - self.x0) if self.model.corrected else value)

    def derivatives(self, x: Array) -> tuple[Array, Array]:
        """Gradient and second derivative in x."""
        blocks, model, pattern = self.blocks, self.model, self.pattern
        templates = pattern.matrices(x)
        dual = model.g + model.H @ self.change(templates)
        J = pattern.jacobian(templates)
        first, second = J.T @ dual, J.T @ model.H @ J + pattern.curvature(blocks.symmetric(dual))
        return (first + model.A @ (x - self.x0), second + model.A) if model.corrected else (first, second)

    def descend(self, x: Array) -> Array:
        """Newton's steps from x as long as they gain something."""
        value = self.value(x)
        for _ in range(_STEPS):
            step, gain = self.newton_step(x)
            if gain <= _ENOUGH * max(-value, 0.0) + 1e-15:
                break
            for shorter in 0.5 ** np.arange(30):
                lower = self.value(x + shorter * step)
                if lower < value:
                    break
            else:
                break
            x, value = x + shorter * step, lower
        return x

    def newton_step(self, x: Array) -> tuple[Array, float]:
        """Newton's step, away from saddles too, and what it promises."""
        gradient, second = self.derivatives(x)
        size = np.sqrt(np.maximum(np.abs(np.diag(second)), 1e-300))
        values, vectors = np.linalg.eigh(second / np.outer(size, size))
        values = np.maximum(np.abs(values), 1e-14)
        along = vectors.T @ (gradient / size)
        return -(vectors @ (along / values)) / size, float(0.5 * (along**2 / values).sum())
