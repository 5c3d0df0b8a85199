"""Images with label images: ``x.png`` and ``x_labels.png``, or folders images/ and labels/."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from wsiseg.image.labels import LABEL_SUFFIXES
from wsiseg.training.labelled import Labelled
from wsiseg.training.readers.files import (
    IMAGE_FOLDERS,
    IMAGE_SUFFIXES,
    LABEL_FOLDERS,
    by_stem,
    files_in,
    join,
    stem_of,
)
from wsiseg.training.readers.manifest import read_pair
from wsiseg.training.readers.reading import Reading

__all__ = ["accepts", "read"]

_MARKS = ("_labels", "_label", "_masks", "_mask", "_instances", "_inst")


def accepts(root: Path) -> bool:
    """Whether there is a label image, by its name or its folder."""
    return bool(_labels(root))


def read(root: Path, reading: Reading) -> list[Labelled]:
    """Images of a folder with label images, by name.

    Label images are named as the image with ``_labels``, ``_label``, ``_mask`` or ``_instances``
    behind the stem, or lie in a folder labels/ or masks/ (then this is not needed); PNG, TIFF or
    ``.npy``. Classes are in ``<stem>_types.csv`` (id, class) beside the image or the labels, where
    there is one.
    Raises InputFileError that lists images without labels and labels without an image.
    """
    labels = _labels(root)
    taken = set(labels.values())
    images = [p for p in files_in(root, IMAGE_FOLDERS, IMAGE_SUFFIXES) if p not in taken]
    pairs = join(by_stem(images, IMAGE_SUFFIXES), labels, root)
    return [_item(image, label, reading) for image, label in pairs]


def _item(image: Path, label: Path, reading: Reading) -> Labelled:
    beside = label.with_name(f"{image.stem}_types.csv")
    found, mpp = read_pair(image, label, reading, beside if beside.is_file() else None)
    return replace(found, mpp=reading.mpp or mpp, set=reading.set_name, split=reading.own_split)


def _labels(root: Path) -> dict[str, Path]:
    """Stem of the image -> its label image."""
    named, rest = [], []
    for path in files_in(root, LABEL_FOLDERS, LABEL_SUFFIXES):
        marked = _stem(path)[1]
        if marked:
            named.append(path)
        elif path.parent != root:
            rest.append(path)
    found = by_stem(rest, LABEL_SUFFIXES)
    for path in named:
        found[_stem(path)[0]] = path
    return found


def _stem(path: Path) -> tuple[str, bool]:
    """Stem without the mark of a label image, and whether it had one."""
    stem = stem_of(path.name, LABEL_SUFFIXES) or path.name
    mark = next((m for m in _MARKS if stem.lower().endswith(m) and len(stem) > len(m)), "")
    return stem[: len(stem) - len(mark)], bool(mark)
