"""Stamp: has a slide changed since it was last looked at? As cheap as an archive of 10^5 needs."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from wsiseg.engine.fingerprint import fingerprint
from wsiseg.errors import UnreadableSlideError

__all__ = ["Stamp", "hash_of", "stamps_of"]

_LOOKS = 16  # at once: a network file system answers many as fast as one
_SHARE = 64  # files that a thread looks at in a row
_COUNTED = 2000  # files of a folder whose sizes are added up, to order slides by size


@dataclass(frozen=True, slots=True)
class Stamp:
    """What is known of an input without opening it."""

    bytes: int
    """Size; of a folder, of its first files."""
    mark: str
    """Changes when the input does: size and time of a file, listing of a folder."""


def stamps_of(paths: Iterable[str], *, full: bool = False) -> Iterator[Stamp | None]:
    """The stamp of each of ``paths``, in order; None where there is no such file.

    ``full``: by every byte, as slow as reading all of it.
    """
    look = _full if full else _quick
    left = iter(paths)
    with ThreadPoolExecutor(_LOOKS) as pool:
        while some := list(islice(left, _LOOKS * _SHARE)):
            shares = [some[i : i + _SHARE] for i in range(0, len(some), _SHARE)]
            for stamps in pool.map(lambda share: [look(path) for path in share], shares):
                yield from stamps


def hash_of(parts: Mapping[str, Any]) -> str:
    """SHA-256 of plain values."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _quick(path: str) -> Stamp | None:
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    is_file = stat.S_ISREG(found.st_mode)
    if is_file and not path.lower().endswith((".mrxs", ".dcm")):
        return Stamp(found.st_size, f"{found.st_size}:{found.st_mtime_ns}")
    if is_file or stat.S_ISDIR(found.st_mode):
        return _full(path, full=False)
    return Stamp(0, "no file")  # a pipe, a socket: the reader says what it thinks of it


def _full(path: str, full: bool = True) -> Stamp | None:
    try:
        return Stamp(_size(Path(path)), fingerprint(path, full=full)["key"])
    except UnreadableSlideError:
        return Stamp(0, "unreadable") if os.path.lexists(path) else None


def _size(path: Path) -> int:
    """Bytes of a file and of the folder that belongs to it."""
    folder = path.with_suffix("") if path.suffix.lower() == ".mrxs" else path
    own = path.stat().st_size if path.is_file() else 0
    if not folder.is_dir():
        return own
    files = (Path(where) / name for where, _, names in os.walk(folder) for name in names)
    return own + sum(file.lstat().st_size for file in islice(files, _COUNTED))
