"""Book: the records of an archive while a batch is at work, kept on disk as they change."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from wsiseg.archive.cohort import write_cohort
from wsiseg.archive.dataset import PART, add_part, drop_part, drop_parts, part_of
from wsiseg.archive.folder import ArchiveFolder, Held, Shard
from wsiseg.archive.journal import Journal
from wsiseg.archive.records import Record
from wsiseg.archive.rows import SlideRow
from wsiseg.archive.status import StatusFiles
from wsiseg.archive.sums import write_sums
from wsiseg.errors import LockedError

__all__ = ["Book", "is_intact"]

OnChange = Callable[[Record], None]
_LOOK_S = 1.0  # how long a batch may go on that has lost its lock
_LOOK_WHEN_QUIET_S = 15.0


class Book:
    """Journal first, then status files and data set; a Teller for ``Drive``.

    Raises LockedError, and writes nothing, once another batch has taken the archive over.
    """

    def __init__(
        self,
        folder: ArchiveFolder,
        shard: Shard | None,
        records: Iterable[Record],
        on_change: OnChange | None,
        elsewhere: Iterable[SlideRow] = (),
        *,
        held: Held | None = None,
    ) -> None:
        self.records = {record.slide_id: record for record in records}
        """Those that this batch writes about."""
        waiting = (Record(r.slide_id, "pending", path=r.path, group=r.group) for r in elsewhere)
        self._elsewhere = {record.slide_id: record for record in waiting}
        self._folder, self._shard, self._on_change = folder, shard, on_change
        self._held, self._looked = held, float("-inf")
        undone = [r.slide_id for r in self.records.values() if r.state != "done"]
        drop_parts(folder.root, undone)
        self._journal = Journal(folder.state(shard), self.records.values())
        self._status = StatusFiles(folder.root)
        self._progress: dict[str, tuple[int, int]] = {}
        self._changed = True
        self._began, self._bytes = time.monotonic(), 0

    def tell(self, record: Record) -> None:
        """Write a change down."""
        self._must_be_ours(_LOOK_S)
        root = self._folder.root
        if record.state == "done":
            add_part(root, record.slide_id, self._folder.slide(record.slide_id) / PART)
        elif record.state == "running":
            drop_part(root, record.slide_id)
        self._journal.add(record)
        self.records[record.slide_id] = record
        self._progress.pop(record.slide_id, None)
        self._changed = True
        if record.state in ("done", "failed"):
            self._bytes += record.input_bytes or 0
        if self._on_change is not None:
            self._on_change(record)

    def progress(self, slide_id: str, done: int, total: int) -> None:
        """Note how far a running slide is."""
        self._progress[slide_id] = (done, total)
        self._changed = True

    def tick(self) -> None:
        """Write the status files, if something has changed and it is time to."""
        self._must_be_ours(_LOOK_WHEN_QUIET_S)
        if self._changed and self._status.due():
            self.show()

    def show(self) -> None:
        """Write the status files, with what other shards have done."""
        self._must_be_ours(_LOOK_S)
        at_work = [f"process {os.getpid()} on {socket.gethostname()}"]
        live = {
            "at_work": at_work,
            "progress": dict(self._progress),
            "remaining_s": self._remaining(),
        }
        self._status.write(self._all().values(), live)
        self._changed = False

    def finish(self, asked_to_stop: Callable[[], str | None] = lambda: None) -> None:
        """Write status, cohort and checksums of all that is done.

        Once ``asked_to_stop`` nobody is waited for: who holds the tables then, or the same command
        later, writes them.
        """
        self._progress.clear()
        self._must_be_ours(0)
        try:
            with self._folder.merging(lambda: asked_to_stop() is None):
                self.show()
                records = list(self._all().values())
                write_cohort(self._folder.root, records)
                write_sums(self._folder.root, records)
        except LockedError:
            if asked_to_stop() is None:
                raise
            self.show()

    def _must_be_ours(self, after_s: float) -> None:
        """Look whether our locks are still ours, if that was ``after_s`` seconds ago."""
        now = time.monotonic()
        if self._held is not None and now - self._looked >= after_s:
            self._held.check()
            self._looked = now

    def _remaining(self) -> float | None:
        """Seconds to go, as the bytes of the slides that have ended suggest; None without any."""
        left = (r for r in self.records.values() if r.state in ("pending", "running"))
        waiting = sum(record.input_bytes or 0 for record in left)
        elapsed = time.monotonic() - self._began
        return round(elapsed / self._bytes * waiting, 1) if self._bytes else None

    def _all(self) -> dict[str, Record]:
        """What is known of every slide: of other shards, as they have written it down."""
        if self._shard is None:
            return self.records
        return self._elsewhere | self._folder.records() | self.records

    def close(self) -> None:
        """Close the journal."""
        self._journal.close()


def is_intact(root: Path, record: Record) -> bool:
    """Whether the files of a slide that is done are there, by their sizes."""
    folder = root / "slides" / record.slide_id
    sizes = {folder / name: size for name, (size, _) in record.outputs.items()}
    sizes[part_of(root, record.slide_id)] = record.outputs.get(PART, [None])[0]
    try:
        return bool(record.outputs) and all(p.stat().st_size == n for p, n in sizes.items())
    except OSError:
        return False
