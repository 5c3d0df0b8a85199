"""The batch: an archive of slides, run to its end however often it is stopped on the way."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsiseg.archive.book import Book
from wsiseg.archive.drive import Drive
from wsiseg.archive.folder import ArchiveFolder, Held, Shard
from wsiseg.archive.journal import read_journal
from wsiseg.archive.place import Place, place_of
from wsiseg.archive.pool import Pool
from wsiseg.archive.records import Record
from wsiseg.archive.request import Request
from wsiseg.archive.resume import left_behind, records_of, waiting
from wsiseg.archive.rows import SlideRow
from wsiseg.archive.tasks import Task
from wsiseg.archive.workplace import workplace
from wsiseg.engine.lock import Heartbeat
from wsiseg.interrupt import Stop, stoppable
from wsiseg.pulse import felt

__all__ = ["Outcome", "batch", "run_batch", "run_stoppable"]

_log = logging.getLogger(__name__)
_TELL_S = 10.0

OnChange = Callable[[Record], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a batch has come to."""

    archive: str | Path
    """The folder, or its URL."""
    records: tuple[Record, ...]
    """Of the slides that it was asked for, ordered by id."""
    stopped: str | None = None
    """"preempted" or "interrupted", where a signal stopped it."""
    broken: str | None = None
    """Why no slide could be run any more, such as a full disk, or why the tables of all slides are
    not where they belong."""

    def of(self, state: str) -> list[Record]:
        """Those in a state."""
        return [record for record in self.records if record.state == state]

    @property
    def ok(self) -> bool:
        """Whether all is done, but for what was not selected; earlier failures count."""
        left = (r for r in self.records if r.state != "done" and r.code != "not-selected")
        return self.broken is None and not any(left)


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

    ``out``: a folder, or a URL of an object store such as ``s3://bucket/archive``.

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
    request: Request,
    out: str | os.PathLike[str],
    on_change: OnChange | None = None,
    notice: Callable[[str], None] = _log.info,
) -> Outcome:
    """``run_batch`` until a signal stops it; raises as ``batch``."""
    with stoppable() as stop:
        outcome = run_batch(request, out, stop=stop, on_change=on_change, notice=notice)
        stop.check()
    return outcome


def run_batch(
    request: Request,
    out: str | os.PathLike[str],
    *,
    stop: Stop,
    on_change: OnChange | None = None,
    notice: Callable[[str], None] = _log.info,
    pool: Pool | None = None,
) -> Outcome:
    """Do what is asked for; ``pool`` overrides the one that the request asks for.

    ``notice`` is told what the user should know while it runs. Raises as ``batch``.
    """
    place = place_of(out, request)
    folder = place.folder
    folder.claim()
    waiting_for = _waiting(place.shown, stop)
    with folder.locked(request.shard, waiting_for) as held, place.held(waiting_for):
        folder.settle(request.parts(), fresh=request.fresh and not request.only)
        known = folder.records()
        request = request.keeping(known)
        with felt(_every(_TELL_S, lambda: notice("still hashing inputs, to see what has changed"))):
            book, own = _open_book(request, place, known, held, on_change)
        todo, logs = waiting(own), folder.work / "jobs"
        try:
            with workplace(request, pool, logs, stop, notice, bool(todo)) as (inner, now):
                task_of, failures = _task_maker(now, folder), _failed_now(own, known)
                with closing(place.pool(inner, own)) as outer:
                    drive = Drive(outer, request.policy, task_of, book, failures=failures)
                    stopped = drive.run(todo, lambda: stop.state)
            unpublished = place.finish(lambda: book.finish(lambda: stop.state), lambda: stop.state)
        finally:
            book.close()
        ids = {record.slide_id for record in own}
        records = sorted((book.records[i] for i in ids), key=lambda r: r.slide_id)
        broken = drive.broken.message if drive.broken else unpublished
        return Outcome(place.shown, tuple(records), stopped, broken)


def _open_book(
    request: Request,
    place: Place,
    known: Mapping[str, Record],
    held: Held,
    on_change: OnChange | None,
) -> tuple[Book, list[Record]]:
    """The book of this batch, and the records of its slides; ``known``: of all, from before."""
    folder = place.folder
    mine = filter(request.mine, request.rows)
    own = records_of(request, mine, known, folder, place.is_intact)
    # a whole batch takes over what shards have written, a shard only its own
    kept = read_journal(folder.state(request.shard)) if request.shard else known
    others = left_behind(request, kept)
    elsewhere = [row for row in request.rows if not request.mine(row)]

    def tell(record: Record) -> None:
        place.told(record)
        if on_change is not None:
            on_change(record)

    book = Book(folder, request.shard, [*own, *others], tell, elsewhere, held=held)
    book.show()
    for record in own:
        if record.state == "failed" and on_change is not None:
            on_change(record)
    return book, own


def _every(seconds: float, do: Callable[[], None]) -> Callable[[], None]:
    """``do``, but not more often than that, and not at first."""
    last = time.monotonic()

    def sometimes() -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            last = time.monotonic()
            do()

    return sometimes


def _failed_now(own: Iterable[Record], known: Mapping[str, Record]) -> int:
    """How many have failed before anything was run; earlier failures that stand do not count."""
    failed = (record for record in own if record.state == "failed")
    before = {record.slide_id: record.change for record in known.values()}
    return sum(r.code == "missing-file" or r.change != before.get(r.slide_id) for r in failed)


def _waiting(archive: str | Path, stop: Stop) -> Callable[[str], None]:
    """Says once for whom the archive waits, and ends the wait on a signal."""
    told = set[str]()

    def waiting_for(who: str) -> None:
        stop.check()
        if who not in told:
            told.add(who)
            _log.warning(
                "%s is locked by %s: waiting until it shows life or counts as dead, up to %.0f s",
                *(archive, who, Heartbeat().stale_s + Heartbeat().watch_s),
            )

    return waiting_for


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
            spread=request.threads is not None and "max_memory" not in request.settings,
            whole=request.whole(record.input_bytes),
            fresh=request.fresh and record.attempts == 0,
        )

    return task_of
