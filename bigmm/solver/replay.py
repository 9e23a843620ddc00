"""Evaluations of a search on disk, a line of JSON each: a search that was killed goes on where it was.

A search is deterministic: started again it asks for the same thetas in the same order, and those that the log has are
answered from it, to the bit. Nothing else of the search's state has to be kept.
"""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np

from bigmm.columns import Array
from bigmm.errors import StorageError
from bigmm.solver.derivatives import Derivatives

#: Theta to the objective, and what gives its derivatives there.
Evaluate: TypeAlias = Callable[[Array], "tuple[float, Callable[[], Derivatives]]"]

_FORMAT = 7
#: A log's first bytes.
_BEGIN = b'{"format": '
#: Derivatives that hold one array a grouping factor.
_TUPLES = ("K", "Q", "moments")
#: Those that are one array.
_ARRAYS = ("gradient", "information", "gap")


@contextlib.contextmanager
def replayed(evaluate: Evaluate, path: str | os.PathLike[str], identity: Mapping[str, Any]) -> Iterator[Evaluate]:
    """The same function; what it has given before is taken from a log, the rest is added to that.

    Parameters
    ----------
    evaluate : callable
    path : str or path
        The log; made when it is not there. A last line that was cut off is done again.
    identity : dict
        What decides the values: crossproducts and model.

    Raises
    ------
    StorageError
        When the log cannot be read or written, or belongs to another model.
    """
    file = Path(path)
    known, end = _read(file, identity)
    try:
        if file.exists() and file.stat().st_size > end:
            os.truncate(file, end)  # so that the next line begins one
        handle = file.open("a", encoding="utf-8")
    except OSError as error:
        raise StorageError(f"cannot write the log {str(path)!r} ({error.strerror}): choose another place") from None
    with handle:
        if known is None:
            _write(handle, {"format": _FORMAT, "identity": dict(identity)})
        yield _Replay(evaluate, known or {}, handle)


class _Replay:
    def __init__(self, evaluate: Evaluate, known: dict[bytes, dict[str, Any]], handle: IO[str]) -> None:
        self._evaluate, self._known, self._handle = evaluate, known, handle

    def __call__(self, theta: Array) -> tuple[float, Callable[[], Derivatives]]:
        found = self._known.get(theta.tobytes(), {})
        if "objective" not in found:
            value, derive = self._evaluate(theta)
            self._note(theta, objective=value)
            return value, lambda: self._derivatives(theta, derive)
        if "derivatives" in found:
            return found["objective"], lambda: _from_json(found["derivatives"])
        return found["objective"], lambda: self._derivatives(theta, self._evaluate(theta)[1])

    def _derivatives(self, theta: Array, derive: Callable[[], Derivatives]) -> Derivatives:
        found = derive()
        self._note(theta, derivatives=_to_json(found))
        return found

    def _note(self, theta: Array, **values: Any) -> None:
        self._known.setdefault(theta.tobytes(), {}).update(values)
        _write(self._handle, {"theta": theta.tolist(), **values})


def _write(handle: IO[str], record: Mapping[str, Any]) -> None:
    handle.write(json.dumps({**record, "check": _checksum(record)}) + "\n")
    handle.flush()
    os.fsync(handle.fileno())


def _read(file: Path, identity: Mapping[str, Any]) -> tuple[dict[bytes, dict[str, Any]] | None, int]:
    """What a log knows by theta's bytes, None when it has not even its first line; and where its last line that is whole ends."""
    if not file.exists():
        return None, 0
    try:
        content = file.read_bytes()
        end = content.rfind(b"\n") + 1
        if not end:
            _check_begun(content)
            return None, 0
        header, *records = [_record(line) for line in content[:end].splitlines()]
        found, made_for = header["format"], header["identity"]
        known: dict[bytes, dict[str, Any]] = {}
        for record in records:
            known.setdefault(np.array(record.pop("theta"), dtype=np.float64).tobytes(), {}).update(record)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise StorageError(f"the log {str(file)!r} cannot be read ({error}): remove it and start again, or choose another place") from None
    if found != _FORMAT or made_for != json.loads(json.dumps(dict(identity))):
        raise StorageError(f"the log {str(file)!r} was made for another model or other data: choose another place")
    return known, end


def _check_begun(content: bytes) -> None:
    """A first line that was cut off is that of a log, and not somebody's file."""
    if content[: len(_BEGIN)] != _BEGIN[: len(content)]:
        raise ValueError("its first line is none of a log")


def _checksum(record: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(record).encode())


def _record(line: bytes) -> dict[str, Any]:
    """What a line says; a changed digit must not pass for another number."""
    found: dict[str, Any] = json.loads(line)
    if found.pop("check") != _checksum(found):
        raise ValueError("a line was changed")
    return found


def _to_json(found: Derivatives) -> dict[str, Any]:
    """JSON writes floats so that they are read back to the bit."""
    arrays = {name: getattr(found, name).tolist() for name in _ARRAYS}
    return {
        **arrays,
        **{name: [part.tolist() for part in getattr(found, name)] for name in _TUPLES},
        "levels": found.levels,
        "rounding": found.rounding,
    }


def _from_json(record: Mapping[str, Any]) -> Derivatives:
    lists: dict[str, Any] = {name: tuple(np.array(part) for part in record[name]) for name in _TUPLES}
    arrays: dict[str, Any] = {name: np.array(record[name]) for name in _ARRAYS}
    return Derivatives(**arrays, **lists, levels=tuple(record["levels"]), rounding=record["rounding"])
