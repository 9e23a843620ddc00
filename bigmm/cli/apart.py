"""What a command reads and what it writes, which have to be apart."""

from __future__ import annotations

import click

from bigmm.cli.journal import LOG, REPORT
from bigmm.places import check_apart
from bigmm.urls import is_url, joined, located

#: Where the pass is kept inside a command's checkpoint, and where the search for each response.
PASS, SEARCH = "pass", "search-{}.jsonl"


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
    asked = [path for path in given if "\0" not in path and (asks or not located(path)[0])]
    saved = [path for path in asked if saved_kind(path) is not None]
    named = [path for name in ("directory", "whole", "part") if (path := ctx.params.get(name))]
    return [path for path in given if path not in saved], [*saved, *named, *(ctx.params.get("directories") or ())]


def _written(ctx: click.Context) -> tuple[dict[str, str | None], dict[str, str | None]]:
    """What the command writes, by option: files, and folders."""
    options = {f"--{name.replace('_', '-')}": ctx.params.get(name) for name in ("out", "into", "performance_report")}
    metavars = {name: option.metavar or "" for option in ctx.command.params if isinstance(option, click.Option) for name in option.opts}
    files = {option: place for option, place in options.items() if metavars.get(option, "").startswith("FILE")}
    folders = {option: place for option, place in options.items() if option not in files}
    if (checkpoint := ctx.params.get("checkpoint")) is not None:
        files["--checkpoint"], folders["--checkpoint"] = (checkpoint and joined(checkpoint, name) for name in (SEARCH.format(0), PASS))
    return files | {"--log-json": ctx.meta.get(LOG), "--report": ctx.meta.get(REPORT)}, folders
