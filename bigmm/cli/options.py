"""Options that commands share, and what is read from their text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from bigmm.formula.expression import CONTRASTS

Command = TypeVar("Command", bound=Callable[..., Any])


class Contrast(click.ParamType):
    """``COLUMN=CONTRAST``, as a pair."""

    name = "contrast"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Read the pair."""
        column, equals, kind = str(value).rpartition("=")
        kind = kind.removeprefix("contr.")
        if not equals or not column or kind not in CONTRASTS:
            self.fail(f"{value!r}: expected COLUMN=CONTRAST with a contrast of {', '.join(CONTRASTS)}", param, ctx)
        return column, kind


class Theta(click.ParamType):
    """Numbers joined by commas."""

    name = "theta"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """Read the numbers."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(float(number) for number in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r}: expected numbers joined by commas, such as 1,0,1", param, ctx)


def data_options(command: Command) -> Command:
    """Options of a pass over rows."""
    options = [
        click.option("--weights", metavar="COL", help="Column of precision weights, Var = sigma^2 / w."),
        click.option("--offset", metavar="COL", help="Column of a known part of the response."),
        click.option(
            "--na-action", type=click.Choice(["omit", "fail"]), help="Drop and count incomplete rows (the default), or refuse them."
        ),
        click.option("--scheduler", metavar="ADDRESS|FILE", help="Use the Dask cluster at this address, or of this scheduler file."),
        click.option(
            "--workers",
            metavar="N",
            type=click.IntRange(min=0),
            help="Start N processes on this machine; 0 works in this process. "
            "Without it and --scheduler: one a processor, or none for small data.",
        ),
    ]
    return _apply(options, command)


def quiet_option(command: Command) -> Command:
    """``--quiet``."""
    return _apply([click.option("--quiet", "-q", is_flag=True, help="No progress on stderr.")], command)


def _apply(options: list[Callable[[Command], Command]], command: Command) -> Command:
    """Decorate a command so that its help lists the options in this order."""
    for option in reversed(options):
        command = option(command)
    return command
