"""SHA256SUMS: what every file of results must hash to, in the format of ``sha256sum -c``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from wsiseg.archive.cohort import COHORT
from wsiseg.archive.dataset import PART, part_of
from wsiseg.archive.records import Record
from wsiseg.atomic import atomic_write
from wsiseg.errors import InputFileError
from wsiseg.hashing import sha256_of

__all__ = ["SUMS", "read_sums", "sums_of", "write_sums"]

SUMS = "SHA256SUMS"

_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


def sums_of(root: Path, records: Iterable[Record]) -> dict[str, str]:
    """Path relative to the archive -> SHA-256 of every file of slides that are done."""
    found = {}
    for record in records:
        if record.state != "done":
            continue
        for name, (_, digest) in record.outputs.items():
            found[f"slides/{record.slide_id}/{name}"] = str(digest)
            if name == PART:
                found[part_of(root, record.slide_id).relative_to(root).as_posix()] = str(digest)
    return found


def write_sums(root: Path, records: Iterable[Record]) -> None:
    """Write SHA256SUMS of the slides that are done and of the cohort table; OutputError."""
    found = sums_of(root, records)
    if (root / COHORT).is_file():
        found[COHORT] = sha256_of(root / COHORT)
    with atomic_write(root / SUMS) as file:
        file.writelines(f"{found[name]}  {name}\n".encode() for name in sorted(found))


def read_sums(root: Path) -> dict[str, str]:
    """Path relative to the archive -> SHA-256; {} where there is no file.

    Raises InputFileError for a line that is none, or that leads out of the archive.
    """
    path = root / SUMS
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputFileError(f"{path}: cannot be read: {error}") from error
    found = {}
    for number, line in enumerate(lines, 1):
        match = _LINE.fullmatch(line)
        if match and not Path(match[2]).is_absolute() and ".." not in Path(match[2]).parts:
            found[match[2]] = match[1]
        elif line:
            raise InputFileError(f"{path}, line {number}: damaged: got {line[:80]!r}")
    return found
