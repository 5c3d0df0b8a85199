"""ClusterPool: a pool whose slides run on a dask cluster, large ones split, small ones whole.

A large slide is opened, stitched and written by a child process here, and its regions run on all
workers. A small one runs whole on one thread of one worker, in a child process there: opening it
here and passing its few regions around would take longer than they do.
"""

from __future__ import annotations

import time
import uuid
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from wsiseg.archive.faults import Fault, fault_of
from wsiseg.archive.pool import Processes
from wsiseg.archive.remote import Whole, at_work, let_go
from wsiseg.archive.tasks import Event, Task
from wsiseg.engine.cluster import Cluster
from wsiseg.engine.crew import Crew, Held, Member
from wsiseg.errors import ClusterError

__all__ = ["ClusterPool"]

_TURN_S = 0.2
_ANSWER_S = 5.0  # for all workers to say something, or not


class ClusterPool:
    """Keeps the contract of ``Pool``. Tasks that are ``whole`` run on a worker of ``cluster``."""

    AHEAD = 2
    """Slides given to each thread of a worker: one at work, one waiting."""

    def __init__(
        self, split: Processes, cluster: Cluster, whole: Whole, resource: str | None = None
    ) -> None:
        self._split, self._client, self._whole = split, cluster.client, whole
        self._resource = resource
        self._crew: Crew | None = Crew(self._client, whole, resource)
        self._at: dict[Any, tuple[Member, Task]] = {}

    @property
    def room(self) -> int:
        """How many more tasks may be started now, whether they are large or small."""
        return min(self._split.room, self._room_for_whole())

    def start(self, task: Task) -> None:
        """Begin a task: here, or on the worker that has least to do."""
        crew = self._crew
        if not task.whole or crew is None or not crew.fit:
            self._split.start(task)
            return
        member = min(crew.fit, key=lambda m: len(m.items) / m.slots)
        key = f"slide-{uuid.uuid4().hex}"  # ids of slides are not for dashboards
        try:
            future = crew.give(member, _run_whole, (task, key, member.slots), key)
        except ClusterError:  # the next look tells; a process here says it of the slide
            self._split.start(task)
            return
        member.items[future] = 0
        self._at[future] = (member, task)

    def wait(self, seconds: float) -> list[Event]:
        """What has happened here and on the workers."""
        events = [*self._met(), *self._split.wait(min(seconds, _TURN_S))]
        for future in [future for future in self._at if future.done()]:
            member, task = self._at.pop(future)
            member.items.pop(future, None)
            events.append(self._event(future, task))
        return events

    def stop(self, grace_s: float) -> list[Event]:
        """Let regions at work be finished and stored, everywhere."""
        deadline = time.monotonic() + grace_s
        events = [event for event in self.wait(0) if event.kind != "progress"]
        events += [Event("stopped", task.slide_id) for _, task in self._at.values()]
        with suppress(Exception):  # a scheduler that is gone has let go of all
            self._client.cancel(list(self._at))
        self._at.clear()
        events += self._split.stop(grace_s)
        while self._crew is not None and time.monotonic() < deadline:
            if not any((self._everywhere(at_work) or {}).values()):
                break
            time.sleep(_TURN_S)
        return events

    def close(self) -> None:
        """End everything at once."""
        self._split.close()
        if self._crew is None:
            return
        with suppress(Exception):
            self._client.cancel(list(self._at))
        self._crew.close()
        self._everywhere(let_go)
        self._crew = None

    def _room_for_whole(self) -> int:
        if self._crew is None:
            return self._split.room
        return sum(self.AHEAD * member.slots - len(member.items) for member in self._crew.fit)

    def _met(self) -> list[Event]:
        """Meet the workers that there are; what is lost with those that are gone."""
        try:
            self._crew = self._crew or Crew(self._client, self._whole, self._resource)
            gone = self._crew.look()
        except ClusterError as error:
            self._crew = None
            lost = [task for _, task in self._at.values()]
            self._at.clear()
            return [Event("failed", task.slide_id, fault=fault_of(error)) for task in lost]
        futures = [future for member in gone for future in member.items]
        tasks = [self._at.pop(future)[1] for future in futures if future in self._at]
        return [Event("failed", task.slide_id, fault=_LOST) for task in tasks]

    def _event(self, future: Any, task: Task) -> Event:
        try:
            return future.result(timeout=_ANSWER_S)  # type: ignore[no-any-return]
        except OSError:  # lost with its worker, after the end
            return Event("failed", task.slide_id, fault=_LOST)
        except Exception as error:
            fault = _LOST if future.cancelled() else fault_of(error)
            return Event("failed", task.slide_id, fault=fault)

    def _everywhere(self, function: Any) -> dict[str, Any] | None:
        """What a function says on every worker; None where one does not answer in time."""
        answers: SimpleQueue[dict[str, Any]] = SimpleQueue()

        def ask() -> None:
            with suppress(Exception):
                answers.put(self._client.run(function, on_error="ignore"))

        Thread(target=ask, daemon=True).start()
        with suppress(Empty):
            return answers.get(timeout=_ANSWER_S)
        return None


_LOST = Fault("quarantine", "worker lost", "the cluster lost the worker that had it", again=True)


def _run_whole(held: Held, item: tuple[Task, str, int]) -> Event:
    whole = held.function()
    return whole.run(*item)  # type: ignore[no-any-return, attr-defined]
