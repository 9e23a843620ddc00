"""What saved crossproducts or a saved fit hold: as a record for programs, and as text for people."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bigmm.cli.disclosure import small_cells_text
from bigmm.cli.figures import size
from bigmm.levels import level_types

if TYPE_CHECKING:
    from bigmm.crossproducts import CrossProducts, GroupProducts
    from bigmm.inference.fit import LinearMixedModelFit

#: Lines of a long list that are shown to people, and how long one is; programs get all of them.
_SHOWN, _LONG = 8, 10

Record = dict[str, Any]


def crossproducts_record(cp: CrossProducts) -> Record:
    """Everything about crossproducts but the numbers themselves."""
    return {
        "kind": "crossproducts",
        "formula": cp.design.formula.text.strip(),
        "responses": [response.text for response in cp.design.formula.responses],
        "weights": cp.design.weights,
        "offset": cp.design.offset,
        "na_action": cp.design.na_action,
        "rows": {"read": cp.rows.read, "used": cp.rows.used, "dropped": cp.rows.dropped, "missing": dict(cp.rows.missing)},
        "files": [_file_record(source) for source in cp.sources],
        "skipped": [{"name": chunk.name, "reason": chunk.reason, "rows": chunk.rows} for chunk in cp.skipped],
        "columns": [column.name for column in cp.columns],
        "groups": [_group_record(group) for group in cp.groups],
        "pairs": [_pair_record(cp, g, h) for g, h in sorted(cp.pairs)],
        "shift": dict(cp.design.shift),
        "y_shift": dict(cp.design.y_shift),
        "sum_log_weights": cp.sum_log_weights,
        "bytes": {"XytXy": cp.XytXy.nbytes, "sources": cp.sources.nbytes, "total": cp.nbytes},
        "digest": cp.digest,
        "plan_digest": cp.plan_digest,
    }


def _file_record(source: Any) -> Record:
    rows = source.rows
    counts = {"read": rows.read, "used": rows.used, "dropped": rows.dropped, "skipped": source.skipped, "missing": dict(rows.missing)}
    return {"url": source.url, "size": source.size, "version": source.version, **counts}


def _group_record(group: GroupProducts) -> Record:
    rows = group.rows if len(group.rows) else np.zeros(1, dtype=np.int64)
    return {
        "name": group.name,
        "levels": len(group.levels),
        "types": ["text" if kind in ("str", "object") else kind for kind in level_types(group.levels)],
        "columns": [column.name for column in group.columns],
        "rows_per_level": {"least": int(rows.min()), "median": float(np.median(rows)), "most": int(rows.max())},
        "bytes": group.ZtZ.nbytes + group.ZtXy.nbytes + group.rows.nbytes + int(group.levels.memory_usage()),
    }


def _pair_record(cp: CrossProducts, g: int, h: int) -> Record:
    pair = cp.pairs[g, h]
    return {
        "factors": [cp.groups[g].name, cp.groups[h].name],
        "pairs": len(pair.g_refs),
        "block": list(pair.ZtZ.shape[1:]),
        "counts": bool(np.issubdtype(pair.ZtZ.dtype, np.integer)),
        "bytes": pair.ZtZ.nbytes + pair.g_refs.nbytes + pair.h_refs.nbytes,
    }


def fit_record(fit: LinearMixedModelFit) -> Record:
    """The essentials of a fit."""
    return {
        "kind": "fit",
        "formula": fit.formula.text.strip(),
        "criterion": "REML" if fit.reml else "ML",
        "weights": fit.design.weights,
        "offset": fit.design.offset,
        "objective": fit.objective,
        "sigma": fit.sigma,
        "theta": dict(zip(fit.covariance.names, fit.theta.tolist(), strict=True)),
        "fixef": dict(zip(fit.coef_names, fit.beta.tolist(), strict=True)),
        "dropped": list(fit.dropped),
        "rows": {"read": fit.rows.read, "used": fit.rows.used, "dropped": fit.rows.dropped, "missing": dict(fit.rows.missing)},
        "ngroups": fit.ngroups,
        "converged": fit.converged,
        "singular": fit.singular,
        "optimizer": fit.optimization.settings.method,
        "evaluations": fit.nevals,
    }


def crossproducts_text(record: Record) -> str:
    """What crossproducts hold, for people."""
    head = {"formula": record["formula"], "weights": record["weights"], "offset": record["offset"]}
    sizes, shifts = record["bytes"], {**record["y_shift"], **record["shift"]}
    tail = {
        "raw columns of X": f"{len(record['columns']):,}: {_some(record['columns'])}",
        "shifted by": ", ".join(f"{name} {constant:g}" for name, constant in shifts.items() if constant),
        "in memory": f"{size(sizes['total'])}; of these X'X {size(sizes['XytXy'])}",
        "digest": record["digest"],
        "plan": record["plan_digest"],
        **_written(record),
    }
    parts = [_lines(head), _rows(record["rows"]), _files(record["files"]), _skipped(record["skipped"])]
    parts += [_groups(record["groups"]), _pairs(record["pairs"])]
    parts += [small_cells_text(record["small_cells"])] if "small_cells" in record else []
    parts += [_lines(tail)]
    return "\n\n".join(part for part in parts if part)


def fit_text(record: Record) -> str:
    """The essentials of a fit, for people."""
    groups = ", ".join(f"{name} {count:,}" for name, count in record["ngroups"].items())
    dropped = record["rows"]["dropped"]
    lines = {
        "formula": record["formula"],
        "weights": record["weights"],
        "offset": record["offset"],
        "fitted by": f"{record['criterion']}, objective {record['objective']:.6f}",
        "rows": f"{record['rows']['used']:,} used" + (f", {dropped:,} dropped" if dropped else ""),
        "levels": groups,
        "fixed effects": f"{len(record['fixef']):,}: {_some(list(record['fixef']))}",
        "sigma": f"{record['sigma']:.6g}",
        "theta": _some([f"{name} {value:.6g}" for name, value in record["theta"].items()]),
        "search": f"{record['optimizer']}, {record['evaluations']} evaluations, "
        + ("converged" if record["converged"] else "NOT CONVERGED"),
        "singular": "yes" if record["singular"] else "",
        **_written(record),
    }
    return _lines(lines)


def _written(record: Record) -> dict[str, str]:
    """Of what was read from disk."""
    if "written_by" not in record:
        return {}
    return {"on disk": f"{size(record['disk_bytes'])}, format {record['format']}, written by {record['written_by']}"}


def _rows(rows: Mapping[str, Any]) -> str:
    lines = {"rows read": f"{rows['read']:,}", "rows used": f"{rows['used']:,}", "rows dropped": f"{rows['dropped']:,}"}
    lines |= {f"  missing {name}": f"{count:,}" for name, count in rows["missing"].items()}
    width = max(map(len, lines.values()))
    return _lines({name: text.rjust(width) for name, text in lines.items()})


def _files(files: Sequence[Record]) -> str:
    """The first few files; the folder that all of them share is named once."""
    if not files:
        return ""
    names = [file["url"] for file in files]
    folder = _common_folder(names)
    skipped = any(file["skipped"] for file in files)
    heads = ["source", "read", "used", "dropped", *(["skipped"] if skipped else []), "missing"]
    rows = []
    for file in _first(files):
        missing = ", ".join(f"{name} {count:,}" for name, count in file["missing"].items())
        counts = [f"{file[name]:,}" for name in heads[1:-1]]
        rows.append([file["url"].removeprefix(folder), *counts, missing])
    title = f"{len(files):,} source{'s' if len(files) > 1 else ''} of rows" + (f", in {folder}" if folder else "")
    return "\n".join([title, *_table([heads, *rows], left=(0, len(heads) - 1)), *_more(files, "files")])


def _common_folder(urls: Sequence[str]) -> str:
    if len(urls) < 2:
        return ""
    folder = posixpath.dirname(urls[0]) + "/"
    while folder != "/" and not all(url.startswith(folder) for url in urls):
        folder = posixpath.dirname(folder[:-1]).rstrip("/") + "/"
    return "" if folder == "/" else folder


def _skipped(chunks: Sequence[Record]) -> str:
    if not chunks:
        return ""
    rows = sum(chunk["rows"] or 0 for chunk in chunks)
    unknown = " or more" if any(chunk["rows"] is None for chunk in chunks) else ""
    lines = [f"  {chunk['name']}: {chunk['reason']}" for chunk in _first(chunks)]
    return "\n".join(
        [f"SKIPPED {len(chunks):,} chunks of {rows:,}{unknown} rows, which are in none of the sums", *lines, *_more(chunks, "chunks")]
    )


def _groups(groups: Sequence[Record]) -> str:
    rows = [["grouping factor", "levels", "labels", "rows a level", "(median)", "bytes", "columns of Z"]]
    for group in groups:
        per = group["rows_per_level"]
        rows.append(
            [
                group["name"],
                f"{group['levels']:,}",
                ":".join(group["types"]),
                f"{per['least']:,} to {per['most']:,}",
                f"{per['median']:,.10g}",
                size(group["bytes"]),
                _some(group["columns"]),
            ]
        )
    return "\n".join(_table(rows, left=(0, 2, 6), indent=""))


def _pairs(pairs: Sequence[Record]) -> str:
    if not pairs:
        return ""
    rows = [["pair of factors", "levels that meet", "bytes", "a block"]]
    for pair in pairs:
        k, m = pair["block"]
        rows.append([" x ".join(pair["factors"]), f"{pair['pairs']:,}", size(pair["bytes"]), "a count" if pair["counts"] else f"{k} x {m}"])
    return "\n".join(_table(rows, left=(0, 3), indent=""))


def _first(items: Sequence[Any]) -> Sequence[Any]:
    return items if len(items) <= _LONG else items[:_SHOWN]


def _more(items: Sequence[Any], what: str) -> list[str]:
    return [f"  ... and {len(items) - _SHOWN:,} more {what}"] if len(items) > _LONG else []


def _some(names: Sequence[str]) -> str:
    return ", ".join(_first(names)) + (f", ... and {len(names) - _SHOWN:,} more" if len(names) > _LONG else "")


def _lines(lines: Mapping[str, str | None]) -> str:
    """Lines of a name and a value; without those that have none."""
    filled = {name: value for name, value in lines.items() if value}
    width = max(map(len, filled))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in filled.items())


def _table(rows: Sequence[Sequence[str]], left: tuple[int, ...], indent: str = "  ") -> list[str]:
    """Aligned columns: those of `left` begin together, the others end together."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) if i in left else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths, strict=True))]
        lines.append((indent + "  ".join(cells)).rstrip())
    return lines
