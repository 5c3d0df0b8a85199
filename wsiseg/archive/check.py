"""Check: whether all files of an archive are there, and as they were written."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from wsiseg.archive.dataset import part_of
from wsiseg.archive.folder import ArchiveFolder
from wsiseg.archive.pull import copy_of
from wsiseg.archive.sums import SUMS, read_sums, sums_of
from wsiseg.errors import InputFileError
from wsiseg.hashing import sha256_of
from wsiseg.storage.url import absolute, is_url

__all__ = ["Verdict", "verdict_text", "verify", "verify_archive"]

OnFile = Callable[[int, int], None]

_SHOWN = 20
_READERS = 4


@dataclass(frozen=True, slots=True)
class Verdict:
    """What ``verify`` found."""

    files: int
    """That were to be checked."""
    missing: tuple[str, ...]
    damaged: tuple[str, ...]
    """Of another content than when they were written."""
    unreadable: tuple[str, ...]

    @property
    def sound(self) -> bool:
        """Whether every file is there and as it was written."""
        return not (self.missing or self.damaged or self.unreadable)


def verify_archive(archive: str | os.PathLike[str], on_file: OnFile | None = None) -> Verdict:
    """Hash every file that SHA256SUMS names, and those of slides that were done after it.

    ``on_file`` is told after each file how many of how many are checked.

    Raises RunFolderError where there is no archive, InputFileError where SHA256SUMS is damaged,
    or where nothing is done yet.
    """
    where = absolute(archive)
    if is_url(where):
        with copy_of(where) as (folder, store):
            return verify(folder.root, _expected(folder), store.sha256, on_file)
    folder = ArchiveFolder(where)
    folder.must_exist()
    return verify(folder.root, _expected(folder), on_file=on_file)


def verify(
    root: Path,
    expected: Mapping[str, str],
    hashed: Callable[[str], str] | None = None,
    on_file: OnFile | None = None,
) -> Verdict:
    """Hash every file below ``root`` that is in ``expected``, and compare.

    ``hashed`` gives the hash of a file that is elsewhere, by its name below ``root``; OSError.
    """
    hashed = hashed or (lambda name: sha256_of(root / name))
    names = sorted(expected)
    missing, damaged, unreadable = [], [], []
    with ThreadPoolExecutor(_READERS) as pool:
        found = pool.map(lambda name: _hash_or_error(hashed, name), names)
        for number, (name, got) in enumerate(zip(names, found, strict=True), 1):
            if isinstance(got, FileNotFoundError):
                missing.append(name)
            elif isinstance(got, OSError):
                unreadable.append(name)
            elif got != expected[name]:
                damaged.append(name)
            if on_file is not None:
                on_file(number, len(names))
    return Verdict(len(names), tuple(missing), tuple(damaged), tuple(unreadable))


def _hash_or_error(hashed: Callable[[str], str], name: str) -> str | OSError:
    try:
        return hashed(name)
    except OSError as error:
        return error


def _expected(folder: ArchiveFolder) -> dict[str, str]:
    """Path relative to the archive -> SHA-256 of all files that should be there."""
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
    return expected


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
