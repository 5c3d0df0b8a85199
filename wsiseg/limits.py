"""Limits: what the control groups of this process (cgroups, Linux) let it use.

Containers and schedulers of clusters bound a process by its group, which neither the machine's
memory nor the number of its cores tells of. A group's limit holds for all groups below it, so the
least on the way up counts. Versions 1 and 2 are read; elsewhere there is no limit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

import psutil

__all__ = ["cores_limit", "free_memory", "memory_kills", "memory_limit"]

_ROOT = Path("/")
_NO_LIMIT = 1 << 60  # version 1 has no word for none, but a number beyond all machines


def memory_limit(root: Path = _ROOT) -> int | None:
    """Bytes that this process and those beside it in its group may hold; None: no limit."""
    found = [_memory(group)[0] for group in _groups("memory", root)]
    return min((limit for limit in found if limit is not None), default=None)


def free_memory(root: Path = _ROOT) -> int:
    """Bytes that this process may still take: of the machine, and of its groups."""
    free = int(psutil.virtual_memory().available)
    for group in _groups("memory", root):
        limit, used = _memory(group)
        if limit is not None:
            free = min(free, max(0, limit - used))
    return free


def memory_kills(root: Path = _ROOT) -> int:
    """How many processes of its group the system has killed so far for want of memory."""
    for group in _groups("memory", root)[:1]:
        for name in ("memory.events", "memory.oom_control"):
            with suppress(OSError, ValueError, StopIteration):
                lines = (group / name).read_text().splitlines()
                return int(next(line for line in lines if line.startswith("oom_kill ")).split()[1])
    return 0


def cores_limit(root: Path = _ROOT) -> float | None:
    """Cores whose time this process and those beside it in its group may take; None: no limit."""
    found = [_cores(group) for group in _groups("cpu", root)]
    return min((limit for limit in found if limit is not None), default=None)


@cache  # a process stays in its groups, though their limits may change
def _groups(controller: str, root: Path) -> tuple[Path, ...]:
    """Folders of the groups of this process that bound ``controller``, from its own upwards."""
    try:
        own = (root / "proc/self/cgroup").read_text().splitlines()
        mounts = (root / "proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return ()
    paths = dict(line.split(":", 2)[1:] for line in own)
    paths = {name: path for names, path in paths.items() for name in names.split(",")}
    found: list[Path] = []
    for mount in mounts:
        left, _, right = mount.partition(" - ")
        kind, options = right.split()[0], right.split()[-1].split(",")
        name = {"cgroup2": "", "cgroup": controller if controller in options else None}.get(kind)
        if name is not None and name in paths:
            top, place = left.split()[3:5]
            found += _upwards(root / place.lstrip("/"), paths[name], top)
    return tuple(found)


def _upwards(mounted: Path, path: str, top: str) -> Iterator[Path]:
    """Folders from the group ``path`` up to the one that is mounted, which is called ``top``."""
    inside = Path(path.removeprefix(top.rstrip("/")).lstrip("/"))
    if ".." in inside.parts or not (mounted / inside).is_dir():
        inside = Path()  # a group outside of what is mounted here: the mounted one is all we see
    yield from (mounted / part for part in (inside, *inside.parents))


def _memory(group: Path) -> tuple[int | None, int]:
    """Limit and use of a group, bytes; what is only cached of files is not in use."""
    limit = _number(group, "memory.max", "memory.limit_in_bytes")
    used = _number(group, "memory.current", "memory.usage_in_bytes") or 0
    # version 1 has both, and the total is what belongs to its use
    for name in ("total_inactive_file ", "inactive_file "):
        with suppress(OSError, ValueError, StopIteration):
            lines = (group / "memory.stat").read_text().splitlines()
            cached = next(line for line in lines if line.startswith(name))
            return limit, max(0, used - int(cached.split()[1]))
    return limit, used


def _cores(group: Path) -> float | None:
    with suppress(OSError, ValueError):
        quota, period = (group / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    quota_us, period_us = _number(group, "cpu.cfs_quota_us"), _number(group, "cpu.cfs_period_us")
    return quota_us / period_us if quota_us and period_us and quota_us > 0 else None


def _number(group: Path, *names: str) -> int | None:
    """The first of some files that there is; None for no limit."""
    for name in names:
        with suppress(OSError, ValueError):
            number = int((group / name).read_text())
            return number if number < _NO_LIMIT else None
    return None
