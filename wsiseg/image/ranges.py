"""Slides at URLs that are read where they lie, by ranges of bytes or chunk by chunk.

Only where a copy would be read to the same pixels by the same code: libraries are shown the
skeleton of a TIFF and choose by it. What they would read themselves is to be copied first.
"""

from __future__ import annotations

import errno
from pathlib import Path
from tempfile import TemporaryDirectory

from wsiseg.errors import OutputError, UnreadableSlideError, UnsupportedFormatError
from wsiseg.image.level import DECODE_ERRORS, Contents
from wsiseg.storage.remote import Ranges, UrlPath

__all__ = ["tiff_contents"]

# what others (MicroManager, ImageJ, ...) keep outside of directories, a skeleton does not have
_KINDS = ("ome-tiff", "aperio", "tiff (generic)", "tiff (uniform)", "tiff (shaped)", "tiff (svs)")


def tiff_contents(
    path: UrlPath, ranges: Ranges, scene: int | None, z: int | None
) -> Contents | None:
    """Contents of a TIFF that are read by ``ranges``; None where it has to be copied.

    Raises UnreadableSlideError, with the OSError behind it, where storage does not answer, and
    OutputError where the skeleton cannot be written. ``ranges`` are closed with the contents.
    """
    try:
        with TemporaryDirectory(prefix="wsiseg-") as folder:
            contents = _by_skeleton(Path(folder) / path.name, ranges, scene, z)
    except OSError as error:
        ranges.close()
        reason = error.strerror or type(error).__name__
        if error.filename == path.url:
            raise UnreadableSlideError(f"{path}: cannot be read: {reason}") from error
        raise _no_room(error) from error
    if contents is not None and contents.format in _KINDS:
        return contents
    ranges.close()
    return None


def _by_skeleton(
    skeleton: Path, ranges: Ranges, scene: int | None, z: int | None
) -> Contents | None:
    from wsiseg.image.formats._skeleton import write_skeleton

    try:
        write_skeleton(ranges.read_at, ranges.size, skeleton)
        return _opened(skeleton, ranges, scene, z)
    except UnreadableSlideError:
        return None
    except OSError:
        raise
    except DECODE_ERRORS:  # damaged: readers of a copy say how
        return None


def _no_room(error: OSError) -> OutputError:
    reason = error.strerror or type(error).__name__
    found = OutputError(
        f"cannot write a temporary file for the directories of a slide: {reason}: free some space, "
        "or choose another folder for temporary files (TMPDIR)"
    )
    # no folder at all (ENOENT) is said of none that can be written
    found.errno = errno.ENOSPC if error.errno == errno.ENOENT else error.errno
    return found


def _opened(path: Path, ranges: Ranges, scene: int | None, z: int | None) -> Contents | None:
    """By the readers that open_slide asks, in its order, up to the first that takes it."""
    from wsiseg.image.formats import aperio, openslide, tiff
    from wsiseg.image.formats._segments import RangeFiles

    files = RangeFiles(ranges)
    for opener in (tiff.open_ome, tiff.open_oriented, aperio.open_ranges):
        try:
            return opener(path, scene, z, files)
        except UnsupportedFormatError:
            continue
    if openslide.detect(path) not in (None, *openslide.GENERIC):
        return None
    return tiff.open_contents(path, scene, z, files)
