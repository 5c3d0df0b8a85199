"""Cores that have no slide any more go to those that are still at work."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from wsiseg.archive.pool import Processes
from wsiseg.archive.tasks import Task


@pytest.fixture
def two() -> Iterator[Processes]:
    pool = Processes(2, timeout_s=100)
    yield pool
    pool.close()


def most_threads(pool: Processes, slide: Path, out: Path, *, spread: bool) -> int:
    """The most threads of the child while it is at work on the regions of one slide."""
    settings = {"model": "hematoxylin", "region": 128}
    pool.start(Task("segment", "big", str(slide), str(out), settings, 1, spread=spread))
    (pid,) = (child.pid for child in psutil.Process().children() if _is_worker(child))
    most, deadline = 0, time.monotonic() + 100
    while time.monotonic() < deadline:
        for event in pool.wait(0.02):
            if event.kind == "progress" and event.facts and 3 < event.facts["done"] < 60:
                most = max(most, psutil.Process(pid).num_threads())
            elif event.kind != "progress":
                assert event.kind == "done", event.fault
                return most
    raise AssertionError("it was not done in time")


def _is_worker(process: psutil.Process) -> bool:
    return "wsiseg.archive.worker" in process.cmdline()


@pytest.mark.timeout(200)
def test_a_slide_that_is_left_alone_is_given_the_idle_cores(
    two: Processes, big_slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsiseg.archive.pool.cores", lambda: 4)
    kept = most_threads(two, big_slide, tmp_path / "kept", spread=False)
    given = most_threads(two, big_slide, tmp_path / "given", spread=True)
    assert given >= kept + 3  # beside them, some open files
