"""A slide in a worker process: what another worker left of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from wsiseg.archive.tasks import Task
from wsiseg.archive.work import Models, segment_slide
from wsiseg.engine import lock
from wsiseg.engine.executor import Threads
from wsiseg.synth import he_slide, write_he_slide


@pytest.mark.timeout(60)
def test_a_slide_that_a_lost_worker_elsewhere_holds_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the silence of its lock tells that the worker is dead, which takes two minutes."""
    quick = lock.Heartbeat(every_s=0.3, stale_s=1.0)
    monkeypatch.setattr(lock, "Heartbeat", lambda: quick)
    slide, out = tmp_path / "s.tiff", tmp_path / "out"
    write_he_slide(slide, he_slide((131, 127), np.random.default_rng(0)))
    (out / ".wsiseg").mkdir(parents=True)
    told = lock.identity("0" * 32) | {"host": "elsewhere"}
    (out / ".wsiseg" / lock.LOCK).write_text(json.dumps(told))
    task = Task("segment", "s", str(slide), str(out), {"model": "hematoxylin"}, 1)
    assert segment_slide(task, Models(), lambda *_: None, Threads(1))["tiles"] == 1
