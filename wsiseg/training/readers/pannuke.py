"""PanNuke arrays: images.npy, masks.npy and types.npy of a fold, read image by image."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import InputFileError
from wsiseg.training.labelled import Labelled
from wsiseg.training.readers.files import check_all_there
from wsiseg.training.readers.paint import Painted, stack
from wsiseg.training.readers.reading import Reading

__all__ = ["accepts", "read"]

_log = logging.getLogger(__name__)

# Gamper et al. 2019: a channel of instances per class, then the background
_NAMES = ("neoplastic", "inflammatory", "connective", "dead", "epithelial")
_USUAL = {"neoplastic": "epithelial", "connective": "spindle", "dead": "other"}
_DEPTH = 4  # folders down to images.npy: Fold 1/images/fold1/images.npy


def accepts(root: Path) -> bool:
    """Whether there is an images.npy, in this folder or up to three further down."""
    return bool(_image_files(root))


def read(root: Path, reading: Reading) -> list[Labelled]:
    """Patches of all folds below a folder.

    ``images.npy`` (N, H, W, 3), 0 to 255; ``masks.npy`` (N, H, W, 6), beside it or in masks/ where
    that is in images/; ``types.npy`` (N,) names of tissues, for messages only. Of the classes,
    neoplastic becomes epithelial, connective spindle, dead other, where there are no such names.
    Where channels overlap, the smaller nucleus is on top. Nothing is unpickled.

    Raises InputFileError where arrays are missing, pickled, or do not fit each other.
    """
    files = _image_files(root)
    masks = [_beside(path, "masks.npy") for path in files]
    check_all_there(masks, root)
    return [
        item
        for image, mask in zip(files, masks, strict=True)
        for item in _fold(image, mask, root, reading)
    ]


def _image_files(root: Path) -> list[Path]:
    patterns = ("/".join(["*"] * depth + ["images.npy"]) for depth in range(_DEPTH))
    return sorted(path for pattern in patterns for path in root.glob(pattern))


def _beside(images: Path, name: str) -> Path:
    """A file of the same fold: in the same folder, or in that of the mirrored layout."""
    folder = name.removesuffix(".npy")
    mirrored = [folder if part == "images" else part for part in images.parent.parts]
    options = (images.with_name(name), Path(*mirrored) / name)
    return next((path for path in options if path.is_file()), options[0])


def _fold(image: Path, mask: Path, root: Path, reading: Reading) -> list[Labelled]:
    images, masks = _opened(image), _opened(mask)
    if images.ndim != 4 or images.shape[-1] != 3 or masks.shape != (*images.shape[:3], 6):
        raise InputFileError(
            f"{image}: {images.shape} and {mask.name} {masks.shape}: expected (N, H, W, 3) and "
            "(N, H, W, 6), as in PanNuke"
        )
    fold = image.parent.relative_to(root).as_posix()
    tissues = _tissues(_beside(image, "types.npy"), len(images))
    classes = reading.classes.with_usual(_USUAL).numbers(_NAMES, mask)
    items = []
    for i in range(len(images)):
        name = f"{image}[{i}]" + (f" ({tissues[i]})" if tissues else "")
        painted, channel = _painted(masks[i], name)
        painted.report(name, reading)
        items.append(
            Labelled(
                name=name,
                image=_pixels(images[i], name),
                labels=painted.labels,
                kinds=np.concatenate(([0], classes[channel])).astype(np.uint8),
                mpp=reading.mpp,
                set=reading.set_name,
                split=reading.own_split,
                case=f"{fold}[{i}]",
            )
        )
    return items


def _opened(path: Path) -> NDArray[Any]:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        pickled = "pickle" in str(error) or "object" in str(error).lower()
        remedy = "; pickled arrays are not opened: save it as numbers" if pickled else ""
        raise InputFileError(f"{path}: not a readable array: {error}{remedy}") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "uif":
        raise InputFileError(f"{path}: expected an array of numbers, got {type(array).__name__}")
    return array


def _tissues(path: Path, n: int) -> list[str]:
    """Names of the tissues; none where they cannot be read without unpickling."""
    if not path.is_file():
        return []
    try:
        names = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        _log.warning("%s: the names of tissues are not used: %s", path, error)
        return []
    if names.dtype.kind != "U" or names.shape != (n,):
        _log.warning("%s: expected %d names, got %s %s", path, n, names.dtype, names.shape)
        return []
    return [str(name) for name in names]


def _pixels(image: NDArray[Any], name: str) -> NDArray[np.uint8]:
    if image.dtype == np.uint8:
        return np.array(image)
    low, high = float(image.min()), float(image.max())
    if not 0 <= low <= high <= 255 or (image.dtype.kind == "f" and 0 < high <= 1):
        raise InputFileError(f"{name}: expected values from 0 to 255, got {low:g} to {high:g}")
    return np.round(image).astype(np.uint8)


def _painted(mask: NDArray[Any], name: str) -> tuple[Painted, NDArray[np.intp]]:
    """Nuclei of all class channels in one image, and the channel (N,) of each."""
    layers, channels = [], []
    for channel in range(len(_NAMES)):
        ids = np.asarray(mask[..., channel])
        if ids.dtype.kind == "f" and not (np.isfinite(ids) & (ids == np.floor(ids))).all():
            raise InputFileError(f"{name}: channel {channel} of the masks has fractions")
        values, places = np.unique(ids, return_inverse=True)
        if values[0] < 0:
            raise InputFileError(f"{name}: channel {channel} of the masks has negative ids")
        places = places.reshape(ids.shape) + (values[0] != 0)
        layers.append(places)
        channels.append(np.full(int(places.max()), channel, dtype=np.intp))
    return stack(layers), np.concatenate(channels)
