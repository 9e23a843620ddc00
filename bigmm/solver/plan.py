"""The plan of a factorization: what was chosen, what was not, and the figures of both, before anything is factored."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from bigmm.errors import ModelError
from bigmm.solver.memory import VARIABLE

Name: TypeAlias = Literal["leaves", "leaves + dense root", "leaves + sparse root", "whole matrix"]


@dataclass(frozen=True, slots=True)
class Alternative:
    """One plan and its price; figures are None where they would have cost too much to find.

    Attributes
    ----------
    name : str
        "leaves" (there is nothing but the leading factor), "leaves + dense root", "leaves + sparse root" or "whole matrix".
    order : str
        Order of elimination in the root (or in the whole matrix): "natural", "few leaves first" (in each factor, levels that
        few leaves meet before those that many meet), or CHOLMOD's default or "metis".
    root : int
        Columns of the root.
    nnz_L : int or None
        Entries of L by structure. (CHOLMOD's supernodes hold some zeros besides.)
    nbytes : int or None
        Memory at the peak of a fit, crossproducts not included.
    flops, gradient_flops : float or None
        Multiplications and additions of one objective, and of one objective with gradient.
    seconds, gradient_seconds : float or None
        Estimates for the same, with the threads of this process; other machines differ by a factor of two.
    reason : str
        Why it was chosen, or was not.
    """

    name: Name
    order: str
    root: int
    nnz_L: int | None = None
    nbytes: int | None = None
    flops: float | None = None
    gradient_flops: float | None = None
    seconds: float | None = None
    gradient_seconds: float | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan of a model's factorization.

    Attributes
    ----------
    chosen : Alternative
    rejected : tuple of Alternative
    leading : str
        The factor whose levels are the leaves.
    crossproducts : int
        Bytes that the model's crossproducts take already.
    available : float
        Bytes that were left when the plan was made.
    leaves : str
        Where the leaves live, and why.
    """

    chosen: Alternative
    rejected: tuple[Alternative, ...]
    leading: str
    crossproducts: int
    available: float
    leaves: str = "local, the crossproducts are in this process"

    @property
    def fits(self) -> bool:
        """Whether the chosen plan's memory is there."""
        return (self.chosen.nbytes or 0) <= self.available

    def check(self) -> None:
        """Refuse a plan that memory will not hold.

        Raises
        ------
        ModelError
        """
        if not self.fits:
            raise ModelError(
                f"the fit needs {format_bytes(self.chosen.nbytes)} beside the crossproducts ({self.chosen.name}, the least of all plans), "
                f"and {format_bytes(self.available)} are available: use a machine with more memory, "
                "merge or drop levels of the grouping factors, "
                f"or set {VARIABLE} (such as 64GiB) if this is wrong"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "rejected": [asdict(other) for other in self.rejected], "fits": self.fits}

    def __str__(self) -> str:
        """A table: the chosen plan first."""
        heads = ("plan", "order", "root", "nnz(L)", "memory", "flops", "seconds", "flops", "seconds")
        rows = [heads, *(_row(other) for other in (self.chosen, *self.rejected))]
        widths = [max(len(row[i]) for row in rows) for i in range(len(heads))]
        lines = ["  ".join(_aligned(row, widths)).rstrip() for row in rows]
        before = sum(widths[:5]) + 2 * 5
        title = " " * before + "objective".center(sum(widths[5:7]) + 2) + "  " + "with gradient"
        notes = [f"{other.name}: {other.reason}" for other in (self.chosen, *self.rejected)]
        sizes = f"crossproducts {format_bytes(self.crossproducts)}; available memory {format_bytes(self.available)}"
        tail = [f"rejected: {note}" for note in notes[1:]] + [f"leaves: {self.leading}; {sizes}", f"leaves live: {self.leaves}"]
        return "\n".join([title.rstrip(), *lines, "", f"chosen: {notes[0]}", *tail])


def _row(plan: Alternative) -> tuple[str, ...]:
    figures = [_flops(plan.flops), _seconds(plan.seconds), _flops(plan.gradient_flops), _seconds(plan.gradient_seconds)]
    entries = "-" if plan.nnz_L is None else f"{plan.nnz_L:,}"
    return (plan.name, plan.order, f"{plan.root:,}", entries, format_bytes(plan.nbytes), *figures)


def _aligned(row: tuple[str, ...], widths: list[int]) -> list[str]:
    return [text.ljust(width) if i < 2 else text.rjust(width) for i, (text, width) in enumerate(zip(row, widths, strict=True))]


def format_bytes(number: float | None) -> str:
    """A number of bytes for people."""
    if number is None or not np.isfinite(number):
        return "-" if number is None else "unlimited"
    unit, size = next((u, s) for u, s in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("B", 1.0)) if number >= s or s == 1.0)
    return f"{number / size:.3g} {unit}"


def _flops(number: float | None) -> str:
    return "-" if number is None else f"{number:.2g}"


def _seconds(number: float | None) -> str:
    return "-" if number is None else f"{number:.2g}"
