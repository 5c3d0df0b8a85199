"""Clock: seconds per stage, for the record of a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

__all__ = ["Clock"]


class Clock:
    """Adds up wall seconds per stage; one per thread of work, added together afterwards."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Count the time inside the ``with`` block towards ``stage``."""
        began = perf_counter()
        try:
            yield
        finally:
            self.add({stage: perf_counter() - began})

    def add(self, seconds: dict[str, float]) -> None:
        """Add the seconds of another clock."""
        for stage, value in seconds.items():
            self.seconds[stage] = self.seconds.get(stage, 0.0) + value
