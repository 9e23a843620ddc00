"""What a command reads and what it writes, which have to be apart."""

from __future__ import annotations

import click

from bigmm.cli.journal import LOG, REPORT
from bigmm.places import check_apart
from bigmm.urls import is_url


def check_places(ctx: click.Context) -> None:
    """Refuse to write over what is read, or over what else is written.

    Raises
    ------
    StorageError
        As `bigmm.places.check_apart`.
    """
    files, folders = _written(ctx)
    rows, saved = _read(ctx, asks=any(place is not None and is_url(place) for place in [*files.values(), *folders.values()]))
    check_apart(rows, files, folders, saved)


def _read(ctx: click.Context, *, asks: bool) -> tuple[list[str], list[str]]:
    """What the command reads: rows, and what was saved; of URLs nobody is asked over the network unless one is written, too."""
    from bigmm.storage import saved_kind

    given = ctx.params.get("data") or ()
    saved = [path for path in given if "\0" not in path and (asks or not is_url(path)) and saved_kind(path) is not None]
    named = [path for name in ("directory", "whole", "part") if (path := ctx.params.get(name))]
    return [path for path in given if path not in saved], [*saved, *named, *(ctx.params.get("directories") or ())]


def _written(ctx: click.Context) -> tuple[dict[str, str | None], dict[str, str | None]]:
    """What the command writes, by option: files, and folders."""
    names = {f"--{name.replace('_', '-')}": name for name in ("out", "into", "checkpoint", "performance_report")}
    places = {option: ctx.params.get(name) for option, name in names.items()}
    metavars = {name: option.metavar or "" for option in ctx.command.params if isinstance(option, click.Option) for name in option.opts}
    files = {option for option in places if metavars.get(option, "").startswith("FILE")}
    logs = {"--log-json": ctx.meta.get(LOG), "--report": ctx.meta.get(REPORT)}
    return {option: places.pop(option) for option in files} | logs, places
