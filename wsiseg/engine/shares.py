"""Shares: which worker is given which item, so that neighbours meet in one process.

What neighbouring regions share (patches, decoded tiles) is remembered by each process for itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from typing import Generic, TypeVar

__all__ = ["Shares"]

T = TypeVar("T")


class Shares(Generic[T]):
    """``items`` in runs of neighbours, one run per worker; one that is done takes the later half of
    the longest run. A worker that is lost has its run taken; one that joins takes from the others.

    >>> shares = Shares([1, 2, 3, 4, 5], ["a", "b"])
    >>> [shares.take(w)[0] for w in "aabab"]
    [1, 2, 4, 3, 5]
    """

    def __init__(self, items: Sequence[T], workers: Sequence[str]) -> None:
        n = max(1, len(workers))
        ends = [-(-len(items) * k // n) for k in range(n + 1)]
        runs = (deque(items[a:b]) for a, b in pairwise(ends))
        self._runs: dict[str, deque[T]] = dict(zip(workers or [""], runs, strict=True))

    def take(self, worker: str) -> list[T]:
        """The next item for ``worker``; [] when all are given out."""
        mine = self._runs.setdefault(worker, deque())
        if not mine:
            longest = max(self._runs.values(), key=len)
            for _ in range(-(-len(longest) // 2)):
                mine.appendleft(longest.pop())
        return [mine.popleft()] if mine else []
