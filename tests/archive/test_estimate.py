"""Estimates: scaled from a sample, with faults that come to light."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsiseg.archive.estimate import estimate, estimate_text
from wsiseg.archive.faults import Fault
from wsiseg.archive.request import Request
from wsiseg.archive.rows import SlideRow
from wsiseg.archive.tasks import Event, Task

FACTS = {"tissue_mm2": 10.0, "analysed_mm2": 20.0, "tiles": 7, "seconds": 1.0}
FACTS |= {"trial_mm2": 0.5, "trial_seconds": 2.0, "trial_cells": 100}


class Measured:
    """A pool in which every slide is alike, but for some that are bad."""

    def __init__(self, bad: frozenset[str] = frozenset()) -> None:
        self.tasks: list[Task] = []
        self.bad, self.asked, self.closed = bad, list[str](), False

    @property
    def room(self) -> int:
        return 2 - len(self.tasks)

    def start(self, task: Task) -> None:
        assert task.kind == "measure"
        self.asked.append(task.slide_id)
        self.tasks.append(task)

    def wait(self, seconds: float) -> list[Event]:
        task = self.tasks.pop(0)
        if task.slide_id in self.bad:
            return [Event("failed", task.slide_id, fault=Fault("unreadable", "x", "cut short"))]
        return [Event("done", task.slide_id, dict(FACTS))]

    def stop(self, grace_s: float) -> list[Event]:
        return []

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def request_of_100(tmp_path: Path) -> Request:
    rows = []
    for i in range(100):
        (tmp_path / f"{i}.svs").write_bytes(b"x" * 1000)
        rows.append(SlideRow(f"s{i:03}", str(tmp_path / f"{i}.svs")))
    return Request.of(rows, model="hematoxylin", workers=4)


def test_a_sample_stands_for_all(request_of_100: Request, tmp_path: Path) -> None:
    pool = Measured()
    found = estimate(request_of_100, tmp_path / "out", pool=pool, sample=20)
    assert (found.to_run, found.sampled, len(pool.asked)) == (100, 20, 20)
    assert found.tissue_mm2 == pytest.approx(1000)
    assert found.tiles == 700
    assert found.cells == 100 * 20 * 200  # slides, mm² analysed of each, cells per mm²
    seconds = 100 * 1.0 + 100 * 20 * 4.0 * 1.2  # opening; mm² at 4 s each, and the files
    assert found.minutes == pytest.approx(seconds / 60 / 4, rel=0.01)
    assert pool.closed


def test_bad_slides_are_told_and_not_counted(request_of_100: Request, tmp_path: Path) -> None:
    pool = Measured(frozenset({"s000", "s099"}))
    found = estimate(request_of_100, tmp_path / "out", pool=pool, sample=100)
    assert found.faults == dict.fromkeys(("s000", "s099"), "unreadable: cut short")
    assert found.tissue_mm2 == pytest.approx(980)
    assert "s099: unreadable" in estimate_text(found)


def test_nothing_to_do_needs_no_pool(tmp_path: Path) -> None:
    rows = [SlideRow("a", str(tmp_path / "missing.svs"))]
    found = estimate(Request.of(rows, model="hematoxylin"), tmp_path / "out", pool=Measured())
    assert (found.to_run, found.minutes, found.bytes) == (0, 0, 0)
    assert "missing-file" in found.faults["a"]
    assert len(estimate_text(found).splitlines()) == 2  # no figures of nothing
