"""open_slide: which reader a file goes to, decided by its content."""

from __future__ import annotations

import errno
import gc
import os
import stat
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.metadata import entry_points
from math import isfinite
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import (
    MissingExtraError,
    MissingSpacingError,
    OutputError,
    UnreadableSlideError,
    UnsupportedFormatError,
    WsisegError,
)
from wsiseg.image.level import DECODE_ERRORS, Contents
from wsiseg.image.parts import Place, members_of
from wsiseg.image.slide import MAX_MPP, MIN_MPP, Slide
from wsiseg.storage.remote import Info, UrlPath
from wsiseg.storage.staging import Staging
from wsiseg.storage.url import absolute, is_url

__all__ = ["ARRAY", "FORMATS", "Format", "open_slide"]

ARRAY = "array"  # format of a slide made of an array
HEAD = 4096  # bytes that a format may look at
REOPENED = 4  # slides that a process keeps open for those that arrive by pickle

Opener = Callable[[Path, int | None, int | None], Contents]


@dataclass(frozen=True, slots=True)
class Format:
    """A row of the table of formats, or an entry point of the group ``wsiseg.formats``."""

    name: str
    accepts: Callable[[Path, bytes], bool]
    """A cheap look at (path, first bytes): may this be one of mine? b"" for a folder."""
    opener: str | Opener
    """``module:function``, imported when asked, or a function (path, scene, z) -> Contents."""

    def open(self, path: Path, scene: int | None, z: int | None) -> Contents:
        """Contents of ``path``."""
        if callable(self.opener):
            return self.opener(path, scene, z)
        module, _, function = self.opener.partition(":")
        opener: Opener = getattr(import_module(module), function)
        return opener(path, scene, z)


def open_slide(
    path: str | os.PathLike[str] | NDArray[Any],
    mpp: float | Sequence[float] | None = None,
    *,
    scene: int | None = None,
    z: int | None = None,
    staging: Staging | None = None,
) -> Slide:
    """Open a slide: a file, an OME-Zarr folder, the URL of one (s3://...), or an array (h, w[, c]).

    ``mpp`` is µm per level-0 px, one number or (y, x), from 0.05 to 20; it goes before what the
    file says. ``scene`` picks one of several images (default: the first that is not a label or
    macro), ``z`` a focal plane (default: the middle one, ``z_count // 2``). No pixel is decoded.

    Of URLs, tiled TIFF and OME-Zarr are read by ranges; other formats are copied first, see
    ``wsiseg.storage.staging``. With ``staging``, files of this machine are copied there, too.
    Pixels are the same whichever way a slide comes.

    Raises UnreadableSlideError (missing, empty or damaged), its subclass UnsupportedFormatError
    (no reader takes it), MissingExtraError, MissingSpacingError for an ``mpp`` out of range, or
    SettingsError for a URL that cannot be and a slide that does not fit into ``staging``.
    """
    given = _given_mpp(mpp)
    if isinstance(path, np.ndarray):
        from wsiseg.image.formats.plain import array_contents

        return Slide(
            "memory", array_contents(path), given_mpp=given, reopen=(open_slide, (path, given))
        )
    text = absolute(path) if is_url(path) else os.fspath(path)
    if is_url(text):
        return _open_url(UrlPath(text), given, scene, z, staging)
    where = Path(text)
    head = _head(where)
    if staging is not None and head:
        contents = _copied_or_there(Path(os.path.abspath(where)), scene, z, staging)
    else:
        contents = _contents(where, head, scene, z)
    reopen = (_reopen, (os.path.abspath(where), given, scene, z, staging))
    return Slide(str(where), contents, given_mpp=given, reopen=reopen)


def _open_url(
    where: UrlPath,
    given: tuple[float, float] | None,
    scene: int | None,
    z: int | None,
    staging: Staging | None,
    mark: str | None = None,
) -> Slide:
    """The slide at a URL; it has to be the version ``mark``, if that is given."""
    try:
        info = where.info()
        found = _zarr_mark(where) if info.is_dir else info.mark
        if mark not in (None, found):
            raise OSError(errno.ESTALE, "replaced since it was opened first", where.url)
        contents = _contents_at(where, info, scene, z, staging)
    except WsisegError:
        raise
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UnreadableSlideError(f"{where}: cannot be opened: {reason}") from error
    reopen = (_reopen, (where.url, given, scene, z, staging, found))
    return Slide(where.url, contents, given_mpp=given, reopen=reopen)


def _contents_at(
    where: UrlPath, info: Info, scene: int | None, z: int | None, staging: Staging | None
) -> Contents:
    if info.is_dir:
        _folder(where)
        return _zarr_contents(where, scene, z)
    head = where.read(0, HEAD)
    if not head:
        raise UnreadableSlideError(f"{where}: the file is empty (0 bytes)")
    if _is_tiff(Path(), head):
        from wsiseg.image.ranges import tiff_contents

        ranges = where.ranges()
        if (ranges.size, ranges.mark) != (info.size, info.mark):
            ranges.close()
            raise OSError(errno.ESTALE, "replaced while it was opened", where.url)
        contents = tiff_contents(where, ranges, scene, z)
        if contents is not None:
            return contents
    return _copied(where, scene, z, staging or Staging.of())


def _zarr_contents(where: UrlPath, scene: int | None, z: int | None) -> Contents:
    from wsiseg.image.formats.ome_zarr import open_contents

    try:
        return open_contents(where, scene, z)
    except DECODE_ERRORS as error:
        raise _refused(str(where), b"", [("ome-zarr", _ours(error))]) from error


def _zarr_mark(where: UrlPath) -> str:
    listed = where.listed()
    return " ".join(listed[name].mark for name in ZARR_MARKS if name in listed)


def _copied(where: Place, scene: int | None, z: int | None, staging: Staging) -> Contents:
    """Contents of a copy, which stays for as long as they do."""
    members = members_of(where)
    copy = staging.copy(members, str(where), _forget_reopened)
    try:
        if members_of(where) != members:  # what is said of the slide from now on is not of the copy
            changed = OSError(errno.ESTALE, "replaced while it was copied", str(where))
            raise UnreadableSlideError(f"{where}: {changed.strerror}") from changed
        contents = _contents(copy.path, _head(copy.path), scene, z, shown=str(where))
    except BaseException:
        copy.close()
        raise

    def close() -> None:
        contents.close()
        copy.close()

    return replace(contents, close=close)


def _copied_or_there(where: Path, scene: int | None, z: int | None, staging: Staging) -> Contents:
    try:
        return _copied(where, scene, z, staging)
    except OutputError:  # there is no room for copies
        raise
    except OSError:  # it may need files that nobody knew of, or cannot be copied
        return _contents(where, _head(where), scene, z)


def _is_tiff(path: Path, head: bytes) -> bool:
    return head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def _is_dicom(path: Path, head: bytes) -> bool:
    return head[128:132] == b"DICM"


def _is_plain(path: Path, head: bytes) -> bool:
    plain = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"GIF8")
    webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    return (head.startswith(plain) or webp) and path.suffix.lower() != ".mrxs"


def _is_zarr(path: Path | UrlPath, head: bytes) -> bool:
    return path.is_dir() and any((path / mark).is_file() for mark in ZARR_MARKS)


def _is_file(path: Path, head: bytes) -> bool:
    return bool(head)


ZARR_MARKS = ("zarr.json", ".zattrs", ".zgroup", ".zarray")
MRXS_HINT = "; an .mrxs file needs the folder of the same name beside it"
READERS = "wsiseg.image.formats."
FORMATS = (
    Format("ome-zarr", _is_zarr, READERS + "ome_zarr:open_contents"),
    Format("ome-tiff", _is_tiff, READERS + "tiff:open_ome"),
    Format("oriented-tiff", _is_tiff, READERS + "tiff:open_oriented"),
    Format("aperio", _is_tiff, READERS + "aperio:open_contents"),
    Format("openslide", _is_file, READERS + "openslide:open_contents"),
    Format("tiff", _is_tiff, READERS + "tiff:open_contents"),
    Format("dicom", _is_dicom, READERS + "dicom:open_contents"),
    Format("plain", _is_plain, READERS + "plain:open_contents"),
)
"""Asked in this order; the first that opens the file has it."""


def _contents(
    path: Path, head: bytes, scene: int | None, z: int | None, shown: str = ""
) -> Contents:
    refusals: list[tuple[str, WsisegError]] = []
    try:
        for candidate in _candidates(path, head):
            try:
                return candidate.open(path, scene, z)
            except DECODE_ERRORS as error:
                refusals.append((candidate.name, _ours(error)))
        raise _refused(shown or str(path), head, refusals)
    finally:
        refusals.clear()  # they hold this frame, and with it whatever the caller will close


def _ours(error: Exception) -> WsisegError:
    if isinstance(error, UnreadableSlideError | MissingExtraError):
        return error
    damaged = UnreadableSlideError(f"{type(error).__name__}: {error}")
    damaged.__cause__ = error
    return damaged


def _candidates(path: Path, head: bytes) -> Iterator[Format]:
    yield from (row for row in FORMATS if row.accepts(path, head))
    for point in entry_points(group="wsiseg.formats"):
        row: Format = point.load()
        if row.accepts(path, head):
            yield row


def _refused(path: str, head: bytes, refusals: list[tuple[str, WsisegError]]) -> WsisegError:
    # what says "mine, but damaged" tells more than "not mine"; among equals the last, most general
    damaged = [r for r in refusals if not isinstance(r[1], UnsupportedFormatError)]
    asked = damaged or [r for r in refusals if r[0] not in ("aperio", "oriented-tiff", "ome-tiff")]
    if not asked or ([name for name, _ in asked] == ["openslide"] and not damaged):
        return UnsupportedFormatError(
            f"{path}: no reader knows this format (it begins with {head[:16]!r}); supported are "
            "SVS, NDPI, MRXS, SCN, BIF, DICOM, OME-TIFF, TIFF, OME-Zarr, PNG and JPEG"
            + MRXS_HINT
            * path.lower().endswith(".mrxs")
        )
    name, error = asked[-1]
    kind = type(error)
    refused = kind(f"{path}: {error} (read as {name})")
    refused.__cause__ = error
    return refused


def _head(path: Path) -> bytes:
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            return _folder(path)
        if not stat.S_ISREG(mode):
            raise UnsupportedFormatError(
                f"{path}: expected a file or an OME-Zarr folder, got a pipe, socket or device"
            )
        with path.open("rb") as file:
            head = file.read(HEAD)
    except WsisegError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = "no such file" if isinstance(error, FileNotFoundError) else str(error)
        raise UnreadableSlideError(f"{path}: cannot be opened: {reason}") from error
    if not head:
        raise UnreadableSlideError(f"{path}: the file is empty (0 bytes)")
    return head


def _folder(path: Path | UrlPath) -> bytes:
    if _is_zarr(path, b""):
        return b""
    names = path.listed() if isinstance(path, UrlPath) else (p.name for p in path.iterdir())
    inside = sorted(names)[:3]
    raise UnsupportedFormatError(
        f"{path}: expected a slide, got a folder that is not a zarr (no zarr.json, .zattrs or "
        f".zgroup; it holds {', '.join(inside) or 'nothing'}); name the file inside it, or give "
        "the folder to `wsiseg batch`"
    )


def _given_mpp(mpp: float | Sequence[float] | None) -> tuple[float, float] | None:
    if mpp is None:
        return None
    try:
        y, x = (mpp, mpp) if isinstance(mpp, int | float) else mpp
        pair = (float(y), float(x))
    except (TypeError, ValueError) as error:
        raise MissingSpacingError(f"mpp must be one number or (y, x), got {mpp!r}") from error
    if not all(isfinite(v) and MIN_MPP <= v <= MAX_MPP for v in pair):
        raise MissingSpacingError(
            f"--mpp (mpp=) must lie in {MIN_MPP:g} to {MAX_MPP:g} µm per px, got {mpp!r}"
        )
    return pair


_reopened: OrderedDict[tuple[Any, ...], Slide] = OrderedDict()
_reopened_lock = RLock()


def _reopen(
    path: str,
    mpp: tuple[float, float] | None,
    scene: int | None,
    z: int | None,
    staging: Staging | None = None,
    mark: str = "",
) -> Slide:
    # a worker gets the same slide with every task: it is opened once, unless the file changed
    key = (os.getpid(), path, mpp, scene, z, staging, mark or _state(path))
    with _reopened_lock:
        if key not in _reopened:
            if is_url(path):
                _reopened[key] = _open_url(UrlPath(path), mpp, scene, z, staging, mark)
            else:
                _reopened[key] = open_slide(path, mpp, scene=scene, z=z, staging=staging)
        _reopened.move_to_end(key)
        while len(_reopened) > REOPENED:
            _reopened.popitem(last=False)  # closed when its last user lets go of it
        return _reopened[key]


def _state(path: str) -> tuple[int, int, int]:
    try:
        found = os.stat(path)
        return (found.st_mtime_ns, found.st_size, found.st_ino)
    except OSError:
        return (0, 0, 0)


def _forget_reopened() -> None:
    with _reopened_lock:
        _reopened.clear()
    gc.collect()  # slides whose reading has failed may be held by the errors
