"""Slides of a folder or of a pattern, with ids by the rule of ``ids_of``."""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from wsiseg.archive.ids import ids_of
from wsiseg.archive.manifest import READERS, read_manifest
from wsiseg.archive.rows import SlideRow
from wsiseg.errors import InputFileError

__all__ = ["SUFFIXES", "rows_of", "scan_folder"]

_log = logging.getLogger(__name__)

SUFFIXES = (
    *(".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide", ".tif", ".tiff"),
    ".zarr",
)
"""Names of slides in a folder; .zarr are folders. Pictures (.png, .jpg) and DICOM files, of which
many make one slide, are named in a manifest or by a pattern."""


def rows_of(source: str | os.PathLike[str]) -> list[SlideRow]:
    """The slides of a manifest, a folder, a pattern (``*``, ``**``, ``?``) or a single file.

    Raises InputFileError where there is none.
    """
    text = os.fspath(source)
    path = Path(text)
    if path.is_dir() and path.suffix.lower() != ".zarr":
        return scan_folder(path)
    if path.suffix.lower() in READERS:
        return read_manifest(path)
    if os.path.lexists(path):
        return _rows(path.parent, [path.name])
    if glob.has_magic(text):
        return _matches(text)
    raise InputFileError(
        f"{text}: no such manifest ({', '.join(READERS)}), folder, pattern or slide"
    )


def scan_folder(root: Path) -> list[SlideRow]:
    """Slides of ``root`` and its folders, by their names, in order.

    Hidden files and folders are passed over, links to folders are not followed.
    """
    found = sorted(_walk(root))
    dicom = sum(name.lower().endswith(".dcm") for name in found)
    names = [name for name in found if name.lower().endswith(SUFFIXES)]
    if dicom:
        _log.warning(
            "%s: %d .dcm files are left out: name one file of each series in a manifest",
            *(root, dicom),
        )
    if not names:
        raise InputFileError(
            f"{root}: no slides: expected files that end in {', '.join(SUFFIXES)}"
            + (", or a manifest that names DICOM files" if dicom else "")
        )
    return _rows(root, names)


def _walk(root: Path) -> Iterator[str]:
    """Paths of files and .zarr folders below ``root``, relative to it, with slashes."""

    def fail(error: OSError) -> None:
        raise InputFileError(f"{error.filename}: cannot be listed: {error.strerror}") from error

    for where, folders, names in os.walk(root, onerror=fail):
        inside = Path(where).relative_to(root)
        zarrs = [name for name in folders if name.lower().endswith(".zarr")]
        folders[:] = [n for n in folders if n not in zarrs and not n.startswith(".")]
        shown = (name for name in (*names, *zarrs) if not name.startswith("."))
        yield from ((inside / name).as_posix() for name in shown)


def _matches(pattern: str) -> list[SlideRow]:
    found = sorted(
        match
        for match in glob.glob(pattern, recursive=True)
        if not os.path.isdir(match) or match.lower().endswith(".zarr")
    )
    if not found:
        raise InputFileError(f"{pattern}: no file matches this pattern")
    root = os.path.commonpath([os.path.dirname(os.path.abspath(match)) for match in found])
    return _rows(Path(root), [Path(os.path.relpath(m, root)).as_posix() for m in found])


def _rows(root: Path, names: list[str]) -> list[SlideRow]:
    paths = (os.path.abspath(root / name) for name in names)
    return [SlideRow(slide_id, path) for slide_id, path in zip(ids_of(names), paths, strict=True)]
