"""Children that hang, that cannot be started, that do not end: each is told for what it is."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from wsiseg.archive import child, pool, stall
from wsiseg.archive.pool import Processes
from wsiseg.archive.stall import storage_stalls
from wsiseg.archive.tasks import Event, Task


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Processes]:
    """Children that say nothing, and are not waited for."""
    monkeypatch.setattr(child, "_COMMAND", ["sleep", "60"])
    monkeypatch.setattr(stall, "_ANSWER_S", 1.0)
    monkeypatch.setattr(Processes, "PATIENCE_S", 0.1)
    made = Processes(4, 0.1)
    yield made
    made.close()


def end_of(made: Processes, path: Path) -> Event:
    made.start(Task("segment", "s", str(path), "", {}))
    while not (events := made.wait(0.1)):
        pass
    return events[0]


def test_a_slide_that_hangs_is_told_from_storage_that_does_not_answer(
    silent: Processes, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe")  # whoever opens it waits for ever, as for a server that is gone
    (tmp_path / "file").write_bytes(b"x" * 999)
    hangs, stalls = end_of(silent, tmp_path / "file"), end_of(silent, tmp_path / "pipe")
    assert hangs.fault
    assert hangs.fault.code == "timeout"
    assert stalls.fault
    assert (stalls.fault.code, stalls.fault.again) == ("input-io", True)


@pytest.mark.skipif(sys.platform != "linux", reason="states of processes are those of Linux")
def test_a_process_in_uninterruptible_sleep_stalls(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x")
    # whoever calls vfork is in that state until the new process, which sleeps, is another program
    code = "import ctypes, time; libc = ctypes.CDLL(None); libc.vfork(); time.sleep(60)"
    for words, expected in ((code, True), ("import time; time.sleep(60)", False)):
        process = subprocess.Popen([sys.executable, "-c", words], start_new_session=True)
        try:
            time.sleep(1)
            assert storage_stalls(process.pid, str(file)) == expected
        finally:
            os.killpg(process.pid, 9)
            process.wait()


def test_who_is_killed_for_memory_is_told_from_who_is_killed(
    silent: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kills = iter([0, 1, 1])
    monkeypatch.setattr(pool, "memory_kills", lambda: next(kills))
    monkeypatch.setattr(child, "_COMMAND", ["sh", "-c", "kill -9 $$"])
    monkeypatch.setattr(Processes, "PATIENCE_S", 20.0)
    made = Processes(1, 20.0)
    codes = [end_of(made, tmp_path).fault for _ in range(2)]
    assert [fault.code for fault in codes if fault] == ["out-of-memory", "quarantine"]
    made.close()


def test_a_process_that_cannot_be_started_now_is_a_fault_to_try_again(
    silent: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(subprocess, "Popen", refuse)
    event = end_of(silent, tmp_path)
    assert event.fault
    assert (event.fault.code, event.fault.cause) == ("worker", "EAGAIN")
    assert event.fault.again
    assert silent.room == 4


def test_children_that_do_not_end_are_killed_first_then_waited_for_together(
    silent: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    for k in range(3):
        silent.start(Task("segment", f"s{k}", "", "", {}))
    done: list[Any] = []
    clock = iter([0.0, 0.5, 1.5, 9.0])
    monkeypatch.setattr(pool.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(pool.Child, "kill", lambda _: done.append("kill"))
    monkeypatch.setattr(pool.Child, "close", lambda _, within: done.append(within))
    children = list(silent._children)
    silent.close()
    monkeypatch.undo()
    assert done == ["kill"] * 3 + [1.5, 0.5, 0.0]
    for each in children:
        each.close()


@pytest.mark.timeout(300)
def test_a_slide_may_take_longer_than_the_deadline_to_look_at_while_it_gets_on(
    tmp_path: Path, poison: Any
) -> None:
    poison(tmp_path, "slow")
    settings = {"model": "hematoxylin"}
    task = Task("measure", "slow", str(tmp_path / "slow.tiff"), "unused", settings)
    made = Processes(1, 6.0)
    made.start(task)
    while not (events := made.wait(1.0)):
        pass
    made.close()
    assert events[0].fault is None
    assert events[0].facts
    assert events[0].facts["seconds"] > 6
