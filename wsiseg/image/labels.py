"""Label images: PNG, TIFF and .npy."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import InputFileError, UnreadableSlideError
from wsiseg.image.formats._guards import check_ifd_chain

__all__ = ["LABEL_SUFFIXES", "not_labels", "read_labels"]

LABEL_SUFFIXES = (".png", ".tif", ".tiff", ".npy")


def read_labels(path: Path) -> NDArray[Any]:
    """A label image: integers, 0 background, one id per object; (y, x) or (z, y, x).

    PNG (8 or 16 bits, grey or palette: the index counts), ``.npy`` (memory-mapped), TIFF (one
    series); whole numbers may come as floats. Raises InputFileError where the file cannot be
    decoded, is RGB, holds fractions, negative ids, or fewer or more than 2 or 3 axes.
    """
    reader = {".png": _read_png, ".npy": _read_npy}.get(path.suffix.lower(), _read_tiff)
    labels = _decoded(reader, path)
    if labels.ndim == 3 and labels.shape[-1] in (3, 4) and labels.dtype == np.uint8:
        raise not_labels(path, f"an RGB image of shape {labels.shape}")
    if labels.dtype.kind == "f":
        labels = _whole(labels, path)
    if labels.dtype.kind not in "iu":
        raise not_labels(path, f"{labels.dtype} values")
    if labels.ndim not in (2, 3):
        raise not_labels(path, f"an array of shape {labels.shape}")
    if labels.dtype.kind == "i" and labels.size and labels.min() < 0:
        raise not_labels(path, f"the id {labels.min()}")
    return labels


def not_labels(where: object, got: str) -> InputFileError:
    """What is said of something that is not labels, ``got`` saying what it is."""
    return InputFileError(
        f"{where}: expected a label image (integers >= 0, 0 background, one id per object, 2-D or "
        f"3-D), got {got}; convert it, for instance with skimage.measure.label"
    )


def _whole(labels: NDArray[Any], path: Path) -> NDArray[np.int64]:
    if not (np.abs(labels) < 2**53).all() or (labels != np.floor(labels)).any():
        raise not_labels(path, f"fractions ({labels.dtype})")
    return labels.astype(np.int64)


def _decoded(reader: Callable[[Path], NDArray[Any]], path: Path) -> NDArray[Any]:
    try:
        return reader(path)
    except InputFileError:
        raise
    # PIL says SyntaxError of a broken header; the rest is what damaged files make decoders say
    except (
        *(OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError),
        *(zlib.error, struct.error, MemoryError, RuntimeError, UnreadableSlideError),
    ) as error:
        raise InputFileError(
            f"{path}: not a readable label image: {error or type(error).__name__}; "
            "write it again as 16-bit PNG, .npy or TIFF"
        ) from error


def _read_png(path: Path) -> NDArray[Any]:
    from PIL.PngImagePlugin import PngImageFile

    # not Image.open: its limit of 179 million px is meant for photographs
    with PngImageFile(path) as image:  # type: ignore[no-untyped-call, unused-ignore]
        if image.mode in ("RGB", "RGBA", "LA"):
            raise not_labels(path, f"a colour image ({image.mode})")
        if image.mode == "1":
            raise not_labels(path, "a mask of one bit")
        return np.asarray(image)


def _read_npy(path: Path) -> NDArray[Any]:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(array, np.ndarray):
        array.close()
        raise not_labels(path, "an archive of arrays (.npz)")
    return array


def _read_tiff(path: Path) -> NDArray[Any]:
    import tifffile

    check_ifd_chain(path)
    with warnings.catch_warnings(), tifffile.TiffFile(path) as file:
        warnings.simplefilter("ignore")
        if len(file.series) != 1:
            raise not_labels(path, f"{len(file.series)} images in one file")
        series = file.series[0]
        if "S" in series.axes:
            raise not_labels(path, f"a colour image (axes {series.axes})")
        return np.asarray(series.asarray())
