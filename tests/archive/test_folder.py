"""The archive folder: whose it is, who is at work in it, and that nothing leads out of it."""

from __future__ import annotations

import json
import os
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from wsiseg.archive.folder import ArchiveFolder, Shard
from wsiseg.engine import lock
from wsiseg.engine.lock import Heartbeat, RunLock
from wsiseg.errors import (
    ForeignFolderError,
    KeyMismatchError,
    LockedError,
    OutputError,
    RunFolderError,
)

PARTS = {"model": "a", "stain": "default"}


@pytest.fixture
def folder(tmp_path: Path) -> ArchiveFolder:
    made = ArchiveFolder(tmp_path / "out")
    made.claim()
    return made


def test_an_archive_is_bound_to_its_settings(folder: ArchiveFolder) -> None:
    assert not folder.check(PARTS)
    folder.settle(PARTS, fresh=False)
    assert folder.check(PARTS)
    with pytest.raises(KeyMismatchError, match=r'model: "a" -> "b"'):
        folder.settle(PARTS | {"model": "b"}, fresh=False)
    folder.settle(PARTS | {"model": "b"}, fresh=True)
    assert folder.check(PARTS | {"model": "b"})


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 99}', '{"schema": 1}'])
def test_damaged_settings_are_named(text: str, folder: ArchiveFolder) -> None:
    (folder.work / "archive.json").write_text(text)
    with pytest.raises(RunFolderError, match=r"archive\.json"):
        folder.check(PARTS)


def test_a_folder_that_was_left_at_once_is_still_ours(folder: ArchiveFolder) -> None:
    for shard in (None, (1, 2)):
        with folder.locked(shard):
            pass
    ArchiveFolder(folder.root).claim()


@pytest.mark.parametrize("where", ["thesis.txt", ".wsiseg/manifest.json", "cells/x"])
def test_files_of_others_are_respected(where: str, tmp_path: Path) -> None:
    path = tmp_path / where
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    with pytest.raises(ForeignFolderError):
        ArchiveFolder(tmp_path).claim()
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [path]


def test_a_file_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x")
    with pytest.raises(ForeignFolderError, match="file"):
        ArchiveFolder(tmp_path / "out").claim()
    with pytest.raises(OutputError):
        ArchiveFolder(tmp_path / "out" / "deeper").claim()


@pytest.mark.parametrize("name", ["slides", ".wsiseg", "cells"])
def test_links_in_place_of_our_folders_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ForeignFolderError):
        ArchiveFolder(tmp_path / "out").claim()
    assert os.listdir(tmp_path / "elsewhere") == []


@pytest.mark.parametrize(
    ("first", "second", "together"),
    [
        (None, None, False),
        (None, (1, 2), False),
        ((1, 2), None, False),
        ((1, 2), (1, 2), False),
        ((1, 2), (2, 2), True),
        ((1, 2), (1, 3), False),
    ],
)
def test_only_shards_of_one_number_work_side_by_side(
    first: Shard | None, second: Shard | None, together: bool, folder: ArchiveFolder
) -> None:
    with folder.locked(first):
        if together:
            with folder.locked(second):
                assert len(folder.at_work()) == 2
        else:
            with pytest.raises(LockedError), folder.locked(second):
                pass
    with folder.locked(second):  # and afterwards all is free again
        pass
    assert folder.at_work() == []


def forge(folder: Path, **changes: Any) -> None:
    """The lock of another run: that of this process, with changes."""
    with RunLock(folder):
        record = json.loads((folder / "lock").read_bytes())
    (folder / "lock").write_text(json.dumps(record | {"token": "a" * 32} | changes))


def test_a_lock_of_the_dead_is_seen_through(folder: ArchiveFolder) -> None:
    forge(folder.work, start=1.0)  # another process has got the number
    assert folder.at_work() == []
    with folder.locked((1, 2)) as held:
        held.check()
    forge(folder.work, host="elsewhere", pid=17)
    assert [who.split(",")[0] for who in folder.at_work()] == ["process 17 on elsewhere"]
    with pytest.raises(LockedError, match="elsewhere"), folder.locked((1, 2)):
        pass
    os.utime(folder.work / "lock", (time.time() - 999,) * 2)
    assert folder.at_work() == []


def test_a_holder_elsewhere_that_may_be_dead_is_watched_until_that_is_known(
    folder: ArchiveFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch that a scheduler has put onto another machine meets its own lock."""
    monkeypatch.setattr(lock, "Heartbeat", lambda: Heartbeat(0.05, 0.4))
    for shard in (None, (1, 2)):
        forge(folder.work, host="elsewhere")
        told: list[str] = []
        with folder.locked(shard, told.append) as held:
            held.check()
        assert "elsewhere" in told[0]


def test_a_shard_that_comes_between_is_seen(
    folder: ArchiveFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard takes its lock just when a whole batch has listed those that there are."""
    listed = ArchiveFolder._states, ArchiveFolder._shards
    with ExitStack() as stack:

        def late(shards: Any) -> Any:
            def list_then_start(self: ArchiveFolder) -> Any:
                found = shards(self)
                monkeypatch.undo()
                stack.enter_context(ArchiveFolder(self.root).locked((1, 2)))
                return found

            return list_then_start

        for name, shards in zip(("_states", "_shards"), listed, strict=True):
            monkeypatch.setattr(ArchiveFolder, name, late(shards))
        with pytest.raises(LockedError), folder.locked(None):
            pass
        assert len(folder.at_work()) <= 1


def test_a_batch_that_was_succeeded_may_write_no_more(folder: ArchiveFolder) -> None:
    for shard in (None, (1, 2)):
        with folder.locked(shard) as held:
            held.check()
            (folder.state(shard) / "lock").unlink()
            with RunLock(folder.state(shard)), pytest.raises(LockedError, match="taken over"):
                held.check()


def test_merging_waits_for_its_turn(folder: ArchiveFolder, monkeypatch: Any) -> None:
    monkeypatch.setattr("wsiseg.archive.folder._MERGE_PATIENCE_S", 0)
    with folder.merging(), pytest.raises(LockedError), folder.merging():
        pass
    monkeypatch.undo()
    with folder.merging(), pytest.raises(LockedError), folder.merging(lambda: False):
        pass
    with folder.merging():
        pass


def test_a_lock_that_cannot_be_read_is_a_typed_error(folder: ArchiveFolder) -> None:
    with folder.locked(None) as held:
        (folder.work / "lock").unlink()
        (folder.work / "lock").mkdir()  # of all errors of a storage the one that can be made
        with pytest.raises(OutputError):
            held.check()


@pytest.mark.timeout(20)
def test_who_is_to_stop_does_not_watch_whether_another_that_merges_is_dead(
    folder: ArchiveFolder,
) -> None:
    with folder.merging():
        path = folder.work / "merge" / "lock"
        told = json.loads(path.read_bytes()) | {"host": "elsewhere"}
    path.write_text(json.dumps(told))
    os.utime(path, (0, 0))  # one that seems dead is watched for 33 s
    with pytest.raises(LockedError, match="elsewhere"), folder.merging(lambda: False):
        pass


def test_a_link_as_a_slide_folder_leads_nowhere(folder: ArchiveFolder, tmp_path: Path) -> None:
    (folder.root / "slides" / "a").symlink_to(tmp_path)
    with pytest.raises(ForeignFolderError, match="link"):
        folder.slide("a")
    assert folder.slide("b") == folder.root / "slides" / "b"


def test_a_whole_batch_holds_the_shards_that_were_there(folder: ArchiveFolder) -> None:
    with folder.locked((1, 2)):
        pass
    with folder.locked(None), pytest.raises(LockedError):
        RunLock(folder.state((1, 2)))
