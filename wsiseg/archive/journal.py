"""Journal: every change of a slide's state, one line each, on disk before anything else happens.

A line is the whole record, so the last one of a slide counts. A line that was cut short by a
crash can only be the last, and is passed over.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from wsiseg.archive.records import Record
from wsiseg.atomic import atomic_write, writing
from wsiseg.errors import RunFolderError

__all__ = ["JOURNAL", "Journal", "line_of", "newest", "read_journal", "records_in"]

JOURNAL = "journal.jsonl"

_TRIES = 5
_EMPTY: tuple[Any, ...] = (None, "", [], {})  # what a record has where nothing is said


class Journal:
    """The journal of one batch, or of one shard; only the holder of its lock writes."""

    def __init__(self, folder: Path, records: Iterable[Record]) -> None:
        self.path = folder / JOURNAL
        with atomic_write(self.path) as file:  # also mends a line that was cut short
            file.writelines(line_of(record) for record in records)
        with writing(self.path):
            self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND)

    def add(self, *records: Record) -> None:
        """Append ``records``, durably; OutputError where that is not possible."""
        with writing(self.path):
            data = b"".join(map(line_of, records))
            while data:
                data = data[os.write(self._file, data) :]
            os.fsync(self._file)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def read_journal(folder: Path) -> dict[str, Record]:
    """Slide id -> last record; {} where there is no journal, RunFolderError for an unreadable."""
    path = folder / JOURNAL
    for tries_left in reversed(range(_TRIES)):
        try:
            return records_in(path.read_bytes())
        except FileNotFoundError:
            break
        except OSError as error:
            # over NFS, what another machine replaces meanwhile
            if error.errno != errno.ESTALE or not tries_left:
                name = errno.errorcode.get(error.errno or 0, type(error).__name__)
                raise RunFolderError(f"{path}: cannot be read ({name})") from error
    return {}


def records_in(data: bytes) -> dict[str, Record]:
    """Slide id -> last record, of the content of a journal."""
    records: dict[str, Record] = {}
    for line in data.split(b"\n"):
        try:
            record = Record.of(json.loads(line))
        except (ValueError, TypeError, KeyError, AttributeError):
            continue  # cut short, or of nobody
        records[record.slide_id] = record
    return records


def newest(journals: Iterable[Mapping[str, Record]]) -> dict[str, Record]:
    """One record for each slide of several journals: the one with the most changes behind it."""
    found: dict[str, Record] = {}
    for journal in journals:
        for slide_id, record in journal.items():
            other = found.get(slide_id)
            if other is None or record.change > other.change:
                found[slide_id] = record
    return found


def line_of(record: Record) -> bytes:
    """A record as a line of a journal."""
    known = {name: value for name, value in record.plain().items() if value not in _EMPTY}
    return json.dumps(known, separators=(",", ":")).encode() + b"\n"
