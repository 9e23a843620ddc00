"""Settings by Dask's own means: bigmm.yaml has the defaults and says what each means."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dask.config
from dask.utils import parse_bytes, parse_timedelta

from bigmm.errors import SettingError

_FILE = Path(__file__).parents[1] / "bigmm.yaml"
_DEFAULTS: dict[str, Any] = next(iter(dask.config.collect_yaml([str(_FILE)])))

dask.config.update_defaults(_DEFAULTS)


def setting(name: str) -> Any:
    """The value of a setting as it is now, for example of ``"local-cluster.memory-limit"``.

    (A ``dask.config.set`` that was entered before this module was loaded takes the defaults away when it ends.)
    """
    key = f"bigmm.{name}"
    return dask.config.get(key, default=dask.config.get(key, config=_DEFAULTS))


def seconds(name: str) -> float:
    """A time.

    Raises
    ------
    SettingError
        When it is none, or not positive.
    """
    found = setting(name)
    try:
        value = float(parse_timedelta(found))
    except (ValueError, TypeError, KeyError, AttributeError):
        value = math.nan
    if not 0.0 < value < math.inf:
        raise _wrong(name, "a time such as '30 s' or '5 minutes'")
    return value


def byte_count(name: str) -> int:
    """A size.

    Raises
    ------
    SettingError
        When it is none, or below a byte.
    """
    try:
        value = int(parse_bytes(setting(name)))
    except (ValueError, TypeError, KeyError, AttributeError):
        value = 0
    if value < 1:
        raise _wrong(name, "a size such as '64 MiB'")
    return value


def count(name: str) -> int:
    """A positive number.

    Raises
    ------
    SettingError
        When it is none.
    """
    found = setting(name)
    if isinstance(found, bool) or not isinstance(found, int) or found < 1:
        raise _wrong(name, "a number of at least 1")
    return found


def resources() -> dict[str, float]:
    """Resources that a worker must offer for a chunk.

    Raises
    ------
    SettingError
        When they are no amounts by name.
    """
    found = setting("worker-resources") or {}
    if not isinstance(found, Mapping) or not all(isinstance(amount, int | float) and amount > 0 for amount in found.values()):
        raise _wrong("worker-resources", "amounts by name, such as {BIGMM: 1}")
    return {str(name): float(amount) for name, amount in found.items()}


def changed() -> Iterator[tuple[str, Any, bool]]:
    """Settings that differ from their defaults: name, value, and whether there is one of that name."""
    defaults = dict(_flat(_DEFAULTS["bigmm"]))
    for name, value in _flat(dask.config.get("bigmm", default={})):
        known = name if name in defaults else name.replace("_", "-")
        known = "worker-resources" if known.startswith("worker-resources.") else known
        if known not in defaults:
            yield name, value, False
        elif value != defaults[known]:
            yield name, value, True


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _wrong(name: str, expected: str) -> SettingError:
    return SettingError(f"the setting bigmm.{name} is {setting(name)!r}: expected {expected} (bigmm.yaml explains it)")
