"""Spread: one pass over many items on the workers of a cluster."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from wsiseg.engine.crew import Crew, Held, Member
from wsiseg.engine.named import named
from wsiseg.engine.shares import Shares
from wsiseg.errors import ClusterError, WsisegError

__all__ = ["Spread"]

T = TypeVar("T")
R = TypeVar("R")


class Spread(Generic[T, R]):
    """Items given out to a crew, a few ahead of what each member can do, and what comes back.

    An item whose worker died ``deaths`` times while it may have been at work on it is left over,
    and so is one whose worker has finished nothing for ``deadline_s``: see ``suspects`` after the
    pass.
    """

    ANSWER_S = 0.05
    """Seconds between looks while members are being asked."""

    def __init__(
        self, crew: Crew, items: Sequence[T], *, ahead: int, deaths: int, deadline_s: float
    ) -> None:
        self._crew, self._items, self._ahead, self._deaths = crew, items, ahead, deaths
        self._deadline_s = deadline_s
        self._running: dict[Any, Member] = {}
        self._ended: SimpleQueue[Any] = SimpleQueue()
        self._again: deque[int] = deque()
        self._died: Counter[int] = Counter()
        self._shares: Shares | None = None
        self._judged = time.monotonic()
        self.suspects: list[int] = []
        """Numbers of items under which workers died or hung."""

    def results(self) -> Iterator[tuple[int, R]]:
        """(number of the item, result), as they finish; raises what ``named`` does."""
        while self._give():
            wait = self._crew.TURN_S if self._running else self.ANSWER_S
            for future in self._batch(wait):
                yield from self._result(future)

    def _give(self) -> bool:
        """Give items to all who have room; whether there is anything left to wait for."""
        for member in self._crew.look():
            self._lost(member, 1)
        self._judge()
        self._shares = self._shares or Shares(len(self._items), self._crew.addresses)
        for member in self._crew.fit:
            for _ in range(self._ahead * member.slots - len(member.items)):
                number = self._next(member)
                if number is None:
                    break
                if not member.items:
                    member.sign = time.monotonic()
                # before whole slides, each of which would keep a large one waiting for minutes
                future = self._crew.give(member, _do, self._items[number], priority=1)
                member.items[future], self._running[future] = number, member
                future.add_done_callback(self._ended.put)
        return bool(self._running or self._again or self._shares.left)

    def _judge(self) -> None:
        """Give up members that hang; not for time in which we did not look, or were stopped."""
        now = time.monotonic()
        away, self._judged = now - self._judged > self._deadline_s / 2, now
        for member in self._crew.fit:
            if not member.items or now - member.sign <= self._deadline_s:
                continue
            if away or self._crew.is_busy(member):
                member.sign = now
            else:
                self._crew.give_up(member, f"finished nothing for {self._deadline_s:g} s")
                self._lost(member, self._deaths)

    def _next(self, member: Member) -> int | None:
        if self._again:
            return self._again.popleft()
        assert self._shares is not None
        return self._shares.take(member.address)

    def _lost(self, member: Member, deaths: int) -> None:
        """Its items go to others; ``deaths`` are noted of those at work there, the oldest."""
        numbers = [member.items[f] for f in member.items if self._running.pop(f, None)]
        self._died.update(dict.fromkeys(numbers[: member.slots], deaths))
        for number in numbers:
            (self.suspects if self._died[number] >= self._deaths else self._again).append(number)

    def _batch(self, seconds: float) -> list[Any]:
        """Futures that have ended: waits for one, and takes what else is there."""
        try:
            found = [self._ended.get(timeout=seconds)]
        except Empty:
            return []
        with suppress(Empty):
            while True:
                found.append(self._ended.get_nowait())
        return found

    def _result(self, future: Any) -> Iterator[tuple[int, R]]:
        from distributed import KilledWorker

        member = self._running.get(future)
        if member is None:  # given to another meanwhile
            return
        number, member.sign = member.items[future], time.monotonic()
        try:
            result = future.result(timeout=self._crew.TURN_S)
        except WsisegError:
            raise
        except OSError:  # it went with its worker or the scheduler, which the next look will tell
            time.sleep(self.ANSWER_S)
            self._ended.put(future)
            return
        except KilledWorker:  # the scheduler gave it up: the worker came back with its old address
            self.suspects.append(number)
        except Exception:
            if future.cancelled():
                raise ClusterError("the scheduler of the cluster is lost") from None
            raise
        else:
            yield number, result
        del self._running[future], member.items[future]


def _do(held: Held, item: Any) -> Any:
    return named(held.function(), item)
