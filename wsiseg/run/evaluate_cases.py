"""Cases of an evaluation: the images of a manifest or of a folder of centres, and their truth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import InputFileError
from wsiseg.image.slide import MAX_MPP, MIN_MPP
from wsiseg.run.inputs import Polygons, read_objects
from wsiseg.training.readers.centres import Marked
from wsiseg.training.readers.classes import class_key
from wsiseg.training.readers.reading import SPLITS
from wsiseg.training.readers.tables import Row, read_table

__all__ = [
    "SYNONYMS",
    "Case",
    "Truth",
    "cases_of_manifest",
    "cases_of_points",
    "class_table",
    "of_split",
    "read_truth",
]

SYNONYMS = {"fibroblast": "spindle", "others": "other"}
"""Names of classes in public sets (CRCHistoPhenotypes) -> the names that the models here use."""

ALL = "all"
_IMAGES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp")


@dataclass(frozen=True, slots=True)
class Case:
    """One image and where its truth is."""

    name: str
    """Path of the image as the manifest has it."""
    image: Path
    """The image."""
    truth: Path
    """Its labels or polygons, or (with ``centres``) its table of centres."""
    centres: bool
    """Whether only centres are known."""
    set: str
    """Data set."""
    split: str
    """"train", "val", ..., as the manifest has it; "" where it has none."""
    case: str
    """Patient or slide: what is drawn as a whole by the bootstrap."""
    mpp: float | None
    """µm per px; None: not known."""
    origin: int = 0
    """Where centres count from: pixel centres are at this plus whole numbers; 0, or 1 as MATLAB."""

    @property
    def key(self) -> Path:
        """The name without its suffix, as a path that stays inside a folder: where files go."""
        parts = Path(self.name).with_suffix("").parts
        return Path(*(p for p in parts if p not in ("..", Path(self.name).anchor)))


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """What is known of one image."""

    objects: NDArray[Any] | Polygons | None
    """A label image (h, w) or polygons; None where only centres are known."""
    centres: NDArray[np.float64]
    """(T, 2) centres (row, col), px, corner-based, where only they are known, else (0, 2)."""
    classes: dict[int, str] | tuple[str | None, ...]
    """Class by id of a label image, or of each centre; {} with polygons, which carry theirs."""


def cases_of_manifest(path: Path) -> list[Case]:
    """The rows of a manifest: a table with ``image`` and ``labels`` (paths relative to it) and,
    where known, ``set``, ``split``, ``mpp`` (µm per px) and ``case`` (or ``patient``).

    Raises InputFileError where the file is missing, has other columns, or a row is not usable.
    """
    return [_case(path, row) for row in read_table(path, ("image", "labels"))]


def cases_of_points(folder: Path, mpp: float | None) -> list[Case]:
    """Images of ``folder`` with a CSV of centres of the same stem beside each; ``mpp`` of all.

    The CSV has columns y, x (px), class ("" where it is not known) and may have ``split``. The set
    is named after the folder, and each image is its own case. Pixel centres are at whole numbers
    from 0, or from 1 where a centre of the folder lies beyond the last pixel, as in training.

    Raises InputFileError where there are none, or a centre is not on its image.
    """
    if not folder.is_dir():
        raise InputFileError(f"{folder}: expected a folder of images with CSV files of centres")
    marked = [
        Marked(image, table, read_table(table, ("y", "x")))
        for image in sorted(p for p in folder.iterdir() if p.suffix.lower() in _IMAGES)
        if (table := image.with_suffix(".csv")).is_file()
    ]
    if not marked:
        raise InputFileError(
            f"{folder}: no image ({', '.join(_IMAGES)}) with a CSV of centres (columns y, x, "
            "class) of the same name beside it"
        )
    origin = max(one.origin() for one in marked)
    return [_case_of_points(one, folder.resolve().name, mpp, origin) for one in marked]


def of_split(cases: Sequence[Case], split: str) -> list[Case]:
    """The cases of ``split``; all of them with "all", or where no case names a split.

    Raises InputFileError, naming the splits there are, where none is of this one, and where an
    image stands there twice, which would count it twice.
    """
    seen = Counter(case.key for case in cases)
    twice = next((case.name for case in cases if seen[case.key] > 1), None)
    if twice is not None:
        raise InputFileError(f"{twice} stands in the manifest twice, or has a namesake there")
    names = sorted({case.split for case in cases} - {""})
    if split == ALL or not names:
        return list(cases)
    chosen = [case for case in cases if case.split == _split(split)]
    if not chosen:
        raise InputFileError(
            f"no image of the split {split!r}: there are {', '.join(names)}; "
            f"choose one with --split, or {ALL!r}"
        )
    return chosen


def read_truth(case: Case, rename: Mapping[str, str] = SYNONYMS) -> Truth:
    """What is known of ``case``; ``rename`` maps names of classes, to "" where one is not known.

    Names, those in ``rename`` too, are as ``class_key`` has them.

    Classes of a label image stand in ``<stem>_types.csv`` (id, class), beside the image or the
    labels. Raises InputFileError where a file is missing or is not what it should be.
    """
    none = np.zeros((0, 2))
    if case.centres:
        return _centres(case, rename)
    objects = read_objects(case.truth)
    if isinstance(objects, Polygons):
        names = np.array([_renamed(n or "", rename) for n in objects.class_name], dtype=object)
        return Truth(Polygons(objects.geometry, names, objects.left_out), none, {})
    if objects.ndim != 2:
        raise InputFileError(f"{case.truth}: expected labels of a 2-D image, got {objects.shape}")
    return Truth(objects, none, class_table([case.image, case.truth], rename))


def class_table(beside: Iterable[Path], rename: Mapping[str, str] = SYNONYMS) -> dict[int, str]:
    """Classes by id, of the first ``<stem>_types.csv`` beside one of the files; {} without one."""
    tables = (path.with_name(f"{path.stem}_types.csv") for path in beside)
    path = next((table for table in tables if table.is_file()), None)
    if path is None:
        return {}
    found: dict[int, str] = {}
    for row in read_table(path, ("id", "class")):
        number, name = row.number("id"), _renamed(row.text("class"), rename)
        if number < 1 or number != int(number) or int(number) in found:
            raise row.error(f"id must be a whole number above 0, each once, got {row.text('id')}")
        if name is not None:
            found[int(number)] = name
    return found


def _case(manifest: Path, row: Row) -> Case:
    name, labels = (row.text(column).replace("\\", "/") for column in ("image", "labels"))
    if not name or not labels:
        raise row.error("image and labels must both be given")
    image, truth = manifest.parent / name, manifest.parent / labels
    for file in (image, truth):
        if not file.is_file():
            raise row.error(f"{file} does not exist")
    mpp = row.number("mpp") if row.text("mpp") else None
    if mpp is not None and not MIN_MPP <= mpp <= MAX_MPP:
        raise row.error(
            f"{mpp:g} µm per px cannot be (from {MIN_MPP:g} to {MAX_MPP:g}); leave it empty where "
            "it is not known"
        )
    return Case(
        name,
        image,
        truth,
        centres=False,
        set=row.text("set", default=manifest.resolve().parent.name),
        split=_split(row.text("split")),
        case=row.text("case", "patient", default=name),
        mpp=mpp,
    )


def _case_of_points(marked: Marked, name: str, mpp: float | None, origin: int) -> Case:
    split = next((row.text("split") for row in marked.rows), "")
    return Case(
        f"{name}/{marked.image.name}",
        marked.image,
        marked.table,
        centres=True,
        set=name,
        split=_split(split),
        case=marked.image.stem,
        mpp=mpp,
        origin=origin,
    )


def _split(stated: str) -> str:
    """As in training; a split of another name, such as a fold, keeps it."""
    return SPLITS.get(stated.strip().casefold(), stated)


def _centres(case: Case, rename: Mapping[str, str]) -> Truth:
    marked = Marked(case.image, case.truth, read_table(case.truth, ("y", "x")))
    names = tuple(_renamed(row.text("class", "type"), rename) for row in marked.rows)
    return Truth(None, marked.points() - case.origin + 0.5, names)


def _renamed(name: str, rename: Mapping[str, str]) -> str | None:
    key = class_key(name)
    return rename.get(key, key) or None
