"""Memory: how many regions of what size may be in work at once.

``--max-memory`` bounds what all processes of a run on this machine hold together: libraries and
models, as found when the run is planned, what is loaded later, caches, and regions in work. On
a cluster (``--scheduler``) it holds for each of its workers. Figures are measured, and rounded up.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import psutil

from wsiseg.cores import cores
from wsiseg.engine.infer import patch_grid
from wsiseg.errors import SettingsError
from wsiseg.limits import free_memory

if TYPE_CHECKING:
    from wsiseg.model.base import ModelSpec
    from wsiseg.run.job import Job
    from wsiseg.run.plan import Plan

__all__ = ["Budget", "left_for_the_next", "region_bytes"]

_SMALLEST = 1024  # px; below, little is saved, and neighbours run the same patches again
_MEMO = 256 << 20
_MEMO_SHARE = 0.2  # of what is left for caches and regions
_LATER = 160 << 20  # kernels, decoded tiles of the slide (64 MB), libraries loaded when needed
_WRITING = 160 << 20  # files and preview, in one process, beside what regions leave unreturned
_DECODE_BYTES = 32  # per px: landscape, links, labels, queues of the decode, runs


@dataclass(frozen=True, slots=True)
class Budget:
    """What one process may use for regions; without a bound, whatever its cores can work on."""

    room: int | None
    """Bytes for regions in work and for what is remembered; None: no bound."""
    processes: int
    """That work on regions on this machine."""
    base: int
    """Bytes that a process takes without any region."""
    max_memory: int | None
    """Bytes, as asked for."""

    @classmethod
    def of(cls, job: Job) -> Budget:
        """The budget of a job whose slide and model are open in this process."""
        base = _held() + _LATER
        on_cluster = job.scheduler is not None
        workers = 0 if on_cluster else job.workers or 0
        processes = max(1, workers)
        if job.max_memory is None:
            return cls(None, processes, base, None)
        # worker processes hold what this one does, and this one stays beside them
        bases = base * (workers + 1 if workers else 1) + _WRITING
        return cls((job.max_memory - bases) // processes, processes, base, job.max_memory)

    def region(self, plan: Plan, wanted: int) -> int:
        """Side of a region, px of the lattice: ``wanted``, or smaller to keep to the bound."""
        region = wanted
        while region > _SMALLEST and not self._fits(plan, region):
            region //= 2
        return region

    def check(self, plan: Plan, region: int) -> None:
        """Raise SettingsError, naming the least bound, where regions of this side do not fit."""
        if self._fits(plan, region):
            return
        assert self.room is not None
        assert self.max_memory is not None
        need = int(region_bytes(plan, region) / (1 - _MEMO_SHARE)) + 1
        least = self.max_memory + (need - self.room) * self.processes
        raise SettingsError(
            f"--max-memory must be at least {-(-least // 10**6)}MB for this model with regions of "
            f"{region} px and {self.processes} process(es) at work, got "
            f"{self.max_memory / 1e6:.0f}MB; {self.base / 1e6:.0f}MB of each process are "
            "libraries, model and what was there before"
        )

    def threads(self, plan: Plan, region: int) -> int:
        """Regions of side ``region`` that this process works on at once."""
        if self.room is None:
            return max(1, min(cores(), free_memory() // region_bytes(plan, region)))
        return max(1, min(cores(), self._for_regions // region_bytes(plan, region)))

    @property
    def memo(self) -> int:
        """Bytes in which a process may remember patches that several regions see."""
        return _MEMO if self.room is None else max(0, min(_MEMO, int(self.room * _MEMO_SHARE)))

    def band(self, plan: Plan, region: int) -> int:
        """Width, in regions, of bands whose shared patches can all be remembered."""
        core = patch_grid(plan.space, plan.spec).tile
        along_face = prod(region // c + 2 for c in core[1:])
        return max(1, self.memo // (2 * along_face * prod(core) * _map_bytes(plan.spec)))

    @property
    def _for_regions(self) -> int:
        assert self.room is not None
        return self.room - self.memo

    def _fits(self, plan: Plan, region: int) -> bool:
        return self.room is None or region_bytes(plan, region) <= self._for_regions


_left = 0  # bytes that the last run of this process took and the next one will use again


@contextmanager
def left_for_the_next() -> Iterator[None]:
    """A run; what the process holds after it beyond what it held before is free for the next.

    Allocators keep the memory of regions that are done.
    """
    global _left
    before = _held()
    try:
        yield
    finally:
        _left = max(0, _rss() - before)


def _held() -> int:
    return max(0, _rss() - _left)


def _rss() -> int:
    return int(psutil.Process().memory_info().rss)


def region_bytes(plan: Plan, region: int) -> int:
    """Bytes that one region of side ``region`` px takes while it is in work, about."""
    spec = plan.spec
    side = region + 2 * (spec.reach + 1)
    maps = _map_bytes(spec)
    buffers = spec.batch * prod(spec.patch) * (spec.channels + 5 * maps)
    forward = buffers + getattr(plan.model, "forward_bytes", 0)
    return int(side**2 * (maps + _DECODE_BYTES) + forward)


def _map_bytes(spec: ModelSpec) -> int:
    """Of all maps, per px."""
    return 2 * (1 + spec.hv_channels + len(spec.classes))
