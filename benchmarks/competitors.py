"""Who is measured: each competitor is a program that loads a problem and then answers orders, a line of JSON each."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from problems import Problem

_HERE = Path(__file__).resolve().parent
#: What limits the threads of OpenBLAS, OpenMP and numba.
_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclass(frozen=True, slots=True)
class Competitor:
    """One program.

    Attributes
    ----------
    name : str
    command : tuple of str
        Starts a worker; the problem follows as one argument of JSON.
    probe : tuple of str
        Succeeds when the worker can run.
    measures : tuple of str
        What it answers to: "evaluation", "fit" and "lmer".
    """

    name: str
    command: tuple[str, ...]
    probe: tuple[str, ...]
    measures: tuple[str, ...]

    def available(self) -> bool:
        """The program and its packages are installed."""
        return shutil.which(self.probe[0]) is not None and subprocess.run(self.probe, capture_output=True, check=False).returncode == 0


#: lme4 has no crossproducts to start from: its fit always begins with the data frame.
COMPETITORS = (
    Competitor(
        name="bigmm",
        command=(sys.executable, str(_HERE / "worker_bigmm.py")),
        probe=(sys.executable, "-c", "import bigmm"),
        measures=("evaluation", "fit", "lmer"),
    ),
    Competitor(
        name="lme4",
        command=("Rscript", str(_HERE / "worker_lme4.R")),
        probe=("Rscript", "-e", "library(lme4); library(jsonlite)"),
        measures=("evaluation", "lmer"),
    ),
)


class Worker:
    """A running competitor that has loaded one problem.

    Parameters
    ----------
    competitor : Competitor
    problem : Problem
    path : Path
        The problem's data file.
    threads : str
        A number, or "default" to limit nothing.

    Attributes
    ----------
    diagonal : list of bool
        Which entries of theta are bounded by 0.
    versions, blas : str
    """

    def __init__(self, competitor: Competitor, problem: Problem, path: Path, threads: str) -> None:
        task = {"path": str(path), "formula": problem.formula, "reml": problem.reml, "categories": problem.categories}
        environment = {name: value for name, value in os.environ.items() if name not in _THREADS}
        if threads != "default":
            environment |= dict.fromkeys(_THREADS, threads)
        self.competitor = competitor
        self._process = subprocess.Popen(
            [*competitor.command, json.dumps(task)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        hello = self._answer()
        self.diagonal: list[bool] = hello["diagonal"]
        self.versions: str = hello["versions"]
        self.blas: str = hello["blas"]

    def measure(self, measure: str, thetas: list[list[float]], budget: float) -> dict[str, Any]:
        """Seconds, repeats, evaluations and objectives of one measurement."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"measure": measure, "thetas": thetas, "budget": budget}) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the worker of {self.competitor.name} ended with code {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """End the program."""
        self._process.terminate()
        self._process.communicate()
