"""What every reader is told, and what it tells beside the images: the counts of what was odd."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from wsiseg.errors import InputFileError, SettingsError
from wsiseg.training.readers.classes import ClassMap

__all__ = ["SPLITS", "Note", "Reading"]

_log = logging.getLogger(__name__)

SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""What data sets call their splits, without blanks and in lower case -> what they are here."""


@dataclass(frozen=True, slots=True)
class Note:
    """Something odd that a reader met and that does not show in the labels it made."""

    name: str
    """Path of the image or of its labels."""
    kind: str
    """"overlap", "duplicate", "left out", "partly known"."""
    count: int
    """How many objects (for an overlap: px)."""
    of: int
    """Of how many."""
    detail: str
    """A sentence to show."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How a folder is to be read. Raises SettingsError for a split or pixel size that cannot be."""

    classes: ClassMap
    set_name: str
    """Name of the set, where the layout has none."""
    mpp: float | None = None
    """µm per px where the layout states none."""
    split: str | None = None
    """Read only "train" or "val"; images whose layout states no split belong to it."""
    sets: frozenset[str] | None = None
    """Read only these sets; None: all."""
    notes: list[Note] = field(default_factory=list)
    """Grows while reading."""

    def __post_init__(self) -> None:
        if self.split not in (None, "train", "val"):
            raise SettingsError(f"split must be train or val, got {self.split!r}")
        if self.mpp is not None and not 0.01 <= self.mpp <= 100:
            raise SettingsError(f"mpp must be µm per px, from 0.01 to 100, got {self.mpp!r}")

    @property
    def own_split(self) -> str:
        """Split of an image whose layout states none."""
        return self.split or "train"

    def split_of(self, stated: str, where: object) -> str:
        """The split ("train", "val" or "test") that a file or folder names."""
        if not stated.strip():
            return self.own_split
        split = SPLITS.get(stated.strip().casefold())
        if split is None:
            raise InputFileError(f"{where}: split must be train, val or test, got {stated!r}")
        return split

    def wants(self, set_name: str, split: str) -> bool:
        """Whether images of a set and split are to be read; those of a test split never are."""
        if split == "test" or (self.sets is not None and set_name not in self.sets):
            return False
        return self.split in (None, split)

    def note(self, name: object, kind: str, detail: str, count: int, of: int) -> None:
        """Keep and log a note; nothing where the count is 0."""
        if count:
            self.notes.append(Note(str(name), kind, count, of, detail))
            _log.warning("%s: %s", name, detail)
