"""Memory: how many regions of what size may be in work at once.

The bound is shared by the worker processes of this machine; on a cluster (``--scheduler``) it
holds for each of its workers. Libraries and kernels (about 300 MB a process) come on top.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from wsiseg.errors import SettingsError

if TYPE_CHECKING:
    from wsiseg.run.job import Job
    from wsiseg.run.plan import Plan

__all__ = ["memo_bytes", "region_bytes", "region_for", "threads_for"]

_SMALLEST = 256  # px; below, regions are mostly halo
_MEMO = 256 << 20
_MEMO_SHARE = 0.2  # of the bound
_DECODE_BYTES = 24  # per px: landscape, links, labels, queues of the decode, runs


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


def region_for(job: Job, plan: Plan) -> int:
    """Side of a region, px of the lattice: the one asked for, or smaller to keep to the bound.

    Raises SettingsError where not even a small region fits.
    """
    region = job.region
    if job.max_memory is None:
        return region
    limit = _for_regions(job)
    while region > _SMALLEST and region_bytes(plan, region) > limit:
        region //= 2
    need = region_bytes(plan, region)
    if need > limit:
        least = int(need * _processes(job) / (1 - _MEMO_SHARE)) + 1
        raise SettingsError(
            f"--max-memory must be at least {least / 1e6:.0f}MB for this model with "
            f"{_processes(job)} process(es), got {job.max_memory / 1e6:.0f}MB"
        )
    return region


def threads_for(job: Job, plan: Plan, region: int) -> int:
    """Regions of side ``region`` that this process works on at once."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = max(1, cores or 1)
    if job.max_memory is None:
        return threads
    return max(1, min(threads, _for_regions(job) // region_bytes(plan, region)))


def memo_bytes(job: Job) -> int:
    """Bytes that a process may use to remember patches shared by regions."""
    if job.max_memory is None:
        return _MEMO
    return min(_MEMO, int(job.max_memory / _processes(job) * _MEMO_SHARE))


def _for_regions(job: Job) -> int:
    """Bytes that the regions in work in one process may take."""
    return int((job.max_memory or 0) / _processes(job) * (1 - _MEMO_SHARE))


def _processes(job: Job) -> int:
    return max(1, job.workers or 1)
