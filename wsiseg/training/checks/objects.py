"""The labels of one image by themselves: empty, covering all, in pieces, in crumbs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from wsiseg.stain import unmix
from wsiseg.training.checks.finding import Finding
from wsiseg.training.labelled import Labelled

__all__ = ["check_empty", "check_objects"]

_EVERYTHING = 0.95  # part of the image under labels
_ONE = 0.9  # part of the image under one label
_CRUMB = 10  # px: 0.6 µm² at 0.25 µm, no nucleus
_MANY_CRUMBS = 0.05  # part of the labels
_APART = 0.5  # diameters of the typical nucleus between two pieces
_MANY_APART = 0.05
_EVEN = 2.0  # grey values: standard deviation of an image that shows nothing
_EMPTY_STAINED = 0.05  # part of an image as dark as nuclei elsewhere, with no label
_EIGHT = np.ones((3, 3), dtype=np.int8)


def check_objects(item: Labelled) -> list[Finding]:
    """What is odd about the labels of an image; nothing where only centres are known."""
    found = []
    if float(item.image.std()) < _EVEN:
        what = f"the image shows nothing: its standard deviation is {item.image.std():.1f} of 255"
        found.append(Finding(item.name, "blank image", what, "warning"))
    if item.labels is None:
        return found
    sizes = np.bincount(item.labels.ravel())[1:]
    n = int(np.count_nonzero(sizes))
    if n == 0:
        return found
    return [*found, *_cover(item, sizes), *_crumbs(item, sizes, n), *_pieces(item, sizes, n)]


def check_empty(items: Sequence[Labelled]) -> list[Finding]:
    """Images without nuclei: severe where they are stained as nuclei are in the others."""
    empty = [item for item in items if _count(item) == 0]
    if not empty:
        return []
    dark = _darkness_of_nuclei(items)
    found = []
    for item in empty:
        part = float((unmix(item.image)[..., 0] > dark).mean())
        stained = part > _EMPTY_STAINED
        what = f"no nucleus is labelled; {part:.0%} of the image is as dark as nuclei elsewhere"
        found.append(Finding(item.name, "empty", what, "severe" if stained else "info"))
    return found


def _count(item: Labelled) -> int:
    if item.centres is not None:
        return len(item.centres.points)
    assert item.labels is not None  # Labelled has one of both
    return int(item.labels.max(initial=0))


def _darkness_of_nuclei(items: Sequence[Labelled]) -> float:
    """Hematoxylin half-way between nuclei and the rest; infinite where no image has both."""
    halves = []
    for item in items[:: max(1, len(items) // 100)]:
        inside = None if item.labels is None else item.labels > 0
        if inside is not None and inside.any() and not inside.all():
            stain = unmix(item.image)[..., 0]
            halves.append((float(stain[inside].mean()) + float(stain[~inside].mean())) / 2)
    return float(np.median(halves)) if halves else float("inf")


def _cover(item: Labelled, sizes: NDArray[np.int64]) -> list[Finding]:
    pixels = item.image.shape[0] * item.image.shape[1]
    part, largest = float(sizes.sum()) / pixels, float(sizes.max()) / pixels
    if largest > _ONE:
        what = f"one label, {int(sizes.argmax()) + 1}, covers {largest:.0%} of the image"
        return [Finding(item.name, "covers all", what, "severe")]
    if part > _EVERYTHING:
        what = f"labels cover {part:.0%} of the image: no background is left"
        return [Finding(item.name, "covers all", what, "severe")]
    return []


def _crumbs(item: Labelled, sizes: NDArray[np.int64], n: int) -> list[Finding]:
    tiny = int(np.count_nonzero((sizes > 0) & (sizes < _CRUMB)))
    if not tiny:
        return []
    severity = "warning" if tiny > _MANY_CRUMBS * n else "info"
    what = f"{tiny} of {n} labels have fewer than {_CRUMB} px"
    return [Finding(item.name, "tiny labels", what, severity)]


def _pieces(item: Labelled, sizes: NDArray[np.int64], n: int) -> list[Finding]:
    """Labels whose parts lie further apart than half a nucleus: two nuclei with one id."""
    gap = _APART * float(np.sqrt(4 / np.pi * np.median(sizes[sizes > 0])))
    assert item.labels is not None  # asked before
    split = [
        label
        for label, box in enumerate(ndimage.find_objects(item.labels), 1)
        if box is not None and _apart(item.labels[box] == label, gap)
    ]
    if not split:
        return []
    severity = "severe" if len(split) > max(1, _MANY_APART * n) else "warning"
    shown = ", ".join(map(str, split[:5])) + (", ..." if len(split) > 5 else "")
    what = (
        f"{len(split)} of {n} labels consist of parts further apart than {gap:.0f} px (two nuclei "
        f"with one id?): {shown}"
    )
    return [Finding(item.name, "parts apart", what, severity)]


def _apart(mask: NDArray[np.bool_], gap: float) -> bool:
    """Whether a mask has two parts of 10 px or more with at least ``gap`` px between them."""
    if max(mask.shape) <= gap:
        return False
    parts, n = ndimage.label(mask, structure=_EIGHT)
    if n < 2:
        return False
    sizes = np.bincount(parts.ravel())[1:]
    large = np.flatnonzero(sizes >= _CRUMB) + 1
    if len(large) < 2:
        return False
    distance = ndimage.distance_transform_edt(parts != large[sizes[large - 1].argmax()])
    nearest = ndimage.minimum(distance, parts, large)
    return bool(np.max(nearest) > gap)
