"""A folder of labelled images, of whatever layout, into Labelled: recognised by what it holds."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

from wsiseg.errors import InputFileError
from wsiseg.training.labelled import CLASSES, Labelled
from wsiseg.training.readers import centres, imagescope, manifest, mat, pairs, pannuke, qupath
from wsiseg.training.readers.classes import ClassMap
from wsiseg.training.readers.drawn import labelled_crops
from wsiseg.training.readers.files import listed
from wsiseg.training.readers.reading import SPLITS, Note, Reading

__all__ = ["Found", "read_annotations", "read_dataset", "read_noted"]

_log = logging.getLogger(__name__)

LAYOUTS: dict[str, ModuleType] = {
    "manifest.csv": manifest,
    "PanNuke arrays (images.npy, masks.npy)": pannuke,
    "CoNSeP and Kumar .mat": mat,
    "ImageScope XML": imagescope,
    "QuPath GeoJSON": qupath,
    "centres (CSV with y and x)": centres,
    "label images (x.png and x_labels.png, or images/ and labels/)": pairs,
}
"""Asked in this order: each is a module with ``accepts(folder)`` and ``read(folder, reading)``."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a folder holds."""

    items: list[Labelled]
    """The images."""
    notes: list[Note]
    """What was odd and does not show in them: overlaps, what was left out."""


def read_dataset(
    path: str | Path,
    *,
    classes: Sequence[str] = CLASSES,
    mpp: float | None = None,
    split: str | None = None,
    sets: Collection[str] | None = None,
    renames: Mapping[str, str] | None = None,
) -> list[Labelled]:
    """Labelled images of a folder; its layout (``LAYOUTS``) is recognised by what it holds.

    ``mpp``: µm per px of images for which the layout states none; goes before what the file of an
    image says, and is never guessed. ``split``: read only "train" or "val"; images whose layout
    states no split belong to it (default: train). Folders train/, val/ and test/ are splits; what
    is of a test split is never read, unless its folder itself is named. ``sets``: read only these
    sets. ``renames``: name of a class in the files -> one of ``classes``, or "" for not known.

    Raises InputFileError, naming the file, where labels are missing, of another size, no labels,
    or of unknown classes; UnreadableSlideError where an image cannot be read.
    """
    names = ClassMap(tuple(classes), dict(renames or {}))
    return read_noted(path, names, mpp=mpp, split=split, sets=sets).items


def read_noted(
    path: str | Path,
    classes: ClassMap | None = None,
    *,
    mpp: float | None = None,
    split: str | None = None,
    sets: Collection[str] | None = None,
) -> Found:
    """As ``read_dataset``, with the notes of the reader."""
    root = Path(path)
    if root.is_file() and root.name == manifest.MANIFEST:
        root = root.parent
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise InputFileError(f"{root} {what}: expected a folder of labelled images")
    reading = Reading(
        classes or ClassMap(CLASSES),
        root.resolve().name,
        mpp=mpp,
        split=split,
        sets=None if sets is None else frozenset(sets),
    )
    items = _of_folder(root, reading)
    _check_some(items, root, reading)
    _log.info("%s: %d images read", root, len(items))
    return Found(items, reading.notes)


def read_annotations(
    slide: str | Path,
    geojson: str | Path,
    *,
    classes: Sequence[str] = CLASSES,
    mpp: float | None = None,
    split: str = "train",
    renames: Mapping[str, str] | None = None,
) -> list[Labelled]:
    """Crops of a slide or image around its QuPath annotations, for fine-tuning.

    Annotations, detections and cells are nuclei, in px of level 0. Where annotations of a class
    that begins with Region say what was annotated completely, these are the crops; otherwise
    only the nuclei and a narrow band around them are known, which is logged as a warning.
    ``mpp`` goes before the pixel size in the slide; where neither is there, it stays unknown.

    Raises InputFileError, naming the feature, where the GeoJSON is broken, holds no nucleus, or
    unknown classes; UnreadableSlideError where the slide cannot be read.
    """
    names = ClassMap(tuple(classes), dict(renames or {}))
    reading = Reading(names, Path(slide).stem, mpp=mpp, split=split)
    return labelled_crops(Path(slide), qupath.read_qupath(Path(geojson), reading), reading)


def _of_folder(root: Path, reading: Reading) -> list[Labelled]:
    accepting = [name for name, layout in LAYOUTS.items() if layout.accepts(root)]
    splits = _split_folders(root)
    if splits and accepting in ([], ["PanNuke arrays (images.npy, masks.npy)"]):
        return _of_splits(splits, reading)
    if not accepting:
        raise InputFileError(
            f"{root}: no labelled images found: expected one of {'; '.join(LAYOUTS)}"
        )
    if len(accepting) > 1:
        _log.warning(
            "%s: read as %s; labels of another layout are not: %s",
            *(root, accepting[0], listed(accepting[1:])),
        )
    items: list[Labelled] = LAYOUTS[accepting[0]].read(root, reading)
    return [item for item in items if reading.wants(item.set, item.split)]


def _split_folders(root: Path) -> list[tuple[Path, str]]:
    return [
        (folder, SPLITS[folder.name.lower()])
        for folder in sorted(root.iterdir(), key=lambda p: p.name.lower())
        if folder.is_dir() and folder.name.lower() in SPLITS
    ]


def _of_splits(folders: Iterable[tuple[Path, str]], reading: Reading) -> list[Labelled]:
    items = []
    for folder, split in folders:
        if split == "test":
            _log.warning("%s is not read: it is a test set; name it to read it anyway", folder)
        elif reading.split in (None, split):
            items += _of_folder(folder, replace(reading, split=split))
    return items


def _check_some(items: list[Labelled], root: Path, reading: Reading) -> None:
    if items:
        return
    limits = [
        *([f"of split {reading.split}"] if reading.split else []),
        *([f"of the sets {listed(sorted(reading.sets))}"] if reading.sets is not None else []),
    ]
    which = " and ".join(limits) or "that may be read (train or val)"
    raise InputFileError(f"{root}: no labelled images {which}; see the columns set and split")
