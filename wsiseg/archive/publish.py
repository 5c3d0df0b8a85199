"""Publishing: a pool around another, in which a slide is done when its files are in the store.

What a slide has come to is kept beside its files until then, so an upload that failed, or that was
killed, is repeated by the next attempt, or the next batch, without computing anything again.
"""

from __future__ import annotations

import errno
import logging
import queue
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, Protocol

from wsiseg.archive.faults import fault_of
from wsiseg.archive.pool import Pool
from wsiseg.archive.tasks import Event, Task
from wsiseg.errors import OutputError

__all__ = ["Publisher", "Publishing"]

_log = logging.getLogger(__name__)

_AT_ONCE = 4  # slides whose files are sent side by side
_WAITING = 8  # slides that may wait for that, with all their files on this machine
_STEP_S = 0.1
_LAST_S = 3.0  # for files that are being sent when all must end


class Publisher(Protocol):
    """Who knows what is kept on this machine, and how it is sent."""

    is_sending: bool
    """Set where an object may still be on its way when all else has ended."""

    def check(self) -> None:
        """LockedError where another batch has taken the archive over; OutputError for silence."""
        ...

    def kept(self, task: Task) -> dict[str, Any] | None:
        """What the slide of a task came to before, if that still holds; else it is forgotten."""
        ...

    def keep(self, slide_id: str, facts: dict[str, Any]) -> None:
        """Note durably what a slide has come to, until it is published."""
        ...

    def publish(self, slide_id: str, facts: dict[str, Any], closing: threading.Event) -> bool:
        """Put all files of a slide; False where ``closing`` came before."""
        ...


class Publishing:
    """See ``wsiseg.archive.pool.Pool``; LockedError where the archive was taken over."""

    def __init__(
        self, inner: Pool, mirror: Publisher, pauses_s: Sequence[float] = (1, 4, 15, 60, 120)
    ) -> None:
        self._inner, self._mirror, self._pauses = inner, mirror, pauses_s
        self._ended: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._sent: dict[str, threading.Thread] = {}
        self._turns = threading.Semaphore(_AT_ONCE)
        self._closing = threading.Event()

    @property
    def room(self) -> int:
        """As the pool inside has it, while not too many slides wait to be sent."""
        return min(self._inner.room, _WAITING - len(self._sent))

    def start(self, task: Task) -> None:
        """Begin a task; one that was done before only has to be sent."""
        facts = self._mirror.kept(task)
        if facts is not None:
            self._send(task.slide_id, facts)
            return
        self._inner.start(task)

    def wait(self, seconds: float) -> list[Event]:
        """What the pool inside tells, but "done" only when all is sent."""
        with suppress(OutputError):  # what cannot be sent says so itself
            self._mirror.check()
        events = self._answers()
        if events:
            return events
        inside = self._inner.wait(min(seconds, _STEP_S) if self._sent else seconds)
        return [*self._taken(inside), *self._answers()]

    def stop(self, grace_s: float) -> list[Event]:
        """End all; what is not sent in time is sent by the next batch."""
        deadline = time.monotonic() + grace_s - _LAST_S  # which ``close`` may take
        events = self._taken(self._inner.stop(grace_s))
        deadline = max(deadline, time.monotonic() + _LAST_S)
        while self._sent and time.monotonic() < deadline:
            time.sleep(_STEP_S)
            events += self._answers()
        events += [Event("stopped", slide_id) for slide_id in self._sent]
        self.close()
        return events

    def close(self) -> None:
        """End everything; an object that is on its way is whole or is not."""
        self._closing.set()
        self._inner.close()
        deadline = time.monotonic() + _LAST_S
        for thread in self._sent.values():
            thread.join(max(0.0, deadline - time.monotonic()))
        if any(thread.is_alive() for thread in self._sent.values()):
            self._mirror.is_sending = True
        self._sent.clear()

    def _taken(self, events: Iterable[Event]) -> list[Event]:
        """``events`` without those of slides that are now to be sent."""
        told = []
        for event in events:
            if event.kind != "done":
                told.append(event)
                continue
            assert event.facts is not None
            try:
                self._mirror.keep(event.slide_id, event.facts)
            except OSError as error:
                told.append(Event("failed", event.slide_id, fault=fault_of(error)))
            else:
                self._send(event.slide_id, event.facts)
        return told

    def _send(self, slide_id: str, facts: dict[str, Any]) -> None:
        # no thread of an executor: those would be waited for when the process ends
        thread = threading.Thread(target=self._publish, args=(slide_id, facts), daemon=True)
        self._sent[slide_id] = thread
        thread.start()

    def _publish(self, slide_id: str, facts: dict[str, Any]) -> None:
        with self._turns:
            for pause in (*self._pauses, None):
                try:
                    if self._mirror.publish(slide_id, facts, self._closing):
                        self._ended.put(Event("done", slide_id, facts))
                    return
                except Exception as error:
                    fault = fault_of(error)
                    # a store that does not answer is waited for, before anybody fails
                    if pause is None or getattr(error, "errno", None) != errno.ENOTCONN:
                        self._ended.put(Event("failed", slide_id, fault=fault))
                        return
                    _log.warning("%s, in %g s again: %s", slide_id, pause, fault.message)
                if self._closing.wait(pause):
                    return

    def _answers(self) -> list[Event]:
        events = []
        while not self._ended.empty():
            event = self._ended.get()
            self._sent.pop(event.slide_id, None)
            events.append(event)
        return events
