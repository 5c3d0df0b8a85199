"""Report: the record of a run, as it goes on and as ``run.json``."""

from __future__ import annotations

import json
import os
import platform
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import psutil

from wsiseg import __version__
from wsiseg.atomic import atomic_write
from wsiseg.engine.clock import Clock
from wsiseg.model.base import LocalModel

if TYPE_CHECKING:
    from wsiseg.engine.store import RunFolder
    from wsiseg.run.job import Job
    from wsiseg.run.plan import Plan

__all__ = ["Progress", "Report", "peak_rss_bytes", "process_began", "versions"]

T = TypeVar("T")
SCHEMA = 1
_SUMMED = ("read", "network", "decode", "store")  # may exceed the wall time


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is."""

    done: int
    """Regions done, those of an earlier run included."""
    total: int
    """Regions that hold tissue."""
    found: int
    """Objects, and parts of objects at region faces, found by this run so far."""
    remaining: float | None
    """Seconds to go, as the regions of this run suggest."""


class Report:
    """What a run did, how long it took, and what it left out."""

    def __init__(self, facts: dict[str, Any], began: float) -> None:
        self.clock = Clock()
        self.facts = facts
        self.dropped: Counter[str] = Counter()
        self._first_region = time.monotonic()  # unlike the time of day, it never steps back
        self._began = self._first_region - max(0.0, time.time() - began)
        self._total = self._resumed = self._done = self._found = 0
        self._peaks: dict[int, int] = {}

    @classmethod
    def begin(cls, job: Job, plan: Plan, folder: RunFolder, began: float) -> Report:
        """The record of a run that is about to start."""
        report = cls(_facts(job, plan, folder), began)
        startup = time.monotonic() - report._began - plan.tissue_seconds
        report.clock.add({"tissue": plan.tissue_seconds, "startup": max(0.0, startup)})
        return report

    def regions(self, *, total: int, resumed: int, damaged: int) -> None:
        """Say how many regions there are, how many an earlier run has done, and how many of
        those were found damaged, over all runs of this key.
        """
        self._total, self._resumed, self._done = total, resumed, resumed
        self.facts["regions"] = {"total": total, "resumed": resumed, "damaged": damaged}

    def started_regions(self) -> None:
        """Regions begin now; what went before was start-up."""
        now = time.monotonic()
        counted = sum(self.clock.seconds.values())
        self.clock.add({"startup": max(0.0, now - self._began - counted)})
        self._first_region = now

    def region_done(self, seconds: dict[str, float], process: tuple[int, int], found: int) -> None:
        """Count one region that this run has computed."""
        self.clock.add(seconds)
        self._peaks[process[0]] = process[1]
        self._done += 1
        self._found += found

    def progress(self) -> Progress:
        """How far it is."""
        elapsed = time.monotonic() - self._first_region
        fresh = self._done - self._resumed
        remaining = elapsed / fresh * (self._total - self._done) if fresh else None
        return Progress(self._done, self._total, self._found, remaining)

    def drop(self, counts: dict[str, int]) -> None:
        """Count what was left out, by reason."""
        self.dropped.update(counts)

    def written(self, cells: int, dropped: dict[str, int]) -> None:
        """Count what went into the files and what could not."""
        self.facts["cells"] = cells
        self.drop(dropped)

    @contextmanager
    def rest(self, stage: str) -> Iterator[None]:
        """Count the time inside the ``with`` block that no other stage counts."""
        before, began = sum(self.clock.seconds.values()), time.perf_counter()
        yield
        inside = sum(self.clock.seconds.values()) - before
        self.clock.add({stage: max(0.0, time.perf_counter() - began - inside)})

    def iterate(self, stage: str, items: Iterable[T]) -> Iterator[T]:
        """``items``, with the time it takes to make them counted towards ``stage``."""
        iterator = iter(items)
        while True:
            with self.clock(stage):
                item = next(iterator, None)
            if item is None:
                return
            yield item

    def finish(self, own_peak: int) -> None:
        """Close the books."""
        self._peaks[os.getpid()] = own_peak
        self.clock.add({"total": time.monotonic() - self._began})
        seconds = {name: round(value, 3) for name, value in self.clock.seconds.items()}
        self.facts |= {
            "seconds_summed_over_workers": [name for name in _SUMMED if name in seconds],
            "dropped": {name: n for name, n in sorted(self.dropped.items()) if n},
            "seconds": seconds,
            "peak_rss_bytes": sum(self._peaks.values()),
            "processes": len(self._peaks),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }

    def write(self, path: Path) -> None:
        """Write ``run.json``."""
        with atomic_write(path) as file:
            text = json.dumps(self.facts, indent=2, ensure_ascii=False)
            # names of files need not be Unicode: what is not becomes an escape of JSON
            file.write(text.encode(errors="backslashreplace") + b"\n")


def peak_rss_bytes() -> int:
    """Largest resident memory of this process so far."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would tell of the process that launched this one
        line = next(k for k in status.read_text().splitlines() if k.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def process_began() -> float:
    """When this process was started, epoch seconds."""
    return float(psutil.Process().create_time())


def versions() -> dict[str, str]:
    """Versions of wsiseg, of Python and of what the cells depend on."""
    names = ("numpy", "numba", "shapely", "pyarrow", "openslide-python", "tifffile")
    own = {"wsiseg": __version__, "python": platform.python_version()}
    return own | {name: version(name) for name in names}


def _facts(job: Job, plan: Plan, folder: RunFolder) -> dict[str, Any]:
    slide, spec = plan.slide, plan.spec
    return {
        "schema": SCHEMA,
        "slide": {
            "uri": slide.uri,
            "format": slide.format,
            "shape": list(slide.space.shape),
            "mpp": list(slide.mpp or ()),
            "mpp_source": slide.mpp_source,
            "scene": slide.scene,
            "z": slide.z,
        },
        "model": {
            "name": spec.name,
            "sha256": spec.sha256,
            "licence": spec.licence,
            "classes": list(spec.classes),
            "spacing_um": list(plan.space.spacing),
        },
        "key": folder.key,
        "parameters": plan.parts,
        "grid": folder.grid,
        "exact": isinstance(plan.model, LocalModel),
        "tissue_mm2": plan.tissue_mm2,
        "analysed_mm2": plan.analysed_mm2,
        "cells": 0,
        "warnings": list(plan.warnings),
        "files": [*job.files.values(), "preview.png", "run.json"],
        "versions": versions(),
    }
