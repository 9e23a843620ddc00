"""Slices of crossproducts, or of leaves, on a cluster's workers: a function of each, and sums, whatever workers are lost meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from dask.sizeof import sizeof
from distributed.client import ClosedClientError

from bigmm.errors import ClusterError
from bigmm.reduction.segments import FAN_IN
from bigmm.reduction.tally import Tally
from bigmm.reduction.workers import DroppedError, Workers

if TYPE_CHECKING:
    from distributed import Client, Future

Result = TypeVar("Result")

#: Bytes of arguments that may travel with a task.
_SMALL = 8e6
#: Larger ones lie on one worker, and may be lost with it; so often they are sent, with half a minute for a worker to come.
_SENDINGS = 5
_WAIT_SECONDS = 30.0


class SliceMap:
    """Futures of slices, and functions of them on the workers.

    Parameters
    ----------
    client : Client
    slices : sequence of Future
    add_up : callable, optional
        Sums a list of one part; numbers and arrays unless given.
    again : callable, optional
        Makes the slices, where there are none; and once more, where something that they were made of is lost for good.
    """

    def __init__(
        self,
        client: Client,
        slices: Sequence[Future],
        add_up: Callable[[list[Any]], Any] | None = None,
        again: Callable[[], Sequence[Future]] | None = None,
    ) -> None:
        self._client, self._slices, self._again = client, tuple(slices), again
        self._add_up = add_up or _sum
        self._workers = Workers(client, Tally((), None))

    def start(self, function: Callable[..., Any], *arguments: Any) -> list[Future]:
        """Futures of ``function(slice, *arguments)``; the arguments travel to a worker once."""
        shared = self._shared(arguments)
        return [self._workers.start(_apply, function, one, shared) for one in self._slices]

    def _shared(self, arguments: tuple[Any, ...]) -> Future:
        """The arguments, from where workers fetch them; small ones stay with the scheduler, too, and outlive any worker."""
        if sum(sizeof(argument) for argument in arguments) < _SMALL:
            return self._workers.start(_itself, arguments)
        try:
            return self._client.scatter([arguments], hash=False, timeout=_WAIT_SECONDS)[0]
        except TimeoutError:
            raise ClusterError(f"no worker has been there for {_WAIT_SECONDS:.0f} s: start workers and run again") from None
        except OSError as error:  # the connection was closed, or there was none
            raise DroppedError(f"a worker was lost while it was sent {len(arguments)} arguments ({error})") from None

    def each(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """What ``function(slice, *arguments)`` returns for each slice."""
        return self._persistently(lambda: self._results(self.start(function, *arguments)))

    def total(self, function: Callable[..., tuple[Any, ...]], *arguments: Any) -> tuple[Any, ...]:
        """Sum over the slices of what the function returns, part by part, in a tree of a shape of its own."""
        return self._persistently(lambda: self._total(function, *arguments))

    def _total(self, function: Callable[..., tuple[Any, ...]], *arguments: Any) -> tuple[Any, ...]:
        level = self.start(function, *arguments)
        while len(level) > 1:
            groups = [level[start : start + FAN_IN] for start in range(0, len(level), FAN_IN)]
            level = [self._workers.start(_sum_parts, group, self._add_up, priority=10) for group in groups]
        (found,) = self._results(level)
        total: tuple[Any, ...] = found
        return total

    def _persistently(self, work: Callable[[], Result]) -> Result:
        """Work once more where arguments were lost with a worker; slices that were lost are made again by themselves.

        Raises
        ------
        ClusterError
            When that does not help, or the cluster is gone.
        """
        for left in reversed(range(_SENDINGS)):
            try:
                self._slices = self._slices or tuple(self._again() if self._again is not None else ())
                return work()
            except DroppedError as error:
                if not left or self._client.status != "running":
                    raise ClusterError(f"workers, or the scheduler, are lost again and again ({error}): see that they run") from None
                self._slices = self._slices if self._again is None else ()
            except ClosedClientError:
                raise ClusterError("the leaves were on a cluster that is closed: keep it open while they are used, and fit again") from None
        raise AssertionError("the last sending returns or raises")

    def results(self) -> list[Any]:
        """The slices themselves."""
        return self._results(self._slices)

    def _results(self, futures: Sequence[Future]) -> list[Any]:
        return [self._workers.result(future) for future in futures]


def _itself(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return arguments


def _apply(function: Callable[..., Any], one: Any, arguments: tuple[Any, ...]) -> Any:
    return function(one, *arguments)


def _sum_parts(parts: list[tuple[Any, ...]], add_up: Callable[[list[Any]], Any]) -> tuple[Any, ...]:
    return tuple(add_up(list(column)) for column in zip(*parts, strict=True))


def _sum(parts: list[Any]) -> Any:
    total = parts[0].copy()
    for part in parts[1:]:
        total += part
    return total
