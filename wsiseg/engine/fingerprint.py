"""Fingerprint: what an input is, without reading all of a file of many gigabytes.

Two hashes: ``key`` says whether a run may be resumed, so it includes the time of change and, if
asked for, every byte; ``content`` names the pixels wherever they lie, so it depends on neither
path nor time nor on whether all was read, and ids of cells may be derived from it. Where files are
not read whole, ``content`` rests on sizes and samples: two slides that differ only beyond them
have equal ``content``, but not equal times, and so not an equal ``key``. Of a slide at a URL
``content`` is that of the same files on a disk; their ETags stand for times.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import UnreadableSlideError
from wsiseg.hashing import sha256_of_rest
from wsiseg.image.parts import data_folder, series_of
from wsiseg.pulse import beat
from wsiseg.storage.remote import Info, UrlPath
from wsiseg.storage.url import absolute, is_url

__all__ = ["SAMPLE", "fingerprint", "fingerprint_array"]

SAMPLE = 1 << 20
"""Bytes hashed at the start and at the end of a file."""

_METADATA = (".json", ".zattrs", ".zarray", ".zgroup", ".zmetadata", ".ini", ".xml")
_METADATA_LIMIT = 16 << 20  # bytes: what is larger is data, whatever it is called
_SAMPLED_FILES = 16
_LOOKS = 16  # files of a remote folder that are read at once
_PASSING = ("mtime_ns", "mark", "times", "full")  # a part of the key, but not of the content

Part = dict[str, Any]


def fingerprint(path: str | os.PathLike[str], *, full: bool = False) -> dict[str, Any]:
    """Fingerprint of a slide: plain JSON with ``kind``, ``size`` (bytes), ``content`` and ``key``.

    Of the file at a path or URL: its size, mtime (ETag) and SHA-256 of its first and last MiB. Of
    a folder, such as OME-Zarr: its listing with sizes, its metadata files, and 16 data files spread
    over it. An MRXS slide counts with its folder of data, a DICOM file with the files of its series
    beside it. ``full`` hashes
    every byte as well, which becomes a part of ``key``.

    Raises UnreadableSlideError where the input is missing, neither file nor folder, or changes
    while it is read.
    """
    try:
        if is_url(path) and is_url(url := absolute(path)):
            return _remote(UrlPath(url), full)
        return _local(Path(absolute(path)), full)
    except UnreadableSlideError:
        raise
    except (OSError, ValueError) as error:
        raise UnreadableSlideError(f"cannot read {path}: {error}") from error


def _local(path: Path, full: bool) -> dict[str, Any]:
    if path.is_dir():
        return _sealed("folder", [_folder(path, full)])
    parts = [_file(Path(str(member)), full) for member in series_of(path)]
    data = data_folder(path) if path.suffix.lower() == ".mrxs" else None
    if data is not None:
        parts.append(_folder(Path(str(data)), full))
    return _sealed("file" if len(parts) == 1 else "files", parts)


def _remote(path: UrlPath, full: bool) -> dict[str, Any]:
    if path.info().is_dir:
        return _sealed("folder", [_remote_folder(path, full)])
    members = [UrlPath(str(member)) for member in series_of(path)]
    parts = _at_once(lambda member: _object(member, member.info(), full), members)
    data = data_folder(path) if path.suffix.lower() == ".mrxs" else None
    if data is not None:
        parts.append(_remote_folder(UrlPath(str(data)), full))
    return _sealed("file" if len(parts) == 1 else "files", parts)


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
    told = {"parts": len(parts), "size": sum(part["size"] for part in parts)}
    times = [part["mtime_ns"] for part in parts if "mtime_ns" in part]
    return {**told, "mtime_ns": max(times)} if times else told


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
            part["full"] = sha256_of_rest(file)
        after = os.fstat(file.fileno())
    if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        raise ValueError(f"{path.name} changed while it was read: wait until it is complete")
    return part


def _folder(folder: Path, full: bool) -> Part:
    """Listing, metadata and samples of a folder; symbolic links to folders are not followed."""
    files = _walk(folder)
    stats = [os.stat(folder / name) for name in files]
    sizes, times = [s.st_size for s in stats], [s.st_mtime_ns for s in stats]
    metadata, chosen = _chosen(files, sizes)
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


def _chosen(files: Sequence[str], sizes: Sequence[int]) -> tuple[list[str], list[str]]:
    """Of the files of a folder: all with metadata, and some of the others."""
    metadata = [
        name
        for name, size in zip(files, sizes, strict=True)
        if name.endswith(_METADATA) and size <= _METADATA_LIMIT
    ]
    data = sorted(set(files) - set(metadata))
    return metadata, data[:: max(1, -(-len(data) // _SAMPLED_FILES))]


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


def _object(path: UrlPath, info: Info, full: bool) -> Part:
    """Size, mark and samples of one file at a URL, all of one version of it."""
    if info.size <= SAMPLE:
        data = path.read()
        if len(data) != info.size:
            raise OSError(errno.ESTALE, "replaced while it was read", path.url)
        head = tail = data
    else:
        ranges = path.ranges()
        if (ranges.size, ranges.mark) != (info.size, info.mark):
            raise OSError(errno.ESTALE, "replaced while it was read", path.url)
        head, tail = (ranges.read_at(at, SAMPLE) for at in (0, info.size - SAMPLE))
    part = {
        "size": info.size,
        "mark": info.mark,
        "head": hashlib.sha256(head).hexdigest(),
        "tail": hashlib.sha256(tail).hexdigest(),
    }
    if full:
        whole = hashlib.sha256()
        for chunk in [head] if info.size <= SAMPLE else ranges.chunks():
            whole.update(chunk)
            beat()
        part["full"] = whole.hexdigest()
    return part


def _remote_folder(folder: UrlPath, full: bool) -> Part:
    """As ``_folder``, of one at a URL."""
    found = folder.walked()
    names, sizes = list(found), [info.size for info in found.values()]
    metadata, chosen = _chosen(names, sizes)
    part = {
        "files": len(names),
        "size": sum(sizes),
        "listing": _hash([names, sizes]),
        "times": _hash([info.mark for info in found.values()]),
        "metadata": _remote_contents(folder, found, metadata, ("full",)),
        "samples": _remote_contents(folder, found, chosen, ("head", "tail")),
    }
    if not full:
        return part
    return {**part, "full": _remote_contents(folder, found, names, ("full",))}


def _remote_contents(
    folder: UrlPath, found: Mapping[str, Info], names: Sequence[str], fields: Sequence[str]
) -> str:
    def one(name: str) -> Part:
        return _object(folder / name, found[name], "full" in fields)

    parts = zip(names, _at_once(one, names), strict=True)
    return _hash([[name, *(part[field] for field in fields)] for name, part in parts])


def _at_once(look: Callable[[Any], Part], each: Sequence[Any]) -> list[Part]:
    """Storage answers many questions as fast as one."""
    with ThreadPoolExecutor(_LOOKS) as pool:
        return list(pool.map(look, each))


def _hash(value: object) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))  # escapes odd file names
    return hashlib.sha256(text.encode()).hexdigest()
