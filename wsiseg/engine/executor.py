"""Executors: how regions are run. They differ in speed, never in what comes out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from itertools import islice
from typing import Protocol, TypeVar

from wsiseg.cores import cores
from wsiseg.engine.cluster import Cluster
from wsiseg.engine.disposable import alone
from wsiseg.engine.named import named

__all__ = ["Dask", "Executor", "Serial", "Threads"]

T = TypeVar("T")
R = TypeVar("R")


class Executor(Protocol):
    """Runs one function over many items.

    - Yields (item, result) for each item exactly once, in any order, as they finish.
    - Holds a bounded number of items in flight.
    - Raises with the item named: a WsisegError as it is, anything else as RegionError.
    - Leaves nothing running once the iterator is closed.
    """

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, R]]:
        """(item, function(item)) for each of ``items``."""
        ...


class Serial:
    """One item after the other, in this thread."""

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, R]]:
        """(item, function(item)), in order."""
        for item in items:
            yield item, named(function, item)


class Threads:
    """``workers`` threads of this process; kernels, readers and networks let go of the GIL.

    A function may have a method ``assist()``, which does part of what its calls are at work on:
    threads for which no item is left call it.
    """

    TURN_S = 0.5
    """Seconds after which a new number of workers is heeded."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        """May be set while it runs: what is at work is finished, more or less is begun. Less than
        1 is taken for 1."""

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, R]]:
        """(item, function(item)), as they finish."""
        queue = iter(items)
        most = max(self.workers, cores())
        pool = ThreadPoolExecutor(most, thread_name_prefix="wsiseg")  # starts those it needs
        running: dict[Future[R], T] = {}
        helping: list[Future[None]] = []
        try:
            while True:
                workers = max(1, self.workers)
                for item in islice(queue, max(0, workers - len(running))):
                    running[pool.submit(named, function, item)] = item
                if not running:
                    return
                if assist := getattr(function, "assist", None):
                    helping = [future for future in helping if not future.done()]
                    idle = workers - len(running) - len(helping)
                    helping += [pool.submit(assist) for _ in range(idle)]
                for future in wait(running, self.TURN_S, FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


class Dask(Cluster):
    """Worker processes of a dask.distributed cluster; one function, hence one model, per worker.

    Items that follow each other go to the same worker as far as that keeps all of them busy. One
    whose worker died twice or hung is run at the end, in a process of its own on this machine: if
    that does so as well, it is the item's fault, and the RegionError names it.

    ``resource``: only workers that have it are used, one item at a time for each unit of it. See
    ``Cluster`` for the other arguments, and for the errors of a cluster that cannot be used.
    """

    AHEAD = 2
    """Items in flight for each that a worker can do at once: one at work, one waiting."""
    DEATHS = 2
    """Of workers under an item, after which it is run alone."""
    DEADLINE_S = 600.0
    """Seconds without any result after which a worker hangs; an item run alone has as long. For
    items of ``slowness`` 1, such as a region of 1536 px."""

    def __init__(
        self,
        workers: int = 1,
        scheduler: str | None = None,
        *,
        tls: Mapping[str, str] | None = None,
        resource: str | None = None,
        slowness: float = 1.0,
    ) -> None:
        super().__init__(workers, scheduler, tls)
        self._resource, self._slowness = resource, slowness
        self.left_out: dict[str, str] = {}
        """Address -> why a worker was given nothing, in the passes so far."""

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, R]]:
        """(item, function(item)), as they finish; a region of a lost worker runs on another."""
        from wsiseg.engine.crew import Crew  # these bring numba, which threads do without
        from wsiseg.engine.spread import Spread

        things = items if isinstance(items, Sequence) else list(items)
        if not things:
            return
        crew = Crew(self.client, function, self._resource, self.left_out)
        with closing(crew):
            how = {"ahead": self.AHEAD, "deaths": self.DEATHS}
            spread: Spread[T, R] = Spread(crew, things, **how, deadline_s=self._deadline_s)
            for number, result in spread.results():
                yield things[number], result
        for number in spread.suspects:
            yield things[number], named(self._alone(function), things[number])

    def _alone(self, function: Callable[[T], R]) -> Callable[[T], R]:
        return lambda item: alone(function, item, self._deadline_s)

    @property
    def _deadline_s(self) -> float:
        return self.DEADLINE_S * self._slowness
