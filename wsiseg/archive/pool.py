"""Pool: where slides are run. It differs in place and speed, never in what comes out.

``Processes`` runs each slide in one of N child processes, so that a crash, a hang or exhausted
memory convicts the slide that was at work there and no other. ``ClusterPool`` keeps the same
contract on a dask cluster.
"""

from __future__ import annotations

import errno
import selectors
import signal
import time
from collections.abc import Iterator
from typing import Any, Protocol

from wsiseg.archive.child import Child
from wsiseg.archive.faults import Fault, death
from wsiseg.archive.stall import storage_stalls
from wsiseg.archive.tasks import Event, Task
from wsiseg.cores import cores
from wsiseg.limits import memory_kills

__all__ = ["Pool", "Processes"]


class Pool(Protocol):
    """Runs tasks side by side.

    - ``start`` does not wait; it may be called while ``room`` is more than 0.
    - Each task that was started gives exactly one "done", "failed" or "stopped", and any number
      of "progress" before.
    - A task that hangs gives "failed", too.
    - Nothing is left running once ``close`` has returned.
    """

    @property
    def room(self) -> int:
        """How many more tasks may be started now."""
        ...

    def start(self, task: Task) -> None:
        """Begin a task."""
        ...

    def wait(self, seconds: float) -> list[Event]:
        """What has happened; waits for something to, but not for longer than ``seconds``."""
        ...

    def stop(self, grace_s: float) -> list[Event]:
        """End all tasks within about ``grace_s`` seconds, storing what is finished of them."""
        ...

    def close(self) -> None:
        """End everything at once."""
        ...


class Processes:
    """A pool of child processes, one slide at a time in each."""

    PATIENCE_S = 300.0
    """For a child to load its libraries."""
    SLIDES = 500
    """Slides of a child before another takes its place, in case a reader loses memory."""
    LAST_WORDS_S = 2.0
    """For children that were killed to end: one that hangs in the kernel ends when it can."""

    def __init__(self, workers: int, timeout_s: float) -> None:
        self._workers = workers
        self.timeout_s = timeout_s
        """Seconds without progress after which a task hangs."""
        self._children: list[Child] = []
        self._selector = selectors.DefaultSelector()
        self._stopping = False
        self._unstarted: list[Event] = []
        self._memory_kills = memory_kills()

    @property
    def room(self) -> int:
        """Children that have no task, or that could be started."""
        return self._workers - sum(child.task is not None for child in self._children)

    def start(self, task: Task) -> None:
        """Give a task to a free child, or to a new one."""
        child = next((c for c in self._children if c.task is None), None)
        if child is None:
            try:
                child = Child()
            except OSError as error:
                self._unstarted.append(Event("failed", task.slide_id, fault=_no_process(error)))
                return
            self._children.append(child)
            self._selector.register(child.output, selectors.EVENT_READ, child)
        child.give(task)

    def wait(self, seconds: float) -> list[Event]:
        """Answers of children, their deaths, and those that were killed because they hung."""
        events, self._unstarted = self._unstarted, []
        self._share_cores()
        if not self._children and not events:
            time.sleep(seconds)
        for key, _ in self._selector.select(seconds if self._children else 0):
            events += self._heard(key.data)
        return [*events, *self._overdue()]

    def stop(self, grace_s: float) -> list[Event]:
        """Ask all children to end; kill those that take longer than ``grace_s``."""
        self._stopping = True
        for child in self._children:
            child.stop()
        deadline, events = time.monotonic() + grace_s, []
        while self._busy() and time.monotonic() < deadline:
            events += self.wait(0.2)
        events += [Event("stopped", c.task.slide_id) for c in self._children if c.task]
        self.close()
        return events

    def close(self) -> None:
        """Kill all children, then wait for them, all together not long."""
        for child in self._children:
            child.kill()
        deadline = time.monotonic() + self.LAST_WORDS_S
        for child in list(self._children):
            self._drop(child, max(0.0, deadline - time.monotonic()))

    def _busy(self) -> bool:
        return any(child.task is not None for child in self._children)

    def _share_cores(self) -> None:
        """Give cores that have no slide to those that have one, for as long as that is so."""
        busy = [child.task for child in self._children if child.task is not None]
        if not all(task.spread for task in busy):
            return
        every, idle = cores(), self._workers - len(busy)
        for k, child in enumerate(c for c in self._children if c.task is not None):
            own = busy[k].threads or 1
            share = every // len(busy) + (k < every % len(busy))
            child.share(max(own, share) if idle else own)

    def _heard(self, child: Child) -> Iterator[Event]:
        for answer in child.answers():
            kind = answer["event"]
            if kind == "ended":
                yield from self._ended(child, answer["status"])
            elif kind in ("ready", "began", "alive"):
                child.ready = True
            elif kind == "unfit":
                yield from self._unfit(child, Fault(**answer["fault"]))
            elif child.task is not None:
                yield from self._told(child, child.task, kind, answer)

    def _told(self, child: Child, task: Task, kind: str, answer: dict[str, Any]) -> Iterator[Event]:
        if kind == "progress":
            yield Event("progress", task.slide_id, {k: answer[k] for k in ("done", "total")})
            return
        child.task, child.done = None, child.done + 1
        fault = Fault(**answer["fault"]) if kind == "failed" else None
        facts = answer["facts"] if kind == "done" else None
        # after a fault of unknown reach nobody knows what state the process is in
        broken = kind == "stopped" or (fault is not None and fault.again)
        if broken or child.done >= self.SLIDES:
            self._drop(child)
        yield Event(kind, task.slide_id, facts, fault)

    def _unfit(self, child: Child, why: Fault) -> Iterator[Event]:
        """A process that could not even start, as no other could."""
        task = child.task
        self._drop(child)
        if task is not None:
            message = f"worker processes cannot start: {why.message}"
            fault = Fault("worker", why.cause, message, archive=True)
            yield Event("failed", task.slide_id, fault=fault)

    def _ended(self, child: Child, status: int) -> Iterator[Event]:
        task = child.task
        self._drop(child)
        if task is None:
            return
        if self._stopping:
            yield Event("stopped", task.slide_id)
        else:
            yield Event("failed", task.slide_id, fault=self._death(status))

    def _death(self, status: int) -> Fault:
        """The fault of a process that ended; the system tells whom it has killed for memory."""
        kills = memory_kills() if status == -signal.SIGKILL else self._memory_kills
        if kills <= self._memory_kills:
            return death(status)
        self._memory_kills += 1
        message = "the system killed its process, since memory was exhausted"
        return Fault("out-of-memory", "SIGKILL", message, again=True)

    def _overdue(self) -> Iterator[Event]:
        now = time.monotonic()
        for child in list(self._children):
            allowed = self.timeout_s if child.ready else max(self.timeout_s, self.PATIENCE_S)
            if self._stopping or child.task is None or now - child.sign <= allowed:
                continue
            task, stalls = child.task, storage_stalls(child.pid, child.task.path)
            self._drop(child)
            message = f"no progress for {allowed:g} s: its process was killed"
            fault = Fault("timeout", "no progress", message, again=True)
            if stalls:
                message = f"its storage has not answered: {message}"
                fault = Fault("input-io", "stalled", message, again=True)
            yield Event("failed", task.slide_id, fault=fault)

    def _drop(self, child: Child, within_s: float = LAST_WORDS_S) -> None:
        if child in self._children:
            self._children.remove(child)
            self._selector.unregister(child.output)
            child.close(within_s)


def _no_process(error: OSError) -> Fault:
    """The system has no room for another process, perhaps only now."""
    name = errno.errorcode.get(error.errno or 0, type(error).__name__)
    message = f"no worker process can be started ({name})"
    return Fault("worker", name, message, again=True, archive=True)
