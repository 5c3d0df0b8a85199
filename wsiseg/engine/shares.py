"""Shares: which worker is given which item, so that neighbours meet in one process.

What neighbouring regions share (patches, decoded tiles) is remembered by each process for itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

__all__ = ["Shares"]


class Shares:
    """Items 0 to ``count`` - 1 in runs of neighbours, one run per worker.

    A worker that is done takes the later half of the longest run, one that joins does so, too, and
    the run of one that is lost is taken by others. Only the ends of runs are kept.

    >>> shares = Shares(5, ["a", "b"])
    >>> [shares.take(w) for w in "aababa"]
    [0, 1, 3, 2, 4, None]
    """

    def __init__(self, count: int, workers: Sequence[str]) -> None:
        names = list(dict.fromkeys(workers)) or [""]
        ends = [-(-count * k // len(names)) for k in range(len(names) + 1)]
        self._runs = {w: range(*run) for w, run in zip(names, pairwise(ends), strict=True)}

    def take(self, worker: str) -> int | None:
        """The next item for ``worker``; None when all are given out."""
        mine = self._runs.get(worker) or self._half_of_the_longest()
        if not mine:
            return None
        self._runs[worker] = mine[1:]
        return mine[0]

    @property
    def left(self) -> int:
        """How many are not given out yet."""
        return sum(map(len, self._runs.values()))

    def _half_of_the_longest(self) -> range:
        owner = max(self._runs, key=lambda name: len(self._runs[name]))
        run = self._runs[owner]
        middle = len(run) // 2
        self._runs[owner] = run[:middle]
        return run[middle:]
