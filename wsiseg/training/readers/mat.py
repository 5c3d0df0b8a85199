"""MATLAB label files: CoNSeP with classes, Kumar and CPM without; beside images or in Labels/."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import InputFileError
from wsiseg.training.labelled import Labelled
from wsiseg.training.readers.classes import ClassMap
from wsiseg.training.readers.files import (
    IMAGE_FOLDERS,
    IMAGE_SUFFIXES,
    LABEL_FOLDERS,
    by_stem,
    files_in,
    join,
    read_image,
)
from wsiseg.training.readers.label_image import numbered
from wsiseg.training.readers.reading import Reading

__all__ = ["accepts", "read", "read_mat"]

# Graham et al. 2019, CoNSeP: numbers of type_map and inst_type
_NAMES = {
    1: "other",
    2: "inflammatory",
    3: "healthy epithelial",
    4: "dysplastic/malignant epithelial",
    5: "fibroblast",
    6: "muscle",
    7: "endothelial",
}
_USUAL = {
    **dict.fromkeys((_NAMES[3], _NAMES[4]), "epithelial"),
    **dict.fromkeys((_NAMES[5], _NAMES[6], _NAMES[7]), "spindle"),
}
_WANTED = ("inst_map", "type_map", "inst_type")


def accepts(root: Path) -> bool:
    """Whether there is a .mat file."""
    return bool(_labels(root))


def read(root: Path, reading: Reading) -> list[Labelled]:
    """Images of a folder with a .mat file each: ``inst_map``, and classes where it has them.

    The numbers of ``type_map`` (majority of a nucleus's px), else of ``inst_type`` (a row per id,
    ascending) are those of CoNSeP: 1 other, 2 inflammatory, 3 and 4 epithelial, 5 to 7 spindle.

    Raises InputFileError for images without labels, labels without an image, and for files that
    are damaged, of version 7.3, or without ``inst_map``.
    """
    images = by_stem(files_in(root, IMAGE_FOLDERS, IMAGE_SUFFIXES), IMAGE_SUFFIXES)
    return [
        _item(image, path, reading)
        for image, path in join(images, by_stem(_labels(root), (".mat",)), root)
    ]


def read_mat(path: Path, classes: ClassMap) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """Labels (H, W), and the number of the class by label."""
    content = _content(path)
    if "inst_map" not in content:
        raise InputFileError(
            f"{path}: no inst_map: expected a label file such as those of CoNSeP and Kumar in the "
            "layout of HoVer-Net (inst_map, and type_map or inst_type for classes)"
        )
    labels, ids = numbered(np.asarray(content["inst_map"]), path)
    numbers = _type_numbers(content, labels, len(ids), path)
    return labels, classes.with_usual(_USUAL).numbers(_names(numbers, path), path)


def _labels(root: Path) -> list[Path]:
    return files_in(root, LABEL_FOLDERS, (".mat",))


def _item(image: Path, path: Path, reading: Reading) -> Labelled:
    labels, kinds = read_mat(path, reading.classes)
    pixels, mpp = read_image(image)
    return Labelled(
        name=str(image),
        image=pixels,
        labels=labels,
        kinds=kinds,
        mpp=reading.mpp or mpp,
        set=reading.set_name,
        split=reading.own_split,
        case=image.stem,
    )


def _content(path: Path) -> dict[str, Any]:
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    with path.open("rb") as file:
        head = file.read(128)
    if head.startswith((b"MATLAB 7.3", b"\x89HDF")):
        raise InputFileError(
            f"{path}: saved as version 7.3 (HDF5), which is not read: in MATLAB, save it again "
            "with save(name, 'inst_map', '-v7'); in Python, with scipy.io.savemat"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return dict(loadmat(path, variable_names=_WANTED))
    # what damaged files make the decoder say
    except (
        *(MatReadError, OSError, ValueError, TypeError, KeyError, IndexError, EOFError),
        *(zlib.error, struct.error, MemoryError, OverflowError, NotImplementedError),
    ) as error:
        raise InputFileError(
            f"{path}: not a readable .mat file: {error or type(error).__name__}"
        ) from error


def _type_numbers(
    content: dict[str, Any], labels: NDArray[np.int32], n: int, path: Path
) -> NDArray[np.int64]:
    """(n,) number of the type by label, 0 where there is none."""
    if "type_map" in content:
        types = np.asarray(content["type_map"])
        if types.shape != labels.shape:
            raise InputFileError(
                f"{path}: type_map of {types.shape} beside inst_map of {labels.shape}"
            )
        return _majority(types, labels, n, path)
    numbers = np.zeros(n, dtype=np.int64)
    if "inst_type" in content:
        rows, there = np.ravel(content["inst_type"]), np.unique(labels[labels > 0])
        if len(rows) != len(there):
            raise InputFileError(
                f"{path}: inst_type has {len(rows)} rows for {len(there)} ids in inst_map"
            )
        numbers[there] = rows
    return numbers


def _majority(
    types: NDArray[Any], labels: NDArray[np.int32], n: int, path: Path
) -> NDArray[np.int64]:
    """Most frequent type of each label; of equals the lower one."""
    inside = labels > 0
    values = types[inside].astype(np.int64)
    width = max(_NAMES) + 1
    _check_range(values, path)
    votes = np.bincount(labels[inside] * width + values, minlength=n * width)
    return np.asarray(votes.reshape(n, width).argmax(axis=1), dtype=np.int64)


def _names(numbers: NDArray[np.int64], path: Path) -> list[str]:
    _check_range(numbers, path)
    return [_NAMES.get(number, "") for number in numbers.tolist()]


def _check_range(numbers: NDArray[np.int64], path: Path) -> None:
    if numbers.size and not 0 <= numbers.min() <= numbers.max() <= max(_NAMES):
        raise InputFileError(
            f"{path}: types must be 0 (not known) to {max(_NAMES)}, as in CoNSeP, got "
            f"{numbers.min()} to {numbers.max()}"
        )
