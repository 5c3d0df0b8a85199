"""Hashes of files, which may be of many gigabytes."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import BinaryIO

from wsiseg.pulse import beat

__all__ = ["sha256_of", "sha256_of_rest"]

_BLOCK = 1 << 22


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal, with a beat for every block; OSError."""
    with path.open("rb") as file:
        return sha256_of_rest(file)


def sha256_of_rest(file: BinaryIO) -> str:
    """SHA-256 of what is left of ``file``, as ``sha256_of``."""
    found = hashlib.sha256()
    while block := file.read(_BLOCK):
        found.update(block)
        beat()
    return found.hexdigest()
