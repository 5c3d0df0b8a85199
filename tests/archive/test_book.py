"""The book: it is written by the holder of the locks alone, and never holds up an end."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from wsiseg.archive import book as module
from wsiseg.archive.book import Book
from wsiseg.archive.folder import ArchiveFolder, Held
from wsiseg.archive.records import Record
from wsiseg.engine.lock import RunLock
from wsiseg.errors import LockedError


@pytest.fixture
def folder(tmp_path: Path) -> ArchiveFolder:
    made = ArchiveFolder(tmp_path / "out")
    made.claim()
    return made


def book_of(folder: ArchiveFolder, held: Held | None = None) -> Book:
    return Book(folder, None, [Record("a", "pending")], None, held=held)


def content(folder: ArchiveFolder) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("what", ["tell", "tick", "show", "finish"])
def test_whoever_was_taken_for_dead_writes_no_more(
    what: str, folder: ArchiveFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LOOK_S", 0)
    monkeypatch.setattr(module, "_LOOK_WHEN_QUIET_S", 0)
    with folder.locked(None) as held:
        book = book_of(folder, held)
        book.show()
        (folder.work / "lock").unlink()  # what being succeeded comes to
        with RunLock(folder.work):
            before = content(folder)
            book.progress("a", 1, 2)
            with pytest.raises(LockedError, match="taken over"):
                getattr(book, what)(*([Record("a", "running")] if what == "tell" else []))
            assert content(folder) == before
        book.close()


def test_an_end_waits_for_the_tables_of_others_only_while_nobody_asks_to_stop(
    folder: ArchiveFolder,
) -> None:
    book, asked = book_of(folder), iter([None, None])
    with folder.merging():
        book.finish(lambda: next(asked, "preempted"))
        assert "status.json" in os.listdir(folder.root)
        assert "cohort.parquet" not in os.listdir(folder.root)
    book.finish(lambda: "preempted")
    assert "cohort.parquet" in os.listdir(folder.root)
    book.close()


def test_others_that_never_finish_are_named(folder: ArchiveFolder, monkeypatch: Any) -> None:
    monkeypatch.setattr("wsiseg.archive.folder._MERGE_PATIENCE_S", 0)
    book = book_of(folder)
    with folder.merging(), pytest.raises(LockedError, match="in use"):
        book.finish()
    book.close()
