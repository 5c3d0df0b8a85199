"""Aperio SVS: metadata through OpenSlide, pixels straight from the TIFF.

OpenSlide addresses lower levels by level-0 px and interpolates where the downsample (2.0005, say)
leads between px, so that its pixels depend on where a box begins. The TIFF's tiles do not.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from wsiseg.errors import UnreadableSlideError, UnsupportedFormatError
from wsiseg.image.formats import openslide, tiff
from wsiseg.image.formats._segments import Files
from wsiseg.image.level import Contents

__all__ = ["open_contents", "open_ranges"]


_QUICKHASH = "openslide.quickhash-1"  # of pixels too


def open_contents(path: Path, scene: int | None, z: int | None) -> Contents:
    """Contents of an SVS file; UnsupportedFormatError for any other."""
    described = _described(path, scene, z)
    pixels = _pixels(path, described)
    if pixels is None:
        return described

    def close() -> None:
        described.close()
        pixels.close()

    return replace(described, levels=pixels.levels, close=close)


def open_ranges(path: Path, scene: int | None, z: int | None, files: Files) -> Contents | None:
    """The same of an SVS file of which only the skeleton is at ``path``, and ``files`` has pixels.

    None where they are OpenSlide's to read, which needs the whole file.
    """
    described = _described(path, scene, z)
    described.close()
    pixels = _pixels(path, described, files)
    if pixels is None:
        return None
    kept = {k: v for k, v in described.properties.items() if k != _QUICKHASH}
    return replace(
        described,
        levels=pixels.levels,
        associated=pixels.associated,
        properties=kept,
        close=pixels.close,
    )


def _described(path: Path, scene: int | None, z: int | None) -> Contents:
    if openslide.detect(path) != "aperio":
        raise UnsupportedFormatError("not an Aperio slide")
    return openslide.open_contents(path, scene, z)


def _pixels(path: Path, described: Contents, files: Files | None = None) -> Contents | None:
    """Pixels as the TIFF has them; None where they are not those that OpenSlide describes."""
    try:
        pixels = tiff.open_contents(path, None, None, files)
    except UnreadableSlideError:  # OpenSlide reads YCbCr JPEG 2000, which tiff.py does not
        return None
    same = [level.shape for level in described.levels] == [level.shape for level in pixels.levels]
    whole = not any(level.holes for level in pixels.levels)  # OpenSlide fills them from above
    if same and whole:
        return pixels
    pixels.close()
    return None
