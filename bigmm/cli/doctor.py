"""What a batch job stands on: versions, BLAS, memory, and whether the cluster is there and runs the same."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

import bigmm
from bigmm.errors import ClusterError
from bigmm.reduction.settings import changed
from bigmm.reduction.versions import cluster_versions, mismatches, version_of

_PACKAGES = (
    "dask", "distributed", "numpy", "scipy", "pandas", "pyarrow", "formulaic", "scikit-sparse", "nlopt", "numba", "fsspec",
    "polars", "s3fs", "matplotlib",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report.

    Attributes
    ----------
    name, value : str
    remedy : str
        What to do about it; empty when all is well.
    """

    name: str
    value: str
    remedy: str = ""


def examine(scheduler: str | None) -> Iterator[Finding]:
    """Look at this process and, if there is one, at the cluster."""
    yield Finding("bigmm", bigmm.__version__)
    yield Finding("Python", f"{platform.python_version()} on {platform.platform(terse=True)}")
    for package in _PACKAGES:
        yield Finding(package, version_of(package) or "not installed")
    yield from _libraries()
    yield _memory()
    yield from _settings()
    yield _arithmetic()
    if scheduler is not None:
        yield from _cluster(scheduler)


def _libraries() -> Iterator[Finding]:
    """CHOLMOD, and every BLAS that is loaded: CHOLMOD's is the system's, numpy and scipy bring theirs."""
    import scipy.linalg  # noqa: F401  loads its BLAS
    from threadpoolctl import threadpool_info

    from bigmm.solver.cholmod import library_version

    yield Finding("CHOLMOD", library_version() or "of unknown version")
    for library in threadpool_info():
        if library["user_api"] == "blas":
            name = os.path.basename(library["filepath"])
            yield Finding("BLAS", f"{library['internal_api']} {library['version']}, {library['num_threads']} threads ({name})")
    if any("/blas/libblas.so" in line for line in open_files()):  # Debian's path; the reference library tells threadpoolctl nothing
        yield Finding("BLAS", "CHOLMOD uses the reference implementation, many times slower", "install OpenBLAS: see deploy/README.md")


def open_files() -> list[str]:
    """Files that this process has mapped, such as libraries."""
    maps = Path("/proc/self/maps")
    return maps.read_text().splitlines() if maps.exists() else []


def _memory() -> Finding:
    """What the solver's planner counts on."""
    from bigmm.solver.memory import available_memory

    return Finding("memory", f"{available_memory() / 2**30:.1f} GiB available, {len(os.sched_getaffinity(0))} processors")


def _arithmetic() -> Finding:
    """A fit with a known answer: balanced one-way data, where REML gives sigma^2 = 1 and sigma_a^2 = 8/9."""
    centre, inside = np.repeat([4.0, 3.0, 5.0], 9), np.tile([0.0, *[-1.0, 1.0] * 4], 3)
    fit = bigmm.lmer("y ~ 1 + (1 | g)", pd.DataFrame({"g": np.repeat(list("abc"), 9), "y": centre + inside}), client=0)
    found = np.array([fit.sigma**2, (fit.theta[0] * fit.sigma) ** 2])
    good = bool(np.allclose(found, [1.0, 8.0 / 9.0], rtol=1e-6))
    return Finding(
        "a fit with a known answer", "right" if good else f"wrong: {found}", "" if good else "please report this with all of the above"
    )


def _cluster(scheduler: str) -> Iterator[Finding]:
    from bigmm.reduction.cluster import connect

    try:
        with connect(scheduler, here=False, check=False) as client:
            assert client is not None
            yield Finding("scheduler", client.scheduler.address)
            workers = client.scheduler_info()["workers"]
            yield Finding("workers", f"{len(workers)} with {sum(worker['nthreads'] for worker in workers.values())} threads")
            for mismatch in mismatches(cluster_versions(client)):
                yield Finding(mismatch.package, mismatch.text, "install the same version everywhere")
    except ClusterError as error:
        found, _, remedy = str(error).rpartition(": ")
        yield Finding("cluster", found, remedy)


def _settings() -> Iterator[Finding]:
    """What is set in Dask's configuration, under the names that bigmm.yaml has or others."""
    for name, value, known in changed():
        yield Finding(f"bigmm.{name}", str(value), "" if known else "there is no such setting: see bigmm.yaml for those that there are")
