"""The driver's sum of the batches: segments of neighbouring batches, merged as they fill up.

Neighbouring segments of one size, `FAN_IN` of them, become one of the next, so that n batches are copied about
log32(n) times instead of n. Segments that have the same levels are merged sooner, for their sum is no longer than one
of them: what is held is a few times as long as the result, however many batches there are. The order of every
addition depends on nothing but the batches' number and their lengths.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from bigmm.addition import add
from bigmm.crossproducts import CrossProducts
from bigmm.reduction.memory import give_back
from bigmm.reduction.work import Slices, add_slices

#: Parts that one merge adds up, on the driver and on workers.
FAN_IN = 32
#: Shorter segments that follow a segment become part of it when they have this many times its entries: then they share levels
#: with it. Where every batch has levels of its own it never happens.
SHARED = 2


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """The sum of the batches from `start` up to, without, `stop`.

    Attributes
    ----------
    start, stop : int
    slices : Slices
    entries : int
        Numbers in it; 0 where the slices are elsewhere.
    """

    start: int
    stop: int
    slices: Slices
    entries: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "entries", sum(map(_entries, self.slices)))

    @property
    def size(self) -> int:
        """Batches in it."""
        return self.stop - self.start


def _entries(part: Any) -> int:
    if not isinstance(part, CrossProducts):
        return 0
    products = [*(array for group in part.groups for array in (group.ZtZ, group.ZtXy)), *(pair.ZtZ for pair in part.pairs.values())]
    return sum(array.size for array in products) + len(part.sources) * (4 + len(part.sources.missing))


def extended(segments: list[Segment], batch: Slices, merge: Callable[[Sequence[Slices]], Slices] = add_slices) -> list[Segment]:
    """Segments with one more batch; `merge` adds up slices, wherever these are."""
    at = segments[-1].stop if segments else 0
    found = [*segments, Segment(at, at + 1, batch)]
    while run := _full(found) or _shared(found):
        merged = Segment(run[0].start, run[-1].stop, merge([segment.slices for segment in run]))
        found = [*found[: -len(run)], merged]
    return found


def _full(segments: list[Segment]) -> list[Segment]:
    """The last segments, when as many as a merge takes have one size."""
    last = segments[-FAN_IN:]
    return last if len(last) == FAN_IN and all(segment.size == last[-1].size for segment in last) else []


def _shared(segments: list[Segment]) -> list[Segment]:
    """A segment and all that follow it, when these are shorter and have too many entries to have levels of their own."""
    left = sum(segment.entries for segment in segments)
    for place, (segment, following) in enumerate(itertools.pairwise(segments)):
        left -= segment.entries
        if segment.size > following.size and left > SHARED * segment.entries:
            return segments[place:]
    return []


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
