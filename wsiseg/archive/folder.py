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
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil

from wsiseg.archive.journal import JOURNAL, newest, read_journal
from wsiseg.archive.records import Record
from wsiseg.atomic import atomic_write, make_folder, remove_temporaries, writing
from wsiseg.engine.lock import LOCK, RunLock
from wsiseg.engine.manifest import differences, plain
from wsiseg.errors import ForeignFolderError, KeyMismatchError, LockedError, RunFolderError

__all__ = ["ArchiveFolder", "Shard"]

WORK = ".wsiseg"
SETTINGS = "archive.json"
Shard = tuple[int, int]
"""(i, N): the i-th of N, from 1."""

_SCHEMA = 1
_SILENT_S = 120  # a holder that shows no life for longer is thought dead
_MERGE_PATIENCE_S = 600


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
        for folder in (self.work, self.root / "slides"):
            make_folder(folder)
            if folder.is_symlink():
                raise self._foreign(folder.name)

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
    def locked(self, shard: Shard | None) -> Iterator[None]:
        """Hold the archive, or one shard of it, for the block; LockedError where others do.

        A whole batch holds all shards too; shards of another number are kept out as well.
        """
        with ExitStack() as stack:
            if shard is None:
                for folder in self._states():
                    stack.enter_context(RunLock(folder))
            else:
                make_folder(self.state(shard))
                stack.enter_context(RunLock(self.state(shard)))
                self._must_be_free_of_others(shard)
            remove_temporaries(self.state(shard))
            if shard is None:  # other shards may be writing there
                remove_temporaries(self.root)
            yield

    @contextmanager
    def merging(self) -> Iterator[None]:
        """Hold what only one may write at a time: cohort and checksums; shards wait here."""
        folder = self.work / "merge"
        make_folder(folder)
        deadline = time.monotonic() + _MERGE_PATIENCE_S
        while True:
            try:
                lock = RunLock(folder)
                break
            except LockedError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)
        with lock:
            yield

    def at_work(self) -> list[str]:
        """Who is at work, such as "process 17 on host"; judged without touching anything."""
        found = (_holder(folder / LOCK) for folder in self._states())
        return [who for who in found if who]

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

    def _must_be_free_of_others(self, shard: Shard) -> None:
        """LockedError where a whole batch, or a shard of another number, is at work."""
        for folder in self._states():
            who = _holder(folder / LOCK)
            if who and not folder.name.endswith(f"-of-{shard[1]}"):
                raise LockedError(
                    f"{self.root} is in use by {who}, which is no shard of {shard[1]}: wait for "
                    "it, stop it, or choose another --out"
                )

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
        return [self.work, *sorted(self.work.glob("shard-*-of-*"))]

    def _must_be_ours(self) -> None:
        if not self.root.exists():
            return
        if not self.root.is_dir():
            raise ForeignFolderError(f"{self.root} is a file, not a folder: choose another --out")
        if (self.work / SETTINGS).exists():
            return
        ours = (LOCK, JOURNAL, "shard-", "merge", WORK)  # a batch that was killed at once
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


def _holder(lock: Path) -> str | None:
    """Who holds a lock, as far as reading it tells; whoever writes needs a RunLock."""
    try:
        age = time.time() - lock.stat().st_mtime
        record = json.loads(lock.read_bytes())
        host, pid = str(record["host"]), int(record["pid"])
        local = host == socket.gethostname()
        lives = not local or psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except (OSError, ValueError, KeyError, TypeError, psutil.Error):
        return None
    return f"process {pid} on {host}" if lives and age < _SILENT_S else None
