"""The driver's sum of the batches: segments of neighbouring batches, merged as they fill up.

Neighbouring segments of one size, `FAN_IN` of them, become one of the next, so that n batches are copied about
log32(n) times instead of n, and the order of every addition depends on nothing but the number of batches.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from bigmm.addition import add
from bigmm.crossproducts import CrossProducts
from bigmm.reduction.memory import give_back
from bigmm.reduction.work import Slices, add_slices

#: Parts that one merge adds up, on the driver and on workers.
FAN_IN = 32


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """The sum of the batches from `start` up to, without, `stop`."""

    start: int
    stop: int
    slices: Slices

    @property
    def size(self) -> int:
        """Batches in it."""
        return self.stop - self.start


def extended(segments: list[Segment], batch: Slices, merge: Callable[[Sequence[Slices]], Slices] = add_slices) -> list[Segment]:
    """Segments with one more batch; `merge` adds up slices, wherever these are."""
    at = segments[-1].stop if segments else 0
    found = [*segments, Segment(at, at + 1, batch)]
    while len(run := _full(found)) == FAN_IN:
        merged = Segment(run[0].start, run[-1].stop, merge([segment.slices for segment in run]))
        found = [*found[:-FAN_IN], merged]
    return found


def _full(segments: list[Segment]) -> list[Segment]:
    """The last segments, as far as they have one size."""
    last = segments[-FAN_IN:]
    return last if all(segment.size == last[-1].size for segment in last) else []


def total(segments: list[Segment]) -> CrossProducts:
    """The sum of everything; the segments are used up, so that no more than one kind of pairs is ever held twice."""
    parts = [segment.slices[number] for number in range(len(segments[0].slices)) for segment in segments]
    segments.clear()
    give_back()  # what the chunks took, before the sum takes more
    return add(_given_away(parts), len(os.sched_getaffinity(0)), between=give_back)


def _given_away(parts: list[CrossProducts]) -> Iterator[CrossProducts]:
    parts.reverse()
    while parts:
        yield parts.pop()
