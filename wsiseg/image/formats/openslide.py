"""Slides through OpenSlide: SVS, NDPI, MRXS, SCN, BIF, DICOM and other scanners' formats.

Coordinates count from the scanned bounds (openslide.bounds-*) where a file has them, and the
slide is cut to them, as QuPath does, so that exported outlines lie where QuPath shows the tissue.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import openslide
from numpy.typing import NDArray

from wsiseg.errors import UnreadableSlideError, UnsupportedFormatError
from wsiseg.geometry import Box
from wsiseg.image.formats._mpp import number, pixel_size, private
from wsiseg.image.formats._rgb import over_white
from wsiseg.image.formats._tiles import TileCache, TiledPlane, check_size
from wsiseg.image.level import Contents, Level, level_downsample

__all__ = ["Handle", "bounds_of", "contents_of", "detect", "open_contents"]

CACHE_BYTES = 64 << 20  # decoded tiles that OpenSlide keeps per slide
BLOCK = 1024  # px of the blocks by which a level with a broken downsample is read
GENERIC = {"generic-tiff"}  # tiff.py reads these: more compressions, orientation, SubIFDs


def detect(path: Path) -> str | None:
    """Vendor that OpenSlide sees in a file, or None."""
    try:
        found = openslide.OpenSlide.detect_format(str(path))
    except openslide.OpenSlideError:
        return None
    return None if found is None else str(found)


def open_contents(path: Path, scene: int | None, z: int | None) -> Contents:
    """What OpenSlide reads in ``path``; it knows neither scenes nor focal planes."""
    vendor = detect(path)
    if vendor is None or vendor in GENERIC:
        raise UnsupportedFormatError("OpenSlide knows no scanner of this format")
    if scene or z:
        raise UnsupportedFormatError(
            f"OpenSlide shows one scene and one focal plane of a {vendor} file, "
            f"got scene={scene}, z={z}"
        )
    return contents_of(Handle(lambda: openslide.OpenSlide(str(path))), vendor)


class Handle:
    """An OpenSlide object that is opened again after an error, which would stay with it."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make, self._lock = make, Lock()
        self._slide: Any = None
        self._closed = False
        self.slide()

    def slide(self) -> Any:
        """The open object."""
        with self._lock:
            if self._closed:
                raise UnreadableSlideError("the slide has been closed")
            if self._slide is None:
                self._slide = self._open()
            return self._slide

    def call(self, use: Callable[[Any], Any]) -> Any:
        """``use`` of the open object; an error of OpenSlide as UnreadableSlideError."""
        slide = self.slide()
        try:
            return use(slide)
        except openslide.OpenSlideError as error:
            with self._lock:
                # not closed here: another thread may be inside it; the last one to leave frees it
                if self._slide is slide:
                    self._slide = None
            raise UnreadableSlideError(f"OpenSlide: {error}") from error

    def close(self) -> None:
        """Close it for good."""
        with self._lock:
            self._closed = True
            if self._slide is not None:
                self._slide.close()
            self._slide = None

    def _open(self) -> Any:
        try:
            slide = self._make()
        except openslide.OpenSlideUnsupportedFormatError as error:
            raise UnsupportedFormatError(f"OpenSlide: {error}") from error
        except (openslide.OpenSlideError, OSError) as error:
            raise UnreadableSlideError(f"OpenSlide: {error}") from error
        with contextlib.suppress(AttributeError):  # a stand-in in tests has no cache
            slide.set_cache(openslide.OpenSlideCache(CACHE_BYTES))
        return slide


def contents_of(handle: Handle, vendor: str) -> Contents:
    """Contents of an open slide, cut to its bounds."""
    slide = handle.slide()
    properties: Mapping[str, str] = dict(slide.properties)
    full = _yx(slide.level_dimensions[0])
    bounds = bounds_of(properties, full)
    cache = TileCache()
    levels = [_level(handle, k, bounds, properties, cache) for k in range(slide.level_count)]
    mpp, note = _mpp(properties)
    return Contents(
        format=vendor,
        levels=tuple(sorted(levels, key=lambda k: k.downsample)),
        mpp=mpp,
        mpp_note=note,
        objective=number(properties.get(openslide.PROPERTY_NAME_OBJECTIVE_POWER)),
        vendor=properties.get(openslide.PROPERTY_NAME_VENDOR, vendor),
        properties={k: v for k, v in properties.items() if not private(k)},
        associated={name: _associated(handle, name) for name in slide.associated_images},
        close=handle.close,
    )


def bounds_of(properties: Mapping[str, str], full: tuple[int, int]) -> Box:
    """The scanned part of level 0, of shape ``full``: the bounds if all four stand and fit."""
    names = ("y", "x", "height", "width")
    found = [number(properties.get(f"openslide.bounds-{name}")) for name in names]
    if any(v is None for v in found):
        return Box.of_shape(full)
    y, x, h, w = (int(v) for v in found if v is not None)
    box = Box((y, x), (y + h, x + w)).clip(full)
    return Box.of_shape(full) if box.empty else box


def _level(
    handle: Handle, k: int, bounds: Box, properties: Mapping[str, str], cache: TileCache
) -> Level:
    slide = handle.slide()
    full, stored = _yx(slide.level_dimensions[0]), _yx(slide.level_dimensions[k])
    check_size(f"level {k}", stored, (1, 1))
    downsample = level_downsample(full, stored)
    if bounds.shape == full:
        shape = stored
    else:
        pairs = zip(bounds.shape, downsample, strict=True)
        shape_y, shape_x = (max(1, int(np.ceil(b / d - 1e-9))) for b, d in pairs)
        shape = (shape_y, shape_x)
    background = _background(properties)
    steps = float(slide.level_downsamples[k])

    def region(box: Box) -> NDArray[np.uint8]:
        return _region(handle, k, steps, box, bounds.start, background)

    tile = _tile(properties, k)
    if steps != round(steps):
        # OpenSlide interpolates where a box does not begin on a whole px of the level, so the
        # boxes are made to begin on a fixed grid: values then depend on no caller's cut
        plane = TiledPlane(shape, (BLOCK, BLOCK), lambda i, j: region(_block(shape, i, j)), cache)
        return Level(shape, downsample, plane.read, (BLOCK, BLOCK))
    return Level(shape, downsample, region, tile)


def _region(
    handle: Handle,
    k: int,
    steps: float,
    box: Box,
    origin: tuple[int, ...],
    background: tuple[int, int, int],
) -> NDArray[np.uint8]:
    yx = [o + round(s * steps) for o, s in zip(origin, box.start, strict=True)]
    size = (box.shape[1], box.shape[0])
    image = handle.call(lambda slide: slide.read_region((yx[1], yx[0]), k, size))
    rgba = np.asarray(image)
    return over_white(rgba[..., :3], rgba[..., 3], premultiplied=False, background=background)


def _block(shape: tuple[int, int], i: int, j: int) -> Box:
    start = (i * BLOCK, j * BLOCK)
    return Box(start, (start[0] + BLOCK, start[1] + BLOCK)).clip(shape)


def _background(properties: Mapping[str, str]) -> tuple[int, int, int]:
    text = properties.get(openslide.PROPERTY_NAME_BACKGROUND_COLOR, "").lstrip("#")
    try:
        value = int(text, 16)
    except ValueError:
        return (255, 255, 255)
    return (value >> 16 & 255, value >> 8 & 255, value & 255)


def _tile(properties: Mapping[str, str], k: int) -> tuple[int, int]:
    h = number(properties.get(f"openslide.level[{k}].tile-height"))
    w = number(properties.get(f"openslide.level[{k}].tile-width"))
    return (int(h), int(w)) if h and w else (512, 512)


def _mpp(properties: Mapping[str, str]) -> tuple[tuple[float, float] | None, str]:
    y = properties.get(openslide.PROPERTY_NAME_MPP_Y)
    x = properties.get(openslide.PROPERTY_NAME_MPP_X)
    if y is None and x is None and "aperio.MPP" in properties:  # a decimal comma, say
        raw = properties["aperio.MPP"]
        return pixel_size(raw, raw, source="aperio.MPP")
    return pixel_size(y, x, source="openslide.mpp-y, openslide.mpp-x")


def _associated(handle: Handle, name: str) -> Callable[[], NDArray[np.uint8]]:
    def read() -> NDArray[np.uint8]:
        rgba = np.asarray(handle.call(lambda slide: slide.associated_images[name].convert("RGBA")))
        return over_white(rgba[..., :3], rgba[..., 3], premultiplied=False)

    return read


def _yx(size: tuple[int, int]) -> tuple[int, int]:
    return int(size[1]), int(size[0])
