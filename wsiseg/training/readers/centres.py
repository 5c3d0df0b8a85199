"""Images with tables of centres: ``img1.jpg`` and ``img1.csv`` (y, x, class, split)."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsiseg.image.open import open_slide
from wsiseg.training.labelled import Centres, Labelled
from wsiseg.training.readers.files import (
    IMAGE_FOLDERS,
    IMAGE_SUFFIXES,
    LABEL_FOLDERS,
    by_stem,
    files_in,
    join,
    read_image,
)
from wsiseg.training.readers.reading import Reading
from wsiseg.training.readers.tables import Row, columns_of, read_table

__all__ = ["Marked", "accepts", "read"]

_log = logging.getLogger(__name__)

_USUAL = {"fibroblast": "spindle", "others": "other"}  # Sirinukunwattana et al. 2016


def accepts(root: Path) -> bool:
    """Whether there is a CSV file with the columns y and x."""
    return any({"y", "x"} <= set(columns_of(path)) for path in _tables(root))


def read(root: Path, reading: Reading) -> list[Labelled]:
    """Images of a folder with a table of centres each: y and x in px, class, split.

    An empty class is not known; all rows of an image have one split. Of the class names of the
    CRCHistoPhenotypes set, ``fibroblast`` becomes spindle and ``others`` other. The layout states
    no pixel size: it comes from the caller, or from the file of the image.

    Pixel centres are at whole numbers from 0; where a centre of the folder lies beyond the last
    pixel, they count from 1, as MATLAB does, and 1 is taken off all of them, which is logged.

    Raises InputFileError for images without a table, tables without an image, and centres that are
    not on the image.
    """
    tables = [path for path in _tables(root) if {"y", "x"} <= set(columns_of(path))]
    images = by_stem(files_in(root, IMAGE_FOLDERS, IMAGE_SUFFIXES), IMAGE_SUFFIXES)
    marked = [
        Marked(image, table, read_table(table, ("y", "x")))
        for image, table in join(images, by_stem(tables, (".csv",)), root)
    ]
    # of the whole folder, whichever split is asked for: all of it was written by one program
    origin = max((one.origin() for one in marked), default=0)
    if origin:
        _log.info("%s: centres count from 1 (some lie beyond the last px); 1 is taken off", root)
    return [
        _item(one, split, origin, reading)
        for one in marked
        if reading.wants(reading.set_name, split := one.split(reading))
    ]


@dataclass(frozen=True, slots=True)
class Marked:
    """An image and its table."""

    image: Path
    table: Path
    rows: list[Row]

    def split(self, reading: Reading) -> str:
        """The one split of all rows."""
        stated = {row.text("split"): row for row in self.rows}
        if len(stated) > 1:
            last = list(stated.values())[-1]
            raise last.error(f"an image has one split, got {' and '.join(map(repr, stated))}")
        return reading.split_of(next(iter(stated), ""), self.table)

    def points(self) -> NDArray[np.float64]:
        """(N, 2) as in the table."""
        return np.array([(r.number("y"), r.number("x")) for r in self.rows]).reshape(-1, 2)

    def origin(self) -> int:
        """1 where a centre lies beyond the last pixel, else 0."""
        with open_slide(self.image) as slide:
            shape = slide.levels[0].shape
        points = self.points()
        off = np.flatnonzero(((points < -0.5) | (points > np.add(shape, 0.5))).any(axis=1))
        if off.size:
            raise self.rows[int(off[0])].error(
                f"the centre (y, x) = {tuple(points[off[0]].tolist())} is not on the image of "
                f"{shape[0]} x {shape[1]} px ({off.size} of {len(points)} are not): are y and x "
                "swapped, or the image another?"
            )
        return int((points > np.subtract(shape, 0.5)).any())


def _tables(root: Path) -> list[Path]:
    return files_in(root, (*LABEL_FOLDERS, "points", "centres", "centers"), (".csv",))


def _item(one: Marked, split: str, origin: int, reading: Reading) -> Labelled:
    pixels, mpp = read_image(one.image)
    names = [row.text("class", "type") for row in one.rows]
    kinds = reading.classes.with_usual(_USUAL).numbers(names, one.table)
    last = np.subtract(pixels.shape[:2], 1)
    return Labelled(
        name=str(one.image),
        image=pixels,
        centres=Centres(np.clip(one.points() - origin, 0, last), kinds),
        mpp=reading.mpp or mpp,
        set=reading.set_name,
        split=split,
        case=one.image.stem,
    )
