"""Commands on what was saved: add it up, take parts away, look inside."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from bigmm.cli.application import Application
from bigmm.cli.options import examples, out_option
from bigmm.cli.rows import describe, load_crossproducts, merge_saved

if TYPE_CHECKING:
    from bigmm.cli.contents import Record

artefacts = Application("artefacts")


@artefacts.command(
    epilog=examples(
        "bigmm merge monday.cp tuesday.cp --out week.cp",
        "bigmm merge sites/*.cp -o all.cp",
    )
)
@click.argument("directories", nargs=-1, required=True, metavar="CPDIR...")
@out_option("Where to save the sum.")
@click.option("--allow-overlap", is_flag=True, help="Add up even crossproducts that share a file, when they have different rows of it.")
def merge(directories: tuple[str, ...], out: str, allow_overlap: bool) -> None:
    """Add up saved crossproducts: of days, or of sites.

    Refuses when two of them have the same file, whose rows would count twice.
    """
    from bigmm.storage import check_target

    check_target(out, "crossproducts")
    cp = merge_saved(directories, allow_overlap=allow_overlap)
    cp.save(out)
    click.echo(describe(cp))


@artefacts.command(
    epilog=examples(
        "bigmm subtract week.cp monday.cp --out rest.cp",
    )
)
@click.argument("whole", metavar="CPDIR")
@click.argument("part", metavar="PART")
@out_option("Where to save the difference.")
@click.option("--allow-unknown", is_flag=True, help="Subtract even files that CPDIR does not list, when their rows are in it.")
def subtract(whole: str, part: str, out: str, allow_unknown: bool) -> None:
    """Take the rows of saved crossproducts away from others: retract a day, or a site.

    Levels and files without rows disappear. PART must be a part of what was added up before.
    """
    from bigmm.storage import check_target
    from bigmm.subtraction import subtract as difference

    check_target(out, "crossproducts")
    cp = difference(load_crossproducts(whole), load_crossproducts(part), allow_unknown=allow_unknown)
    cp.save(out)
    click.echo(describe(cp))


@artefacts.command(
    epilog=examples(
        "bigmm inspect ratings.cp",
        "bigmm inspect ratings.cp --json",
        "bigmm inspect ratings.cp --small-cells 5",
    )
)
@click.argument("directory", metavar="DIR")
@click.option("--json", "as_json", is_flag=True, help="All of it, for programs.")
@click.option("--small-cells", type=click.IntRange(min=1), metavar="N", help="List levels, pairs and cells of fewer than N rows.")
def inspect(directory: str, as_json: bool, small_cells: int | None) -> None:
    """Say what saved crossproducts, or a saved fit, hold.

    Rows by column and by file, levels, sizes, digests; every file is read and compared with its digest.
    """
    from bigmm.cli.contents import crossproducts_text, fit_text

    record = _record(directory, small_cells)
    if as_json:
        click.echo(json.dumps(record, indent=1, ensure_ascii=False))
    else:
        click.echo(crossproducts_text(record) if record["kind"] == "crossproducts" else fit_text(record))


def _record(directory: str, small_cells: int | None) -> Record:
    from bigmm.cli.contents import crossproducts_record, fit_record
    from bigmm.cli.disclosure import small_cells_record
    from bigmm.crossproducts import CrossProducts
    from bigmm.storage import load, stored

    found: Any = load(directory)
    record = crossproducts_record(found) if isinstance(found, CrossProducts) else fit_record(found)
    if small_cells is not None and isinstance(found, CrossProducts):
        record["small_cells"] = small_cells_record(found, small_cells)
    return record | stored(directory)
