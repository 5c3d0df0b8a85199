"""Patches of boxes in work that no one has begun: threads with nothing else to do take from these.

The thread whose box it is takes patches from the front, helpers from the back. Who runs a patch
makes no difference to its maps.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from threading import Lock
from typing import Any

from wsiseg.geometry import Tile

__all__ = ["InWork", "Unbegun"]

Claim = Callable[[Tile], tuple[Future[Any], bool]]


class Unbegun:
    """The patches of one box that no one has begun; thread-safe."""

    def __init__(self, patches: Iterable[Tile], claim: Claim) -> None:
        """``claim`` gives the maps of a patch, now or later, and whether the caller makes them."""
        self._patches, self._claim, self._lock = deque(patches), claim, Lock()
        self.taken: list[tuple[Tile, Future[Any]]] = []
        """What helpers have taken; complete once nothing is left."""
        self.seconds: list[dict[str, float]] = []
        """Of helpers, per stage; complete once all that was taken is done."""

    def __len__(self) -> int:
        return len(self._patches)

    def first(self) -> tuple[Tile, Future[Any], bool] | None:
        """The next patch, claimed, for the thread whose box this is; None where none is left."""
        with self._lock:
            if not self._patches:
                return None
            patch = self._patches.popleft()
            return patch, *self._claim(patch)

    def last(self, count: int, mine: dict[Tile, Future[Any]]) -> None:
        """Put at most ``count`` patches into ``mine`` that the caller, a helper, now has to run.

        Whatever it raises, a patch is either left to its box or among ``taken``.
        """
        with self._lock:
            while self._patches and len(mine) < count:
                patch = self._patches[-1]
                future, is_mine = self._claim(patch)
                if is_mine:
                    mine[patch] = future
                self.taken.append((patch, future))
                self._patches.pop()


class InWork:
    """The boxes that are in work, one per thread."""

    def __init__(self) -> None:
        self._lists: list[Unbegun] = []
        self._lock = Lock()

    @contextmanager
    def listed(self, unbegun: Unbegun) -> Iterator[None]:
        """Others may help with ``unbegun`` inside the ``with`` block."""
        with self._lock:
            self._lists.append(unbegun)
        try:
            yield
        finally:
            with self._lock:
                self._lists.remove(unbegun)

    def longest(self) -> Unbegun | None:
        """The box with the most patches left; None where none has any."""
        with self._lock:
            return max((u for u in self._lists if len(u)), key=len, default=None)
