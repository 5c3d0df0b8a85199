"""Outlines drawn on a slide into labelled crops of its level 0, and what of them is known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy import ndimage

from wsiseg.errors import InputFileError
from wsiseg.geometry import Box
from wsiseg.image.open import open_slide
from wsiseg.image.slide import Slide
from wsiseg.training.labelled import Labelled
from wsiseg.training.readers.files import MAX_PIXELS, spacing_of
from wsiseg.training.readers.paint import Painted, paint
from wsiseg.training.readers.reading import Reading

__all__ = ["Drawn", "labelled_crops", "valid_polygons"]

CROP = 2048  # px: longest side of a part of a region
GROUP = 1024  # px: nuclei within a square of this size share a crop where there are no regions
MARGIN = 32  # px around a crop: context, of which nothing is known
_BAND = 0.15  # of the median diameter: about 1 µm around a nucleus


def _none() -> NDArray[Any]:
    return np.empty(0, dtype=object)


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """What somebody drew on a slide; outlines are valid shapely polygons, level-0 px (x, y)."""

    path: Path
    """The file."""
    outlines: NDArray[Any]
    """(N,) of nuclei."""
    names: list[str | None]
    """(N,) of their classes."""
    regions: NDArray[Any] = field(default_factory=_none)
    """Where everything was annotated."""
    ignored: NDArray[Any] = field(default_factory=_none)
    """Where nothing is known."""
    complete: bool = False
    """Whether the whole image counts as annotated where there are no regions and it is small."""
    mpp: float | None = None
    """µm per px, where the file has it."""


def labelled_crops(image: Path, drawn: Drawn, reading: Reading) -> list[Labelled]:
    """Crops of a slide around what was drawn on it.

    With regions, these are the crops (in parts of up to 2048 px), a nucleus that reaches into one
    is labelled whole, and outside of regions nothing counts as background. Without, a crop holds
    the nuclei of a square of 1024 px, and only they and a narrow band around them (0.15 of the
    median diameter) are known; a note says so. Crops overlap at their borders, but a nucleus is
    labelled in one of them, that of its centre, and its pixels are unknown in the others. A
    nucleus most of which is in an Ignore area is not labelled.
    """
    kinds = reading.classes.numbers(drawn.names, drawn.path)
    with open_slide(image) as slide:
        shape = slide.levels[0].shape
        whole = drawn.complete and not len(drawn.regions) and shape[0] * shape[1] <= MAX_PIXELS
        parts = [_whole(shape)] if whole else list(_parts(drawn, shape))
        owner = _owners(drawn.outlines, parts)
        crops = [
            _crop(slide, image, drawn, part, owner == number) for number, part in enumerate(parts)
        ]
        mpp = reading.mpp or drawn.mpp or spacing_of(slide)
    if not crops:
        raise InputFileError(
            f"{drawn.path}: no nucleus and no Region annotation on {image.name} of {shape[0]} x "
            f"{shape[1]} px: annotate nuclei as polygons, in px of level 0"
        )
    for crop in crops:
        crop.painted.report(crop.name, reading)
    _note_unused(drawn, crops, whole, reading)
    return [_item(crop, kinds, mpp, image, reading) for crop in crops]


def valid_polygons(geometry: NDArray[Any]) -> NDArray[Any]:
    """Valid (Multi)Polygons, empty where no area is left."""
    flat = shapely.force_2d(geometry)
    for row in np.flatnonzero(~shapely.is_valid(flat)):
        whole = shapely.make_valid(flat[row], method="structure", keep_collapsed=False)
        flat[row] = _polygonal(whole)
    return np.asarray(flat, dtype=object)


@dataclass(frozen=True, slots=True, eq=False)
class _Crop:
    name: str
    pixels: NDArray[np.uint8]
    painted: Painted
    known: NDArray[np.bool_] | None
    used: NDArray[np.intp]
    """Places of the nuclei on this crop."""


@dataclass(frozen=True, slots=True)
class _Part:
    """Where a crop is cut, and what of the slide is its own."""

    box: Box
    area: Any
    """Polygon, level-0 px (x, y); the areas of two crops do not overlap."""
    kind: str
    """"whole" (the image), "region" or "square" (of nuclei, no region)."""


def _crop(slide: Slide, image: Path, drawn: Drawn, part: _Part, mine: NDArray[np.bool_]) -> _Crop:
    """The crop of ``part``; ``mine`` (N,): which of the nuclei are labelled in it."""
    box = part.box
    (y, x), shape = box.start, (box.shape[0], box.shape[1])
    near = np.sort(shapely.STRtree(drawn.outlines).query(_polygon(box), predicate="intersects"))
    painted = paint(_moved(drawn.outlines[near], x, y), shape)
    own = np.concatenate([[False], mine[near]])[painted.labels]
    known = _known(np.where(own, painted.labels, 0), drawn, part)
    known &= own | (painted.labels == 0)
    known &= paint(_moved(drawn.ignored, x, y), shape).labels == 0
    keep = mine[near] & _is_known(painted.labels, known, len(near))
    known &= np.concatenate([[True], keep])[painted.labels]  # what is left of one is no background
    painted = _without(painted, keep)
    name = f"{image} [y {y}, x {x}, {shape[0]} x {shape[1]} px]"
    return _Crop(
        str(image) if part.kind == "whole" else name,
        slide.read_level(0, box),
        painted,
        None if known.all() else known,
        near[painted.size > 0],
    )


def _known(labels: NDArray[np.int32], drawn: Drawn, part: _Part) -> NDArray[np.bool_]:
    """(H, W): where ``labels`` say all there is, but for what is to be ignored."""
    if part.kind == "whole":
        return np.ones(labels.shape, dtype=np.bool_)
    if part.kind == "square":
        return _band(labels, drawn.outlines)
    (y, x), shape = part.box.start, (labels.shape[0], labels.shape[1])
    area = _moved(np.array([part.area], dtype=object), x, y)
    return np.asarray((paint(area, shape).labels > 0) | (labels > 0))


def _is_known(labels: NDArray[np.int32], known: NDArray[np.bool_], n: int) -> NDArray[np.bool_]:
    """(N,): whether half of an object, or more, lies where something is known."""
    size = np.bincount(labels.ravel(), minlength=n + 1)
    inside = np.bincount(labels[known], minlength=n + 1)
    return np.asarray((2 * inside >= size)[1:])


def _without(painted: Painted, keep: NDArray[np.bool_]) -> Painted:
    """``painted`` without objects: their places stay, with no pixels."""
    table = np.concatenate([[0], np.where(keep, np.arange(1, len(keep) + 1), 0)])
    labels = table.astype(np.int32)[painted.labels]
    return Painted(labels, painted.hidden * keep, painted.size * keep)


def _owners(outlines: NDArray[Any], parts: Sequence[_Part]) -> NDArray[np.intp]:
    """(N,): the part, of those whose box a nucleus reaches, that is nearest to its centre."""
    centres = shapely.points(_middles(outlines))
    least = np.full(len(outlines), np.inf)
    owner = np.full(len(outlines), -1, dtype=np.intp)
    tree = shapely.STRtree(outlines)
    for number, part in enumerate(parts):
        there = tree.query(_polygon(part.box), predicate="intersects")
        distance = shapely.distance(centres[there], part.area)
        nearer = distance < least[there]  # of equals the first
        least[there[nearer]], owner[there[nearer]] = distance[nearer], number
    return owner


def _item(
    crop: _Crop, kinds: NDArray[np.uint8], mpp: float | None, image: Path, reading: Reading
) -> Labelled:
    by_label = np.zeros(len(crop.painted.size) + 1, dtype=np.uint8)
    by_label[1:][crop.painted.size > 0] = kinds[crop.used]
    return Labelled(
        name=crop.name,
        image=crop.pixels,
        labels=crop.painted.labels,
        kinds=by_label,
        known=crop.known,
        mpp=mpp,
        set=reading.set_name,
        split=reading.own_split,
        case=image.stem,
    )


def _whole(shape: tuple[int, ...]) -> _Part:
    box = Box.of_shape(shape)
    return _Part(box, _polygon(box), "whole")


def _parts(drawn: Drawn, shape: tuple[int, ...]) -> Iterator[_Part]:
    """Where the crops are cut, within the slide."""
    if len(drawn.regions):
        for region in shapely.get_parts(_polygonal(shapely.union_all(drawn.regions))):
            for box in _cut(_box(shapely.bounds(region)).clip(shape)):
                if not box.empty:
                    area = _polygonal(shapely.intersection(region, _polygon(box)))
                    yield _Part(box.grow(MARGIN).clip(shape), area, "region")
        return
    bounds, middle = shapely.bounds(drawn.outlines).reshape(-1, 4), _middles(drawn.outlines)
    on = ((middle >= 0) & (middle < (shape[1], shape[0]))).all(axis=1)
    squares, group = np.unique(middle[on] // GROUP, axis=0, return_inverse=True)
    for i, corner in enumerate(squares * GROUP):
        mine = bounds[on][group.reshape(-1) == i]
        around = (*mine[:, :2].min(axis=0), *mine[:, 2:].max(axis=0))
        area = shapely.box(*corner, *(corner + GROUP))
        yield _Part(_box(around).grow(MARGIN).clip(shape), area, "square")


def _cut(box: Box) -> Iterator[Box]:
    """Nearly equal parts of at most ``CROP`` px a side."""
    edges = [
        np.linspace(a, b, max(1, ceil((b - a) / CROP)) + 1).round().astype(int).tolist()
        for a, b in zip(box.start, box.stop, strict=True)
    ]
    for top, bottom in zip(edges[0], edges[0][1:], strict=False):
        for left, right in zip(edges[1], edges[1][1:], strict=False):
            yield Box((top, left), (bottom, right))


def _box(bounds: Any) -> Box:
    left, top, right, bottom = bounds
    return Box((int(top // 1), int(left // 1)), (ceil(bottom), ceil(right)))


def _polygon(box: Box) -> Any:
    return shapely.box(box.start[1], box.start[0], box.stop[1], box.stop[0])


def _middles(outlines: NDArray[Any]) -> NDArray[np.float64]:
    """(N, 2): centres (x, y) of the bounds of outlines."""
    bounds = shapely.bounds(outlines).reshape(-1, 4)
    return np.asarray((bounds[:, :2] + bounds[:, 2:]) / 2)


def _band(labels: NDArray[np.int32], outlines: NDArray[Any]) -> NDArray[np.bool_]:
    """Nuclei and what is next to them."""
    diameter = np.median(np.sqrt(4 / np.pi * shapely.area(outlines)))
    distance = ndimage.distance_transform_edt(labels == 0)
    return np.asarray(distance <= max(2.0, round(_BAND * float(diameter))))


def _moved(outlines: NDArray[Any], x: int, y: int) -> NDArray[Any]:
    return np.asarray(shapely.transform(outlines, lambda xy: xy - (x, y)))


def _polygonal(geometry: Any) -> Any:
    """The polygons among the parts of a geometry, as one geometry."""
    parts = shapely.get_parts(geometry)
    parts = shapely.get_parts(parts[np.isin(shapely.get_type_id(parts), (3, 6))])
    return parts[0] if len(parts) == 1 else shapely.multipolygons(parts)


def _note_unused(drawn: Drawn, crops: list[_Crop], whole: bool, reading: Reading) -> None:
    n = len(drawn.outlines)
    used = np.unique(np.concatenate([crop.used for crop in crops]))
    where = "off the image, or in an Ignore area"
    if len(drawn.regions):
        where = f"outside of every region, {where}"
    what = f"{n - len(used)} of {n} nuclei are left out: {where}"
    reading.note(drawn.path, "left out", what, n - len(used), n)
    if not whole and not len(drawn.regions):
        reading.note(
            drawn.path,
            "partly known",
            f"no Region annotation says what was annotated completely: only the {len(used)} nuclei "
            "and a narrow band around them are used, nothing else counts as background; draw a "
            "rectangle of class Region* around a completely annotated area",
            len(used),
            n,
        )
