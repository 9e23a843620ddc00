"""One problem: who measures what, and when."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import results
from competitors import Competitor, StoppedError, UnableError, Worker
from problems import Problem
from results import Row

#: Fixed thetas: these on the diagonals of the templates, a little covariance below them.
_SCALES = (1.0, 0.8, 0.6, 0.4, 0.3)
_OFF_DIAGONAL = 0.05
#: Seconds between turns, for idle threads of the other competitor to fall asleep.
_PAUSE = 0.2
#: A measurement that takes longer than this is made once.
_SLOW = 10.0


class Turns:
    """All rounds of one problem with one setting of threads.

    Parameters
    ----------
    problem : Problem
    folder : Path
        Its data.
    threads : str
    limit, memory : float
        Seconds and bytes at which a rival is stopped.
    say : callable
        Told of every measurement.
    """

    def __init__(self, problem: Problem, folder: Path, threads: str, *, limit: float, memory: float, say: Callable[[str], None]) -> None:
        self.problem, self.folder, self.threads = problem, folder, threads
        self.limit, self.memory, self.say = limit, memory, say
        self.has_rows = (folder / "rows.parquet").exists()
        self.machine = results.machine()
        self.thetas: list[list[float]] = []
        self.rows: list[Row] = []
        self.peaks: dict[tuple[str, str], float] = {}

    def measure(self, present: Sequence[Competitor], rounds: int, budget: float) -> list[Row]:
        """Everything once, which warms compilers and caches up, and shows who is slow; then the rounds of the quick."""
        quick = [found for competitor in present if (found := self._first(competitor)) is not None]
        try:
            for turn in range(1, rounds + 1):
                for measure in dict.fromkeys(measure for _, measures in quick for measure in measures):
                    for worker, measures in quick if turn % 2 else quick[::-1]:
                        if measure in measures:
                            time.sleep(_PAUSE)
                            self._measured(worker, measure, turn, worker.measure(measure, self.thetas, budget))
        finally:
            for worker, _ in quick:
                worker.close()
        names = [competitor.name for competitor in present]
        return sorted(self.rows, key=lambda row: names.index(row.competitor))

    def _first(self, competitor: Competitor) -> tuple[Worker, tuple[str, ...]] | None:
        """The running competitor with the measures that are quick enough for rounds; None when there are none."""
        measures = competitor.measured(self.problem, self.has_rows)
        try:
            if competitor.rows and not self.has_rows:
                raise UnableError("needs rows, and there are only crossproducts")
            worker = Worker(competitor, self.problem, self.folder, self.threads, self.limit, self.memory)
            self._set_thetas(worker)
        except StoppedError:
            self._failed(competitor, "", f"stopped after {self.limit:g} s of loading")
            return None
        except UnableError as error:
            self._failed(competitor, "", str(error))
            return None
        quick = [measure for measure in measures if self._alive(worker) and self._warm(worker, measure)]
        if quick and self._alive(worker):
            return worker, tuple(quick)
        worker.close()
        return None

    def _set_thetas(self, worker: Worker) -> None:
        """Where every competitor is evaluated: bigmm is first, the others must have theta in its order."""
        diagonal = worker.hello["diagonal"]
        thetas = [[scale if bounded else _OFF_DIAGONAL for bounded in diagonal or ()] for scale in _SCALES]
        self.thetas = self.thetas or thetas
        if diagonal is not None and thetas != self.thetas:
            worker.close()
            raise UnableError("has another order of theta")

    def _alive(self, worker: Worker) -> bool:
        return not any(row.competitor == worker.competitor.name and row.state != "measured" for row in self.rows)

    def _warm(self, worker: Worker, measure: str) -> bool:
        """Measure once; a slow measurement counts as the only one. True when it is quick."""
        try:
            answer = worker.measure(measure, self.thetas, 0.0)
        except StoppedError:
            later = worker.competitor.measured(self.problem, self.has_rows)
            for unmeasured in later[later.index(measure) :] if measure == "fit" else (measure,):  # a fit is part of lmer
                self._failed(worker.competitor, unmeasured, "stopped")
            return False
        except UnableError as error:
            self._failed(worker.competitor, measure, str(error))
            return False
        self.peaks[worker.competitor.name, measure] = answer["peak"]
        if answer["seconds"] > _SLOW:
            self._measured(worker, measure, 1, answer)
        return bool(answer["seconds"] <= _SLOW)

    def _measured(self, worker: Worker, measure: str, turn: int, answer: dict[str, Any]) -> None:
        hello, name = worker.hello, worker.competitor.name
        memory = [self.peaks[name, measure], *(float(hello.get(part, math.nan)) for part in ("base", "products", "factor"))]
        amounts = (float(answer["seconds"]), int(answer["repeats"]), int(answer["evaluations"]), float(answer["objective"]))
        self._add(name, measure, turn, "measured", *amounts, *memory, hello["versions"], hello["blas"])

    def _failed(self, competitor: Competitor, measure: str, state: str) -> None:
        stopped = state == "stopped"
        seconds = self.limit if stopped else math.nan
        self._add(competitor.name, measure, int(stopped), state, seconds, 0, 0, *[math.nan] * 5, "", "")

    def _add(self, competitor: str, measure: str, turn: int, state: str, seconds: float, *rest: Any) -> None:
        self.say(f"{self.problem.name} threads={self.threads} round {turn} {measure} {competitor}: {state} {seconds:.3g} s")
        thetas = len(self.thetas[0]) if self.thetas else 0
        self.rows.append(Row(self.problem.name, thetas, self.threads, competitor, measure, turn, state, seconds, *rest, *self.machine))
