"""Memory: how many regions of what size may be in work at once."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wsiseg.errors import SettingsError

if TYPE_CHECKING:
    from wsiseg.run.job import Job
    from wsiseg.run.plan import Plan

__all__ = ["Fit", "fitted", "region_bytes"]

_SMALLEST = 256
_DECODE_BYTES = 24  # per px: landscape, links, labels, queues of the decode, runs


@dataclass(frozen=True, slots=True)
class Fit:
    """What keeps to the bound."""

    region: int
    """Side of a region, px of the lattice."""
    threads: int
    """Regions in work at once in this process."""


def region_bytes(plan: Plan, region: int) -> int:
    """Bytes that one region of side ``region`` px takes while it is in work, about."""
    spec = plan.spec
    side = region + 2 * spec.reach
    maps = 2 * (1 + spec.hv_channels + len(spec.classes))
    patch_pixels = 1
    for size in spec.patch:
        patch_pixels *= size
    forward = spec.batch * patch_pixels * (3 + 6 * maps)
    return side**2 * (maps + _DECODE_BYTES) + forward


def fitted(job: Job, plan: Plan) -> Fit:
    """Region size and threads of ``job`` within its ``max_memory``: fewer first, then smaller.

    Raises SettingsError where not even one small region fits.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    region, threads = job.region, max(1, cores or 1)
    if job.max_memory is None:
        return Fit(region, threads)
    workers = max(1, job.workers or 1)
    limit = job.max_memory // workers
    while region > _SMALLEST and region_bytes(plan, region) > limit:
        region //= 2
    need = region_bytes(plan, region)
    if need > limit:
        raise SettingsError(
            f"--max-memory must be at least {need * workers >> 20} MiB for this model with "
            f"{workers} worker(s), got {job.max_memory >> 20} MiB"
        )
    return Fit(region, max(1, min(threads, limit // need)))
