"""Resume: which slides of a request are done, which have failed, and which are to be run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from wsiseg.archive.book import is_intact
from wsiseg.archive.faults import AGAIN_NEXT_TIME, Fault, fault_of
from wsiseg.archive.folder import ArchiveFolder
from wsiseg.archive.records import Record, now
from wsiseg.archive.request import Request
from wsiseg.archive.rows import SlideRow
from wsiseg.archive.stamp import Stamp, hash_of, stamps_of
from wsiseg.errors import ForeignFolderError

__all__ = ["left_behind", "records_of", "waiting"]


def records_of(
    request: Request,
    rows: Iterable[SlideRow],
    known: Mapping[str, Record],
    folder: ArchiveFolder,
) -> list[Record]:
    """A record for each of ``rows``, as things stand before anything is run.

    A slide that is done stays so while its input, its settings and the sizes of its files are
    what they were; one that has failed stays so while its input and settings are, unless it is to
    be retried; whatever else is pending.
    """
    rows, shared = list(rows), hash_of(request.parts())
    stamps = stamps_of((row.path for row in rows), full=bool(request.settings.get("full_hash")))
    found = []
    for row, stamp in zip(rows, stamps, strict=True):
        asked = request.asked(row, stamp.mark if stamp else "", shared)
        record = _begun(row, stamp, asked, known.get(row.slide_id))
        found.append(_as_it_stands(request, record, stamp, folder))
    return found


def waiting(records: Iterable[Record]) -> list[Record]:
    """Those to be run, the largest first."""
    pending = [record for record in records if record.state == "pending"]
    return sorted(pending, key=lambda r: (-(r.input_bytes or 0), r.slide_id))


def left_behind(request: Request, known: Mapping[str, Record]) -> list[Record]:
    """Records of slides that the manifest does not have any more; what is done of them stays."""
    wanted = {row.slide_id for row in request.rows}
    found = []
    for record in known.values():
        if record.slide_id in wanted:
            continue
        final = record.state in ("done", "failed", "skipped")
        found.append(record if final else record.to("skipped", code="not-in-manifest"))
    return found


def _begun(row: SlideRow, stamp: Stamp | None, asked: str, old: Record | None) -> Record:
    """The old record if it is of the same input and settings, else a new one."""
    size = stamp.bytes if stamp else None
    if old is not None and old.asked == asked:
        return replace(old, path=row.path, group=row.group, input_bytes=size)
    change = old.change + 1 if old else 0
    return Record(
        *(row.slide_id, "pending"),
        path=row.path,
        group=row.group,
        input_bytes=size,
        asked=asked,
        updated=now(),
        change=change,
    )


def _as_it_stands(
    request: Request, record: Record, stamp: Stamp | None, folder: ArchiveFolder
) -> Record:
    selected = not request.only or record.slide_id in request.only
    anew = request.fresh and selected
    if record.state == "done" and not anew and is_intact(folder.root, record):
        return record
    retried = selected and (anew or _is_retried(request, record))
    if record.state == "failed" and not retried:
        return record
    if not selected:
        return _skipped(record)
    if stamp is None:
        missing = f"{record.path}: no such file"
        return _failed(record, Fault("missing-file", "FileNotFoundError", missing))
    try:
        folder.slide(record.slide_id)
    except ForeignFolderError as error:
        return _failed(record, fault_of(error))
    if record.state == "pending" and not anew:
        return record
    attempts = 0 if anew or record.state in ("failed", "done") else record.attempts
    return record.to("pending", attempts=attempts)


def _is_retried(request: Request, record: Record) -> bool:
    if record.slide_id in request.only or record.code in AGAIN_NEXT_TIME:
        return True
    # a file that was missing is looked for every time
    return request.retry_failed or record.code == "missing-file"


def _skipped(record: Record) -> Record:
    same = record.state == "skipped" and record.code == "not-selected"
    return record if same else record.to("skipped", code="not-selected")


def _failed(record: Record, fault: Fault) -> Record:
    if record.state == "failed" and record.code == fault.code:
        return record
    why = {"code": fault.code, "cause": fault.cause, "message": fault.message}
    return record.to("failed", finished=now(), **why)
