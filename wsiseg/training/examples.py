"""Examples: the labelled images of a training, on both sides of its split, and what they are."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from wsiseg.errors import InputFileError, SettingsError
from wsiseg.training.checks.sets import check_cases, check_copies
from wsiseg.training.config import Data, TrainConfig
from wsiseg.training.dataset import read_dataset
from wsiseg.training.labelled import Labelled

__all__ = ["Examples", "check_classes", "read_examples"]

_log = logging.getLogger(__name__)

_TOLD = 10  # cases or copies on both sides of the split


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """Images to learn from, and images to be judged by."""

    train: Sequence[Labelled]
    val: Sequence[Labelled]

    def digest(self) -> str:
        """SHA-256 of everything in them that a result depends on; not of their paths."""
        found = hashlib.sha256()
        for item in (*self.train, *self.val):
            found.update(f"{item.set}\0{item.split}\0{item.mpp}\0{item.image.shape}\0".encode())
            centres = item.centres
            parts = (
                *(item.image, item.labels, item.kinds, item.known),
                *(() if centres is None else (centres.points, centres.kinds)),
            )
            for part in parts:
                found.update(b"\0" if part is None else np.ascontiguousarray(part).tobytes())
        return found.hexdigest()

    def rows(self, classes: Sequence[str]) -> list[dict[str, Any]]:
        """What there is of each set and split: images, nuclei, classes, pixel sizes, licences."""
        keys = dict.fromkeys((item.set, item.split) for item in (*self.train, *self.val))
        return [_row(self._of(*key), classes) for key in keys]

    def _of(self, name: str, split: str) -> list[Labelled]:
        both = (*self.train, *self.val)
        return [item for item in both if (item.set, item.split) == (name, split)]


def read_examples(config: TrainConfig) -> Examples:
    """Read the data of a training. Raises as ``read_dataset``, and InputFileError where there is
    nothing to train on, or not what the classes ask for.
    """
    items = [item for data in config.data for item in _read(config, data)]
    found = Examples(
        [item for item in items if item.split == "train"],
        [item for item in items if item.split == "val"],
    )
    where = ", ".join(str(data.path) for data in config.data)
    if not found.train:
        raise InputFileError(f"{where}: no image is for training: check split and sets")
    if not found.val:
        _log.warning(
            "%s: no image is for validation: nothing tells when to stop; see held_out", where
        )
    check_classes(found.train, config.model.classes, where)
    _warn_of_leaks([*found.train, *found.val])
    return found


def _warn_of_leaks(items: Sequence[Labelled]) -> None:
    """Tell of cases and images that are on both sides of the split: scores would flatter."""
    leaks = [*check_cases(items), *check_copies(items, near=False)]
    severe = [finding for finding in leaks if finding.severity == "severe"]
    for finding in severe[:_TOLD]:
        _log.warning("%s: %s: %s", finding.name, finding.kind, finding.detail)
    if len(severe) > _TOLD:
        _log.warning("and %d more; see `wsiseg dataset check`", len(severe) - _TOLD)


def check_classes(items: Sequence[Labelled], classes: Sequence[str], where: str) -> None:
    """InputFileError where classes are asked for and fewer than two have a nucleus."""
    counts = _by_class(items, classes)
    there = [name for name, count in counts.items() if count]
    if classes and len(there) < 2:
        only = f"all of class {there[0]!r}" if there else "without a class"
        raise InputFileError(
            f"{where}: nuclei to train on are {only}, but {len(classes)} classes are asked for "
            f"({', '.join(classes)}): add data with classes, or set classes = []"
        )
    absent = [name for name in classes if name not in there]
    if absent:
        _log.warning("no nucleus to train on is of class %s", ", ".join(absent))


def _read(config: TrainConfig, data: Data) -> list[Labelled]:
    items = read_dataset(
        config.resolved(data.path),
        classes=config.model.classes,
        mpp=data.mpp,
        split=data.split,
        sets=data.sets or tuple(name for name, _ in data.share) or None,
        renames=dict(data.renames),
    )
    items = [replace(item, licence=item.licence or data.licence) for item in items]
    return _held_out(items, data.held_out, data.path) if data.held_out else items


def _held_out(items: Sequence[Labelled], share: float, where: object) -> list[Labelled]:
    """Items of which some cases, chosen by a hash of their names, are val."""
    stated = sorted({item.set for item in items if item.split == "val"})
    if stated:
        raise SettingsError(
            f"held_out cannot be {share:g} for {where}, which states its own split (val of "
            f'{", ".join(stated)}): set held_out = 0, or split = "train" to leave its val out'
        )
    cases = sorted({item.case for item in items}, key=lambda c: hashlib.sha256(c.encode()).digest())
    if len(cases) < 2:
        raise InputFileError(
            f"{items[0].name}: all {len(items)} images are of one case ({cases[0]!r}), so that "
            "none can be held out: set held_out = 0, or name the cases"
        )
    chosen = set(cases[: max(1, min(len(cases) - 1, round(share * len(cases))))])
    return [replace(item, split="val") if item.case in chosen else item for item in items]


def _row(items: Sequence[Labelled], classes: Sequence[str]) -> dict[str, Any]:
    first = items[0]
    return {
        "set": first.set,
        "split": first.split,
        "images": len(items),
        "nuclei": sum(_count(item) for item in items),
        "outlines": first.labels is not None,
        "classes": {name: n for name, n in _by_class(items, classes).items() if n},
        "mpp": sorted({item.mpp for item in items if item.mpp is not None}),
        "mpp_unknown": sum(item.mpp is None for item in items),
        "licences": sorted({item.licence for item in items}),
    }


def _count(item: Labelled) -> int:
    if item.centres is not None:
        return len(item.centres.points)
    assert item.labels is not None
    return int(np.count_nonzero(np.bincount(item.labels.ravel())[1:]))


def _by_class(items: Sequence[Labelled], classes: Sequence[str]) -> dict[str, int]:
    counts = np.zeros(256, dtype=np.int64)
    for item in items:
        kinds = item.kinds if item.centres is None else item.centres.kinds
        counts += np.bincount(kinds, minlength=256)
    return {name: int(counts[1 + i]) for i, name in enumerate(classes)}
