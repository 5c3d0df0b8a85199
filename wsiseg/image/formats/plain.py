"""Plain images for small work: PNG, JPEG, BMP, WebP and GIF through Pillow, and numpy arrays."""

from __future__ import annotations

import warnings
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from wsiseg.errors import UnreadableSlideError, UnsupportedFormatError
from wsiseg.geometry import Box
from wsiseg.image.formats._mpp import pixel_size
from wsiseg.image.formats._orientation import oriented
from wsiseg.image.formats._rgb import ColourRule, to_rgb
from wsiseg.image.level import DECODE_ERRORS, Contents, Level

__all__ = ["MAX_PLAIN_PIXELS", "array_contents", "is_plain", "open_contents"]

MAX_PLAIN_PIXELS = 1 << 28  # decoded at once: 16384 x 16384
ORIENTATION = 0x0112  # EXIF

MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"GIF8")


def is_plain(head: bytes) -> bool:
    """Whether a file that begins with ``head`` is one of these."""
    return head.startswith(MAGIC) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


def open_contents(path: Path, scene: int | None, z: int | None) -> Contents:
    """Contents of a plain image; its first frame where it has several."""
    if scene or z:
        raise UnsupportedFormatError(f"a plain image has one scene, got scene={scene}, z={z}")
    image = _opened(path)
    with image:
        shape = (image.height, image.width)
        _check(shape)
        kind, dpi = str(image.format), image.info.get("dpi")
        # a PNG would be decoded in search of an EXIF block behind its pixels
        has_exif = kind != "PNG" or "exif" in image.info
        orientation = int(image.getexif().get(ORIENTATION, 1)) if has_exif else 1
    mpp, note = (None, "no resolution") if not dpi else _from_dpi(dpi)
    decoded = _Once(path)
    level = Level(shape, (1.0, 1.0), decoded.read, shape)
    return Contents(
        format=kind.lower(), levels=(oriented(level, orientation),), mpp=mpp, mpp_note=note
    )


def array_contents(pixels: NDArray[Any]) -> Contents:
    """Contents of an array (h, w) or (h, w, 1 to 4): grey, grey and alpha, RGB, RGBA.

    Alpha is straight. Types by the rules of ``_rgb.py``.
    """
    samples = pixels[..., None] if pixels.ndim == 2 else pixels
    if samples.ndim != 3 or not 1 <= samples.shape[-1] <= 4 or samples.size == 0:
        raise UnsupportedFormatError(
            f"an array must be (h, w) or (h, w, 1 to 4) and not empty, got {pixels.shape}"
        )
    shape = (samples.shape[0], samples.shape[1])
    channels = samples.shape[-1]
    rule = ColourRule(
        "rgb" if channels >= 3 else "grey",
        8 * samples.dtype.itemsize,
        "straight" if channels in (2, 4) else None,
    )
    to_rgb(samples[:1, :1], rule)  # a type without a rule is refused now

    def read(box: Box) -> NDArray[np.uint8]:
        return to_rgb(samples[box.slices()], rule)

    return Contents("array", (Level(shape, (1.0, 1.0), read, shape),), mpp_note="an array")


class _Once:
    """Decodes a file at the first read and keeps the pixels."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, Lock()
        self._pixels: NDArray[np.uint8] | None = None

    def read(self, box: Box) -> NDArray[np.uint8]:
        with self._lock:
            if self._pixels is None:
                self._pixels = _decode(self._path)
        return self._pixels[box.slices()].copy()


def _opened(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # large, but below our own limit
            return Image.open(path)
    except UnidentifiedImageError as error:
        raise UnsupportedFormatError("not an image that Pillow knows") from error
    except Image.DecompressionBombError as error:
        raise UnsupportedFormatError(f"{error}; convert it to a tiled TIFF") from error
    except DECODE_ERRORS as error:
        raise UnreadableSlideError(f"its header is damaged: {error}") from error


def _check(shape: tuple[int, int]) -> None:
    if min(shape) < 1:
        raise UnreadableSlideError(f"the image has no pixels: {shape}")
    if shape[0] * shape[1] > MAX_PLAIN_PIXELS:
        raise UnsupportedFormatError(
            f"the image has {shape[0]} x {shape[1]} px and can only be decoded whole; at most "
            "2^28 px are: convert it to a tiled TIFF"
        )


def _decode(path: Path) -> NDArray[np.uint8]:
    with _opened(path) as image:
        _check((image.height, image.width))
        if image.mode == "P" or "transparency" in image.info:
            image = image.convert("RGBA" if "transparency" in image.info else "RGB")
        mode, samples = image.mode, np.asarray(image)
    if samples.ndim == 2:
        samples = samples[..., None]
    return to_rgb(samples, _rule(mode, samples))


def _rule(mode: str, samples: NDArray[Any]) -> ColourRule:
    models = {
        "1": "grey", "L": "grey", "LA": "grey", "I;16": "grey", "I;16B": "grey", "I;16L": "grey",
        "RGB": "rgb", "RGBA": "rgb", "RGBX": "rgb", "CMYK": "cmyk",
    }  # fmt: skip
    if mode not in models:
        raise UnsupportedFormatError(
            f"images of mode {mode!r} are not supported; convert to 8-bit RGB"
        )
    bits = 8 * samples.dtype.itemsize
    return ColourRule(models[mode], bits, "straight" if mode in ("LA", "RGBA") else None)


def _from_dpi(dpi: Any) -> tuple[tuple[float, float] | None, str]:
    x, y = (25400.0 / float(d) if d and float(d) > 0 else None for d in dpi)
    return pixel_size(y, x, source=f"{dpi[0]:g} dpi")
