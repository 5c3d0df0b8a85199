"""Check: whether all files of an archive are there, and as they were written."""

from __future__ import annotations

import os

from wsiseg.archive.dataset import part_of
from wsiseg.archive.folder import ArchiveFolder
from wsiseg.archive.sums import SUMS, Verdict, read_sums, sums_of, verify
from wsiseg.errors import InputFileError

__all__ = ["verdict_text", "verify_archive"]

_SHOWN = 20


def verify_archive(archive: str | os.PathLike[str]) -> Verdict:
    """Hash every file that SHA256SUMS names, and those of slides that were done after it.

    Raises RunFolderError where there is no archive, InputFileError where SHA256SUMS is damaged,
    or where nothing is done yet.
    """
    folder = ArchiveFolder(archive)
    folder.must_exist()
    records = folder.records()
    undone = [r.slide_id for r in records.values() if r.state != "done"]
    parts = {part_of(folder.root, i).relative_to(folder.root).as_posix() for i in undone}
    redone = parts | {f"slides/{slide_id}" for slide_id in undone}
    stored = {
        name: value
        for name, value in read_sums(folder.root).items()
        if name not in redone and "/".join(name.split("/")[:2]) not in redone
    }
    expected = stored | sums_of(folder.root, records.values())  # records are the newer ones
    if not expected:
        raise InputFileError(f"{folder.root}: no slide is done yet: there is nothing to verify")
    return verify(folder.root, expected)


def verdict_text(found: Verdict) -> str:
    """The verdict for people."""
    if found.sound:
        return f"{found.files:,} files are there and as they were written"
    lines = []
    for what in ("missing", "damaged", "unreadable"):
        names = getattr(found, what)
        lines += [f"{what}: {name}" for name in names[:_SHOWN]]
        if len(names) > _SHOWN:
            lines.append(f"... and {len(names) - _SHOWN:,} more {what}")
    bad = len(found.missing) + len(found.damaged) + len(found.unreadable)
    lines.append(
        f"{bad:,} of {found.files:,} files are not sound: delete them, and the same wsiseg batch "
        f"makes them anew ({SUMS} with them)"
    )
    return "\n".join(lines)
