"""Whole slides on a worker of a dask cluster: a child process of the worker does each.

The child is one as on any machine, and is killed here when it hangs, so that whatever a slide does
to its reader happens to that child, and never to the worker.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import version

from wsiseg.archive.pool import Processes
from wsiseg.archive.request import weights_sha256
from wsiseg.archive.tasks import Event, Task
from wsiseg.engine.cluster import still_wanted
from wsiseg.engine.numerics import numerics_class

__all__ = ["Whole", "at_work", "let_go"]

_TURN_S = 0.5
_idle: list[Processes] = []  # of this process, each with a child that has loaded a model
_busy: list[str] = []  # keys of tasks


@dataclass(frozen=True, slots=True)
class Whole:
    """Runs whole slides with a model."""

    model: str
    """Name or path."""
    timeout_s: float
    """A slide that shows no progress for so long hangs."""
    grace_s: float
    """What regions at work get to finish when nobody wants the slide any more."""

    def identity(self) -> dict[str, str | None]:
        """What must be the same on every machine; the child itself says it of its network."""
        return {
            "numerics": numerics_class(None),
            "torch": version("torch"),
            "model_sha256": weights_sha256(self.model),
        }

    def run(self, task: Task, key: str, threads: int) -> Event:
        """The last event of ``task``; ``threads`` of this worker share its memory.

        Should nobody wait for the dask task ``key`` any more, the child is stopped.
        """
        pool = _free() or Processes(1, self.timeout_s)
        pool.timeout_s = self.timeout_s
        _busy.append(key)
        try:
            pool.start(_own(task, threads))
            while still_wanted(key):
                for event in pool.wait(_TURN_S):
                    if event.kind != "progress":
                        _idle.append(pool)
                        return event
            return next(e for e in pool.stop(self.grace_s) if e.kind != "progress")
        except BaseException:
            pool.close()
            raise
        finally:
            _busy.remove(key)


def at_work() -> int:
    """Slides at work in this process."""
    return len(_busy)


def let_go() -> None:
    """End the children that wait for another slide."""
    while pool := _free():
        pool.close()


def _free() -> Processes | None:
    """An idle child, which from now on is the caller's; threads of this process ask at once."""
    with suppress(IndexError):
        return _idle.pop()
    return None


def _own(task: Task, threads: int) -> Task:
    """The task without the cluster, one region at a time, as every thread here has a slide."""
    kept = {k: v for k, v in task.settings.items() if k not in ("scheduler", "tls")}
    if "max_memory" in kept:
        kept["max_memory"] //= threads
    return replace(task, settings=kept, threads=1, spread=False)
