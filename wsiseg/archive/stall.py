"""Stall: a slide that is silent for its own fault is told from storage that does not answer.

A mount whose server is gone lets whoever reads it wait for ever. That is no property of the slide,
and must not convict it.
"""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from wsiseg.storage.url import is_url

__all__ = ["storage_stalls"]

_ANSWER_S = 5.0  # within which any storage gives one byte
_LOOKS, _PAUSE_S = 5, 0.1
# a byte from anywhere in the file, since the first ones may be remembered by the system
_PROBE = """
import os, random, sys
path = sys.argv[1]
if os.path.isdir(path):
    os.listdir(path)
else:
    with open(path, "rb", buffering=0) as file:
        file.seek(random.randrange(max(1, os.fstat(file.fileno()).st_size)))
        file.read(1)
"""


def storage_stalls(pid: int, path: str) -> bool:
    """Whether a silent process waits for a device, or a byte of ``path`` cannot be had.

    Takes up to some seconds; a process that is only slow, and computes or sleeps, does not stall.
    """
    return _waits_for_a_device(pid) or (not is_url(path) and not _answers(path))


def _waits_for_a_device(pid: int) -> bool:
    """Whether a thread is in uninterruptible sleep at every look (Linux)."""
    still = _in_device_wait(pid)
    for _ in range(_LOOKS - 1):
        if not still:
            return False
        time.sleep(_PAUSE_S)
        still &= _in_device_wait(pid)
    return bool(still)


def _in_device_wait(pid: int) -> set[str]:
    found = set()
    for thread in Path(f"/proc/{pid}/task").glob("*"):
        with suppress(OSError, IndexError):
            if (thread / "stat").read_text().rpartition(")")[2].split()[0] == "D":  # proc(5)
                found.add(thread.name)
    return found


def _answers(path: str) -> bool:
    """Whether another process can read a byte; that process may never end, and is left behind."""
    probe = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _PROBE, path],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        return probe.wait(_ANSWER_S) == 0
    except subprocess.TimeoutExpired:
        probe.kill()
        with suppress(subprocess.TimeoutExpired):
            probe.wait(_PAUSE_S)
        return False
