"""Fingerprint: what an input is, without reading all of a file of many gigabytes.

Two hashes: ``key`` says whether a run may be resumed, so it includes the time of change and, if
asked for, every byte; ``content`` names the pixels wherever they lie, so it depends on neither
path nor time nor on whether all was read, and ids of cells may be derived from it. Where files are
not read whole, ``content`` rests on sizes and samples: two slides that differ only beyond them
have equal ``content``, but not equal times, and so not an equal ``key``.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import UnreadableSlideError

__all__ = ["SAMPLE", "fingerprint", "fingerprint_array"]

SAMPLE = 1 << 20
"""Bytes hashed at the start and at the end of a file."""

_METADATA = (".json", ".zattrs", ".zarray", ".zgroup", ".zmetadata", ".ini", ".xml")
_METADATA_LIMIT = 16 << 20  # bytes: what is larger is data, whatever it is called
_SAMPLED_FILES = 16
_SERIES = b"\x20\x00\x0e\x00UI"  # SeriesInstanceUID (0020,000E) in explicit VR: DICOM PS3.5, 7.1.2
_PASSING = ("mtime_ns", "times", "full")  # a part of the key, but not of the content

Part = dict[str, Any]


def fingerprint(path: str | os.PathLike[str], *, full: bool = False) -> dict[str, Any]:
    """Fingerprint of a slide: plain JSON with ``kind``, ``size`` (bytes), ``content`` and ``key``.

    A file: its size, mtime and SHA-256 of its first and last MiB. A folder, such as OME-Zarr: its
    listing with sizes, its metadata files, and 16 data files spread over it. An MRXS slide counts
    with its folder of data, a DICOM file with the files of its series beside it. ``full`` hashes
    every byte as well, which becomes a part of ``key``.

    Raises UnreadableSlideError where the input is missing, neither file nor folder, or changes
    while it is read.
    """
    found = Path(path)
    try:
        if found.is_dir():
            return _sealed("folder", [_folder(found, full)])
        parts = [_file(member, full) for member in _series(found)]
        data = found.with_suffix("")
        if found.suffix.lower() == ".mrxs" and data.is_dir():
            parts.append(_folder(data, full))
        return _sealed("file" if len(parts) == 1 else "files", parts)
    except UnreadableSlideError:
        raise
    except (OSError, ValueError) as error:
        raise UnreadableSlideError(f"cannot read {found}: {error}") from error


def fingerprint_array(array: NDArray[Any]) -> dict[str, Any]:
    """Fingerprint of pixels in memory: shape, dtype and SHA-256 of the values in C order."""
    values = hashlib.sha256()
    for slab in [array] if array.flags.c_contiguous else array:
        values.update(np.ascontiguousarray(slab).reshape(-1).view(np.uint8).data)
    part = {"size": array.nbytes, "shape": list(array.shape), "dtype": array.dtype.str}
    return _sealed("array", [{**part, "values": values.hexdigest()}])


def _sealed(kind: str, parts: Sequence[Part]) -> dict[str, Any]:
    """One part as it is, or the sum of several; with the two hashes."""
    lasting = [{k: v for k, v in part.items() if k not in _PASSING} for part in parts]
    shown = parts[0] if len(parts) == 1 else _sum(parts)
    content, key = (_hash([kind, *sorted(map(_hash, group))]) for group in (lasting, parts))
    return {"kind": kind, **shown, "content": content, "key": key}


def _sum(parts: Sequence[Part]) -> Part:
    sizes, times = ([part[name] for part in parts] for name in ("size", "mtime_ns"))
    return {"parts": len(parts), "size": sum(sizes), "mtime_ns": max(times)}


def _file(path: Path, full: bool) -> Part:
    """Size, mtime and samples of one file."""
    if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for ever
        raise ValueError(f"{path.name} is not a regular file")
    with path.open("rb") as file:
        before = os.fstat(file.fileno())
        head = file.read(SAMPLE)
        file.seek(max(0, before.st_size - SAMPLE))
        part = {
            "size": before.st_size,
            "mtime_ns": before.st_mtime_ns,
            "head": hashlib.sha256(head).hexdigest(),
            "tail": hashlib.sha256(file.read(SAMPLE)).hexdigest(),
        }
        if full:
            file.seek(0)
            part["full"] = hashlib.file_digest(file, "sha256").hexdigest()
        after = os.fstat(file.fileno())
    if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        raise ValueError(f"{path.name} changed while it was read: wait until it is complete")
    return part


def _folder(folder: Path, full: bool) -> Part:
    """Listing, metadata and samples of a folder; symbolic links to folders are not followed."""
    files = _walk(folder)
    stats = [os.stat(folder / name) for name in files]
    sizes, times = [s.st_size for s in stats], [s.st_mtime_ns for s in stats]
    metadata = [
        name
        for name, size in zip(files, sizes, strict=True)
        if name.endswith(_METADATA) and size <= _METADATA_LIMIT
    ]
    data = sorted(set(files) - set(metadata))
    chosen = data[:: max(1, -(-len(data) // _SAMPLED_FILES))]
    part = {
        "files": len(files),
        "size": sum(sizes),
        "mtime_ns": max(times, default=0),
        "listing": _hash([files, sizes]),
        "times": _hash(times),
        "metadata": _contents(folder, metadata, ("full",)),
        "samples": _contents(folder, chosen, ("head", "tail")),
    }
    return {**part, "full": _contents(folder, files, ("full",))} if full else part


def _walk(folder: Path) -> list[str]:
    """Paths of all files below ``folder``, relative to it, with slashes, sorted."""

    def fail(error: OSError) -> None:
        raise error

    found = []
    for where, _, names in os.walk(folder, onerror=fail):
        inside = Path(where).relative_to(folder)
        found += [(inside / name).as_posix() for name in names]
    return sorted(found)


def _contents(folder: Path, names: Sequence[str], fields: Sequence[str]) -> str:
    parts = ((name, _file(folder / name, "full" in fields)) for name in names)
    return _hash([[name, *(part[field] for field in fields)] for name, part in parts])


def _series(path: Path) -> list[Path]:
    """The file, and for DICOM those beside it that are of the same series."""
    uid = _series_uid(path)
    if uid is None:
        return [path]
    return [p for p in sorted(path.parent.iterdir()) if p == path or _series_uid(p) == uid]


def _series_uid(path: Path) -> bytes | None:
    """SeriesInstanceUID as it first occurs; None if ``path`` is no DICOM file (part 10)."""
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            if file.read(132)[128:] != b"DICM":
                return None
            head = file.read(1 << 16)
    except OSError:  # a neighbour that nobody may read is no part of what is read
        return None
    at = head.find(_SERIES) + len(_SERIES)
    size = int.from_bytes(head[at : at + 2], "little")
    return head[at + 2 : at + 2 + size] if at >= len(_SERIES) else None


def _hash(value: object) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))  # escapes odd file names
    return hashlib.sha256(text.encode()).hexdigest()
