"""Mirror: an archive at a URL, made in a working folder and published from there.

An object store has no rename, locks, links or append, so the batch works in a folder of this
machine, which is an archive like any other, and each thing goes to the store when it is final:
the files of a slide, then its record, then journal and status. What is published is dropped here;
what is not is kept, and published by the next batch.
"""

from __future__ import annotations

import hashlib
import json
import os
import queue
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from wsiseg.archive.cohort import COHORT
from wsiseg.archive.dataset import PART, drop_part
from wsiseg.archive.folder import SETTINGS, WORK, ArchiveFolder, Shard
from wsiseg.archive.ids import quoted
from wsiseg.archive.journal import JOURNAL, line_of
from wsiseg.archive.lease import Lease, must_be_dead
from wsiseg.archive.pool import Pool
from wsiseg.archive.publish import Publishing
from wsiseg.archive.pull import DONE, Listing, part_name, pull
from wsiseg.archive.records import Record
from wsiseg.archive.sums import SUMS
from wsiseg.archive.tasks import Task
from wsiseg.atomic import atomic_write, make_folder
from wsiseg.engine.lock import LOCK, Heartbeat
from wsiseg.errors import ForeignFolderError, LockedError, OutputError
from wsiseg.hashing import sha256_of
from wsiseg.storage.store import Store

__all__ = ["Mirror"]

MARK = "remote.json"
"""Says in the working folder which URL it belongs to."""
_KEPT = ".wsiseg/made.json"
_MANIFEST = ".wsiseg/manifest.json"
_STATUS = ("status.json", "status.parquet", "status.md")
_STEP_S = 0.5
_AT_ONCE = 16  # small requests
_STATUS_S = 5.0
_JOURNAL_S = 60.0
_SHARE = 0.05  # of the time that may go into publishing journal and status
_OTHERS_S = 300.0  # how old what is known of other shards may be
_MERGE_PATIENCE_S = 600.0
_LAST_S = 3.0
_LAST_PUTS_S = 10.0  # for the state of a batch that is told to stop
_PATIENCE_S = 60.0  # with a store that does not answer at the end


class Mirror:
    """One batch, or one shard, of the archive at ``url`` (see ``wsiseg.storage.url.absolute``).

    ``work``: where working folders lie; below the user's cache by default. Raises SettingsError,
    MissingExtraError, ForeignFolderError, OutputError; writes nothing.
    """

    def __init__(
        self,
        url: str,
        shard: Shard | None,
        work: str | os.PathLike[str] | None = None,
        heartbeat: Heartbeat | None = None,
    ) -> None:
        self.store = Store(url)
        self.shown: str | Path = url
        base = Path(work) if work else _cache() / hashlib.sha256(url.encode()).hexdigest()[:16]
        own = f"shard-{shard[0]}-of-{shard[1]}" if shard else "whole"
        self.folder = ArchiveFolder(base / own)
        """Where the batch works, and what it shows to people."""
        self.is_sending = False
        """Whether an object may still be on its way when all else has ended."""
        self._shard, self._heartbeat = shard, heartbeat
        self._leases: list[Lease] = []
        self._state = self.folder.state(shard).relative_to(self.folder.root).as_posix()
        self._asked: dict[str, str] = {}
        self._listing: Listing | None = None
        self._done: queue.SimpleQueue[Record] = queue.SimpleQueue()
        self._late: list[Record] = []  # whose records are not published yet
        self._loose: list[str] = []  # records that the journal in the store may not have
        self._seen: dict[str, tuple[int, int]] = {}  # time and size of files as published
        self._others = time.monotonic()
        self._one_at_a_time = threading.RLock()
        self._stop = threading.Event()
        self._must_be_ours()

    @contextmanager
    def held(self, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
        """Hold the archive in the store for the block, bring its state here, and publish.

        ``waiting`` as in ``Lease``. Raises LockedError where another batch holds it.
        """
        with ExitStack() as stack:
            # its own lock first: of two that come at once, at least one then sees the other
            own = f"{self._state}/{LOCK}"
            stack.callback(self._let_go, self._taken(own, waiting))
            for name in self._all_locks():
                if self._shard is None and name != own:
                    stack.callback(self._let_go, self._taken(name, waiting))
            if self._shard is not None:
                self._must_be_free_of_others(waiting)
            with atomic_write(self.folder.work / MARK) as file:
                file.write(json.dumps({"url": self.store.url}).encode())
            found = self.store.listing(f"{self._state}/{DONE}/")
            self._loose += found
            make_folder(self.folder.state(self._shard))
            pull(self.store, self.folder, self.folder.state(self._shard))
            self._listing = Listing(self.store)
            thread = threading.Thread(target=self._run, name="wsiseg-mirror", daemon=True)
            try:
                thread.start()
                yield
            finally:
                self._stop.set()
                thread.join(0 if self.is_sending else _LAST_S)
                self.is_sending |= thread.is_alive()

    def check(self) -> None:
        """LockedError where another batch has taken the archive over; OutputError for silence."""
        for lease in self._leases:
            lease.check()

    def is_intact(self, record: Record) -> bool:
        """Whether the files of a slide that is done are in the store, by their sizes."""
        assert self._listing is not None
        return self._listing.is_intact(record)

    def pool(self, inner: Pool, own: Iterable[Record]) -> Pool:
        """``inner``, whose slides are done when they are published; ``own``: all of this batch.

        Slides that are not done are taken out of the data set of all cells, as in a folder. Raises
        OutputError, LockedError.
        """
        assert self._listing is not None
        undone = []
        for record in own:
            self._asked[record.slide_id] = record.asked
            if record.state == "done":
                self._drop(record.slide_id)
            elif self._listing.has_part(record.slide_id):
                undone.append(part_name(record.slide_id))
        # from now on the store holds an archive, of which status tells
        self._put_changed([f"{WORK}/{SETTINGS}", *_STATUS])
        self.check()
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            list(threads.map(self.store.remove, undone))
        return Publishing(inner, self)

    def told(self, record: Record) -> None:
        """A record has changed, and the journal here says so."""
        if record.state == "done":
            self._done.put(record)

    def finish(
        self, write: Callable[[], None], asked_to_stop: Callable[[], str | None]
    ) -> str | None:
        """Let ``write`` make the tables of all slides, and publish all; why not, where it fails.

        Once ``asked_to_stop`` nobody is waited for.
        """
        lease = None
        try:
            if self._shard is not None:
                lease = self._merge_lease(asked_to_stop)
                pull(self.store, self.folder, self.folder.state(self._shard), others=True)
        except (OutputError, LockedError) as error:
            write()
            return self._published([], asked_to_stop) or self._kept_here(error)
        try:
            write()
            return self._published([COHORT, SUMS], asked_to_stop)
        finally:
            if lease is not None:
                lease.release()

    def keep(self, slide_id: str, facts: dict[str, Any]) -> None:
        """Note durably what a slide has come to, until it is published."""
        with atomic_write(self.folder.slide(slide_id) / _KEPT) as file:
            file.write(json.dumps({"asked": self._asked[slide_id], "facts": facts}).encode())

    def kept(self, task: Task) -> dict[str, Any] | None:
        """What the slide of a task came to before, if that still holds; else it is forgotten."""
        path = self.folder.slide(task.slide_id) / _KEPT
        with suppress(FileNotFoundError, ValueError, TypeError, KeyError):
            found = json.loads(path.read_bytes())
            if found["asked"] == self._asked[task.slide_id] and not task.fresh:
                return dict(found["facts"])
        path.unlink(missing_ok=True)
        return None

    def publish(self, slide_id: str, facts: dict[str, Any], closing: threading.Event) -> bool:
        """Put all files of a slide, the data set last; False where ``closing`` came before.

        Raises OutputError where the store fails, or where a file is not what was written: then it
        has to be made again.
        """
        folder, there = self.folder.slide(slide_id), f"slides/{slide_id}"
        for name, (_, digest) in facts["outputs"].items():
            if sha256_of(folder / name) != digest:
                (folder / _KEPT).unlink(missing_ok=True)
                raise OutputError(f"{folder / name} is not as it was written: it is made anew")
        files = {f"{there}/{name}": folder / name for name in (*facts["outputs"], _MANIFEST)}
        seen = self.store.listing(f"{there}/")
        for name, path in (files | {part_name(slide_id): folder / PART}).items():
            self.check()
            if closing.is_set():
                return False
            self.store.put_file(name, path, seen.get(name))
        for name in seen.keys() - files.keys():  # of other settings
            self.store.remove(name)
        return True

    def _must_be_ours(self) -> None:
        """ForeignFolderError where the URL, or the working folder, holds files of others."""
        url, root = self.store.url, self.folder.root
        if self.store.look(f"{WORK}/{SETTINGS}") is None:
            strangers = sorted(set(self.store.names()) - {WORK})
            if strangers:
                raise ForeignFolderError(
                    f"{url} holds objects that are not of a wsiseg archive, such as "
                    f"{strangers[0]}: choose another --out; nothing was written"
                )
        if not root.exists() or not os.listdir(root):
            return
        try:
            marked = json.loads((root / WORK / MARK).read_bytes())["url"]
        except (OSError, ValueError, TypeError, KeyError):
            marked = None if (root / WORK / SETTINGS).exists() else url
        # slides that are published are dropped there: never those of another archive
        if marked != url:
            raise ForeignFolderError(
                f"{root} is no working folder of {url}: choose another --work; nothing was written"
            )

    def _taken(self, name: str, waiting: Callable[[str], None] | None) -> Lease:
        self._leases.append(Lease(self.store, name, self._heartbeat, waiting))
        return self._leases[-1]

    def _all_locks(self) -> list[str]:
        """Of the whole, and of every shard that has written anything."""
        folders = {n.split("/")[1] for n in self.store.listing(f"{WORK}/") if n.count("/") > 1}
        shards = (name for name in folders if name.startswith("shard-"))
        return [f"{WORK}/{LOCK}", *(f"{WORK}/{name}/{LOCK}" for name in sorted(shards))]

    def _must_be_free_of_others(self, waiting: Callable[[str], None] | None) -> None:
        """LockedError where a whole batch, or a shard of another number, is at work."""
        assert self._shard is not None
        for name in self._all_locks():
            seen = self.store.look(name)
            if seen is not None and f"-of-{self._shard[1]}/" not in name:
                must_be_dead(self.store, name, seen, self._heartbeat, waiting)

    def _merge_lease(self, asked_to_stop: Callable[[], str | None]) -> Lease:
        deadline = time.monotonic() + _MERGE_PATIENCE_S

        def waiting(who: str) -> None:
            if asked_to_stop():
                raise LockedError(f"{self.store.url}: {who} makes the tables of all slides")

        while True:
            try:
                return Lease(self.store, f"{WORK}/merge/{LOCK}", self._heartbeat, waiting)
            except LockedError:
                if time.monotonic() > deadline or asked_to_stop():
                    raise
                time.sleep(_STEP_S)

    def _let_go(self, lease: Lease) -> None:
        # whoever comes next waits until what is on its way has surely arrived, or not
        lease.release(silently=self.is_sending)

    def _run(self) -> None:
        """Publish records as they come, journal and status as often as that costs little."""
        periods = {self._put_status: _STATUS_S, self._put_journal: _JOURNAL_S}
        due = {put: time.monotonic() + period for put, period in periods.items()}
        while not self._stop.is_set():
            with suppress(queue.Empty):
                self._late.append(self._done.get(timeout=_STEP_S))
            try:
                self._put_records()
                for put, period in periods.items():
                    began = time.monotonic()
                    if began >= due[put]:
                        put()
                        due[put] = began + max(period, (time.monotonic() - began) / _SHARE)
            except OSError:  # also of this machine; at the end it is said, if it stays so
                self._stop.wait(_STATUS_S)

    def _published(
        self, tables: Sequence[str], asked_to_stop: Callable[[], str | None]
    ) -> str | None:
        """Publish what there is, at the end; why not, where the store does not answer for long."""
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            error = self._put_all(tables, asked_to_stop)
            if error is None:
                return None
            if time.monotonic() > deadline or asked_to_stop():
                self.is_sending = True  # what was sent last may arrive yet
                return self._kept_here(error)
            time.sleep(_STEP_S)

    def _put_all(
        self, tables: Sequence[str], asked_to_stop: Callable[[], str | None]
    ) -> OSError | None:
        """Put what there is; once asked to stop, a request that hangs is soon left behind."""
        ended: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()

        def put() -> None:
            try:
                self._put_records()
                self._put_changed(tables)
                self._put_journal()
                self._put_status()
            except Exception as error:
                ended.put(error)
            else:
                ended.put(None)

        threading.Thread(target=put, name="wsiseg-mirror-end", daemon=True).start()
        patience = _LAST_S if self.is_sending else _LAST_PUTS_S
        while patience > 0:
            with suppress(queue.Empty):
                error = ended.get(timeout=_STEP_S)
                if isinstance(error, LockedError) or not isinstance(error, OSError | None):
                    raise error
                return error
            patience -= _STEP_S if asked_to_stop() else 0.0
        return OutputError(f"cannot reach {self.store.url}: no answer")

    def _kept_here(self, error: Exception) -> str:
        return f"{error} (what is not published yet is kept in {self.folder.root})"

    def _put_records(self) -> None:
        with self._one_at_a_time:
            while not self._done.empty():
                self._late.append(self._done.get())
            while self._late:
                self.check()
                record = self._late[0]
                name = f"{self._state}/{DONE}/{quoted(record.slide_id)}.json"
                self.store.put(name, line_of(record))
                self._loose.append(name)
                self._drop(record.slide_id)
                self._late.pop(0)

    def _put_journal(self) -> None:
        with self._one_at_a_time:
            if self._shard is not None and time.monotonic() - self._others > _OTHERS_S:
                pull(self.store, self.folder, self.folder.state(self._shard), others=True)
                self._others = time.monotonic()
            # all records that are loose now are in the journal that is read next
            self._put_changed([f"{self._state}/{JOURNAL}"])
            while self._loose:
                self.store.remove(self._loose[-1])
                self._loose.pop()

    def _put_status(self) -> None:
        self._put_changed(_STATUS)

    def _put_changed(self, names: Iterable[str]) -> None:
        with self._one_at_a_time:
            for name in names:
                path = self.folder.root / name
                try:
                    found = path.stat()
                except FileNotFoundError:
                    continue
                if self._seen.get(name) != (found.st_mtime_ns, found.st_size):
                    self.check()
                    self.store.put(name, path.read_bytes())
                    self._seen[name] = (found.st_mtime_ns, found.st_size)

    def _drop(self, slide_id: str) -> None:
        """Remove what the store has by now."""
        folder = self.folder.slide(slide_id)
        if folder.exists():
            shutil.rmtree(folder, ignore_errors=True)
            drop_part(self.folder.root, slide_id)


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "wsiseg" / "batch"
