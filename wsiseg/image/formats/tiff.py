"""TIFF through tifffile: OME-TIFF with its pyramid, generic tiled TIFF, and untiled TIFF.

Only the tiles or strips that a box touches are read and decoded. File reads are positional and
decoding holds no lock. ``scene`` counts the images (series) of the file without its label, macro
and thumbnail; the first is the default. ``z`` counts focal planes; the middle one is the default.
The first time point is read. Stored samples become RGB by the rules of ``_rgb.py``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from wsiseg.errors import UnreadableSlideError, UnsupportedFormatError
from wsiseg.geometry import Box
from wsiseg.image.formats._guards import check_ifd_chain
from wsiseg.image.formats._ome import OmeImage, ome_images
from wsiseg.image.formats._orientation import oriented, oriented_pair
from wsiseg.image.formats._segments import Files, RawRows, Segments
from wsiseg.image.formats._tiff_tags import colour_rule, pixel_size_of, properties_of
from wsiseg.image.formats._tiles import TileCache, TiledPlane, check_size
from wsiseg.image.level import DECODE_ERRORS, Contents, Level, level_downsample

__all__ = ["open_contents", "open_ome", "open_oriented"]

# what tifffile says of odd tags belongs in a log, not on a user's terminal
logging.getLogger("tifffile").addHandler(logging.NullHandler())

ASSOCIATED = ("label", "macro", "thumbnail", "overview", "map", "barcode")
STRIP_PIXELS = 1 << 20  # uncompressed strips are read in pieces of about this many px


def open_ome(path: Path, scene: int | None, z: int | None, files: Files | None = None) -> Contents:
    """Contents of an OME-TIFF; UnsupportedFormatError for any other TIFF."""
    with _opened(path) as tiff:
        ome = bool(tiff.is_ome)
    if not ome:
        raise UnsupportedFormatError("this TIFF carries no OME-XML")
    return open_contents(path, scene, z, files)


def open_oriented(
    path: Path, scene: int | None, z: int | None, files: Files | None = None
) -> Contents:
    """Contents of a TIFF whose orientation tag is 2 to 8, which OpenSlide would not honour."""
    with _opened(path) as tiff:
        orientation = tiff.pages.first.tags.valueof(274, 1)
    if orientation not in range(2, 9):
        raise UnsupportedFormatError("this TIFF is stored as it is seen")
    return open_contents(path, scene, z, files)


def open_contents(
    path: Path, scene: int | None, z: int | None, files: Files | None = None
) -> Contents:
    """Contents of any TIFF that tifffile can decode.

    ``files`` reads its pixels, where they do not lie in the file at ``path``.
    """
    try:
        with _opened(path) as tiff:  # what follows reads through its own file descriptors
            return _contents(tiff, scene, z, files or Files())
    except DECODE_ERRORS as error:
        if isinstance(error, UnreadableSlideError):
            raise
        raise UnreadableSlideError(f"its TIFF structure is damaged: {error}") from error


def _opened(path: Path) -> tifffile.TiffFile:
    check_ifd_chain(path)
    try:
        return tifffile.TiffFile(path)
    except DECODE_ERRORS as error:
        raise UnreadableSlideError(f"its TIFF structure is damaged: {error}") from error


def _contents(tiff: Any, scene: int | None, z: int | None, files: Files) -> Contents:
    ome = ome_images(tiff.ome_metadata or "") if tiff.is_ome else []
    images, others = _images(tiff)
    chosen = _choose("scene", scene, len(images), 0)
    number, series = images[chosen]
    about = ome[number] if number < len(ome) else None
    orientation = _orientation(series)
    cache = TileCache()
    z_count = _z_count(series)
    plane = _choose("z", z, z_count, z_count // 2)
    levels = _levels(series, plane, about, files, cache, orientation)
    mpp, note = pixel_size_of(series.keyframe, about)
    objective, vendor, properties = properties_of(series.keyframe, about)

    associated = {name: _associated(item, files, cache) for name, item in others.items()}
    return Contents(
        format="ome-tiff" if tiff.is_ome else f"tiff ({series.kind})",
        levels=levels,
        mpp=None if mpp is None else oriented_pair(mpp, orientation),
        mpp_note=note,
        objective=objective,
        vendor=vendor,
        properties=properties,
        associated=associated,
        scene=chosen,
        scenes=tuple(item.name or str(k) for k, (_, item) in enumerate(images)),
        z=plane,
        z_count=z_count,
        close=files.close,
    )


def _images(tiff: Any) -> tuple[list[tuple[int, Any]], dict[str, Any]]:
    images: list[tuple[int, Any]] = []
    others: dict[str, Any] = {}
    for number, series in enumerate(tiff.series):
        if 0 in series.keyframe.shaped:
            raise UnreadableSlideError(f"image {number} has no pixels: {series.keyframe.shape}")
        name = series.name.strip().lower()
        kind = next((word for word in ASSOCIATED if word in name), None)
        if kind is not None and number > 0:
            others[kind] = series
        else:
            images.append((number, series))
    if not images:
        raise UnreadableSlideError("the TIFF holds no image")
    return images, others


def _choose(what: str, wanted: int | None, count: int, default: int) -> int:
    if wanted is None:
        return default
    if not 0 <= wanted < count:
        raise UnsupportedFormatError(f"{what} must be 0 to {count - 1}, got {wanted}")
    return wanted


def _orientation(series: Any) -> int:
    value = series.keyframe.tags.valueof(274, 1)
    return int(value) if value in range(1, 9) else 1


def _z_count(series: Any) -> int:
    leading = series.axes[: len(series.axes) - len(series.keyframe.axes)]
    return int(series.shape[leading.index("Z")]) if "Z" in leading else 1


def _levels(
    series: Any,
    z: int,
    about: OmeImage | None,
    files: Files,
    cache: TileCache,
    orientation: int,
) -> tuple[Level, ...]:
    full = (series.keyframe.imagelength, series.keyframe.imagewidth)
    levels = []
    for k, item in enumerate(series.levels):
        key = item.keyframe
        downsample = level_downsample(full, (key.imagelength, key.imagewidth))
        level = _level(f"level {k}", item, z, about, files, cache, downsample)
        levels.append(oriented(level, orientation))
    return tuple(sorted(levels, key=lambda level: level.downsample))


def _level(
    what: str,
    series: Any,
    z: int,
    about: OmeImage | None,
    files: Files,
    cache: TileCache,
    downsample: tuple[float, float],
) -> Level:
    key = series.keyframe
    shape = (int(key.imagelength), int(key.imagewidth))
    pages = _pages(series, z)
    rule = colour_rule(key, len(pages), about)
    raw = _raw_rows(key, pages, rule, files)
    if raw is not None:
        check_size(what, shape, (raw.rows, shape[1]))
        plane = TiledPlane(shape, (raw.rows, shape[1]), raw.decode, cache, lanes=files.lanes)
        return Level(shape, downsample, plane.read, plane.tile)
    tile = (key.tilelength, key.tilewidth) if key.is_tiled else (key.rowsperstrip, shape[1])
    tile = (min(int(tile[0]), 1 << 31), int(tile[1]))
    check_size(what, shape, tile if key.is_tiled else (min(tile[0], shape[0]), tile[1]))
    _check_decoder(what, key)
    down, across = -(-shape[0] // tile[0]), -(-shape[1] // tile[1])
    _check_counts(what, pages, key, down * across)
    segments = Segments(pages, key, rule, tile, across, down * across, files)
    plane = TiledPlane(shape, tile, segments.decode, cache, lanes=files.lanes)
    holes = sum(1 for page in pages for count in page.databytecounts if count == 0)
    return Level(shape, downsample, plane.read, tile, holes)


def _pages(series: Any, z: int) -> tuple[Any, ...]:
    # the pages of one focal plane at the first time point: one, or one per channel
    axes, shape, key = series.axes, series.shape, series.keyframe
    lead = len(axes) - len(key.axes)
    if lead < 0 or axes[lead:] != key.axes or "Z" in key.axes:
        raise UnsupportedFormatError(
            f"axes {axes} with pages of {key.axes} are not a stack of (y, x) planes"
        )
    index: list[Sequence[int]] = []
    for axis, length in zip(axes[:lead], shape[:lead], strict=True):
        index.append(range(length) if axis == "C" else [min(z, length - 1) if axis == "Z" else 0])
    if not index:
        numbers = np.zeros(1, dtype=np.int64)
    else:
        grid = np.ix_(*[np.asarray(i) for i in index])
        numbers = np.ravel_multi_index(grid, shape[:lead]).ravel()
    pages = tuple(series[int(n)] for n in numbers)
    if any(page is None for page in pages):
        raise UnreadableSlideError("a plane of the image is missing, perhaps in another file")
    return pages


def _raw_rows(key: Any, pages: tuple[Any, ...], rule: Any, files: Files) -> RawRows | None:
    plain = (
        not key.is_tiled
        and key.compression == 1
        and key.predictor == 1
        and key.fillorder == 1
        and len(pages) == 1
        and key.bitspersample in (8, 16, 32)
        and (key.planarconfig == 1 or key.samplesperpixel == 1)
        and key.photometric != 6  # subsampled YCbCr is not rows of px
    )
    if not plain:
        return None
    strips = -(-key.imagelength // max(1, min(key.rowsperstrip, key.imagelength)))
    _check_counts("the image", pages, key, strips)
    rows = max(1, STRIP_PIXELS // key.imagewidth)
    return RawRows(pages[0], rule, min(rows, key.imagelength), files)


def _check_decoder(what: str, key: Any) -> None:
    try:
        key.decode(None, 0)  # also makes the decoder now, before threads ask for it
    except (ValueError, NotImplementedError, KeyError) as error:
        raise UnsupportedFormatError(
            f"{what}: compression {int(key.compression)} with {key.bitspersample} bits cannot be "
            f"decoded ({error}); convert it to a tiled TIFF with JPEG or deflate"
        ) from error


def _check_counts(what: str, pages: tuple[Any, ...], key: Any, each: int) -> None:
    expected = each * (key.samplesperpixel if key.planarconfig == 2 else 1)
    for page in pages:
        found = min(len(page.dataoffsets), len(page.databytecounts))
        if found < expected:
            raise UnreadableSlideError(
                f"{what} ({key.imagelength} x {key.imagewidth} px) needs {expected} tiles or "
                f"strips, the file lists {found}"
            )


def _associated(series: Any, files: Files, cache: TileCache) -> Callable[[], NDArray[np.uint8]]:
    try:
        level = _level("the image", series, 0, None, files, cache, (1.0, 1.0))
    except UnreadableSlideError as error:
        return partial(_fail, error)
    return partial(level.read, Box.of_shape(level.shape))


def _fail(error: UnreadableSlideError) -> NDArray[np.uint8]:
    raise error
