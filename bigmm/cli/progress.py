"""Progress on stderr: a bar or a spinner for somebody who watches, a line at both ends of a stage in a log."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Protocol

import click

from bigmm.cli.application import in_terminal, is_verbose
from bigmm.reduction.progress import Progress


class Stage(Protocol):
    """One stage of a job while it runs."""

    def update(self, progress: Progress) -> None:
        """Show how far it is."""

    def finish(self, result: str) -> None:
        """Say what came of it."""


class SilentStage:
    """Says nothing."""

    def update(self, progress: Progress) -> None:
        """Show nothing."""

    def finish(self, result: str) -> None:
        """Say nothing."""


class LoggedStage(SilentStage):
    """A line when the stage begins and one when it ends."""

    def __init__(self, title: str) -> None:
        self.started = time.monotonic()
        click.echo(f"bigmm: {title}", err=True)

    def finish(self, result: str) -> None:
        """Say what came of it, and how long it took."""
        click.echo(f"bigmm: {result} in {time.monotonic() - self.started:.1f} s", err=True)


class WatchedStage:
    """A bar where the end is known, else a spinner; replaced by one line at the end."""

    def __init__(self, title: str) -> None:
        from rich.console import Console
        from rich.progress import Progress as Display
        from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

        self.started = time.monotonic()
        self.display = Display(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            TextColumn("{task.fields[state]}", markup=False),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self.task = self.display.add_task(title, total=None, state="")
        self.display.start()

    def update(self, progress: Progress) -> None:
        """Move the bar, or count the evaluations."""
        if progress.total is not None:
            self._add_bar()
            self.display.update(self.task, completed=progress.done, total=progress.total, state=f"{progress.done}/{progress.total} chunks")
        elif progress.objective is not None:
            self.display.update(self.task, state=f"{progress.done} evaluations, objective {progress.objective:.6f}")

    def _add_bar(self) -> None:
        from rich.progress import BarColumn, TimeRemainingColumn

        if not any(isinstance(column, BarColumn) for column in self.display.columns):
            self.display.columns = (*self.display.columns, BarColumn(), TimeRemainingColumn())

    def finish(self, result: str) -> None:
        """Say what came of it, and how long it took."""
        self.display.stop()
        click.echo(f"bigmm: {result} in {time.monotonic() - self.started:.1f} s", err=True)

    def stop(self) -> None:
        """Give the terminal back."""
        self.display.stop()


@contextlib.contextmanager
def stage(title: str, quiet: bool) -> Iterator[Stage]:
    """A stage of a job, shown as suits stderr."""
    if quiet:
        yield SilentStage()
    elif not in_terminal() or is_verbose(click.get_current_context()):  # a bar and a log would overwrite one another
        yield LoggedStage(title)
    else:
        watched = WatchedStage(title)
        try:
            yield watched
        finally:
            watched.stop()
