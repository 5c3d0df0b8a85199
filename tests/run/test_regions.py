"""Regions of a run: what is at work when somebody stops is stored."""

from __future__ import annotations

import time
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from wsiseg.engine.executor import Threads
from wsiseg.image.open import open_slide
from wsiseg.model.zoo import load_model
from wsiseg.run import regions
from wsiseg.run.job import Job
from wsiseg.run.segment import run
from wsiseg.synth import he_slide, write_he_slide


class Stopped(BaseException):
    """A signal."""


def test_who_is_stopped_still_stores_the_regions_at_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide = tmp_path / "s.tiff"
    write_he_slide(slide, he_slide((331, 383), np.random.default_rng(0)))
    begun: list[Any] = []
    stopping, work = Event(), regions.StoredRegion.__call__

    def slow(self: regions.StoredRegion, tile: Any) -> regions.Done:
        begun.append(tile)
        if len(begun) > 1:  # at work until the first is told of, and a while after
            stopping.wait(20)
            time.sleep(0.3)
        return work(self, tile)

    def stop(_: object) -> None:
        stopping.set()
        raise Stopped

    monkeypatch.setattr(regions.StoredRegion, "__call__", slow)
    job = Job(slide=slide, out=tmp_path / "out", model="hematoxylin", region=128)
    stored = -1
    try:
        run(job, stop, executor=Threads(2))
    except Stopped:  # before its traceback lets go of the iterator
        stored = len(list((tmp_path / "out/.wsiseg/regions").glob("*.wsr")))
    assert stored == len(begun) >= 2


def test_a_machine_with_another_file_at_the_path_is_of_another_kind(tmp_path: Path) -> None:
    """Its regions would be mixed with ours: the slide of a node's own disk may be an old one."""
    slide, work = tmp_path / "s.tiff", SimpleNamespace(model=load_model("hematoxylin"))
    found = []
    for seed in (0, 1, 0):
        write_he_slide(slide, he_slide((131, 127), np.random.default_rng(seed)))
        task = regions.StoredRegion(work, None, open_slide(slide))  # type: ignore[arg-type]
        found.append(task.identity())
    ours, other, same_later = found
    assert ours == same_later
    assert {name for name in ours if ours[name] != other[name]} == {"slide"}


def test_no_time_is_negative_when_the_clock_steps_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide = tmp_path / "s.tiff"
    write_he_slide(slide, he_slide((131, 127), np.random.default_rng(0)))
    now, steps = time.time(), iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: now - 3600 * next(steps))
    job = Job(slide=slide, out=tmp_path / "out", model="hematoxylin")
    seconds = run(job, executor=Threads(1), began=now).facts["seconds"]
    assert min(seconds.values()) >= 0
    assert seconds["total"] < 600
