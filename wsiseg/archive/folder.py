"""The archive folder: where everything lies, whose it is, and who is at work in it.

::

    ARCHIVE/slides/<slide_id>/           a run folder, with the files of ``wsiseg segment``
    ARCHIVE/cells/slide_id=<id>/         the cells of all slides as one partitioned data set
    ARCHIVE/cohort.parquet               a row per slide
    ARCHIVE/status.json .parquet .md     how far it is
    ARCHIVE/SHA256SUMS                   of all files of results
    ARCHIVE/.wsiseg/archive.json         which settings hold for all slides
    ARCHIVE/.wsiseg/lock                 who is at work
    ARCHIVE/.wsiseg/journal.jsonl        what is known of each slide
    ARCHIVE/.wsiseg/shard-3-of-16/       lock and journal of a shard

Nothing is written outside ARCHIVE, and nothing into a folder that holds files of others.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from wsiseg.archive.dataset import CELLS
from wsiseg.archive.journal import JOURNAL, newest, read_journal
from wsiseg.archive.records import Record
from wsiseg.atomic import atomic_write, make_folder, remove_temporaries, writing
from wsiseg.engine.lock import LOCK, RunLock, clear, holder
from wsiseg.engine.manifest import differences, plain
from wsiseg.errors import ForeignFolderError, KeyMismatchError, LockedError, RunFolderError

__all__ = ["ArchiveFolder", "Held", "Shard"]

WORK = ".wsiseg"
SETTINGS = "archive.json"
Shard = tuple[int, int]
"""(i, N): the i-th of N, from 1."""

_SCHEMA = 1
_MERGE_PATIENCE_S = 600.0
_WATCHERS = 16


class Held:
    """The locks that a batch holds; it writes only while all of them are its own."""

    def __init__(self, root: Path) -> None:
        self._root, self._locks = root, list[RunLock]()

    def add(self, lock: RunLock) -> RunLock:
        """Count ``lock`` among them."""
        self._locks.append(lock)
        return lock

    def check(self) -> None:
        """Raise LockedError where another batch has taken one over, since this one seemed dead.

        OutputError where that cannot be seen.
        """
        with writing(self._root):
            held = all(lock.held for lock in self._locks)
        if not held:
            raise LockedError(
                f"{self._root} was taken over by another batch, to which this one seemed dead: "
                "this one writes no more; what it has stored is kept, and the other goes on with it"
            )


class ArchiveFolder:
    """Paths of an archive, its records and locks. Makes nothing by itself: see ``claim``."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(os.path.realpath(root))
        """The folder, without symbolic links."""
        self.work = self.root / WORK

    def claim(self) -> None:
        """Make the folder, or see that it is ours; ForeignFolderError, OutputError."""
        with writing(self.root):
            self._must_be_ours()
        for folder in (self.work, self.root / "slides", self.root / CELLS):
            if folder.is_symlink():
                raise self._foreign(folder.name)
        for folder in (self.work, self.root / "slides"):
            make_folder(folder)

    def must_exist(self) -> None:
        """RunFolderError unless there is an archive."""
        if not (self.work / SETTINGS).is_file():
            raise RunFolderError(
                f"{self.root} is no archive: expected the --out of an earlier wsiseg batch"
            )

    def slide(self, slide_id: str) -> Path:
        """Run folder of a slide; ForeignFolderError where links lead it out of the archive."""
        path = self.root / "slides" / slide_id
        if path.is_symlink():  # the folders above it are known to be ours
            raise ForeignFolderError(
                f"{path} leads out of the archive, through a symbolic link: remove the link"
            )
        return path

    def state(self, shard: Shard | None) -> Path:
        """Where a batch, or one shard of it, keeps lock and journal."""
        return self.work / f"shard-{shard[0]}-of-{shard[1]}" if shard else self.work

    def records(self) -> dict[str, Record]:
        """The newest record of each slide, whoever wrote it."""
        return newest(read_journal(folder) for folder in self._states())

    @contextmanager
    def locked(
        self, shard: Shard | None, waiting: Callable[[str], None] | None = None
    ) -> Iterator[Held]:
        """Hold the archive, or one shard of it, for the block; LockedError where others do.

        A whole batch holds all shards too; shards of another number are kept out as well. With
        ``waiting``, holders elsewhere that may be dead are watched until that is known (RunLock).
        """
        held, own = Held(self.root), self.state(shard)
        with ExitStack() as stack:
            # its own lock first: of two that come at once, at least one then sees the other
            make_folder(own)
            stack.enter_context(held.add(RunLock(own, waiting=waiting)))
            if shard is None:
                self._take_shards(stack, held, waiting)
            else:
                kin = f"-of-{shard[1]}"
                others = [f for f in self._states() if not f.name.endswith(kin)]
                with ThreadPoolExecutor(_WATCHERS) as threads:
                    list(threads.map(lambda f: clear(f, waiting=waiting), others))
            remove_temporaries(self.state(shard))
            if shard is None:  # other shards may be writing there
                remove_temporaries(self.root)
            yield held

    @contextmanager
    def merging(self, patient: Callable[[], bool] = lambda: True) -> Iterator[None]:
        """Hold what only one may write at a time: cohort and checksums; shards wait here.

        Raises LockedError where others hold it for too long, or as soon as ``patient`` says no.
        """
        folder = self.work / "merge"
        make_folder(folder)
        deadline = time.monotonic() + _MERGE_PATIENCE_S

        def waiting(who: str) -> None:
            if not patient():
                raise LockedError(f"{self.root}: {who} makes the tables of all slides")

        while True:
            try:
                lock = RunLock(folder, waiting=waiting)
                break
            except LockedError:
                if time.monotonic() > deadline or not patient():
                    raise
                time.sleep(0.5)
        with lock:
            yield

    def at_work(self) -> list[str]:
        """Who is at work, such as "process 17 on host"; judged without touching anything."""
        return [who for who in map(holder, self._states()) if who]

    def check(self, parts: Mapping[str, Any]) -> bool:
        """Whether the archive is bound to the settings ``parts`` yet.

        Raises KeyMismatchError, naming what differs, where it is bound to others; RunFolderError
        where what is stored is damaged. Writes nothing.
        """
        asked, stored = plain(parts), self._stored()
        if stored is not None and stored != asked:
            raise KeyMismatchError(
                f"{self.root} holds slides of other settings "
                f"({'; '.join(differences(stored, asked))}): use those again, start over with "
                "--fresh (this replaces results), or choose another --out"
            )
        return stored is not None

    def settle(self, parts: Mapping[str, Any], *, fresh: bool) -> None:
        """Bind the archive to ``parts``; as ``check``, unless ``fresh``, which replaces others."""
        if fresh or not self.check(parts):
            with atomic_write(self.work / SETTINGS) as file:
                told = {"schema": _SCHEMA, "parts": plain(parts)}
                file.write(json.dumps(told, indent=1, sort_keys=True).encode())

    def _take_shards(
        self, stack: ExitStack, held: Held, waiting: Callable[[str], None] | None
    ) -> None:
        """Lock all shards, at once since a silent holder is watched for long."""
        with ThreadPoolExecutor(_WATCHERS) as threads:
            tried = [threads.submit(RunLock, f, waiting=waiting) for f in self._shards()]
        errors = [error for error in (one.exception() for one in tried) if error]
        for one in tried:
            if one.exception() is None:
                stack.enter_context(held.add(one.result()))
        if errors:
            raise errors[0]

    def _stored(self) -> dict[str, Any] | None:
        path = self.work / SETTINGS
        try:
            found = json.loads(path.read_bytes())
            if found["schema"] == _SCHEMA:
                return dict(found["parts"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise RunFolderError(
                f"{path} is damaged ({error!r}): start over with --fresh, or choose another --out"
            ) from error
        raise RunFolderError(f"{path} is of another version of wsiseg: use that, or --fresh")

    def _states(self) -> list[Path]:
        """Folders with a lock and a journal: of the whole, then of shards."""
        return [self.work, *self._shards()]

    def _shards(self) -> list[Path]:
        return sorted(self.work.glob("shard-*-of-*"))

    def _must_be_ours(self) -> None:
        if not self.root.exists():
            return
        if not self.root.is_dir():
            raise ForeignFolderError(f"{self.root} is a file, not a folder: choose another --out")
        if (self.work / SETTINGS).exists():
            return
        ours = (LOCK, JOURNAL, "shard-", "merge", "remote", WORK)  # a batch that was killed at once
        inside = os.listdir(self.work) if self.work.is_dir() else []
        strangers = [name for name in inside if not name.startswith(ours)]
        strangers += [n for n in os.listdir(self.root) if n not in ("slides", WORK)]
        if strangers:
            raise self._foreign(sorted(strangers)[0])

    def _foreign(self, example: str) -> ForeignFolderError:
        return ForeignFolderError(
            f"{self.root} holds files that are not of a wsiseg archive, such as {example}: choose "
            "another --out, a new or an empty folder; nothing was written"
        )
