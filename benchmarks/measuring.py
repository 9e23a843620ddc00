"""What the workers written in Python share: orders in, answers out, seconds, memory.

An order and its answer are a line of JSON each, on standard input and standard output.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

Answer: TypeAlias = dict[str, Any]

#: The real standard output; whatever a package prints goes to standard error.
_OUT = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

_STATUS = Path("/proc/self/status")


def task() -> dict[str, Any]:
    """What the runner wants to be measured: folder, formula, reml, and the competitor's settings."""
    found: dict[str, Any] = json.loads(sys.argv[1])
    return found


def serve(measures: Mapping[str, Callable[[dict[str, Any]], Answer]]) -> None:
    """Answer orders until there are no more; `peak` is the highest memory of this process so far."""
    for line in sys.stdin:
        order = json.loads(line)
        say({**measures[order["measure"]](order), "peak": peak()})


def say(answer: Answer) -> None:
    """One line for the runner."""
    _OUT.write(json.dumps(answer) + "\n")
    _OUT.flush()


def repeat(function: Callable[[], Any], budget: float) -> tuple[float, int, Any]:
    """Median seconds of a call over as many as begin within the budget, how many, and what the last one returned."""
    seconds: list[float] = []
    found = None
    while not seconds or sum(seconds) < budget:
        found = None  # what the call before made is no memory of this one
        start = time.perf_counter()
        found = function()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), len(seconds), found


def evaluations(function: Callable[[list[float]], float], order: Mapping[str, Any]) -> Answer:
    """Seconds of one objective: the order's thetas in turn."""
    thetas = order["thetas"][:1] if order["budget"] == 0.0 else order["thetas"]
    objectives: list[float] = []
    seconds, repeats, _ = repeat(lambda: objectives.append(function(thetas[len(objectives) % len(thetas)])), order["budget"])
    return {"seconds": seconds, "repeats": repeats, "evaluations": 1, "objective": objectives[0]}


def fits(run: Callable[[], Any], order: Mapping[str, Any], outcome: Callable[[Any], tuple[int, float]]) -> Answer:
    """Seconds of a whole search; `outcome` tells its evaluations and objective."""
    seconds, repeats, found = repeat(run, order["budget"])
    count, objective = outcome(found)
    return {"seconds": seconds, "repeats": repeats, "evaluations": count, "objective": objective}


def peak() -> int:
    """Highest resident memory of this process, bytes."""
    scale = 1 if sys.platform == "darwin" else 1024
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def resident() -> int:
    """Resident memory of this process now, bytes; its peak where the system does not tell."""
    return _status("VmRSS") or peak()


def _status(name: str) -> int:
    lines = _STATUS.read_text().splitlines() if _STATUS.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":")), 0)
