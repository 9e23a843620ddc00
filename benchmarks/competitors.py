"""Who is measured: each competitor is a program that loads a problem and then answers orders, a line of JSON each."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from problems import Problem

_HERE = Path(__file__).resolve().parent
#: What limits the threads of OpenBLAS, OpenMP, numba and Rayon.
_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "RAYON_NUM_THREADS")


class StoppedError(Exception):
    """A competitor took longer than the limit, and was ended."""


class UnableError(Exception):
    """A competitor cannot do a problem, or broke; the text says why."""


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
        What it answers to, of "evaluation", "gradient", "fit", "lmer" and "command".
    settings : dict
        For the worker.
    rows : bool
        It needs rows; crossproducts are not enough.
    limited : bool
        It is stopped at the limit of seconds.
    """

    name: str
    command: tuple[str, ...]
    probe: tuple[str, ...]
    measures: tuple[str, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    rows: bool = True
    limited: bool = True

    def available(self) -> bool:
        """The program and its packages are installed."""
        return shutil.which(self.probe[0]) is not None and subprocess.run(self.probe, capture_output=True, check=False).returncode == 0

    def measured(self, problem: Problem, rows: bool) -> tuple[str, ...]:
        """What it is measured on in one problem, with or without rows."""
        wanted = [measure for measure in self.measures if rows or measure not in ("lmer", "command")]
        return tuple(measure for measure in wanted if problem.command or measure != "command")


def competitors(peers: str) -> tuple[Competitor, ...]:
    """Everybody; `peers` is the Python that has mixedlm and gpboost."""
    own = (sys.executable, str(_HERE / "worker_bigmm.py"))
    return (
        Competitor(
            name="bigmm",
            command=own,
            probe=(sys.executable, "-c", "import bigmm"),
            measures=("evaluation", "gradient", "fit", "lmer", "command"),
            settings={"optimizer": "newton"},
            rows=False,
            limited=False,
        ),
        Competitor(
            name="bigmm bobyqa",
            command=own,
            probe=(sys.executable, "-c", "import bigmm"),
            measures=("fit",),
            settings={"optimizer": "bobyqa"},
            rows=False,
        ),
        Competitor(
            name="lme4",
            command=("Rscript", str(_HERE / "worker_lme4.R")),
            probe=("Rscript", "-e", "library(lme4); library(jsonlite)"),
            measures=("evaluation", "fit", "lmer"),
        ),
        Competitor(
            name="mixedlm",
            command=(peers, str(_HERE / "worker_mixedlm.py")),
            probe=(peers, "-c", "import mixedlm"),
            measures=("evaluation", "fit", "lmer"),
        ),
        Competitor(
            name="gpboost",
            command=(peers, str(_HERE / "worker_gpboost.py")),
            probe=(peers, "-c", "import gpboost"),
            measures=("lmer",),
        ),
    )


class Worker:
    """A running competitor that has loaded one problem.

    Parameters
    ----------
    competitor : Competitor
    problem : Problem
    folder : Path
        Where the problem's data are.
    threads : str
        A number, or "default" to limit nothing.
    limit : float
        Seconds that one measurement may take; loading may take twice as many.
    memory : float
        Bytes of data that the process may have.

    Attributes
    ----------
    hello : dict
        "diagonal" (which entries of theta are bounded by 0), "versions", "blas"; bytes: "base" before the problem was loaded,
        "products" and "factor" where they are known.

    Raises
    ------
    StoppedError, UnableError
    """

    def __init__(self, competitor: Competitor, problem: Problem, folder: Path, threads: str, limit: float, memory: float) -> None:
        self.competitor = competitor
        self._limit = limit if competitor.limited else None
        self._log = folder / f"{competitor.name}.log"
        task = {"folder": str(folder), "formula": problem.formula, "reml": problem.reml, **competitor.settings}
        environment = {name: value for name, value in os.environ.items() if name not in _THREADS}
        if threads != "default":
            environment |= dict.fromkeys(_THREADS, threads)
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [*competitor.command, json.dumps(task)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
            )
        if hasattr(resource, "prlimit"):  # Linux
            resource.prlimit(self._process.pid, resource.RLIMIT_DATA, (int(memory), int(memory)))
        self.hello = self._answer(loading=True)

    def measure(self, measure: str, thetas: list[list[float]], budget: float) -> dict[str, Any]:
        """Seconds, repeats, evaluations, objective and peak of one measurement.

        Raises
        ------
        StoppedError, UnableError
        """
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # of a program that has ended, whose last words say why
            self._process.stdin.write(json.dumps({"measure": measure, "thetas": thetas, "budget": budget}) + "\n")
            self._process.stdin.flush()
        return self._answer()

    def _answer(self, *, loading: bool = False) -> dict[str, Any]:
        assert self._process.stdout is not None
        seconds = None if self._limit is None else self._limit * (2.0 if loading else 1.0)
        if not select.select([self._process.stdout], [], [], seconds)[0]:
            self.close()
            raise StoppedError
        line = self._process.stdout.readline()
        if not line:
            raise UnableError(self._last_words(self._process.wait()))
        answer: dict[str, Any] = json.loads(line)
        if "unable" in answer:
            self.close()
            raise UnableError(answer["unable"])
        return answer

    def _last_words(self, code: int) -> str:
        """The last line that the program wrote to standard error."""
        lines = self._log.read_text(errors="replace").split("\n")
        return f"ended with code {code}: {next((line.strip() for line in reversed(lines) if line.strip()), '')[:200]}"

    def close(self) -> None:
        """End the program."""
        self._process.kill()
        with contextlib.suppress(BrokenPipeError, ValueError):  # an order that nobody has read
            self._process.communicate()

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """End the program."""
        self.close()
