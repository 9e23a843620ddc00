"""The driver's sum of the batches: segments of neighbouring batches, merged as they fill up.

`FAN_IN` neighbours become one segment, `FAN_IN` of these one of the next level, so that n batches are copied about
log32(n) times instead of n. Where segments have the same levels, so that their sum is no longer than they are, they are
merged before they are so many, from left to right, as they would have been: what is held is a few results for each level, however
many batches there are, and no sum is of many more than `FAN_IN` parts, whose rounding would add up. Whether they have is seen when the
first are merged, which is before they are `FAN_IN` when they are large. The order of every addition depends on nothing but the batches.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bigmm.addition import add
from bigmm.crossproducts import CrossProducts
from bigmm.reduction.memory import give_back
from bigmm.reduction.work import Slices, add_slices

#: Parts that one merge adds up, on the driver and on workers.
FAN_IN = 32
#: Segments of one unit that are held where they have the same levels.
_HELD = 2
#: What these are merged with is at most so many times as long as they are together.
_LONGER = 4
#: Numbers in the first segments from which it is worth a merge to know whether they have the same levels: a quarter of a gigabyte.
_LARGE = 2**25


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """The sum of the batches from `start` up to, without, `stop`.

    Attributes
    ----------
    start, stop : int
    slices : Slices
    same_levels : bool
        Its neighbours are known to have its levels.
    """

    start: int
    stop: int
    slices: Slices
    same_levels: bool = False

    @property
    def size(self) -> int:
        """Batches in it."""
        return self.stop - self.start

    @property
    def unit(self) -> int:
        """The batches of a whole segment of its level: the highest power of `FAN_IN` that is no more than its size."""
        unit = 1
        while unit * FAN_IN <= self.size:
            unit *= FAN_IN
        return unit

    @property
    def entries(self) -> int:
        """Numbers in it; 0 where the slices are elsewhere."""
        return sum(map(_entries, self.slices))

    @property
    def sources(self) -> int:
        """Sources of its rows; 0 where the slices are elsewhere."""
        return sum(map(_sources, self.slices))


def _entries(part: Any) -> int:
    if not isinstance(part, CrossProducts):
        return 0
    products = [*(array for group in part.groups for array in (group.ZtZ, group.ZtXy)), *(pair.ZtZ for pair in part.pairs.values())]
    return sum(array.size for array in products)


def _sources(part: Any) -> int:
    return len(part.sources) if isinstance(part, CrossProducts) else 0


def extended(segments: list[Segment], batch: Slices, merge: Callable[[Sequence[Slices]], Slices] = add_slices) -> list[Segment]:
    """Segments with one more batch; `merge` adds up slices, wherever these are, from left to right."""
    at = segments[-1].stop if segments else 0
    found = [*segments, Segment(at, at + 1, batch, bool(segments) and segments[-1].same_levels)]
    while run := _due(found):
        found = [*found[: -len(run)], _merged(run, merge)]
    return found


def _due(segments: list[Segment]) -> list[Segment]:
    """The last segments of one unit, when they are a whole one of the next, or have the same levels and are too many, or may have them."""
    last = segments[-1]
    run = list(itertools.takewhile(lambda segment: segment.unit == last.unit, reversed(segments)))[::-1]
    whole = last.stop - run[0].start == FAN_IN * last.unit
    return run if whole or (last.same_levels and len(run) > _HELD) or _is_worth_a_trial(run) else []


def _is_worth_a_trial(run: list[Segment]) -> bool:
    """Whether these are the first batches, none of them merged yet, and large."""
    return run[0].start == 0 and run[0].size == 1 < len(run) and sum(segment.entries for segment in run) > _LARGE


def _merged(run: list[Segment], merge: Callable[[Sequence[Slices]], Slices]) -> Segment:
    slices = merge([segment.slices for segment in run])
    merged = Segment(run[0].start, run[-1].stop, slices)
    return replace(merged, same_levels=_have_same_levels(run, merged))


def _have_same_levels(run: list[Segment], merged: Segment) -> bool:
    """Whether most of what came to the first was there already, and the next few are not merged with much more than they are."""
    first, *others = (segment.entries for segment in run)
    repeated = first + sum(others) - merged.entries
    one = sum(segment.entries + segment.sources for segment in run[1:]) * run[-1].unit / (run[-1].stop - run[1].start)
    return 2 * repeated > sum(others) and merged.entries + merged.sources <= _LONGER * _HELD * one


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
