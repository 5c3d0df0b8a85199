"""Resume: which slides of a request are done, which have failed, and which are to be run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import chain, compress

from wsiseg.archive.book import is_intact
from wsiseg.archive.faults import AGAIN_NEXT_TIME, Fault, fault_of, shown
from wsiseg.archive.folder import ArchiveFolder
from wsiseg.archive.records import Record, now
from wsiseg.archive.request import Request
from wsiseg.archive.rows import SlideRow
from wsiseg.archive.stamp import EMPTY, Look, Stamp, hash_of, stamps_of
from wsiseg.engine.store import WORK
from wsiseg.errors import ForeignFolderError

__all__ = ["left_behind", "records_of", "waiting"]

_log = logging.getLogger(__name__)

_LOOKS = 16  # at once: a network file system answers many as fast as one
_SHARE = 64  # slides that a thread looks at in a row
_GONE = "its input is not to be seen now"
# times the attempts: so many batches die with a slide before it is to blame; many, since those who
# kill batches for reasons of their own must convict nobody, and it comes last and alone anyway
_DEATHS = 10


def records_of(
    request: Request,
    rows: Iterable[SlideRow],
    known: Mapping[str, Record],
    folder: ArchiveFolder,
    intact: Callable[[Record], bool] | None = None,
) -> list[Record]:
    """A record for each of ``rows``, as things stand before anything is run.

    A slide that is done stays so while its input, its settings and the sizes of its files are
    what they were, or while its input is not to be seen; one that has failed stays so while its
    input and settings are, unless it is to be retried; whatever else is pending. ``intact`` tells
    whether the files of one that is done are there, where they are not in ``folder``.
    """
    rows, shared = list(rows), hash_of(request.parts())
    full = bool(request.settings.get("full_hash"))
    looks = list(stamps_of((row.path for row in rows), full=full))
    begun = [
        _begun(request, row, look, known.get(row.slide_id), shared)
        for row, look in zip(rows, looks, strict=True)
    ]
    done = _done(begun, intact or partial(is_intact, folder.root))
    found = [
        _as_it_stands(request, record, look, folder, record.slide_id in done)
        for record, look in zip(begun, looks, strict=True)
    ]
    gone = [not isinstance(look, Stamp) for look in looks]
    unseen = [record for record in compress(found, gone) if record.state == "done"]
    if unseen:
        example = shown(unseen[0].path)
        _log.warning("%d slides stay done, though their inputs are gone (%s)", len(unseen), example)
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


def _begun(request: Request, row: SlideRow, look: Look, old: Record | None, shared: str) -> Record:
    """The old record if it is of the same input and settings, else a new one.

    An input that is not to be seen is taken for what it was.
    """
    mark, size = (old.mark, old.input_bytes) if old else ("", None)
    if isinstance(look, Stamp):
        mark, size = look.mark, look.bytes
    asked = request.asked(row, mark, shared)
    if old is not None and old.asked == asked:
        return replace(old, path=row.path, group=row.group, input_bytes=size, mark=mark)
    return Record(
        *(row.slide_id, "pending"),
        path=row.path,
        group=row.group,
        input_bytes=size,
        asked=asked,
        mark=mark,
        updated=now(),
        change=old.change + 1 if old else 0,
    )


def _done(records: Sequence[Record], intact: Callable[[Record], bool]) -> set[str]:
    """Ids of those that are done, and whose files are there."""
    done = [record for record in records if record.state == "done"]
    size = max(1, min(_SHARE, len(done) // _LOOKS))
    shares = [done[i : i + size] for i in range(0, len(done), size)]
    with ThreadPoolExecutor(_LOOKS) as pool:
        found = pool.map(lambda share: [r.slide_id for r in share if intact(r)], shares)
        return set(chain.from_iterable(found))


def _as_it_stands(
    request: Request, record: Record, look: Look, folder: ArchiveFolder, done: bool
) -> Record:
    selected = not request.only or record.slide_id in request.only
    anew = request.fresh and selected
    seen = isinstance(look, Stamp)
    if done and not (anew and seen):
        return _warned(record, look)
    retried = selected and (anew or _is_retried(request, record))
    if record.state == "failed" and not retried:
        return record
    if not selected:
        return _skipped(record)
    if not isinstance(look, Stamp):
        return _failed(record, _unseen(record, look))
    try:
        folder.slide(record.slide_id)
    except ForeignFolderError as error:
        return _failed(record, fault_of(error))
    if record.state == "running" and not anew:
        return _after_death(request, record, folder)
    if record.state == "pending" and not anew:
        return record
    attempts = 0 if anew or record.state in ("failed", "done") else record.attempts
    return record.to("pending", attempts=attempts)


def _warned(record: Record, look: Look) -> Record:
    """A record that is done, with a warning for as long as its input is not to be seen."""
    before = [warning for warning in record.warnings if not warning.startswith(_GONE)]
    if isinstance(look, Stamp):
        return replace(record, warnings=before)
    reason = look.reason if look else "no such file"
    return replace(record, warnings=[*before, f"{_GONE} ({reason})"])


def _unseen(record: Record, look: Look) -> Fault:
    assert not isinstance(look, Stamp)
    if look is None or look.reason == EMPTY:  # either way it is looked for again next time
        hint = f" ({look.reason})" if look else ""
        message = shown(f"{record.path}: no such file{hint}")
        return Fault("missing-file", "FileNotFoundError", message)
    message = shown(f"{record.path}: its storage does not answer ({look.reason})")
    return Fault("input-io", look.reason, message)


def _after_death(request: Request, record: Record, folder: ArchiveFolder) -> Record:
    """A slide that was at work when its batch died: again, unless it must be what kills them."""
    blobs = folder.slide(record.slide_id) / WORK / "regions"
    stored = sum(1 for _ in blobs.glob("*.wsr"))
    lost = 0 if stored > record.stored else record.lost + 1
    if lost < _DEATHS * request.policy.attempts:
        return record.to("pending", lost=lost, stored=stored)
    message = (
        f"{lost} times in a row the whole batch died while this slide was at work, and no region "
        "was stored in between: --retry-failed tries it again"
    )
    return _failed(record, Fault("quarantine", "batch died", message))


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
