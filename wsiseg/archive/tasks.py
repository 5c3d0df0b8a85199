"""Task: what a worker is told, and what comes back of it. Plain values, they travel as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from wsiseg.archive.faults import Fault

__all__ = ["SHARE", "Event", "Task"]

SHARE = "share"
"""Kind of a line that is no task: it tells the number of threads of the one at work."""


@dataclass(frozen=True, slots=True)
class Task:
    """What a worker is told."""

    kind: str
    """"segment" or "measure"."""
    slide_id: str
    path: str
    out: str
    """Run folder."""
    settings: dict[str, Any]
    """Of the Job."""
    threads: int | None = None
    """Regions at once; None: as many as cores and memory allow."""
    spread: bool = False
    """Whether it may be given more threads while other cores are idle."""
    whole: bool = False
    """Whether it is small enough to be done by one worker of a cluster."""
    fresh: bool = False
    """Whether to replace an earlier result."""


@dataclass(frozen=True, slots=True)
class Event:
    """What a pool tells of a task."""

    kind: str
    """"progress", "done", "failed" or "stopped"."""
    slide_id: str
    facts: dict[str, Any] | None = None
    """Of "done": values of its record. Of "progress": ``done`` and ``total`` regions."""
    fault: Fault | None = None
    """Of "failed"."""
