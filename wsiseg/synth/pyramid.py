"""Synthetic pixels into a pyramid file, a strip at a time."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol
from uuid import NAMESPACE_OID, uuid5

import numpy as np
from numpy.typing import NDArray

from wsiseg.geometry import Box

__all__ = ["Pixels", "write_he_slide"]


class Pixels(Protocol):
    """What can be written as a slide."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width, px."""
        ...

    @property
    def mpp(self) -> float:
        """Micrometres per px."""
        ...

    def pixels(self, box: Box) -> NDArray[np.uint8]:
        """RGB ``(*box.shape, 3)``."""
        ...


def write_he_slide(path: str | Path, slide: Pixels, *, tile: int = 256) -> None:
    """Write a slide or a plan as a tiled JPEG pyramid with its mpp, a strip at a time.

    ``.ome.tif(f)``: OME-TIFF; otherwise a generic tiled TIFF. Levels of a quarter the size.
    """
    from tifffile import TiffWriter

    path = Path(path)
    ome = path.name.lower().endswith((".ome.tif", ".ome.tiff"))
    small = np.zeros((*(-(-s // 4) for s in slide.shape), 3), dtype=np.uint8)
    shared = {
        "tile": (tile, tile), "photometric": "rgb", "compression": "jpeg",
        "compressionargs": {"level": 90}, "dtype": np.uint8,
    }  # fmt: skip
    with TiffWriter(path, ome=ome, bigtiff=np.prod(slide.shape) > 1 << 30) as writer:
        levels = _level_count(slide.shape, tile)
        for level in range(levels):
            data = slide.shape if level == 0 else small.shape[:2]
            tiles = _tiles(slide, tile, small) if level == 0 else _cut(small, tile)
            writer.write(
                tiles,
                shape=(*data, 3),
                subifds=levels - 1 if ome and level == 0 else None,
                subfiletype=1 if level else 0,
                resolution=(1e4 / (slide.mpp * 4**level),) * 2,
                resolutionunit="CENTIMETER",
                metadata=_ome_metadata(slide) if ome and level == 0 else None,
                **shared,
            )
            small = _quarter(small) if level else small


def _level_count(shape: tuple[int, int], tile: int) -> int:
    """Levels until one fits into two by two tiles."""
    levels, side = 1, max(shape)
    while side > 2 * tile:
        levels, side = levels + 1, -(-side // 4)
    return levels


def _tiles(slide: Pixels, tile: int, small: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """Full tiles of level 0 in row order; fills ``small``, a quarter the size, on the way."""
    height, width = slide.shape
    for top in range(0, height, tile):
        strip = slide.pixels(Box((top, 0), (min(top + tile, height), width)))
        quarter = _quarter(strip)
        small[top // 4 : top // 4 + len(quarter)] = quarter
        yield from _cut(strip, tile)


def _cut(pixels: NDArray[np.uint8], tile: int) -> Iterator[NDArray[np.uint8]]:
    """Tiles in row order; those of the last column and row are padded with their own edge."""
    height, width = pixels.shape[:2]
    spare = [(0, -height % tile), (0, -width % tile), (0, 0)]
    padded = np.pad(pixels, spare, mode="edge")
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            yield padded[top : top + tile, left : left + tile]


def _quarter(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Means of blocks of 4 x 4 px."""
    padded = np.pad(pixels, [(0, -s % 4) for s in pixels.shape[:2]] + [(0, 0)], mode="edge")
    height, width = (s // 4 for s in padded.shape[:2])
    blocks = padded.reshape(height, 4, width, 4, 3).astype(np.uint16)
    return np.asarray((blocks.sum(axis=(1, 3)) + 8) // 16, dtype=np.uint8)


def _ome_metadata(slide: Pixels) -> dict[str, Any]:
    size = {f"PhysicalSize{axis}": slide.mpp for axis in "XY"}
    units = {f"PhysicalSize{axis}Unit": "µm" for axis in "XY"}
    middle = Box(*(tuple(s // 2 + d for s in slide.shape) for d in (0, 32)))
    seen = slide.pixels(middle.clip(slide.shape)).tobytes()
    name = uuid5(NAMESPACE_OID, sha256(seen).hexdigest())  # the same slide, the same file
    return {"axes": "YXS", "UUID": str(name), **size, **units}
