"""Versions on both sides of a cluster: what travels between client and workers belongs to packages that must agree."""

from __future__ import annotations

import importlib.metadata
import logging
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distributed import Client

import bigmm
from bigmm.errors import ClusterError
from bigmm.reduction.settings import seconds

logger = logging.getLogger(__name__)

#: Packages whose versions must agree on client and workers, and on the scheduler.
SHARED = ("python", "dask", "distributed", "numpy", "pandas", "pyarrow", "bigmm")
#: Processes that a message names.
_NAMED = 3


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A package of which processes of a cluster have other versions than this one.

    Attributes
    ----------
    package : str
    here : str
    there : dict of {version: list of addresses}
        The version is None where the package is missing.
    """

    package: str
    here: str | None
    there: Mapping[str | None, list[str]]

    @property
    def text(self) -> str:
        """Which versions are where."""
        places = (f"{version or 'none'} on {_some(addresses)}" for version, addresses in self.there.items())
        return f"{self.here or 'none'} here, but {'; '.join(places)}"


def version_of(package: str) -> str | None:
    """The installed version, None without one."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def versions() -> dict[str, str | None]:
    """Versions in this process; runs on workers, so that nothing heavy is imported for it."""
    others = {package: version_of(package) for package in SHARED[1:-1]}
    return {"python": platform.python_version(), **others, "bigmm": bigmm.__version__}


def mismatches(processes: Mapping[str, Any]) -> list[Mismatch]:
    """Compare this process with others.

    Parameters
    ----------
    processes : dict of {address: dict of versions, or the error that came instead}
        An import that fails means that bigmm, or what it stands on, is missing; a connection that breaks (an OSError)
        means nothing: a worker that is lost meanwhile is no other version.
    """
    here, found = versions(), []
    for package, version in here.items():
        there: dict[str | None, list[str]] = {}
        for address, theirs in processes.items():
            if isinstance(theirs, Mapping):
                there.setdefault(theirs[package], []).append(address)
            elif package == "bigmm" and not isinstance(theirs, OSError):
                missing = isinstance(theirs, ImportError) or "ModuleNotFoundError" in repr(theirs)  # some arrive as text
                there.setdefault(None if missing else f"unknown ({theirs})", []).append(address)
        other = {theirs: addresses for theirs, addresses in there.items() if theirs != version}
        if other:
            found.append(Mismatch(package, version, other))
    return found


def cluster_versions(client: Client) -> dict[str, Any]:
    """`versions` of every worker and of the scheduler, or the error that came instead.

    Raises
    ------
    ClusterError
        When one does not answer: `Client.run` would wait for it without end.
    """
    patience = seconds("timeouts.no-answer")
    try:
        found: dict[str, Any] = dict(client.sync(client._run, versions, on_error="return", callback_timeout=patience))
        return {**found, "the scheduler": _scheduler_versions(client, patience)}
    except TimeoutError:
        raise ClusterError(
            f"a worker of {client.scheduler.address!r}, or the scheduler, has not answered for {patience:g} s: "
            "stop processes that hang, and run again"
        ) from None


def _scheduler_versions(client: Client, patience: float) -> Any:
    try:
        return client.sync(client._run_on_scheduler, versions, callback_timeout=patience)
    except TimeoutError:
        raise
    except Exception as error:  # of the scheduler, whatever it is
        return error


def check_versions(client: Client) -> None:
    """Compare this process with those of a cluster before they get anything to do.

    Another bigmm would be another reduction; other versions of what it stands on are logged as warnings.

    Raises
    ------
    ClusterError
        When one has no bigmm, or another version of it: the scheduler, too, unpacks the tasks.
    """
    for mismatch in mismatches(cluster_versions(client)):
        if mismatch.package == "bigmm":
            raise ClusterError(f"bigmm {mismatch.text}: install the same version on client, scheduler and workers, and run again")
        logger.warning("%s %s: install the same version everywhere", mismatch.package, mismatch.text)


def _some(addresses: list[str]) -> str:
    more = f" and {len(addresses) - _NAMED} more" if len(addresses) > _NAMED else ""
    return ", ".join(addresses[:_NAMED]) + more
