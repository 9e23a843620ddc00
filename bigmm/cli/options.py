"""Options that commands share, and what is read from their text."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from bigmm.cli.application import note_checkpoint, note_max_seconds
from bigmm.cli.journal import journal_options

Command = TypeVar("Command", bound=Callable[..., Any])

#: Stands for the formula that saved crossproducts were collected with.
SAME_FORMULA = "-"


def asked_formula(formula: str | None) -> str | None:
    """The formula for the library, which takes None for that of the pass."""
    return None if formula == SAME_FORMULA else formula


def read_contrast(text: str) -> tuple[str, str]:
    """``COL=NAME``, as a pair."""
    from bigmm.formula.expression import CONTRASTS

    column, _, name = text.rpartition("=")
    name = name.removeprefix("contr.")
    if not column or name not in CONTRASTS:
        raise click.BadParameter(f"{text!r}, expected COL=NAME with a name of {', '.join(CONTRASTS)}")
    return column, name


def read_theta(text: str) -> tuple[float, ...]:
    """Numbers joined by commas."""
    try:
        return tuple(float(number) for number in text.split(","))
    except ValueError:
        raise click.BadParameter(f"{text!r}, expected numbers joined by commas, such as 1,0,1") from None


def read_seconds(text: str) -> float:
    """Seconds, or minutes or hours with a letter."""
    units = {"s": 1.0, "m": 60.0, "h": 3600.0}
    try:
        number, unit = (text[:-1], text[-1]) if text[-1:] in units else (text, "s")
        seconds = float(number) * units[unit]
    except ValueError:
        seconds = 0.0
    if not 0.0 < seconds < math.inf:
        raise click.BadParameter(f"{text!r}, expected a time such as 90, 45m or 12h") from None
    return seconds


def read_memory(text: str) -> float:
    """Bytes, or a number with a unit."""
    from bigmm.errors import ModelError
    from bigmm.solver.memory import read_bytes

    try:
        return read_bytes(text)
    except ModelError as error:
        raise click.BadParameter(str(error)) from None


def examples(*lines: str) -> str:
    r"""Lines for the end of a command's help, which click wraps unless it finds \\b."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])


def data_options(command: Command) -> Command:
    """Options of a pass over rows."""
    options = [
        click.option("--weights", metavar="COL", help="Column of precision weights, Var = sigma^2 / w."),
        click.option("--offset", metavar="COL", help="Column of a known part of the response."),
        click.option(
            "--na-action", type=click.Choice(["omit", "fail"]), help="Drop and count incomplete rows (the default), or refuse them."
        ),
        click.option(
            "--on-error",
            type=click.Choice(["raise", "skip"]),
            help="Stop at a part of a file that cannot be read (the default), or go on without it and say so.",
        ),
        click.option("--scheduler", metavar="ADDRESS|FILE", help="Use the Dask cluster at this address, or of this scheduler file."),
        click.option(
            "--workers",
            metavar="N",
            type=click.IntRange(min=0),
            help="Start N processes on this machine. With 0, or without this and --scheduler, threads of this process do the work.",
        ),
        click.option(
            "--checkpoint",
            metavar="DIR",
            callback=note_checkpoint,
            help="Write there what is done, after every batch of chunks, and of a fit after every evaluation.",
        ),
        click.option("--resume", is_flag=True, help="Go on from the checkpoint, if there is one; without it a checkpoint is refused."),
        click.option(
            "--max-time",
            type=read_seconds,
            metavar="TIME",
            callback=note_max_seconds,
            expose_value=False,
            help="Stop after this time (90, 90s, 45m, 12h), a little before the batch system does.",
        ),
        *journal_options(),
        click.option(
            "--performance-report",
            metavar="FILE.html",
            help="Write Dask's own report of the pass, on a cluster even where the data need none; needs bokeh.",
        ),
    ]
    return _apply(options, command)


def out_option(help_text: str, *, required: bool = True, metavar: str = "DIR") -> Callable[[Command], Command]:
    """``--out``, ``-o``."""
    return click.option("--out", "-o", required=required, metavar=metavar, help=help_text)


def quiet_option(command: Command) -> Command:
    """``--quiet``."""
    return _apply([click.option("--quiet", "-q", is_flag=True, help="No progress on stderr.")], command)


def _apply(options: Sequence[Callable[[Command], Command]], command: Command) -> Command:
    """Decorate a command so that its help lists the options in this order."""
    for option in reversed(options):
        command = option(command)
    return command
