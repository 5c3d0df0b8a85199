"""What becomes of slides that are made while their store fails; without processes."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from wsiseg.archive.journal import Journal
from wsiseg.archive.mirror import Mirror
from wsiseg.archive.publish import Publishing
from wsiseg.archive.records import Record
from wsiseg.archive.tasks import Event, Task
from wsiseg.engine.lock import identity

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


@pytest.mark.timeout(100)
def test_cells_of_a_slide_that_is_not_done_leave_the_data_set(bucket: Any, tmp_path: Path) -> None:
    for slide_id in "ab":
        bucket.put(f"cells/slide_id={slide_id}/cells.parquet", b"of earlier settings")
    bucket.put(".wsiseg/archive.json", b"{}")
    mirror = Mirror("s3://archives/night/one", None, tmp_path)
    mirror.folder.claim()
    with mirror.held():
        mirror.pool(Instant(mirror), [Record("a", "failed"), Record("b", "done")])
    assert [n for n in bucket.names() if "cells/" in n] == ["cells/slide_id=b/cells.parquet"]


@pytest.mark.timeout(60)
def test_records_are_published_though_something_else_cannot_be_read(
    bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsiseg.archive.mirror._STATUS_S", 0.1)
    mirror = Mirror("s3://archives/night/one", None, tmp_path)
    mirror.folder.claim()
    (mirror.folder.root / "status.json").mkdir()
    with mirror.held():
        time.sleep(2)
        mirror.told(Record("a", "done"))
        while ".wsiseg/done/a.json" not in bucket.names():
            time.sleep(0.1)


@pytest.mark.timeout(60)
def test_a_store_that_hangs_does_not_keep_a_batch_that_is_to_stop(
    bucket: Any, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsiseg.archive.mirror._LAST_PUTS_S", 1.0)
    go_on = threading.Event()
    bucket.before = lambda *_: go_on.wait(100)
    (mirror.folder.root / "status.json").write_bytes(b"{}")
    told = mirror.finish(lambda: None, lambda: "preempted")
    go_on.set()
    assert told is not None
    assert "no answer" in told
    assert mirror.is_sending


@pytest.mark.timeout(60)
def test_a_shard_that_must_not_make_the_tables_publishes_what_it_has_done(
    bucket: Any, tmp_path: Path
) -> None:
    mirror = Mirror("s3://archives/night/one", (1, 2), tmp_path)
    mirror.folder.claim()
    with mirror.held():
        bucket.put(".wsiseg/merge/lock", json.dumps(identity("m" * 32)).encode())
        journal = Journal(mirror.folder.state((1, 2)), [Record("a", "done")])
        journal.close()
        told = mirror.finish(lambda: None, lambda: "preempted")
    assert "is in use" in (told or "")
    assert Record.of(json.loads(bucket.get(".wsiseg/shard-1-of-2/journal.jsonl"))).state == "done"
