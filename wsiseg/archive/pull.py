"""Pull: the state of an archive in a store, brought into a folder, where all else can read it.

::

    URL/.wsiseg/journal.jsonl      the journal of a batch, as it was some seconds ago
    URL/.wsiseg/done/<id>.json     the record of a slide that was done after that
    URL/.wsiseg/shard-3-of-16/     the same of a shard
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from wsiseg.archive.dataset import CELLS, part_of
from wsiseg.archive.folder import SETTINGS, WORK, ArchiveFolder
from wsiseg.archive.journal import JOURNAL, Journal, newest, read_journal, records_in
from wsiseg.archive.records import Record
from wsiseg.archive.sums import SUMS
from wsiseg.atomic import atomic_write, make_folder
from wsiseg.errors import RunFolderError
from wsiseg.storage.store import Seen, Store

__all__ = ["DONE", "Listing", "copy_of", "must_exist", "part_name", "pull"]

DONE = "done"
"""Folder of records that the journal in the store may not have yet."""

_STATE = re.compile(rf"({re.escape(WORK)}(?:/shard-\d+-of-\d+)?)/({JOURNAL}|{DONE}/[^/]+\.json)")
_READERS = 16


class Listing:
    """Which files of slides a store has, and of what size."""

    def __init__(self, store: Store) -> None:
        self._slides = defaultdict[str, dict[str, int]](dict)
        for name, seen in store.listing("slides/").items():
            _, slide_id, inside = f"{name}//".split("/", 2)
            self._slides[slide_id][inside.removesuffix("//")] = seen.size
        self._parts = {name: seen.size for name, seen in store.listing(f"{CELLS}/").items()}

    def has_part(self, slide_id: str) -> bool:
        """Whether the slide is in the data set of all cells."""
        return part_name(slide_id) in self._parts

    def is_intact(self, record: Record) -> bool:
        """Whether the files of a slide that is done are there, by their sizes."""
        there = self._slides.get(record.slide_id, {})
        part = self._parts.get(part_name(record.slide_id))
        cells = [size for name, (size, _) in record.outputs.items() if name == "cells.parquet"]
        same = all(there.get(name) == size for name, (size, _) in record.outputs.items())
        return bool(cells) and same and part == cells[0]


def part_name(slide_id: str) -> str:
    """Name of the object that holds the cells of a slide in the data set."""
    return part_of(Path(), slide_id).as_posix()


def pull(store: Store, folder: ArchiveFolder, mine: Path | None, *, others: bool = False) -> None:
    """Bring settings and journals of the store into ``folder``.

    ``mine``: the state folder of this batch; what it knows already counts too. With ``others``,
    only what other batches have written is brought. Raises OutputError.
    """
    found = store.listing(f"{WORK}/")
    if f"{WORK}/{SETTINGS}" in found and not others:
        _write(folder.work / SETTINGS, store.get(f"{WORK}/{SETTINGS}") or b"")
    for state, names in _states(found).items():
        local = folder.root / state
        if others and local == mine:
            continue
        records = _records(store, names)
        if local == mine:
            records = _merged(read_journal(local), records)
        make_folder(local)
        Journal(local, records.values()).close()


@contextmanager
def copy_of(url: str, *, may_be_none: bool = False) -> Iterator[tuple[ArchiveFolder, Store]]:
    """The state of the archive at ``url`` in a folder of its own, removed at the end of the block.

    Raises RunFolderError where there is no archive, unless that ``may_be_none``; OutputError where
    the store cannot be reached.
    """
    store = Store(url)
    if not may_be_none:
        must_exist(store)
    with TemporaryDirectory(prefix="wsiseg-") as root:
        folder = ArchiveFolder(root)
        make_folder(folder.work)
        pull(store, folder, None)
        if (sums := store.get(SUMS)) is not None:
            _write(folder.root / SUMS, sums)
        yield folder, store


def must_exist(store: Store) -> None:
    """RunFolderError unless there is an archive."""
    if store.look(f"{WORK}/{SETTINGS}") is None:
        raise RunFolderError(
            f"{store.url} is no archive: expected the --out of an earlier wsiseg batch"
        )


def _states(found: Mapping[str, Seen]) -> dict[str, list[str]]:
    """Folder of a state -> names of its journal and of loose records."""
    states = defaultdict[str, list[str]](list)
    for name in found:
        if match := _STATE.fullmatch(name):
            states[match[1]].append(name)
    return states


def _records(store: Store, names: Iterable[str]) -> dict[str, Record]:
    with ThreadPoolExecutor(_READERS) as threads:
        return newest(records_in(data or b"") for data in threads.map(store.get, names))


def _merged(local: Mapping[str, Record], there: Mapping[str, Record]) -> dict[str, Record]:
    """What both say; of a slide that another machine has finished since, the store knows it."""
    found = newest([local, there])
    for slide_id, record in there.items():
        own = found[slide_id]
        if record.state == "done" != own.state and record.asked == own.asked:
            found[slide_id] = record
    return found


def _write(path: Path, data: bytes) -> None:
    with atomic_write(path) as file:
        file.write(data)
