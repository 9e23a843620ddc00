"""Progress on stderr: a bar or a spinner for somebody who watches, a line every so often in a log; and in the journal."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Protocol

import click

from bigmm.cli.application import in_terminal, is_verbose
from bigmm.cli.figures import duration
from bigmm.cli.journal import Journal, journal_of
from bigmm.cli.pace import Pace, Speed, in_full, in_short
from bigmm.reduction.progress import Extent, Progress


class Stage(Protocol):
    """One stage of a job while it runs."""

    def update(self, progress: Progress) -> None:
        """Show how far it is."""

    def finish(self, result: str) -> None:
        """Say what came of it."""


class Display(Protocol):
    """Where progress is shown."""

    def show(self, progress: Progress, speed: Speed) -> None:
        """Show how far it is."""

    def finish(self, result: str) -> None:
        """Say what came of it."""


class Nowhere:
    """Shows nothing."""

    def show(self, progress: Progress, speed: Speed) -> None:
        """Show nothing."""

    def finish(self, result: str) -> None:
        """Say nothing."""


class Timer:
    """Says when it is time again."""

    def __init__(self, interval: float) -> None:
        self._interval, self._next = interval, time.monotonic() + interval
        self._begun = False

    def is_due(self, progress: Progress) -> bool:
        """Whether an interval has passed since the last time; what has been shown is shown to its end."""
        now = time.monotonic()
        if now < self._next and not (self._begun and progress.done == progress.total):
            return False
        self._next, self._begun = now + self._interval, True
        return True


class Lines:
    """A line when the stage begins, every so often, and when it ends."""

    def __init__(self, title: str, interval: float) -> None:
        self._started, self._timer = time.monotonic(), Timer(interval)
        click.echo(f"bigmm: {title}", err=True)

    def show(self, progress: Progress, speed: Speed) -> None:
        """Say how far it is, when it is time."""
        if self._timer.is_due(progress):
            click.echo(f"bigmm: {_evaluations(progress) if progress.total is None else in_full(progress, speed)}", err=True)

    def finish(self, result: str) -> None:
        """Say what came of it, and how long it took."""
        click.echo(f"bigmm: {result} in {time.monotonic() - self._started:.1f} s", err=True)


class Watched:
    """A bar where the end is known, else a spinner; replaced by one line at the end."""

    def __init__(self, title: str) -> None:
        from rich.console import Console
        from rich.progress import Progress as Bars
        from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

        self._started = time.monotonic()
        texts = [TextColumn(f"{{task.{name}}}", markup=False) for name in ("description", "fields[state]")]
        self._bars = Bars(SpinnerColumn(), *texts, TimeElapsedColumn(), console=Console(stderr=True), transient=True)
        self._task = self._bars.add_task(title, total=None, state="")
        self._bars.start()

    def show(self, progress: Progress, speed: Speed) -> None:
        """Move the bar, or count the evaluations."""
        if progress.total is None:
            self._bars.update(self._task, state=_evaluations(progress))
            return
        self._add_bar()
        left = "" if speed.seconds_left is None else f", {duration(speed.seconds_left)} left"
        done, total = (progress.nbytes, progress.whole.nbytes) if progress.whole.nbytes else (progress.done, progress.total)
        self._bars.update(self._task, completed=done, total=total, state=in_short(progress, speed) + left)

    def _add_bar(self) -> None:
        from rich.progress import BarColumn, TaskProgressColumn

        if not any(isinstance(column, BarColumn) for column in self._bars.columns):
            self._bars.columns = (self._bars.columns[0], BarColumn(bar_width=16), TaskProgressColumn(), self._bars.columns[2])  # fits 80

    def finish(self, result: str) -> None:
        """Say what came of it, and how long it took."""
        self.stop()
        click.echo(f"bigmm: {result} in {time.monotonic() - self._started:.1f} s", err=True)

    def stop(self) -> None:
        """Give the terminal back."""
        self._bars.stop()


class TrackedStage:
    """A stage that is shown, and noted in the job's journal."""

    def __init__(self, display: Display, journal: Journal, interval: float) -> None:
        self._display, self._journal = display, journal
        self._pace, self._timer = Pace(), Timer(interval)
        self._planned = False

    def update(self, progress: Progress) -> None:
        """Show how far it is, and note what is new."""
        speed = self._pace.speed(progress, time.monotonic())
        self._display.show(progress, speed)
        if progress.stage == "optimize":
            self._journal.note("evaluation", number=progress.done, objective=progress.objective, theta=progress.theta)
        elif self._journal.listens and progress.stage == "reduce":
            self._note_pass(progress, speed)

    def _note_pass(self, progress: Progress, speed: Speed) -> None:
        if not self._planned:
            self._planned = True
            self._journal.note("planned", **_extent(progress.whole), before=_extent(progress.before))
        for report in progress.reports:
            fields = asdict(report)
            self._journal.note("chunk", bytes=fields.pop("nbytes"), **fields)
        if self._timer.is_due(progress):
            rates = {"rows_per_second": speed.rows, "bytes_per_second": speed.nbytes, "seconds_left": speed.seconds_left}
            counts = {"done": progress.done, "total": progress.total, "rows": progress.rows, "bytes": progress.nbytes}
            self._journal.note("progress", **counts, **rates)

    def finish(self, result: str) -> None:
        """Say what came of it."""
        self._display.finish(result)


def _extent(extent: Extent) -> dict[str, int | None]:
    return {"files": extent.files, "chunks": extent.chunks, "rows": extent.rows, "bytes": extent.nbytes}


def _evaluations(progress: Progress) -> str:
    return f"{progress.done} evaluations, objective {progress.objective:.6f}"


@contextlib.contextmanager
def stage(title: str, quiet: bool) -> Iterator[Stage]:
    """A stage of a job, shown as suits stderr."""
    from bigmm.reduction.settings import seconds

    interval, ctx = seconds("progress.interval"), click.get_current_context()
    with _shown(title, quiet, interval) as display:
        yield TrackedStage(display, journal_of(ctx), interval)


@contextlib.contextmanager
def _shown(title: str, quiet: bool, interval: float) -> Iterator[Display]:
    if quiet:
        yield Nowhere()
    elif not in_terminal() or is_verbose(click.get_current_context()):  # a bar and a log would overwrite one another
        yield Lines(title, interval)
    else:
        watched = Watched(title)
        try:
            yield watched
        finally:
            watched.stop()
