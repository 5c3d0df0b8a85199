"""Being told to stop: a signal waits until a whole state is saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from wsiseg.errors import InterruptedRunError

__all__ = ["Stop", "stoppable"]

_STATES: dict[int, str] = {signal.SIGINT: "interrupted", signal.SIGTERM: "preempted"}
_SIGNALS = tuple(_STATES)


class Stop:
    """Whether a signal has asked to stop, and what it would have done at once."""

    def __init__(self) -> None:
        self._former: dict[int, Any] = {}
        self._number: int | None = None

    @property
    def asked(self) -> bool:
        """Whether to stop."""
        return self._number is not None

    @property
    def state(self) -> str | None:
        """What whoever stops is then: "interrupted" (SIGINT), "preempted" (SIGTERM), or None."""
        return None if self._number is None else _STATES[self._number]

    def check(self) -> None:
        """Do what the signal asked for: KeyboardInterrupt, or whatever its handler raises.

        InterruptedRunError where it has no handler that raises.
        """
        if self._number is None:
            return
        former = self._former[self._number]
        if callable(former):
            former(self._number, None)
        name = signal.Signals(self._number).name
        raise InterruptedRunError(f"stopped by {name}; the same call goes on where it was")

    def install(self) -> None:
        """Put the signals off, those that are not ignored."""
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._former[number] = signal.signal(number, self._ask)

    def remove(self) -> None:
        """Restore what the signals did before."""
        for number, former in self._former.items():
            signal.signal(number, former)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self._number is not None:  # the second time: at once, what was saved last is sound
            self.check()
        self._number = number


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Signals SIGINT and SIGTERM put off, to be asked for; outside the main thread, nothing."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    stop.install()
    try:
        yield stop
    finally:
        stop.remove()
