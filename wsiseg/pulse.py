"""Pulse: long work says that it gets on, to whoever watches over this process.

Work that takes long before it has any result calls ``beat`` after each piece: a block hashed, a box
of a level read, a stored region looked at. It never comes from a timer, so that work which hangs is
silent. Who listens is a property of the process, as with logging, since threads do the work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["beat", "felt"]

_listeners: list[Callable[[], None]] = []


def beat() -> None:
    """A piece of work is done; cheap where nobody listens."""
    for listener in tuple(_listeners):
        listener()


@contextmanager
def felt(listener: Callable[[], None]) -> Iterator[None]:
    """Call ``listener`` at every beat of this process, from the thread that beats, in the block."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
