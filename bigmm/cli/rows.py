"""From the command line's words to crossproducts: a pass over rows, or crossproducts that were saved."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import click

from bigmm.cli.application import hush_cluster, is_verbose
from bigmm.cli.progress import stage
from bigmm.errors import DataError
from bigmm.urls import joined, without_secrets

if TYPE_CHECKING:
    from bigmm.crossproducts import CrossProducts

#: Stands for the formula that saved crossproducts were collected with.
SAME_FORMULA = "-"


@dataclass(frozen=True, slots=True)
class PassOptions:
    """Options of a pass over rows as they were given, None where they were not."""

    weights: str | None
    offset: str | None
    na_action: Literal["omit", "fail"] | None
    scheduler: str | None
    workers: int | None
    checkpoint: str | None
    resume: bool

    def __post_init__(self) -> None:
        """Refuse two clusters, and to go on from nowhere."""
        if self.scheduler is not None and self.workers is not None:
            raise click.UsageError("--scheduler and --workers exclude one another", click.get_current_context())
        if self.resume and self.checkpoint is None:
            raise click.UsageError("--resume needs --checkpoint DIR, the checkpoint to go on from", click.get_current_context())

    @property
    def given(self) -> list[str]:
        """Those that were given, as they are written."""
        values = {"--weights": self.weights, "--offset": self.offset, "--na-action": self.na_action}
        values |= {"--scheduler": self.scheduler, "--workers": self.workers}  # type: ignore[dict-item]
        return [name for name, value in values.items() if value is not None]


def are_saved(data: Sequence[str]) -> bool:
    """Whether the words name directories of saved crossproducts, as opposed to rows.

    Raises
    ------
    DataError
        When they name both, or a fit.
    """
    from bigmm.storage import saved_kind

    kinds = {path: saved_kind(path) for path in data}
    fits = [path for path, kind in kinds.items() if kind == "fit"]
    if fits:
        raise DataError(f"{fits[0]!r} holds a fit: expected data, or saved crossproducts")
    saved = [path for path, kind in kinds.items() if kind == "crossproducts"]
    if saved and len(saved) < len(kinds):
        raise DataError(f"{saved[0]!r} holds crossproducts and other arguments do not: expected the one or the other")
    return bool(saved)


def crossproducts_of(formula: str, data: Sequence[str], options: PassOptions, quiet: bool) -> CrossProducts:
    """Crossproducts from saved ones, which are added up, or from a pass over rows.

    Raises
    ------
    DataError
        When options of a pass were given for saved crossproducts.
    """
    if not are_saved(data):
        return _reduce(formula, data, options, quiet)
    if options.given:
        raise DataError(f"{options.given[0]} is for a pass over rows, and these are saved crossproducts: leave it out")
    return add_saved(data)


def add_saved(data: Sequence[str]) -> CrossProducts:
    """The sum of saved crossproducts.

    Raises
    ------
    DataError
        When the same ones are listed twice: their rows would count twice.
    """
    from bigmm.addition import add
    from bigmm.crossproducts import CrossProducts
    from bigmm.storage import load

    _check_distinct(data)
    return add([cp for cp in map(load, data) if isinstance(cp, CrossProducts)])


def _check_distinct(data: Sequence[str]) -> None:
    seen: dict[str, str] = {}
    for path in data:
        real = os.path.realpath(path)
        if real in seen:
            raise DataError(f"{path!r} is listed twice (before as {seen[real]!r}): expected each crossproducts once, leave one out")
        seen[real] = path


def _reduce(formula: str, data: Sequence[str], options: PassOptions, quiet: bool) -> CrossProducts:
    """Crossproducts of rows, with progress."""
    from bigmm.reduction.reduce import reduce

    if formula == SAME_FORMULA:
        raise DataError(f"the formula {SAME_FORMULA!r} is for saved crossproducts: write one, such as 'y ~ x + (1 | g)'")
    hush_cluster(is_verbose(click.get_current_context()))
    client: Any = options.scheduler if options.workers is None else options.workers
    with stage("pass over the rows", quiet) as current:
        cp = reduce(
            formula,
            list(data),
            weights=options.weights,
            offset=options.offset,
            na_action=options.na_action or "omit",
            client=client,
            checkpoint=None if options.checkpoint is None else joined(options.checkpoint, "pass"),
            resume=options.resume,
            progress=current.update,
        )
        current.finish(f"{cp.rows.used:,} of {cp.rows.read:,} rows used")
    return cp


def describe(cp: CrossProducts) -> str:
    """What crossproducts hold, as lines of a name and a value."""
    lines = {"formula": cp.design.formula.text.strip()}
    lines |= {name: column for name, column in [("weights", cp.design.weights), ("offset", cp.design.offset)] if column is not None}
    lines |= {"rows read": f"{cp.rows.read:,}", "rows used": f"{cp.rows.used:,}", "rows dropped": f"{cp.rows.dropped:,}"}
    lines |= {f"  missing {name}": f"{count:,}" for name, count in cp.rows.missing.items()}
    lines |= {"raw columns of X": f"{len(cp.columns):,}"}
    lines |= {f"levels of {group.name}": f"{len(group.levels):,}" for group in cp.groups}
    lines |= {"memory": f"{cp.nbytes / 1e6:,.1f} MB"}
    return _aligned(lines)


def _aligned(lines: Mapping[str, str]) -> str:
    width = max(map(len, lines))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in lines.items())
