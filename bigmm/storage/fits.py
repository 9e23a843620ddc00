"""Fits on disk: estimates as JSON that other programs can read, random effects as Parquet."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bigmm.errors import StorageError
from bigmm.formula import parse_formula
from bigmm.formula.coding import code_terms
from bigmm.inference.effects import GroupEffects
from bigmm.inference.fit import LinearMixedModelFit
from bigmm.solver.covariance import RelativeCovariance, TermCovariance
from bigmm.solver.optimize import Optimization, Optimizer
from bigmm.storage.arrays import read_table
from bigmm.storage.directories import listed, new_directory, write_manifest
from bigmm.storage.records import (
    columns_record,
    design_record,
    levels_frame,
    read_columns,
    read_design,
    read_levels,
    read_rows,
    rows_record,
)


def save_fit(fit: LinearMixedModelFit, path: str | os.PathLike[str]) -> None:
    """Write a fit as a directory; see `LinearMixedModelFit.save`."""
    with new_directory(path, "fit") as folder:
        for i, (name, group) in enumerate(zip(fit.group_names, fit.groups, strict=True)):
            table = levels_frame(group.names, group.levels)
            values = pd.DataFrame(group.b, columns=[f"b{k}:{column}" for k, column in enumerate(group.coef_names)])
            pd.concat([table, values], axis=1).to_parquet(folder / _ranef_file(i, name), index=False)
        write_manifest(folder, "fit", _fit_record(fit))


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
        "rows": rows_record(fit.rows),
        "ranef": {name: _ranef_file(i, name) for i, name in enumerate(fit.group_names)},
        "optimization": {
            "method": search.settings.method,
            "ftol_rel": search.settings.ftol_rel,
            "xtol_abs": search.settings.xtol_abs,
            "maxeval": search.settings.maxeval,
            "reason": search.reason,
            "converged": search.converged,
            "nevals": search.nevals,
            "gradient": _finite(search.gradient),
            "decrement": _finite(search.decrement),
            "start": search.start.tolist(),
            "trace": [{"theta": theta.tolist(), "objective": None if np.isnan(value) else value} for theta, value in search.trace],
        },
        "design": design_record(fit.design),
        "columns": columns_record(fit.columns),
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
                "columns": columns_record(group.columns),
                "coef_names": group.coef_names,
            }
            for group in fit.groups
        ],
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None


def _contrast_record(name: str, choice: Any) -> Any:
    if isinstance(choice, str):
        return choice
    if hasattr(choice, "get_coding_matrix"):
        raise StorageError(f"the contrast of {name!r} is an object that cannot be saved: pass its name or its matrix")
    return np.asarray(choice, dtype=np.float64).tolist()


def load_fit(folder: Path, record: Mapping[str, Any]) -> LinearMixedModelFit:
    """The fit in a directory; `record` is its manifest. It has no model, so that it cannot compute conditional variances."""
    terms = tuple(
        TermCovariance(t["position"], t["group"], t["factor"], tuple(t["names"]), slice(*t["columns"]), slice(*t["theta"]))
        for t in record["terms"]
    )
    groups = tuple(
        _read_group(group, read_table(listed(folder, record, file), record["ngroups"][name]))
        for group, (name, file) in zip(record["groups"], record["ranef"].items(), strict=True)
    )
    search = record["optimization"]
    settings = Optimizer(search["method"], search["ftol_rel"], search["xtol_abs"], search["maxeval"])
    trace = tuple((np.array(e["theta"]), np.nan if e["objective"] is None else e["objective"]) for e in search["trace"])
    theta = np.array(list(record["theta"].values()))
    start = np.array(search["start"])
    fit = LinearMixedModelFit(
        formula=parse_formula(record["formula"]),
        reml=record["reml"],
        design=read_design(record["design"]),
        columns=read_columns(record["columns"]),
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
        rows=read_rows(record["rows"]),
        optimization=Optimization(
            settings,
            start,
            theta,
            record["objective"],
            trace,
            search["reason"],
            search["converged"],
            search.get("gradient"),
            search["decrement"],
        ),
    )
    _check(fit)
    return fit


def _check(fit: LinearMixedModelFit) -> None:
    """See that a record makes sense, so that it fails here and not when it is used.

    Raises
    ------
    ValueError, TypeError, ...
    """
    str(fit)
    kinds = fit.design.kinds
    levels: dict[str, type] = {}
    if not all(kinds[name] in ("number", "category") for name in (*fit.formula.names, *fit.design.names)):
        raise ValueError(f"kinds of columns {kinds}")
    names = code_terms(fit.formula.fixed, fit.columns, kinds, fit.design.categories, fit.contrasts).names
    if sorted((*fit.coef_names, *fit.dropped)) != sorted(names):
        raise ValueError(f"coefficients {fit.coef_names}, dropped {fit.dropped}, of {names}")
    for group in fit.groups:
        if len(group.coef_names) != group.b.shape[1]:
            raise ValueError(f"{group.b.shape[1]} random effects a level, called {group.coef_names}")
    if sorted(term.position for term in fit.covariance.terms) != list(range(len(fit.formula.random))):
        raise ValueError(f"terms {fit.covariance.terms} of {fit.formula.text}")
    first = 0
    for term in fit.covariance.terms:
        _check_term(fit, term, first)
        first = term.theta.stop
    if first != len(fit.theta):
        raise ValueError(f"theta {fit.theta} of {fit.covariance.terms}")
    for column in (*fit.columns, *(column for group in fit.groups for column in group.columns)):
        for name, level in column.cell:
            if levels.setdefault(name, type(level)) is not type(level) or not isinstance(level, (str, int, float, pd.Timestamp)):
                raise ValueError(f"level {level!r} of {name!r}")


def _check_term(fit: LinearMixedModelFit, term: TermCovariance, first: int) -> None:
    """Everything that a random-effects term says follows from the formula and its factor; its entries of theta begin at `first`."""
    random, group, k = fit.formula.random[term.position], fit.groups[term.group], term.size
    names = code_terms(random.terms, group.columns, fit.design.kinds, fit.design.categories).names
    places = (term.position, term.group, term.columns.start, term.columns.stop, term.theta.start, term.theta.stop)
    if not all(type(place) is int and place >= 0 for place in places):
        raise ValueError(f"places {places}")
    if set(random.group) != set(group.names) or term.factor != group.name:
        raise ValueError(f"term {term} on {group.name}")
    if not names or names != term.names or names != group.coef_names[term.columns] or term.columns.stop - term.columns.start != k:
        raise ValueError(f"columns {term.names} of {names}")
    if (term.theta.start, term.theta.stop) != (first, first + k * (k + 1) // 2):
        raise ValueError(f"theta of {term}")


def _read_group(record: Mapping[str, Any], table: pd.DataFrame) -> GroupEffects:
    width = len(record["names"])
    return GroupEffects(
        names=tuple(record["names"]),
        levels=read_levels(table.iloc[:, :width], width),
        columns=read_columns(record["columns"]),
        coef_names=tuple(record["coef_names"]),
        b=table.iloc[:, width:].to_numpy(dtype=np.float64),
    )
