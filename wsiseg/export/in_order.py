"""Calls on several threads, their results taken in the order of the calls.

Writers are bound by one thread at a time; kernels, GEOS, Arrow and zlib let go of the GIL.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

__all__ = ["in_order"]

_AHEAD = 1  # calls that wait beside those at work


@contextmanager
def in_order(take: Callable[[Any], Any], workers: int) -> Iterator[Callable[..., None]]:
    """A function ``submit(function, *args)``; ``take`` gets every result, in the order of calls.

    ``take`` runs in the thread that submits, which waits where more than ``workers`` + 1 results
    are out: memory is bounded. An error of a call is raised at the place of its result; all
    results are taken when the block ends well.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="wsiseg-write")
    waiting: deque[Future[Any]] = deque()

    def submit(function: Callable[..., Any], *args: Any) -> None:
        waiting.append(pool.submit(function, *args))
        while len(waiting) > workers + _AHEAD:
            take(waiting.popleft().result())

    try:
        yield submit
        while waiting:
            take(waiting.popleft().result())
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
