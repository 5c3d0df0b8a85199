"""The images of a set among each other: copies, cases on both sides of a split, classes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from wsiseg.training.checks.finding import Finding
from wsiseg.training.labelled import Labelled

__all__ = ["check_cases", "check_classes", "check_copies", "check_spacing", "counts_of"]

_THUMB = 24  # px: side of the picture in which near copies are looked for
_ALIKE = 0.985  # correlation of two such pictures
_SAME = 8.0  # grey values: mean difference of near copies, in 96 x 96 px
_RARE = 0.01


def check_copies(items: Sequence[Labelled], *, near: bool = True) -> list[Finding]:
    """The same image twice, exactly or nearly so; severe where it is on both sides of the split.

    Nearly: stored anew, slightly recoloured or sharpened. Flipped and moved copies are not found.
    Without ``near`` only exact copies are.
    """
    found = []
    pairs = dict.fromkeys(_exact(items), "the same pixels as")
    for a, b in _near(items) if near else ():
        pairs.setdefault((a, b), "nearly the same pixels as")
    for (a, b), what in sorted(pairs.items()):
        apart = items[a].split != items[b].split
        where = f", which is in {items[b].split}" if apart else ""
        detail = f"{what} {items[b].name}{where}"
        severity = "severe" if apart else "warning"
        found.append(Finding(items[a].name, "copy", detail, severity))
    return found


def check_cases(items: Sequence[Labelled]) -> list[Finding]:
    """Cases with images in train and in val, of one set."""
    sides: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for item in items:
        if item.case:
            sides[item.set, item.case][item.split].append(item.name)
    return [
        Finding(
            f"{of_set}: case {case}" if of_set else f"case {case}",
            "case in both splits",
            f"{len(by['train'])} images in train, {len(by['val'])} in val (such as {by['val'][0]})",
            "severe",
        )
        for (of_set, case), by in sorted(sides.items())
        if len(by) > 1
    ]


def check_spacing(items: Sequence[Labelled]) -> list[Finding]:
    """Sets with images of unknown pixel size."""
    found = []
    for of_set, members in _by_set(items):
        bare = sum(item.mpp is None for item in members)
        if bare:
            what = (
                f"{bare} of {len(members)} images have no pixel size: give mpp where it is known; "
                "otherwise they are trained on at many scales"
            )
            found.append(Finding(of_set, "no pixel size", what, "warning"))
    return found


def check_classes(items: Sequence[Labelled], classes: Sequence[str]) -> list[Finding]:
    """The number of nuclei of each class by set, and classes that are rare or alone."""
    found = []
    for of_set, members in _by_set(items):
        counts = counts_of(members, len(classes))
        with_class = int(counts[1:].sum())
        if not with_class:
            continue
        parts = [f"{name} {counts[i]}" for i, name in enumerate(classes, 1)]
        table = f"{', '.join(parts)}; class not known {counts[0]}"
        found.append(Finding(of_set, "classes", table, "info"))
        there = np.flatnonzero(counts[1:])
        if len(there) == 1:
            what = f"all {with_class} nuclei with a class are {classes[there[0]]}"
            found.append(Finding(of_set, "one class only", what, "warning"))
        for i in there[counts[1:][there] < _RARE * with_class].tolist():
            what = f"{classes[i]} is {counts[i + 1]} of {with_class} nuclei: sample it more often"
            found.append(Finding(of_set, "rare class", what, "warning"))
    return found


def counts_of(items: Iterable[Labelled], n: int) -> NDArray[np.int64]:
    """(n + 1,) nuclei of unknown class, then of each class."""
    counts = np.zeros(n + 1, dtype=np.int64)
    for item in items:
        counts += np.bincount(_kinds(item), minlength=n + 1)[: n + 1]
    return counts


def _kinds(item: Labelled) -> NDArray[np.uint8]:
    """Class number of every nucleus that is on the image."""
    if item.centres is not None:
        return item.centres.kinds
    assert item.labels is not None  # Labelled has one of both
    there = np.flatnonzero(np.bincount(item.labels.ravel()))
    there = there[there > 0]
    kinds = np.zeros(len(there), dtype=np.uint8)
    inside = there < len(item.kinds)
    kinds[inside] = item.kinds[there[inside]]
    return kinds


def _by_set(items: Sequence[Labelled]) -> list[tuple[str, list[Labelled]]]:
    groups: dict[str, list[Labelled]] = defaultdict(list)
    for item in items:
        groups[item.set].append(item)
    return sorted(groups.items())


def _exact(items: Sequence[Labelled]) -> list[tuple[int, int]]:
    seen: dict[Hashable, list[int]] = defaultdict(list)
    for i, item in enumerate(items):
        pixels = np.ascontiguousarray(item.image)
        seen[pixels.shape, blake2b(pixels.data, digest_size=16).digest()].append(i)
    return [(group[0], i) for group in seen.values() for i in group[1:]]


def _near(items: Sequence[Labelled]) -> list[tuple[int, int]]:
    thumbs = np.array([_standard(_small(item, _THUMB)) for item in items])
    if len(thumbs) < 2:
        return []
    found = []
    for first in range(0, len(thumbs), 1024):
        alike = thumbs[first : first + 1024] @ thumbs.T > _ALIKE
        for a, b in np.argwhere(alike).tolist():
            pair = first + a, b
            if pair[0] < pair[1] and _close(items[pair[0]], items[pair[1]]):
                found.append(pair)
    return found


def _close(a: Labelled, b: Labelled) -> bool:
    """Whether two images differ little at a finer size."""
    one, other = (_small(item, 4 * _THUMB) for item in (a, b))
    difference = (one - one.mean()) - (other - other.mean())
    return float(np.abs(difference).mean()) < min(_SAME, 0.5 * float(one.std()))


def _small(item: Labelled, side: int) -> NDArray[np.float32]:
    import cv2

    small = cv2.resize(item.image, (side, side), interpolation=cv2.INTER_AREA)
    return np.asarray(small.mean(axis=2), dtype=np.float32)


def _standard(image: NDArray[np.float32]) -> NDArray[np.float32]:
    flat = image.ravel() - image.mean()
    length = float(np.linalg.norm(flat))
    return np.asarray(flat / length if length > 1e-3 else 0 * flat, dtype=np.float32)
