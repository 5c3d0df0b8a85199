"""Processor seconds of a call: smallest and median of several, of this thread alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

__all__ = ["Seconds", "timed", "total"]


@dataclass(frozen=True, slots=True)
class Seconds:
    """Of one call, repeated."""

    least: float
    """Of all repeats: what the work itself costs."""
    middle: float
    """Their median: what it costs on this machine as it is now."""


def timed(
    work: Callable[[], Any], repeats: int, clock: Callable[[], float] = time.thread_time
) -> Seconds:
    """Seconds of ``work()`` by ``clock``, without the first call, which may compile."""
    work()
    seen = []
    for _ in range(repeats):
        began = clock()
        work()
        seen.append(clock() - began)
    return Seconds(min(seen), median(seen))


def total(parts: list[Seconds]) -> Seconds:
    """The sum over several inputs."""
    return Seconds(sum(p.least for p in parts), sum(p.middle for p in parts))
