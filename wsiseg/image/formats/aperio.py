"""Aperio SVS: metadata through OpenSlide, pixels straight from the TIFF.

OpenSlide addresses lower levels by level-0 px and interpolates where the downsample (2.0005, say)
leads between px, so that its pixels depend on where a box begins. The TIFF's tiles do not.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from wsiseg.errors import UnreadableSlideError, UnsupportedFormatError
from wsiseg.image.formats import openslide, tiff
from wsiseg.image.level import Contents

__all__ = ["open_contents"]


def open_contents(path: Path, scene: int | None, z: int | None) -> Contents:
    """Contents of an SVS file; UnsupportedFormatError for any other."""
    if openslide.detect(path) != "aperio":
        raise UnsupportedFormatError("not an Aperio slide")
    described = openslide.open_contents(path, scene, z)
    try:
        pixels = tiff.open_contents(path, None, None)
    except UnreadableSlideError:  # OpenSlide reads YCbCr JPEG 2000, which tiff.py does not
        return described
    same = [level.shape for level in described.levels] == [level.shape for level in pixels.levels]
    whole = not any(level.holes for level in pixels.levels)  # OpenSlide fills them from above
    if not (same and whole):
        pixels.close()
        return described

    def close() -> None:
        described.close()
        pixels.close()

    return replace(described, levels=pixels.levels, close=close)
