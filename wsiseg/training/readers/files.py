"""Which files belong together, and images as arrays."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import InputFileError, UnreadableSlideError
from wsiseg.geometry import Box
from wsiseg.image.open import open_slide
from wsiseg.image.slide import Slide

__all__ = [
    "IMAGE_FOLDERS",
    "IMAGE_SUFFIXES",
    "LABEL_FOLDERS",
    "by_stem",
    "check_all_there",
    "files_in",
    "join",
    "listed",
    "read_image",
    "spacing_of",
    "stem_of",
]

IMAGE_FOLDERS = ("images", "image", "imgs", "tissue images", "tissue_images", "slides")
LABEL_FOLDERS = (
    *("labels", "label", "masks", "mask", "annotations", "annotation", "instances"),
    *("xml", "geojson", "mat"),
)
IMAGE_SUFFIXES = (
    *(".ome.tiff", ".ome.tif", ".tiff", ".tif", ".png", ".jpeg", ".jpg", ".bmp", ".webp"),
    *(".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".vsi", ".dcm"),
)
MAX_PIXELS = 1 << 27  # of an image read whole: 11585 x 11585, 400 MB


def stem_of(name: str, suffixes: Sequence[str]) -> str | None:
    """``name`` without its suffix; None where it has none of them. Case does not count."""
    low = name.lower()
    return next((name[: -len(s)] for s in suffixes if low.endswith(s) and len(low) > len(s)), None)


def files_in(root: Path, folders: Collection[str], suffixes: Sequence[str]) -> list[Path]:
    """Files with one of the suffixes in ``root`` and in its folders of these names; sorted."""
    places = [root, *(p for p in _entries(root) if p.name.lower() in folders and p.is_dir())]
    return [
        path
        for place in places
        for path in _entries(place)
        if stem_of(path.name, suffixes) is not None and path.is_file()
    ]


def join(images: dict[str, Path], labels: dict[str, Path], root: Path) -> list[tuple[Path, Path]]:
    """Pairs of image and labels of one key, in its order.

    Raises InputFileError that lists every image without labels, and all labels without an image.
    """
    alone = [images[k] for k in sorted(images.keys() - labels.keys())]
    orphans = [labels[k] for k in sorted(labels.keys() - images.keys())]
    parts = [
        f"{len(files)} {what}: {listed(p.relative_to(root).as_posix() for p in files)}"
        for what, files in (("images without labels", alone), ("labels without an image", orphans))
        if files
    ]
    if parts:
        raise InputFileError(
            f"{root}: {'; '.join(parts)}. Files belong together by their names; add what is "
            "missing, or move the rest to another folder"
        )
    return [(images[key], labels[key]) for key in sorted(images)]


def by_stem(paths: Iterable[Path], suffixes: Sequence[str]) -> dict[str, Path]:
    """Stem -> path. Raises InputFileError where two files have one stem."""
    found: dict[str, Path] = {}
    for path in paths:
        stem = stem_of(path.name, suffixes) or path.name
        if stem in found:
            raise InputFileError(
                f"{path} and {found[stem]} differ only in their suffix or folder: which of them "
                "is meant cannot be told; move one away"
            )
        found[stem] = path
    return found


def check_all_there(paths: Iterable[Path], where: object) -> None:
    """Raise InputFileError that lists all files that are not there."""
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise InputFileError(f"{where}: {len(missing)} files are missing: {listed(missing)}")


def listed(names: Iterable[object], most: int = 20) -> str:
    """The names, at most so many of them, and how many more there are."""
    texts = [str(name) for name in names]
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more


def read_image(path: Path) -> tuple[NDArray[np.uint8], float | None]:
    """Level 0 of an image (H, W, 3), and its pixel size in µm, None where the file has none.

    Raises UnreadableSlideError, naming the file, where it cannot be decoded or is too large.
    """
    with open_slide(path) as slide:
        shape = slide.levels[0].shape
        if shape[0] * shape[1] > MAX_PIXELS:
            raise UnreadableSlideError(
                f"{path}: {shape[0]} x {shape[1]} px are too many for an image that is read whole; "
                "cut it up, or annotate regions of it in QuPath"
            )
        return slide.read_level(0, Box.of_shape(shape)), spacing_of(slide)


def spacing_of(slide: Slide) -> float | None:
    """µm per px of a slide, the geometric mean of both axes; None where it is not known."""
    return None if slide.mpp is None else float(np.sqrt(slide.mpp[0] * slide.mpp[1]))


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise InputFileError(f"{folder}: cannot be listed: {error.strerror}") from error
