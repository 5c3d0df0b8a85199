"""Drive: which slide runs when, which is tried again, and when enough is enough.

Largest slides first, so that none is left for the end; a slide whose fault may not be its own
waits for a while and runs again; its last attempt, and any after memory was exhausted, runs with
one region at a time and no other slide beside it, so that nobody is convicted for others. If asked
for, one that fails on a GPU even so is done anew by the CPU. Last and alone runs a
slide with which whole batches have died. A process that was terminated is not judged at once: if
the batch is told to stop next, all of it was meant, and the slide was only preempted.
"""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

from wsiseg.archive.config import Policy
from wsiseg.archive.faults import Fault
from wsiseg.archive.pool import Pool
from wsiseg.archive.records import Record, now
from wsiseg.archive.tasks import Event, Task

__all__ = ["Drive", "Teller"]

_STEP_S = 0.5  # how long a signal may wait to be seen
_LONGEST_PAUSE_S = 600.0
_TERMINATED = Fault("quarantine", "SIGTERM", "its process was terminated", again=True)
_CPU = "cpu"
_MEANT_ALL_S = 3.0  # within which whoever terminates every process of a batch comes to the batch


class Teller(Protocol):
    """Who is told what happens; the journal, behind which nothing may run ahead."""

    def tell(self, record: Record) -> None:
        """A slide's state has changed."""
        ...

    def progress(self, slide_id: str, done: int, total: int) -> None:
        """A running slide has got further."""
        ...

    def tick(self) -> None:
        """Time has passed."""
        ...


@dataclass(slots=True)
class _Job:
    record: Record
    faults: int = 0
    alone: bool = False
    device: str | None = None
    """That it has last run on."""
    moved: bool = False
    """Whether it has come to the CPU from there."""


class Drive:
    """One pass over the slides that wait."""

    def __init__(
        self,
        pool: Pool,
        policy: Policy,
        task_of: Callable[[Record], Task],
        teller: Teller,
        *,
        failures: int = 0,
    ) -> None:
        self._pool, self._policy = pool, policy
        self._task_of, self._teller = task_of, teller
        self._fresh: deque[_Job] = deque()
        self._again: list[tuple[float, int, _Job]] = []  # a heap, by when their pause ends
        self._alone: deque[_Job] = deque()
        self._running: dict[str, _Job] = {}
        self._terminated: list[tuple[float, _Job]] = []  # by when they are to be judged
        self._resting_until = float("-inf")
        self.failures = failures
        """Slides that have failed for good in this pass, or before it."""
        self.broken: Fault | None = None
        """Why no slide can be run any more, if so."""

    def run(self, waiting: Iterable[Record], asked_to_stop: Callable[[], str | None]) -> str | None:
        """Run all slides that wait; the state in which running ones were stopped, if they were.

        ``asked_to_stop``: "preempted", "interrupted" or None.
        """
        for record in waiting:
            if record.lost >= max(1, self._policy.attempts - 1):
                self._alone.append(_Job(record, alone=True))
            else:
                self._fresh.append(_Job(record))
        while self._jobs_left():
            state = asked_to_stop()
            if state is not None:
                self._halt(state)
                return state
            if self.broken is not None:
                self._halt("pending")
                return None
            if self._enough_failures():
                self._halt("skipped", "max-failures")
                self._skip_waiting()
                return None
            self._judge_terminated()
            self._start_what_fits()
            for event in self._pool.wait(_STEP_S):
                self._hear(event)
            self._teller.tick()
        return None

    def _jobs_left(self) -> int:
        waiting = len(self._fresh) + len(self._again) + len(self._alone)
        return waiting + len(self._running) + len(self._terminated)

    def _enough_failures(self) -> bool:
        limit = self._policy.max_failures
        return limit is not None and self.failures >= limit

    def _start_what_fits(self) -> None:
        if self._terminated or time.monotonic() < self._resting_until:
            return  # perhaps all of it is being ended; or nothing can be written anyway
        while self._pool.room > 0 and not any(job.alone for job in self._running.values()):
            job = self._next()
            if job is None:
                return
            task = self._task_of(job.record)
            if job.alone:
                task = replace(task, threads=1, spread=False, whole=False)
            if job.moved:
                device = {"device": _CPU, "precision": "auto"}
                task = replace(task, settings=task.settings | device)
            job.device = task.settings.get("device", _CPU)
            job.record = job.record.to(
                "running", attempts=job.record.attempts + 1, started=now(), finished=None
            )
            self._teller.tell(job.record)
            self._running[job.record.slide_id] = job
            self._pool.start(task)

    def _next(self) -> _Job | None:
        """Who has paused long enough, else the next, else one that must be alone."""
        if self._again and self._again[0][0] <= time.monotonic():
            return heapq.heappop(self._again)[2]
        if self._fresh:
            return self._fresh.popleft()
        if self._alone and not self._running and not self._again:
            return self._alone.popleft()
        return None

    def _hear(self, event: Event) -> None:
        if event.kind == "progress":
            assert event.facts is not None
            self._teller.progress(event.slide_id, **event.facts)
            return
        job = self._running.pop(event.slide_id)
        if event.kind == "done":
            assert event.facts is not None
            self._done(job, event.facts)
        elif event.fault is not None and event.fault.cause != _TERMINATED.cause:
            self._failed(job, event.fault)
        else:
            self._terminated.append((time.monotonic() + _MEANT_ALL_S, job))

    def _done(self, job: _Job, facts: dict[str, Any]) -> None:
        job.record = job.record.to("done", finished=now(), **facts)
        self._teller.tell(job.record)

    def _judge_terminated(self) -> None:
        """Processes that were terminated alone: no stop has followed."""
        while self._terminated and self._terminated[0][0] <= time.monotonic():
            self._failed(self._terminated.pop(0)[1], _TERMINATED)

    def _failed(self, job: _Job, fault: Fault) -> None:
        job.faults += 1
        last = job.faults >= self._policy.attempts
        if last and fault.again and not fault.archive and self._has_the_cpu(job):
            job.moved, last = True, False
        why = {"code": fault.code, "cause": fault.cause, "message": fault.message}
        if fault.again and not last:
            job.record = job.record.to("pending", **why)
            self._teller.tell(job.record)
            self._put_back(job, fault)
            return
        self.failures += 1
        job.record = job.record.to("failed", finished=now(), **why)
        self._teller.tell(job.record)
        if fault.archive:
            self.broken = fault

    def _has_the_cpu(self, job: _Job) -> bool:
        """Whether a slide that has failed elsewhere is to be tried there."""
        elsewhere = job.device not in (None, _CPU) and not job.moved
        return self._policy.cpu_in_the_end and elsewhere

    def _put_back(self, job: _Job, fault: Fault) -> None:
        last = job.faults + 1 >= self._policy.attempts and not fault.archive
        job.alone = last or fault.code == "out-of-memory"
        if job.alone:
            self._alone.append(job)
            return
        pause = min(self._policy.backoff_s * 2 ** (job.faults - 1), _LONGEST_PAUSE_S)
        ends = time.monotonic() + pause
        heapq.heappush(self._again, (ends, id(job), job))
        if fault.archive:
            self._resting_until = max(self._resting_until, ends)

    def _halt(self, state: str, code: str | None = None) -> None:
        """Stop what runs; what is finished meanwhile counts."""
        for event in self._pool.stop(self._policy.grace_s):
            if event.kind in ("progress", "done") or (event.fault and not event.fault.again):
                self._hear(event)
            else:
                self._set(self._running.pop(event.slide_id), state, code)
        for slide_id in list(self._running):
            self._set(self._running.pop(slide_id), state, code)
        while self._terminated:
            self._set(self._terminated.pop()[1], state, code)

    def _skip_waiting(self) -> None:
        for job in self._waiting():
            self._set(job, "skipped", "max-failures")

    def _waiting(self) -> Iterator[_Job]:
        yield from self._fresh
        yield from (job for _, _, job in self._again)
        yield from self._alone

    def _set(self, job: _Job, state: str, code: str | None) -> None:
        job.record = job.record.to(state, code=code)
        self._teller.tell(job.record)
