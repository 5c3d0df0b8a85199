"""What becomes of slides that are made while their store fails; without processes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from wsiseg.archive.mirror import Mirror
from wsiseg.archive.publish import Publishing
from wsiseg.archive.records import Record
from wsiseg.archive.tasks import Event, Task

FILES = {"cells.parquet": b"cells", "run.json": b"{}"}


class Instant:
    """A pool whose slides are made at once."""

    def __init__(self, mirror: Mirror) -> None:
        self.mirror, self.made, self.events = mirror, list[str](), list[Event]()
        self.room = 2

    def start(self, task: Task) -> None:
        folder = self.mirror.folder.slide(task.slide_id)
        (folder / ".wsiseg").mkdir(parents=True, exist_ok=True)
        (folder / ".wsiseg" / "manifest.json").write_bytes(b"{}")
        for name, data in FILES.items():
            (folder / name).write_bytes(data)
        outputs = {n: [len(data), sha256(data).hexdigest()] for n, data in FILES.items()}
        self.made.append(task.slide_id)
        self.events.append(Event("done", task.slide_id, {"outputs": outputs}))

    def wait(self, seconds: float) -> list[Event]:
        events, self.events = self.events, []
        return events

    def stop(self, grace_s: float) -> list[Event]:
        return self.wait(0)

    def close(self) -> None:
        pass


@pytest.fixture
def mirror(bucket: Any, tmp_path: Path) -> Iterator[Mirror]:
    made = Mirror("s3://archives/night/one", None, tmp_path / "work")
    made.folder.claim()
    with made.held():
        (made.folder.work / "archive.json").write_bytes(b"{}")
        yield made


def run(pool: Publishing, mirror: Mirror, **how: Any) -> Event:
    """The last event of one slide."""
    pool.start(Task("segment", "a", "a.svs", str(mirror.folder.slide("a")), {}, **how))
    events: list[Event] = []
    while not events:
        events = pool.wait(0.05)
    assert len(events) == 1
    return events[0]


@pytest.mark.timeout(200)
def test_a_slide_whose_store_is_gone_fails_and_is_sent_later_without_being_made_again(
    bucket: Any, mirror: Mirror
) -> None:
    inner = Instant(mirror)
    pool = mirror.pool(inner, [Record("a", "pending", asked="1")])
    assert isinstance(pool, Publishing)
    pool._pauses = (0.1,)
    bucket.vanish()
    event = run(pool, mirror)
    assert event.fault is not None
    assert (event.fault.code, event.fault.again, event.fault.archive) == ("output", True, True)
    assert "s3://archives/night/one" in event.fault.message
    bucket.appear()
    assert run(pool, mirror).kind == "done"
    assert inner.made == ["a"]
    assert {n for n in bucket.names() if "/.wsiseg/" not in f"/{n}"} == {
        "slides/a/cells.parquet",
        "slides/a/run.json",
        "cells/slide_id=a/cells.parquet",
    }


@pytest.mark.timeout(100)
def test_what_is_kept_counts_only_while_it_is_sound_and_still_asked_for(
    bucket: Any, mirror: Mirror
) -> None:
    inner = Instant(mirror)
    facts = {"outputs": {n: [len(d), sha256(d).hexdigest()] for n, d in FILES.items()}}
    pool = mirror.pool(inner, [Record("a", "pending", asked="1")])
    for asked, fresh in (("1", False), ("2", False), ("2", True)):
        mirror.pool(inner, [Record("a", "pending", asked=asked)])
        assert run(pool, mirror, fresh=fresh).kind == "done"
    assert len(inner.made) == 3  # first, of other settings, fresh
    mirror.keep("a", facts)
    (mirror.folder.slide("a") / "cells.parquet").write_bytes(b"cellS")
    event = run(pool, mirror)
    assert event.fault is not None
    assert event.fault.again
    assert run(pool, mirror).kind == "done"  # damaged here, so made anew
    assert len(inner.made) == 4
    assert bucket.get("cells/slide_id=a/cells.parquet") == FILES["cells.parquet"]


@pytest.mark.timeout(100)
def test_a_denied_request_is_told_without_a_key(bucket: Any, mirror: Mirror) -> None:
    pool = mirror.pool(Instant(mirror), [Record("a", "pending", asked="1")])
    bucket.answer = (
        "403 Forbidden",
        b"<Error><Code>AccessDenied</Code><Message>planted-key-id may not</Message></Error>",
    )
    event = run(pool, mirror)
    bucket.answer = None
    assert event.fault is not None
    assert (event.fault.code, event.fault.archive) == ("read-only", True)
    assert "credentials" in event.fault.message
    assert "planted" not in json.dumps(event.fault.plain())
