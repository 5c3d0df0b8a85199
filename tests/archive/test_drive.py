"""The order of slides, attempts and ends, with a pool that does as it is told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from wsiseg.archive.config import Policy
from wsiseg.archive.drive import Drive
from wsiseg.archive.faults import Fault
from wsiseg.archive.records import Record
from wsiseg.archive.resume import waiting
from wsiseg.archive.tasks import Event, Task

CRASH = Fault("quarantine", "SIGSEGV", "it died", again=True)
MEMORY = Fault("out-of-memory", "MemoryError", "memory was exhausted", again=True)
INPUT = Fault("unreadable", "ValueError", "cut short")
DISK = Fault("disk-full", "ENOSPC", "no space", again=True, archive=True)


class Told:
    """Keeps what a book would write down."""

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}
        self.history: list[tuple[str, str]] = []

    def tell(self, record: Record) -> None:
        self.records[record.slide_id] = record
        self.history.append((record.slide_id, record.state))

    def progress(self, slide_id: str, done: int, total: int) -> None:
        pass

    def tick(self) -> None:
        pass


class Stage:
    """A pool whose tasks end one after the other, as ``fate`` says."""

    def __init__(self, workers: int, fate: Callable[[str, int], Fault | None]) -> None:
        self.workers, self.fate = workers, fate
        self.running: list[Task] = []
        self.tried: Counter[str] = Counter()
        self.started: list[tuple[str, int | None, int]] = []
        self.devices: list[tuple[str | None, ...]] = []
        self.most = 0

    @property
    def room(self) -> int:
        return self.workers - len(self.running)

    def start(self, task: Task) -> None:
        self.started.append((task.slide_id, task.threads, len(self.running)))
        self.devices.append(tuple(task.settings.get(k) for k in ("device", "precision")))
        self.running.append(task)
        self.most = max(self.most, len(self.running))

    def wait(self, seconds: float) -> list[Event]:
        if not self.running:
            return []
        task = self.running.pop(0)
        self.tried[task.slide_id] += 1
        fault = self.fate(task.slide_id, self.tried[task.slide_id])
        if fault is None:
            return [Event("done", task.slide_id, {"cells": 1})]
        return [Event("failed", task.slide_id, fault=fault)]

    def stop(self, grace_s: float) -> list[Event]:
        events = [Event("stopped", task.slide_id) for task in self.running]
        self.running = []
        return events

    def close(self) -> None:
        pass


def records(count: int) -> list[Record]:
    return [Record(f"s{i}", "pending", input_bytes=i) for i in range(count)]


def drive(
    count: int,
    fate: Callable[[str, int], Fault | None],
    workers: int = 2,
    stop: Callable[[Stage], str | None] = lambda _: None,
    settings: dict[str, Any] | None = None,
    **policy: Any,
) -> tuple[Stage, Told, Drive, str | None]:
    stage, told = Stage(workers, fate), Told()
    how = Policy(**{"backoff_s": 0, **policy})
    made = Drive(stage, how, lambda r: Task("segment", r.slide_id, "", "", settings or {}, 4), told)
    state = made.run(waiting(records(count)), lambda: stop(stage))
    return stage, told, made, state


def test_the_largest_go_first_and_never_more_than_there_are_workers() -> None:
    stage, told, made, state = drive(7, lambda *_: None, workers=3)
    assert [name for name, *_ in stage.started] == [f"s{i}" for i in range(6, -1, -1)]
    assert stage.most == 3
    assert {r.state for r in told.records.values()} == {"done"}
    assert (made.failures, made.broken, state) == (0, None, None)


def test_a_fault_of_the_input_is_final_at_once() -> None:
    stage, told, made, _ = drive(4, lambda name, _: INPUT if name == "s2" else None)
    assert stage.tried["s2"] == 1
    assert (told.records["s2"].state, told.records["s2"].code) == ("failed", "unreadable")
    assert made.failures == 1
    assert all(told.records[f"s{i}"].state == "done" for i in (0, 1, 3))


def test_other_faults_are_tried_again_the_last_time_alone_then_quarantined() -> None:
    stage, told, _, _ = drive(5, lambda name, _: CRASH if name == "s4" else None, workers=3)
    attempts = [(threads, beside) for name, threads, beside in stage.started if name == "s4"]
    assert len(attempts) == 3
    assert attempts[-1] == (1, 0)  # one region at a time, no slide beside it
    last = told.records["s4"]
    assert (last.state, last.code, last.cause, last.attempts) == (
        *("failed", "quarantine", "SIGSEGV"),
        3,
    )


def test_a_slide_that_succeeds_in_a_later_attempt_is_done_without_a_code() -> None:
    _, told, made, _ = drive(2, lambda name, n: CRASH if (name, n) == ("s1", 1) else None)
    assert told.records["s1"].state == "done"
    assert told.records["s1"].code is None
    assert told.records["s1"].attempts == 2
    assert made.failures == 0


def test_after_exhausted_memory_a_slide_waits_until_it_can_be_alone() -> None:
    stage, told, _, _ = drive(6, lambda name, n: MEMORY if (name, n) == ("s5", 1) else None)
    assert stage.started[-1] == ("s5", 1, 0)
    assert told.records["s5"].state == "done"


@pytest.mark.parametrize("limit", [1, 2])
def test_enough_failures_skip_what_is_left(limit: int) -> None:
    stage, told, made, _ = drive(9, lambda *_: INPUT, workers=1, max_failures=limit)
    assert made.failures == limit
    skipped = [r for r in told.records.values() if r.state == "skipped"]
    assert len(skipped) == 9 - limit
    assert {r.code for r in skipped} == {"max-failures"}
    assert sum(stage.tried.values()) == limit


def test_a_fault_of_the_archive_ends_the_batch_and_leaves_the_others_pending() -> None:
    stage, told, made, _ = drive(
        9, lambda name, _: DISK if name == "s8" else None, workers=1, attempts=1
    )
    assert made.broken == DISK
    assert told.records["s8"].code == "disk-full"
    assert sum(stage.tried.values()) == 1


def test_a_full_disk_is_tried_with_the_slides_at_work_and_no_others() -> None:
    stage, told, made, _ = drive(100, lambda *_: DISK, workers=4, attempts=3, backoff_s=0.02)
    assert made.broken == DISK
    assert sum(stage.tried.values()) <= 12
    assert Counter(r.state for r in told.records.values())["failed"] == 1


@pytest.mark.parametrize("how", ["preempted", "interrupted"])
def test_a_stop_leaves_running_slides_in_its_state(how: str) -> None:
    def stop(stage: Stage) -> str | None:
        return how if sum(stage.tried.values()) == 3 else None

    _, told, _, state = drive(8, lambda *_: None, stop=stop)
    assert state == how
    count = Counter(r.state for r in told.records.values())
    assert count == {"done": 3, how: 1}  # the place that became free was not filled again


def test_every_change_is_told_before_the_slide_is_started() -> None:
    _, told, _, _ = drive(3, lambda *_: None)
    for name in ("s0", "s1", "s2"):
        assert [state for slide, state in told.history if slide == name] == ["running", "done"]


TERMINATED = Fault("quarantine", "SIGTERM", "it was terminated", again=True)


@pytest.mark.parametrize("attempts", [1, 2])
def test_who_is_terminated_just_before_the_batch_is_preempted_not_convicted(attempts: int) -> None:
    def stop(stage: Stage) -> str | None:
        return "preempted" if stage.tried["s2"] == attempts else None

    def fate(name: str, _: int) -> Fault | None:
        return TERMINATED if name == "s2" else None

    _, told, made, state = drive(3, fate, stop=stop, workers=1, attempts=attempts)
    assert state == "preempted"
    assert told.records["s2"].state == "preempted"
    assert made.failures == 0


def test_who_is_terminated_alone_is_tried_again_then_convicted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("wsiseg.archive.drive._MEANT_ALL_S", 0.01)
    stage, told, _, _ = drive(3, lambda name, _: TERMINATED if name == "s2" else None, attempts=2)
    assert stage.tried["s2"] == 2
    assert (told.records["s2"].state, told.records["s2"].cause) == ("failed", "SIGTERM")
    assert told.records["s0"].state == "done"


def test_a_slide_with_which_batches_have_died_runs_last_and_alone() -> None:
    stage, told = Stage(3, lambda *_: None), Told()
    slides = records(4)
    slides[3] = replace(slides[3], lost=2)
    made = Drive(stage, Policy(), lambda r: Task("segment", r.slide_id, "", "", {}, 4), told)
    assert made.run(waiting(slides), lambda: None) is None
    assert stage.started[-1] == ("s3", 1, 0)


def test_failures_before_the_first_slide_count() -> None:
    stage, told = Stage(1, lambda *_: None), Told()
    how = Policy(max_failures=1)
    made = Drive(stage, how, lambda r: Task("segment", "", "", "", {}), told, failures=1)
    assert made.run(waiting(records(2)), lambda: None) is None
    assert {r.code for r in told.records.values()} == {"max-failures"}
    assert not stage.started


@pytest.mark.parametrize("asked", [True, False])
def test_what_fails_on_another_device_is_tried_once_more_on_the_cpu_if_asked_for(
    asked: bool,
) -> None:
    gpu = {"device": "cuda", "precision": "fp16"}
    stage, told, made, _ = drive(1, lambda *_: MEMORY, settings=gpu, cpu_in_the_end=asked)
    assert stage.devices == [("cuda", "fp16")] * 3 + [("cpu", "auto")] * asked
    assert (told.records["s0"].state, made.failures) == ("failed", 1)


def test_nothing_is_moved_from_the_cpu_nor_for_a_fault_of_the_input() -> None:
    own = {"precision": "int8"}
    stage, *_ = drive(1, lambda *_: CRASH, settings=own, cpu_in_the_end=True)
    assert stage.devices == [(None, "int8")] * 3
    stage, *_ = drive(1, lambda *_: INPUT, settings={"device": "cuda"}, cpu_in_the_end=True)
    assert stage.devices == [("cuda", None)]
