"""Crossproducts and fits on disk: directories of JSON, npz and Parquet. Nothing is pickled.

A directory is written beside its place under another name and moved there when it is complete. Its manifest lists
every other file with its SHA-256, so that a damaged file is found before it is used.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from bigmm.columns import Column
from bigmm.crossproducts import CrossProducts, GroupProducts, PairProducts, RowCounts
from bigmm.design import Design
from bigmm.errors import BigmmError, StorageError
from bigmm.formula import parse_formula
from bigmm.inference.fit import GroupEffects, LinearMixedModelFit
from bigmm.solver.covariance import RelativeCovariance, TermCovariance
from bigmm.solver.optimize import Optimization, Optimizer

#: Raised when a reader of the old version could misread what is written.
FORMAT = 1
_MANIFESTS = {"crossproducts": "crossproducts.json", "fit": "estimates.json"}


def save_crossproducts(cp: CrossProducts, path: str | os.PathLike[str]) -> None:
    """Write crossproducts as a directory; see `CrossProducts.save`."""
    with _new_directory(path, "crossproducts") as folder:
        arrays: dict[str, Any] = {"XytXy": cp.XytXy}
        for i, group in enumerate(cp.groups):
            arrays |= {f"group{i}.rows": group.rows, f"group{i}.ZtZ": group.ZtZ, f"group{i}.ZtXy": group.ZtXy}
            _levels_frame(group.names, group.levels).to_parquet(folder / f"levels-{i}.parquet", index=False)
        for (g, h), pair in cp.pairs.items():
            arrays |= {f"pair{g}-{h}.g_refs": pair.g_refs, f"pair{g}-{h}.h_refs": pair.h_refs, f"pair{g}-{h}.ZtZ": pair.ZtZ}
        np.savez(folder / "arrays.npz", **arrays)
        _write_manifest(folder, "crossproducts", _crossproducts_record(cp))


def _crossproducts_record(cp: CrossProducts) -> dict[str, Any]:
    return {
        "design": _design_record(cp.design),
        "columns": _columns_record(cp.columns),
        "groups": [{"names": group.names, "columns": _columns_record(group.columns)} for group in cp.groups],
        "pairs": list(cp.pairs),
        "rows": _rows_record(cp.rows),
        "sum_log_weights": cp.sum_log_weights,
        "digest": cp.digest,
    }


def save_fit(fit: LinearMixedModelFit, path: str | os.PathLike[str]) -> None:
    """Write a fit as a directory; see `LinearMixedModelFit.save`."""
    with _new_directory(path, "fit") as folder:
        for i, group in enumerate(fit.groups):
            table = _levels_frame(group.names, group.levels)
            values = pd.DataFrame(group.b, columns=[f"b{k}:{name}" for k, name in enumerate(group.coef_names)])
            pd.concat([table, values], axis=1).to_parquet(folder / _ranef_file(i, group.name), index=False)
        _write_manifest(folder, "fit", _fit_record(fit))


def _ranef_file(position: int, name: str) -> str:
    plain = "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in name)
    return f"ranef-{position}-{plain}.parquet"


def _fit_record(fit: LinearMixedModelFit) -> dict[str, Any]:
    """Estimates first, for programs that read them; then what `load` needs besides."""
    search = fit.optimization
    return {
        "formula": fit.formula.text,
        "reml": fit.reml,
        "fixef": [
            {"name": name, "estimate": estimate, "stderr": error}
            for name, estimate, error in zip(fit.coef_names, fit.beta.tolist(), fit.stderr.tolist(), strict=True)
        ],
        "vcov": fit.vcov_beta.tolist(),
        "dropped": fit.dropped,
        "sigma": fit.sigma,
        "varcorr": [
            {key: (None if pd.isna(value) else value) for key, value in row.items()} for row in fit.varcorr.to_dict(orient="records")
        ],
        "theta": dict(zip(fit.covariance.names, fit.theta.tolist(), strict=True)),
        "objective": fit.objective,
        "loglik": fit.loglik,
        "aic": fit.aic,
        "bic": fit.bic,
        "nobs": fit.nobs,
        "ngroups": fit.ngroups,
        "singular": fit.singular,
        "converged": fit.converged,
        "rows": _rows_record(fit.rows),
        "ranef": {group.name: _ranef_file(i, group.name) for i, group in enumerate(fit.groups)},
        "optimization": {
            "method": search.settings.method,
            "ftol_rel": search.settings.ftol_rel,
            "xtol_abs": search.settings.xtol_abs,
            "maxeval": search.settings.maxeval,
            "reason": search.reason,
            "converged": search.converged,
            "nevals": search.nevals,
            "start": search.start.tolist(),
            "trace": [{"theta": theta.tolist(), "objective": None if np.isnan(value) else value} for theta, value in search.trace],
        },
        "design": _design_record(fit.design),
        "columns": _columns_record(fit.columns),
        "contrasts": {name: _contrast_record(name, choice) for name, choice in fit.contrasts.items()},
        "terms": [
            {
                "position": term.position,
                "group": term.group,
                "factor": term.factor,
                "names": term.names,
                "columns": [term.columns.start, term.columns.stop],
                "theta": [term.theta.start, term.theta.stop],
            }
            for term in fit.covariance.terms
        ],
        "groups": [
            {
                "names": group.names,
                "columns": _columns_record(group.columns),
                "coef_names": group.coef_names,
            }
            for group in fit.groups
        ],
    }


def _contrast_record(name: str, choice: Any) -> Any:
    if isinstance(choice, str):
        return choice
    if hasattr(choice, "get_coding_matrix"):
        raise StorageError(f"the contrast of {name!r} is an object that cannot be saved: pass its name or its matrix")
    return np.asarray(choice, dtype=np.float64).tolist()


def load(path: str | os.PathLike[str]) -> CrossProducts | LinearMixedModelFit:
    """Read what `CrossProducts.save` or `LinearMixedModelFit.save` wrote.

    Parameters
    ----------
    path : str or path
        The directory.

    Raises
    ------
    StorageError
        When there is nothing of bigmm's, when a file is damaged, or when a newer version wrote it.
    """
    folder = Path(path)
    kind = saved_kind(folder)
    if kind is None:
        if not folder.exists():
            raise StorageError(f"{str(path)!r} does not exist: check the path")
        raise StorageError(f"{str(path)!r} holds neither crossproducts nor a fit: expected a directory that bigmm has saved")
    try:
        record = _read_manifest(folder, kind)
        return _load_crossproducts(folder, record) if kind == "crossproducts" else _load_fit(folder, record)
    except BigmmError:
        raise
    except (KeyError, ValueError, TypeError, IndexError, OSError, AttributeError, zipfile.BadZipFile) as error:
        raise StorageError(f"{str(path)!r} is damaged ({type(error).__name__}: {error}): write it again") from None


def saved_kind(path: str | os.PathLike[str]) -> str | None:
    """What a directory holds: "crossproducts", "fit", or None."""
    for kind, name in _MANIFESTS.items():
        if (Path(path) / name).is_file():
            return kind
    return None


def _load_crossproducts(folder: Path, record: Mapping[str, Any]) -> CrossProducts:
    with np.load(_listed(folder, record, "arrays.npz"), allow_pickle=False) as arrays:
        groups = tuple(
            GroupProducts(
                names=tuple(group["names"]),
                levels=_read_levels(pd.read_parquet(_listed(folder, record, f"levels-{i}.parquet")), len(group["names"])),
                columns=_read_columns(group["columns"]),
                rows=arrays[f"group{i}.rows"],
                ZtZ=arrays[f"group{i}.ZtZ"],
                ZtXy=arrays[f"group{i}.ZtXy"],
            )
            for i, group in enumerate(record["groups"])
        )
        pairs = {
            (g, h): PairProducts(arrays[f"pair{g}-{h}.g_refs"], arrays[f"pair{g}-{h}.h_refs"], arrays[f"pair{g}-{h}.ZtZ"])
            for g, h in record["pairs"]
        }
        XytXy = arrays["XytXy"]
    columns, rows = _read_columns(record["columns"]), _read_rows(record["rows"])
    design = _read_design(record["design"])
    return CrossProducts(design, columns, XytXy, groups, pairs, rows, record["sum_log_weights"], record["digest"])


def _load_fit(folder: Path, record: Mapping[str, Any]) -> LinearMixedModelFit:
    terms = tuple(
        TermCovariance(t["position"], t["group"], t["factor"], tuple(t["names"]), slice(*t["columns"]), slice(*t["theta"]))
        for t in record["terms"]
    )
    groups = tuple(
        _read_group(group, pd.read_parquet(_listed(folder, record, name)))
        for group, name in zip(record["groups"], record["ranef"].values(), strict=True)
    )
    search = record["optimization"]
    settings = Optimizer(search["method"], search["ftol_rel"], search["xtol_abs"], search["maxeval"])
    trace = tuple((np.array(e["theta"]), np.nan if e["objective"] is None else e["objective"]) for e in search["trace"])
    theta = np.array(list(record["theta"].values()))
    start = np.array(search["start"])
    return LinearMixedModelFit(
        formula=parse_formula(record["formula"]),
        reml=record["reml"],
        design=_read_design(record["design"]),
        columns=_read_columns(record["columns"]),
        contrasts=record["contrasts"],
        coef_names=tuple(entry["name"] for entry in record["fixef"]),
        dropped=tuple(record["dropped"]),
        beta=np.array([entry["estimate"] for entry in record["fixef"]]),
        vcov_beta=np.array(record["vcov"]).reshape(len(record["fixef"]), len(record["fixef"])),
        sigma=record["sigma"],
        objective=record["objective"],
        theta=theta,
        covariance=RelativeCovariance(terms, tuple(len(group.coef_names) for group in groups)),
        groups=groups,
        rows=_read_rows(record["rows"]),
        optimization=Optimization(settings, start, theta, record["objective"], trace, search["reason"], search["converged"]),
    )


def _read_group(record: Mapping[str, Any], table: pd.DataFrame) -> GroupEffects:
    width = len(record["names"])
    return GroupEffects(
        names=tuple(record["names"]),
        levels=_read_levels(table.iloc[:, :width], width),
        columns=_read_columns(record["columns"]),
        coef_names=tuple(record["coef_names"]),
        b=table.iloc[:, width:].to_numpy(dtype=np.float64),
    )


# Small records ------------------------------------------------------------------------------------------------------


def _design_record(design: Design) -> dict[str, Any]:
    return {
        "formula": design.formula.text,
        "kinds": dict(design.kinds),
        "weights": design.weights,
        "offset": design.offset,
        "categories": {name: [_level_record(level) for level in levels] for name, levels in design.categories.items()},
        "shift": dict(design.shift),
        "y_shift": design.y_shift,
        "na_action": design.na_action,
    }


def _read_design(record: Mapping[str, Any]) -> Design:
    return Design(
        formula=parse_formula(record["formula"]),
        kinds=record["kinds"],
        weights=record["weights"],
        offset=record["offset"],
        categories={name: tuple(_read_level(level) for level in levels) for name, levels in record["categories"].items()},
        shift=record["shift"],
        y_shift=record["y_shift"],
        na_action=record["na_action"],
    )


def _rows_record(rows: RowCounts) -> dict[str, Any]:
    return {"read": rows.read, "used": rows.used, "missing": dict(rows.missing)}


def _read_rows(record: Mapping[str, Any]) -> RowCounts:
    return RowCounts(record["read"], record["used"], record["missing"])


def _columns_record(columns: tuple[Column, ...]) -> list[Any]:
    return [[list(column.numeric), [[name, _level_record(level)] for name, level in column.cell]] for column in columns]


def _read_columns(record: list[Any]) -> tuple[Column, ...]:
    return tuple(Column(tuple(numeric), tuple((name, _read_level(level)) for name, level in cell)) for numeric, cell in record)


def _level_record(level: Any) -> Any:
    """A level as JSON; moments in time are tagged."""
    return {"time": level.isoformat()} if hasattr(level, "isoformat") else level


def _read_level(record: Any) -> Any:
    return pd.Timestamp(record["time"]) if isinstance(record, dict) else record


def _levels_frame(names: tuple[str, ...], levels: pd.Index) -> pd.DataFrame:
    return pd.DataFrame({name: levels.get_level_values(depth) for depth, name in enumerate(names)})


def _read_levels(table: pd.DataFrame, width: int) -> pd.Index:
    if width == 1:
        return cast("pd.Index", pd.Index(table.iloc[:, 0]).rename(None))
    return pd.MultiIndex.from_frame(table, names=[None] * width)


# Directories and manifests ------------------------------------------------------------------------------------------


def check_target(path: str | os.PathLike[str], kind: str) -> None:
    """See that a directory could be saved at `path`, before the work that it will hold.

    Parameters
    ----------
    path : str or path
    kind : {"crossproducts", "fit"}
        What will be saved.

    Raises
    ------
    StorageError
        When `path` holds something else, or nothing can be written beside it.
    """
    target = Path(path).absolute()
    _check_replaceable(target, path, kind)
    parent = next(folder for folder in target.parents if folder.exists())
    with _writing(path):
        Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=parent)).rmdir()


def _check_replaceable(target: Path, path: str | os.PathLike[str], kind: str) -> None:
    if target.exists() and saved_kind(target) != kind and not (target.is_dir() and not any(target.iterdir())):
        raise StorageError(f"{str(path)!r} exists and holds something else than saved {kind}: choose another place")


@contextlib.contextmanager
def _writing(path: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"cannot write beside {str(path)!r} ({error.strerror}): choose another place") from None


@contextlib.contextmanager
def _new_directory(path: str | os.PathLike[str], kind: str) -> Iterator[Path]:
    """A directory to fill; moved to `path` when the block ends well, removed when it does not."""
    target = Path(path).absolute()
    _check_replaceable(target, path, kind)
    with _writing(path):
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield folder
        _sync(folder)
        _move(folder, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sync(folder: Path) -> None:
    """Have the files on disk before the directory gets its name."""
    folder.chmod(0o755)
    for file in folder.iterdir():
        with file.open("rb") as handle:
            os.fsync(handle.fileno())


def _move(folder: Path, target: Path) -> None:
    if not target.exists():
        folder.rename(target)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}-old-", dir=target.parent))
    target.rename(old / "old")
    try:
        folder.rename(target)
    except OSError:
        (old / "old").rename(target)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _write_manifest(folder: Path, kind: str, record: Mapping[str, Any]) -> None:
    files = {file.name: _sha256(file) for file in sorted(folder.iterdir())}
    manifest = {"kind": kind, "format": FORMAT, "written_by": f"bigmm {_version()}", "files": files, **record}
    (folder / _MANIFESTS[kind]).write_text(json.dumps(manifest, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def _version() -> str:
    from bigmm import __version__

    return __version__


def _read_manifest(folder: Path, kind: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / _MANIFESTS[kind]).read_text(encoding="utf-8"))
    if record["format"] > FORMAT:
        raise StorageError(
            f"{str(folder)!r} was written by {record['written_by']} in format {record['format']}: expected format {FORMAT}; update bigmm"
        )
    for name, digest in record["files"].items():
        if Path(name).name != name:
            raise StorageError(f"{str(folder)!r} is damaged: its manifest names the file {name!r} outside the directory")
        file = folder / name
        if not file.is_file() or _sha256(file) != digest:
            raise StorageError(f"{str(file)!r} is {'damaged' if file.is_file() else 'missing'}: write the directory again")
    return record


def _listed(folder: Path, record: Mapping[str, Any], name: str) -> Path:
    """A file whose digest was compared: one inside the directory."""
    if name not in record["files"]:
        raise StorageError(f"{str(folder)!r} is damaged: its manifest has no digest of {name!r}; write it again")
    return folder / name


def _sha256(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
