"""A folder with manifest.csv: a row per image, with its labels, set, split and pixel size."""

from __future__ import annotations

import logging
import posixpath
from dataclasses import replace
from pathlib import Path

from wsiseg.errors import InputFileError
from wsiseg.image.labels import read_labels
from wsiseg.training.labelled import Labelled
from wsiseg.training.readers.files import check_all_there, read_image
from wsiseg.training.readers.label_image import kinds_of, numbered, read_types
from wsiseg.training.readers.reading import Reading
from wsiseg.training.readers.tables import Row, read_table

__all__ = ["MANIFEST", "accepts", "read", "read_pair"]

_log = logging.getLogger(__name__)

MANIFEST = "manifest.csv"


def accepts(root: Path) -> bool:
    """Whether the folder has a manifest."""
    return (root / MANIFEST).is_file()


def read(root: Path, reading: Reading) -> list[Labelled]:
    """Images of a manifest, in its order.

    Needed are the columns ``image`` and ``labels``, paths below the folder; ``set``, ``split``,
    ``mpp``, ``case`` (or ``patient``) and ``licence`` are used where they are. An empty mpp means
    that it is not known, unless the caller gives one. Classes are in ``<stem>_types.csv`` beside
    the image (id, class), where there is one. Rows of a test split are left out.

    Raises InputFileError for a manifest that is empty, names an image twice, leaves its folder, or
    misses files (all of them are listed).
    """
    manifest = root / MANIFEST
    rows = read_table(manifest, ("image", "labels"))
    if not rows:
        raise InputFileError(f"{manifest}: no images: expected a row for each of them")
    _check_rows(rows)
    wanted = [row for row in rows if _wanted(row, reading)]
    if len(wanted) < len(rows):
        _log.info("%s: %d of %d rows are of other sets or splits", root, *_left(rows, wanted))
    check_all_there((root / row.values[c] for row in wanted for c in ("image", "labels")), manifest)
    return [_item(root, row, reading) for row in wanted]


def read_pair(
    image: Path, labels: Path, reading: Reading, types: Path | None = None
) -> tuple[Labelled, float | None]:
    """An image with a label image, and the pixel size of the image file.

    ``types``: table of classes, by default ``<image stem>_types.csv`` where there is one.
    """
    ids_image, ids = numbered(read_labels(labels), labels)
    pixels, mpp = read_image(image)
    types = types or image.with_name(f"{image.stem}_types.csv")
    classes = read_types(types, reading.classes) if types.is_file() else {}
    kinds, absent = kinds_of(classes, ids, ids_image)
    what = f"{absent} of {len(classes)} ids of {types.name} are not in the labels"
    reading.note(image, "left out", what, absent, len(classes))
    return Labelled(str(image), pixels, labels=ids_image, kinds=kinds, case=image.stem), mpp


def _left(rows: list[Row], wanted: list[Row]) -> tuple[int, int]:
    return len(rows) - len(wanted), len(rows)


def _check_rows(rows: list[Row]) -> None:
    seen: dict[str, int] = {}
    for row in rows:
        for column in ("image", "labels"):
            name = row.values[column]
            clean = posixpath.normpath(name.replace("\\", "/"))
            if not name or clean.startswith(("/", "../")) or clean == ".." or ":" in clean[:2]:
                raise row.error(f"{column} must be a path below the manifest, got {name!r}")
            row.values[column] = clean
        image = row.values["image"]
        if image in seen:
            raise row.error(f"{image} is in line {seen[image]} already")
        seen[image] = row.line


def _wanted(row: Row, reading: Reading) -> bool:
    split = reading.split_of(row.text("split"), f"{row.path}, line {row.line}")
    return reading.wants(row.text("set", default=reading.set_name), split)


def _item(root: Path, row: Row, reading: Reading) -> Labelled:
    image = root / row.values["image"]
    found, _ = read_pair(image, root / row.values["labels"], reading)
    return replace(
        found,
        mpp=row.number("mpp") if row.text("mpp") else reading.mpp,
        set=row.text("set", default=reading.set_name),
        split=reading.split_of(row.text("split"), row.path),
        case=row.text("case", "patient", default=found.case),
        licence=row.text("licence", "license"),
    )
