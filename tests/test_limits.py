"""Limits of control groups, in trees as version 1 and 2 lay them out, and of a real group."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from wsiseg import cores as module
from wsiseg.cores import cores
from wsiseg.limits import cores_limit, free_memory, memory_kills, memory_limit

GB = 1 << 30
V2 = "31 23 0:28 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"
    "32 31 0:29 {top} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "35 31 0:32 {top} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
)


def tree(root: Path, mounts: str, groups: str, files: dict[str, object]) -> Path:
    """A system with these mounts, this process in these groups, and these files of groups."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/mountinfo").write_text("1 0 8:1 / / rw - ext4 /dev/sda rw\n" + mounts)
    (root / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return root


def test_version_2_the_least_on_the_way_up_counts(tmp_path: Path) -> None:
    files: dict[str, object] = {
        "job/step/memory.max": "max",
        "job/step/cpu.max": "400000 100000",
        "job/memory.max": 8 * GB,
        "job/memory.current": 7 * GB,
        "job/memory.stat": f"anon {GB}\ninactive_file {3 * GB}",
        "job/cpu.max": "150000 100000",
    }
    root = tree(tmp_path, V2, "0::/job/step\n", files)
    assert memory_limit(root) == 8 * GB
    assert cores_limit(root) == 1.5
    assert free_memory(root) == min(4 * GB, psutil.virtual_memory().available)


@pytest.mark.parametrize("top", ["/", "/docker/1"])
def test_version_1_in_a_container_and_outside(top: str, tmp_path: Path) -> None:
    """In a container, the group that is mounted as the top one has another name outside."""
    inside = "x" if top != "/" else "docker/1/x"
    files: dict[str, object] = {
        f"memory/{inside}/memory.limit_in_bytes": 2 * GB,
        f"memory/{inside}/memory.usage_in_bytes": GB,
        f"memory/{inside}/memory.stat": f"inactive_file 0\ntotal_inactive_file {GB // 2}",
        f"cpu,cpuacct/{inside}/cpu.cfs_quota_us": 300000,
        f"cpu,cpuacct/{inside}/cpu.cfs_period_us": 100000,
        "memory/memory.limit_in_bytes": 9223372036854771712,
        "cpu,cpuacct/cpu.cfs_quota_us": -1,
        "cpu,cpuacct/cpu.cfs_period_us": 100000,
    }
    groups = "4:memory:/docker/1/x\n3:cpu,cpuacct:/docker/1/x\n0::/\n"
    root = tree(tmp_path, V1.format(top=top), groups, files)
    assert memory_limit(root) == 2 * GB
    assert cores_limit(root) == 3
    assert free_memory(root) == min(3 * GB // 2, psutil.virtual_memory().available)


@pytest.mark.parametrize("own", ["/../other", "/not/mounted/here"])
def test_of_a_group_that_is_not_to_be_seen_the_mounted_one_counts(own: str, tmp_path: Path) -> None:
    root = tree(tmp_path, V2, f"0::{own}\n", {"memory.max": GB, "cpu.max": "max 100000"})
    assert memory_limit(root) == GB
    assert cores_limit(root) is None


@pytest.mark.parametrize(("mounts", "name"), [(V2, "memory.events"), (V1, "memory.oom_control")])
def test_kills_for_memory_are_counted(mounts: str, name: str, tmp_path: Path) -> None:
    top = "" if mounts == V2 else "memory/"
    files: dict[str, object] = {f"{top}x/{name}": "oom_kill_disable 0\noom 3\noom_kill 2"}
    root = tree(tmp_path, mounts.format(top="/"), "4:memory:/x\n0::/x\n", files)
    assert memory_kills(root) == 2
    assert memory_kills(tmp_path / "nothing") == 0


def test_without_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert memory_limit(tmp_path) is cores_limit(tmp_path) is None
    assert free_memory(tmp_path) > 0


def test_cores_are_no_more_than_the_group_may_use(monkeypatch: Any) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    for limit, expected in ((None, 64), (0.3, 1), (1.5, 2), (100.0, 64)):
        monkeypatch.setattr(module, "cores_limit", lambda limit=limit: limit)
        assert cores() == expected


def test_the_limit_of_a_real_group_is_seen(group_of: Any) -> None:
    words = [
        sys.executable,
        "-c",
        "from wsiseg.limits import *; print(memory_limit(), free_memory())",
    ]
    join = group_of(GB)
    found = subprocess.run(words, capture_output=True, text=True, preexec_fn=join, check=True)
    limit, free = map(int, found.stdout.split())
    assert limit == GB
    assert free < GB
