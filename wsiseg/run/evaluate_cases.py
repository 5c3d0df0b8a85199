"""Cases of an evaluation: the images of a manifest or of a folder of centres, and their truth."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import InputFileError
from wsiseg.image.slide import MAX_MPP, MIN_MPP
from wsiseg.run.inputs import Polygons, read_objects

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
_SPLITS = {"validation": "val", "valid": "val", "training": "train"}
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
    """The rows of a manifest: a CSV with ``image`` and ``labels`` (paths relative to it) and,
    where known, ``set``, ``split``, ``mpp`` (µm per px) and ``case``.

    Raises InputFileError where the file is missing, has other columns, or a row is not usable.
    """
    rows = list(_rows(path, {"image", "labels"}))
    return [_case(path, line, row) for line, row in enumerate(rows, 2)]


def cases_of_points(folder: Path, mpp: float | None) -> list[Case]:
    """Images of ``folder`` with a CSV of centres of the same stem beside each; ``mpp`` of all.

    The CSV has columns y, x (px, pixel centres at whole numbers), class ("" where it is not known)
    and may have ``split``. The set is named after the folder, and each image is its own case.
    """
    if not folder.is_dir():
        raise InputFileError(f"{folder}: expected a folder of images with CSV files of centres")
    found = []
    for image in sorted(p for p in folder.iterdir() if p.suffix.lower() in _IMAGES):
        table = image.with_suffix(".csv")
        if table.is_file():
            split = next((row.get("split") or "" for row in _rows(table, {"y", "x"})), "")
            common = (folder.resolve().name, _SPLITS.get(split, split), image.stem, mpp)
            name = f"{common[0]}/{image.name}"
            found.append(Case(name, image, table, True, *common))
    if not found:
        raise InputFileError(
            f"{folder}: no image ({', '.join(_IMAGES)}) with a CSV of centres (columns y, x, "
            "class) of the same name beside it"
        )
    return found


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
    chosen = [case for case in cases if case.split == split]
    if not chosen:
        raise InputFileError(
            f"no image of the split {split!r}: there are {', '.join(names)}; "
            f"choose one with --split, or {ALL!r}"
        )
    return chosen


def read_truth(case: Case, rename: Mapping[str, str] = SYNONYMS) -> Truth:
    """What is known of ``case``; ``rename`` maps names of classes.

    Classes of a label image stand in ``<stem>_types.csv`` (id, class), beside the image or the
    labels. Raises InputFileError where a file is missing or is not what it should be.
    """
    none = np.zeros((0, 2))
    if case.centres:
        return _centres(case.truth, rename)
    objects = read_objects(case.truth)
    if isinstance(objects, Polygons):
        names = np.array([_renamed(n, rename) for n in objects.class_name], dtype=object)
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
    found = {}
    for line, row in enumerate(_rows(path, {"id", "class"}), 2):
        name = _renamed(row["class"], rename)
        if name is not None:
            found[int(_number(path, line, "id", row["id"]))] = name
    return found


def _case(manifest: Path, line: int, row: Mapping[str, str]) -> Case:
    name, labels = row["image"], row["labels"]
    if not name or not labels:
        raise InputFileError(f"{manifest}, line {line}: image and labels must both be given")
    image, truth = manifest.parent / name, manifest.parent / labels
    for file in (image, truth):
        if not file.is_file():
            raise InputFileError(f"{manifest}, line {line}: {file} does not exist")
    split = row.get("split") or ""
    given = row.get("mpp") or ""
    mpp = _number(manifest, line, "mpp", given) if given else None
    if mpp is not None and not MIN_MPP <= mpp <= MAX_MPP:
        raise InputFileError(
            f"{manifest}, line {line}: {mpp:g} µm per px cannot be (from {MIN_MPP:g} to "
            f"{MAX_MPP:g}); leave it empty where it is not known"
        )
    facts = (row.get("set") or manifest.resolve().parent.name, _SPLITS.get(split, split))
    return Case(name, image, truth, False, *facts, row.get("case") or name, mpp)


def _centres(path: Path, rename: Mapping[str, str]) -> Truth:
    points, names = [], []
    for line, row in enumerate(_rows(path, {"y", "x"}), 2):
        points.append([_number(path, line, axis, row[axis]) for axis in ("y", "x")])
        names.append(_renamed(row.get("class"), rename))
    at = np.array(points, dtype=np.float64).reshape(-1, 2) + 0.5
    return Truth(None, at, tuple(names))


def _renamed(name: str | None, rename: Mapping[str, str]) -> str | None:
    return rename.get(name, name) if name else None


def _number(path: Path, line: int, column: str, text: str) -> float:
    try:
        value = float(text)
    except (TypeError, ValueError):
        value = np.nan
    if not np.isfinite(value):
        raise InputFileError(f"{path}, line {line}: {column} must be a number, got {text!r}")
    return value


def _rows(path: Path, columns: set[str]) -> Iterator[dict[str, str]]:
    """Rows of a CSV with a heading that has at least ``columns``."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            missing = sorted(columns - set(reader.fieldnames or ()))
            if missing:
                have = ", ".join(reader.fieldnames or ()) or "nothing"
                raise InputFileError(
                    f"{path}: no column {', '.join(missing)} in its first line (there is {have})"
                )
            yield from reader
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputFileError(f"{path}: not a readable CSV table: {error}") from error
