"""Which files make a slide: most are one, MRXS has a folder, DICOM the files of a series."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from wsiseg.storage.remote import UrlPath
from wsiseg.storage.staging import Member

__all__ = ["Place", "beside", "data_folder", "members_of", "series_of", "series_uid"]

Place = Path | UrlPath

_SERIES = b"\x20\x00\x0e\x00UI"  # SeriesInstanceUID (0020,000E) in explicit VR: DICOM PS3.5, 7.1.2
_LOOKS = 16  # files of a remote folder that are looked into at once
_HEAD = 132 + (1 << 16)


def members_of(path: Place) -> list[Member]:
    """All files of the slide at ``path``, itself first. Raises OSError."""
    if path.suffix.lower() == ".mrxs" and (folder := data_folder(path)) is not None:
        inside = _walked(folder)
        return [_member(path), *(_in(folder, name, *look) for name, look in inside.items())]
    if path.suffix.lower() in (".vms", ".vmu"):  # a text that names its images
        lines = _head(path).decode("latin-1").splitlines()
        named = {line.partition("=")[2].strip() for line in lines}
        return [_member(path), *(_member(p) for p in beside(path) if p.name in named)]
    return [_member(path), *(_member(p) for p in series_of(path) if p.name != path.name)]


def data_folder(path: Place) -> Place | None:
    """The folder of an MRXS file, if it is there."""
    folder = path.with_suffix("")
    return folder if folder.is_dir() else None


def series_of(path: Place) -> list[Place]:
    """The file, and for DICOM those beside it that are of the same series; sorted."""
    uid = series_uid(path)
    if uid is None:
        return [path]
    others = [p for p in beside(path) if p.name != path.name]
    if isinstance(path, UrlPath):
        with ThreadPoolExecutor(_LOOKS) as pool:
            uids = list(pool.map(series_uid, others))
    else:
        uids = [series_uid(p) for p in others]
    same = [p for p, other in zip(others, uids, strict=True) if other == uid]
    return sorted([path, *same], key=lambda p: p.name)


def series_uid(path: Place) -> bytes | None:
    """SeriesInstanceUID as it first occurs; None if ``path`` is no DICOM file (part 10)."""
    try:
        if isinstance(path, Path) and not path.is_file():  # opening a pipe would wait for ever
            return None
        head = _head(path)
    except OSError:  # a neighbour that nobody may read is no part of what is read
        return None
    if head[128:132] != b"DICM":
        return None
    at = head.find(_SERIES, 132) + len(_SERIES)
    size = int.from_bytes(head[at : at + 2], "little")
    return head[at + 2 : at + 2 + size] if at >= len(_SERIES) else None


def beside(path: Place) -> list[Place]:
    """All files in the folder of ``path``."""
    if isinstance(path, UrlPath):
        listed = path.parent.listed().items()
        return [path.parent / name for name, info in listed if not info.is_dir]
    return [*sorted(path.parent.iterdir())]


def _member(path: Place) -> Member:
    return Member(path, path.name, *_look(path))


def _in(folder: Place, name: str, size: int, mark: str) -> Member:
    return Member(folder / name, f"{folder.name}/{name}", size, mark)


def _look(path: Place) -> tuple[int, str]:
    if isinstance(path, UrlPath):
        info = path.info()
        return info.size, info.mark
    found = path.stat()
    return found.st_size, str(found.st_mtime_ns)


def _walked(folder: Place) -> Mapping[str, tuple[int, str]]:
    if isinstance(folder, UrlPath):
        return {name: (info.size, info.mark) for name, info in folder.walked().items()}
    files: Iterable[Path] = (Path(at) / n for at, _, names in os.walk(folder) for n in names)
    return {file.relative_to(folder).as_posix(): _look(file) for file in sorted(files)}


def _head(path: Place) -> bytes:
    if isinstance(path, UrlPath):
        return path.read(0, _HEAD)
    with path.open("rb") as file:
        return file.read(_HEAD)
