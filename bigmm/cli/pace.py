"""How fast a pass goes, by what it did lately, and how long it will take."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from bigmm.cli.figures import duration, short, size
from bigmm.reduction.progress import Progress

#: Seconds that a rate looks back: workers come and go.
_WINDOW = 120.0


@dataclass(frozen=True, slots=True)
class Speed:
    """Rates.

    Attributes
    ----------
    rows, nbytes : float
        A second.
    seconds_left : float or None
        None while nothing is known.
    """

    rows: float
    nbytes: float
    seconds_left: float | None


class Pace:
    """The speed of a pass from one report of progress after another."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int, int, int]] = deque()

    def speed(self, progress: Progress, now: float) -> Speed:
        """The speed after this report; `now` in seconds by any clock. The first report, of what was done before, is where it starts."""
        self._seen.append((now, progress.done, progress.rows, progress.nbytes))
        while len(self._seen) > 2 and self._seen[1][0] < now - _WINDOW:
            self._seen.popleft()
        then, *before = self._seen[0]
        seconds = max(now - then, 1e-9)
        done, rows, nbytes = ((new - old) / seconds for new, old in zip(self._seen[-1][1:], before, strict=True))
        if progress.whole.nbytes:
            left, rate = progress.whole.nbytes - progress.nbytes, nbytes
        else:
            left, rate = (progress.total or 0) - progress.done, done
        return Speed(rows, nbytes, left / rate if rate > 0 else None)


def in_short(progress: Progress, speed: Speed) -> str:
    """For a line in a terminal."""
    parts = [f"{progress.done}/{progress.total} chunks", f"{short(progress.rows)} rows" if progress.rows else ""]
    parts += [f"{size(speed.nbytes)}/s" if speed.nbytes else "", f"{progress.before.chunks} before" if progress.before.chunks else ""]
    return " ".join(part + "," for part in parts if part).rstrip(",")


def in_full(progress: Progress, speed: Speed) -> str:
    """For a line in a log."""
    share = progress.nbytes / progress.whole.nbytes if progress.whole.nbytes else progress.done / (progress.total or 1)
    total = f"{progress.done:,} of {progress.total or 0:,} chunks"
    before = f" ({progress.before.chunks:,} before)" if progress.before.chunks else ""
    parts = [f"{share:.0%}: {total}{before}", f"{progress.rows:,} rows" if progress.rows else ""]
    parts += [size(progress.nbytes) if progress.nbytes else "", f"{short(speed.rows)} rows/s" if speed.rows else ""]
    parts += [f"{size(speed.nbytes)}/s" if speed.nbytes else "", f"{duration(speed.seconds_left)} left" if speed.seconds_left else ""]
    return ", ".join(part for part in parts if part)
