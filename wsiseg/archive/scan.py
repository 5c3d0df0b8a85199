"""Slides of a folder or of a pattern, on this machine or at a URL, with ids by ``ids_of``."""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from wsiseg.archive.ids import ids_of
from wsiseg.archive.manifest import READERS, read_manifest
from wsiseg.archive.rows import SlideRow
from wsiseg.errors import InputFileError
from wsiseg.storage.remote import UrlPath
from wsiseg.storage.url import absolute, is_url, parent_of

__all__ = ["SUFFIXES", "rows_of", "scan_folder"]

_log = logging.getLogger(__name__)

_LOOKS = 16  # remote folders that are listed at once

SUFFIXES = (
    *(".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide", ".tif", ".tiff"),
    ".zarr",
)
"""Names of slides in a folder; .zarr are folders. Pictures (.png, .jpg) and DICOM files, of which
many make one slide, are named in a manifest or by a pattern."""


def rows_of(source: str | os.PathLike[str]) -> list[SlideRow]:
    """The slides of a manifest, a folder, a pattern (``*``, ``**``, ``?``) or a single file.

    Any of them may be a URL. Raises InputFileError where there is none, SettingsError for a URL
    that cannot be, MissingExtraError for one that takes a package which is not installed.
    """
    text = absolute(source) if is_url(source) else os.fspath(source)
    if is_url(text):
        return _rows_at(UrlPath(text))
    path = Path(text)
    if path.is_dir() and path.suffix.lower() != ".zarr":
        return scan_folder(path)
    if path.suffix.lower() in READERS:
        return read_manifest(path)
    if os.path.lexists(path):
        return _rows(str(path.parent), [path.name])
    if glob.has_magic(text):
        return _matches(text)
    raise _none_at(text)


def scan_folder(root: Path | UrlPath) -> list[SlideRow]:
    """Slides of ``root`` and its folders, by their names, in order.

    Hidden files and folders are passed over. Links to folders are not followed, since they may
    lead in a circle; how many there are is told.
    """
    found = sorted(_walk_url(root) if isinstance(root, UrlPath) else _walk(root))
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
    return _rows(str(root), names)


def _rows_at(source: UrlPath) -> list[SlideRow]:
    try:
        if source.suffix.lower() in READERS:
            return read_manifest(source.url)
        if source.info().is_dir and source.suffix.lower() != ".zarr":
            return scan_folder(source)
        return _rows(str(source.parent), [source.name])
    except FileNotFoundError:
        if glob.has_magic(source.url):
            return _matching(source)
        raise _none_at(source.url) from None
    except InputFileError:
        raise
    except OSError as error:
        raise InputFileError(f"{source}: cannot be listed: {error.strerror}") from error


def _none_at(source: str) -> InputFileError:
    return InputFileError(
        f"{source}: no such manifest ({', '.join(READERS)}), folder, pattern or slide"
    )


def _walk(root: Path) -> Iterator[str]:
    """Paths of files and .zarr folders below ``root``, relative to it, with slashes."""

    def fail(error: OSError) -> None:
        raise InputFileError(f"{error.filename}: cannot be listed: {error.strerror}") from error

    linked: list[str] = []
    for where, folders, names in os.walk(root, onerror=fail):
        inside = Path(where).relative_to(root)
        zarrs = [name for name in folders if name.lower().endswith(".zarr")]
        folders[:] = [n for n in folders if n not in zarrs and not n.startswith(".")]
        below = (os.path.join(where, name) for name in folders)
        linked += filter(os.path.islink, below)
        shown = (name for name in (*names, *zarrs) if not name.startswith("."))
        yield from ((inside / name).as_posix() for name in shown)
    if linked:
        _log.warning(
            "%s: %d links to folders are not followed, such as %s: name them, or use a pattern "
            "(%s/**/*)",
            *(root, len(linked), linked[0], root),
        )


def _walk_url(root: UrlPath) -> Iterator[str]:
    """As ``_walk``, a folder at a time, without looking into .zarr folders."""
    with ThreadPoolExecutor(_LOOKS) as pool:
        todo = [""]
        while todo:
            listings = pool.map(lambda inside: _below(root, inside).listed(), todo)
            found = [
                (f"{inside}{name}", info)
                for inside, listed in zip(todo, listings, strict=True)
                for name, info in listed.items()
                if not name.startswith(".")
            ]
            is_zarr = [name.lower().endswith(".zarr") for name, _ in found]
            todo = [
                f"{name}/"
                for (name, info), zarr in zip(found, is_zarr, strict=True)
                if info.is_dir and not zarr
            ]
            yield from (
                name
                for (name, info), zarr in zip(found, is_zarr, strict=True)
                if zarr or not info.is_dir
            )


def _below(root: UrlPath, inside: str) -> UrlPath:
    return root / inside.rstrip("/") if inside else root


def _matches(pattern: str) -> list[SlideRow]:
    found = sorted(
        match
        for match in glob.glob(pattern, recursive=True)
        if not os.path.isdir(match) or match.lower().endswith(".zarr")
    )
    if not found:
        raise InputFileError(f"{pattern}: no file matches this pattern")
    root = os.path.commonpath([os.path.dirname(os.path.abspath(match)) for match in found])
    return _rows(root, [Path(os.path.relpath(m, root)).as_posix() for m in found])


def _matching(pattern: UrlPath) -> list[SlideRow]:
    asked = set(pattern.url.split("/"))
    found = [
        url
        for url, info in pattern.matches().items()
        if (not info.is_dir or url.lower().endswith(".zarr"))
        and not any(part.startswith(".") for part in set(url.split("/")) - asked)
    ]
    if not found:
        raise InputFileError(f"{pattern}: no file matches this pattern")
    parents = [f"{parent_of(url)}/" for url in found]
    root = os.path.commonprefix(parents).rpartition("/")[0]  # noqa: RUF071  (cut at a slash)
    return _rows(root, [url.removeprefix(f"{root}/") for url in found])


def _rows(root: str, names: list[str]) -> list[SlideRow]:
    paths = (absolute(name, root) for name in names)
    ids = zip(ids_of(names), paths, strict=True)
    return [SlideRow(slide_id, path, named=False) for slide_id, path in ids]
