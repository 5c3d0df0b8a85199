"""The batch: an archive of slides, run to its end however often it is stopped on the way."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsiseg.archive.book import Book
from wsiseg.archive.drive import Drive
from wsiseg.archive.folder import ArchiveFolder, Shard
from wsiseg.archive.journal import read_journal
from wsiseg.archive.pool import Pool, Processes
from wsiseg.archive.records import Record
from wsiseg.archive.request import Request
from wsiseg.archive.resume import left_behind, records_of, waiting
from wsiseg.archive.rows import SlideRow
from wsiseg.archive.tasks import Task
from wsiseg.interrupt import Stop, stoppable

__all__ = ["Outcome", "batch", "run_batch", "run_stoppable"]

OnChange = Callable[[Record], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a batch has come to."""

    archive: Path
    """The folder."""
    records: tuple[Record, ...]
    """Of the slides that it was asked for, ordered by id."""
    stopped: str | None = None
    """"preempted" or "interrupted", where a signal stopped it."""
    broken: str | None = None
    """Why no slide could be run any more, such as a full disk."""

    def of(self, state: str) -> list[Record]:
        """Those in a state."""
        return [record for record in self.records if record.state == state]

    @property
    def ok(self) -> bool:
        """Whether all is done, but for what was not selected; earlier failures count."""
        return all(r.state == "done" or r.code == "not-selected" for r in self.records)


def batch(
    source: str | os.PathLike[str] | Iterable[SlideRow],
    out: str | os.PathLike[str],
    *,
    config: str | os.PathLike[str] | None = None,
    only: Iterable[str] = (),
    retry_failed: bool = False,
    fail_fast: bool = False,
    fresh: bool = False,
    shard: str | Shard | None = None,
    on_change: OnChange | None = None,
    **settings: Any,
) -> Outcome:
    """Segment many slides into the archive ``out``; the same call goes on where one was stopped.

    ``source``: a manifest (.csv, .parquet, .jsonl), a folder, a pattern, or rows. ``config``: a
    TOML file of settings; ``settings`` go before it: fields of ``wsiseg.archive.config.Policy``
    (workers, timeout_s, attempts, max_failures, ...) and of ``wsiseg.run.job.Job`` (model, stain,
    formats, ...), which hold for slides whose row has none of its own. ``only``: ids to run.
    ``shard``: "i/N" runs the i-th of N parts, which need nothing of each other.

    Every slide runs in a process of its own. One that fails stops no other: see ``records`` of
    what is returned, and ``status.json`` in the archive. ``on_change`` is told every change.

    Raises SettingsError, InputFileError and the kin of RunFolderError before anything is run
    (LockedError where a batch is at work in the archive), OutputError where the archive cannot be
    written. SIGINT and SIGTERM end it after what is at work has been stored, with
    KeyboardInterrupt and InterruptedRunError.
    """
    request = Request.of(
        source,
        config=config,
        only=only,
        retry_failed=retry_failed,
        fail_fast=fail_fast,
        fresh=fresh,
        shard=shard,
        **settings,
    )
    return run_stoppable(request, out, on_change)


def run_stoppable(
    request: Request, out: str | os.PathLike[str], on_change: OnChange | None = None
) -> Outcome:
    """``run_batch`` until a signal stops it; raises as ``batch``."""
    with stoppable() as stop:
        outcome = run_batch(request, out, stop=stop, on_change=on_change)
        stop.check()
    return outcome


def run_batch(
    request: Request,
    out: str | os.PathLike[str],
    *,
    stop: Stop,
    on_change: OnChange | None = None,
    pool: Pool | None = None,
) -> Outcome:
    """Do what is asked for; ``pool`` overrides the processes of this machine. Raises as batch."""
    folder = ArchiveFolder(out)
    folder.claim()
    with folder.locked(request.shard):
        folder.settle(request.parts(), fresh=request.fresh and not request.only)
        book, own = _open_book(request, folder, on_change)
        pool = pool or Processes(request.workers, request.policy.timeout_s)
        try:
            drive = Drive(pool, request.policy, _task_maker(request, folder), book)
            stopped = drive.run(waiting(own), lambda: stop.state)
            book.finish()
        finally:
            pool.close()
            book.close()
        ids = {record.slide_id for record in own}
        records = sorted((book.records[i] for i in ids), key=lambda r: r.slide_id)
        broken = drive.broken.message if drive.broken else None
        return Outcome(folder.root, tuple(records), stopped, broken)


def _open_book(
    request: Request, folder: ArchiveFolder, on_change: OnChange | None
) -> tuple[Book, list[Record]]:
    """The book of this batch, and the records of its slides."""
    known = folder.records()
    own = records_of(request, filter(request.mine, request.rows), known, folder)
    # a whole batch takes over what shards have written, a shard only its own
    kept = read_journal(folder.state(request.shard)) if request.shard else known
    others = left_behind(request, kept)
    elsewhere = [row for row in request.rows if not request.mine(row)]
    book = Book(folder, request.shard, [*own, *others], on_change, elsewhere)
    book.show()
    for record in own:
        if record.state == "failed" and on_change is not None:
            on_change(record)
    return book, own


def _task_maker(request: Request, folder: ArchiveFolder) -> Callable[[Record], Task]:
    rows = {row.slide_id: row for row in request.rows}

    def task_of(record: Record) -> Task:
        row = rows[record.slide_id]
        return Task(
            "segment",
            row.slide_id,
            row.path,
            str(folder.slide(row.slide_id)),
            request.job_settings(row),
            request.threads,
            fresh=request.fresh and record.attempts == 0,
        )

    return task_of
