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
        quick = dict(found for competitor in present if (found := self._start(competitor, budget)) is not None)
        try:
            for turn in range(1, rounds + 1):
                for measure in dict.fromkeys(measure for measures in quick.values() for measure in measures):
                    for worker in list(quick) if turn % 2 else list(quick)[::-1]:
                        if measure in quick[worker] and not self._turn(worker, measure, turn, budget):
                            del quick[worker]
        finally:
            for worker in quick:
                worker.close()
        names = [competitor.name for competitor in present]
        return sorted(self.rows, key=lambda row: names.index(row.competitor))

    def _turn(self, worker: Worker, measure: str, turn: int, budget: float) -> bool:
        """One measurement; False when the competitor has ended."""
        time.sleep(_PAUSE)
        try:
            self._measured(worker, measure, turn, worker.measure(measure, self.thetas, budget))
        except (StoppedError, UnableError) as error:
            self.say(f"{worker.competitor.name} takes no part in further rounds: {error or 'stopped'}")
            return False
        return True

    def _start(self, competitor: Competitor, budget: float) -> tuple[Worker, tuple[str, ...]] | None:
        """The running competitor with the measures that are quick enough for rounds; None when there are none."""
        measures = competitor.measured(self.problem, self.has_rows)
        try:
            if competitor.rows and not self.has_rows:
                raise UnableError("needs rows, and there are only crossproducts")
            worker = Worker(competitor, self.problem, self.folder, self.threads, self.limit, self.memory)
            self._set_thetas(worker)
        except StoppedError:
            self._failed(competitor, "", f"stopped after {2 * self.limit:g} s of loading")
            return None
        except UnableError as error:
            self._failed(competitor, "", str(error))
            return None
        return self._warm_up(worker, measures, budget)

    def _warm_up(self, worker: Worker, measures: Sequence[str], budget: float) -> tuple[Worker, tuple[str, ...]] | None:
        """Measure everything once; what is slow is not measured again, and who fails leaves what it had done."""
        quick: dict[str, dict[str, Any]] = {}
        for measure in measures:
            answer = self._first_answer(worker, measure, budget)
            if answer is None:
                for done, earlier in quick.items():
                    self._measured(worker, done, 1, earlier)
                return None
            if answer["seconds"] > _SLOW:
                self._measured(worker, measure, 1, answer)
            else:
                quick[measure] = answer
        if quick:
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

    def _first_answer(self, worker: Worker, measure: str, budget: float) -> dict[str, Any] | None:
        """The first measurement, of an evaluation the second; None when the competitor has ended."""
        competitor = worker.competitor
        try:
            answer = worker.measure(measure, self.thetas, 0.0)
            if measure == "evaluation" and answer["seconds"] < _SLOW:
                answer = worker.measure(measure, self.thetas, budget)
        except StoppedError:
            later = competitor.measured(self.problem, self.has_rows)
            for unmeasured in later[later.index(measure) :] if measure == "fit" else (measure,):  # a fit is part of lmer
                self._failed(competitor, unmeasured, "stopped")
            return None
        except UnableError as error:
            self._failed(competitor, measure, str(error))
            return None
        self.peaks[competitor.name, measure] = answer["peak"]
        return answer

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
        self.say(
            f"{self.problem.name} threads={self.threads} round {turn} {measure} {competitor}: {state}"
            + ("" if math.isnan(seconds) else f" {seconds:.3g} s")
        )
        thetas = len(self.thetas[0]) if self.thetas else 0
        self.rows.append(Row(self.problem.name, thetas, self.threads, competitor, measure, turn, state, seconds, *rest, *self.machine))
