"""Whole slides on a worker: its threads take idle children at once."""

from __future__ import annotations

from typing import Any

import pytest

from wsiseg.archive import remote
from wsiseg.archive.tasks import Event, Task


class Taken(list[Any]):
    """Looks as if it had one, which another thread takes first."""

    def __bool__(self) -> bool:
        return True


class Child:
    """A pool of which the slide is done at once."""

    def __init__(self, *_: object) -> None:
        self.timeout_s = 0.0

    def start(self, task: Task) -> None:
        self.task = task

    def wait(self, seconds: float) -> list[Event]:
        return [Event("done", self.task.slide_id)]


def test_a_slide_whose_idle_child_another_thread_took_gets_a_new_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(remote, "_idle", Taken())
    monkeypatch.setattr(remote, "Processes", Child)
    monkeypatch.setattr(remote, "still_wanted", lambda key: True)
    task = Task("segment", "a", "a.svs", "out", {"max_memory": 8, "scheduler": "tcp://x:1"})
    assert remote.Whole("hematoxylin", 60.0, 1.0).run(task, "key", 2).kind == "done"
    (child,) = remote._idle
    assert child.task.settings == {"max_memory": 4}
    monkeypatch.setattr(remote, "_idle", Taken())
    remote.let_go()
