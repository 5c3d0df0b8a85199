"""Label images into numbered nuclei."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from wsiseg.errors import InputFileError
from wsiseg.image.labels import not_labels
from wsiseg.training.readers.classes import ClassMap
from wsiseg.training.readers.tables import read_table

__all__ = ["kinds_of", "numbered", "read_types"]

_PLAIN_ID = 2**16 - 1  # ids up to here are kept: what Labelled takes
_EIGHT = np.ones((3, 3), dtype=np.int8)


def numbered(labels: NDArray[Any], where: object) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Labels (H, W) of int32, and the id that each label had in the file, (max label + 1,).

    Ids stay as they are unless they are very large. Whole numbers may come as floats. Raises
    InputFileError for other values, and for a binary mask given as labels.
    """
    if labels.ndim != 2:
        raise not_labels(where, f"an array of shape {labels.shape}")
    if labels.dtype.kind == "f" and not (labels == np.floor(labels)).all():
        raise not_labels(where, "fractions")
    if labels.dtype.kind not in "iuf":
        raise not_labels(where, f"{labels.dtype} values")
    if labels.size == 0 or labels.min() < 0:
        raise not_labels(where, "no pixels" if labels.size == 0 else f"the id {labels.min()}")
    _check_not_binary(labels, where)
    top = int(labels.max())
    if top <= _PLAIN_ID:
        return labels.astype(np.int32), np.arange(top + 1)
    ids, places = np.unique(labels, return_inverse=True)
    first = int(ids[0] != 0)  # no background at all: labels still begin at 1
    ids = np.concatenate(([0], ids)) if first else ids
    return (places.reshape(labels.shape) + first).astype(np.int32), ids.astype(np.int64)


def read_types(path: Path, classes: ClassMap) -> dict[int, int]:
    """Id -> number of the class, of a table with the columns id and class.

    Raises InputFileError, naming the line, for an id that is no whole number or comes twice, and
    for class names that are not known.
    """
    rows = read_table(path, ("id", "class"))
    numbers = classes.numbers([row.values["class"] for row in rows], path)
    found: dict[int, int] = {}
    for row, number in zip(rows, numbers.tolist(), strict=True):
        value = row.number("id")
        if value < 1 or value != int(value):
            raise row.error(f"id must be a whole number above 0, got {row.values['id']}")
        if int(value) in found:
            raise row.error(f"id {int(value)} has a class already")
        found[int(value)] = number
    return found


def kinds_of(
    types: dict[int, int], ids: NDArray[np.int64], labels: NDArray[np.int32]
) -> tuple[NDArray[np.uint8], int]:
    """Number of the class by label, and how many of the ids are not in the labels."""
    there = np.zeros(len(ids), dtype=np.bool_)
    there[labels] = True
    there[0] = False
    kinds = np.zeros(len(ids), dtype=np.uint8)
    place = {int(ids[label]): label for label in np.flatnonzero(there).tolist()}
    for one, kind in types.items():
        if one in place:
            kinds[place[one]] = kind
    return kinds, len(types.keys() - place.keys())


def _check_not_binary(labels: NDArray[Any], where: object) -> None:
    top = labels.max()
    if top == 0 or not np.array_equal(labels > 0, labels == top):
        return
    pieces = ndimage.label(labels > 0, structure=_EIGHT)[1]
    # two pieces of id 1 may be one nucleus; 255 and 65535 are what masks are made of
    if pieces >= (2 if top in (255, 65535) else 3):
        raise InputFileError(
            f"{where}: this looks like a binary mask: its one id {int(top)} covers {pieces} "
            "separate pieces; give each nucleus an id of its own, for instance with "
            "skimage.measure.label (nuclei that touch will be joined)"
        )
