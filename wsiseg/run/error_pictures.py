"""Pictures of errors: a piece of an image, with true and predicted outlines to be laid over it."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from wsiseg.export.lettering import draw_text, text_width
from wsiseg.geometry import Box
from wsiseg.metrics.polygons import pixel_spans
from wsiseg.run.error_cases import DISC_UM, ErrorCase
from wsiseg.run.evaluate_cases import Truth
from wsiseg.run.evaluate_compare import Objects
from wsiseg.run.inputs import Polygons

__all__ = ["PRED_RGB", "TRUTH_RGB", "Picture", "Scene", "crop_of", "draw_crop", "field_of"]

RGB = tuple[int, int, int]

# Two colours that differ in hue along the blue-yellow axis, which colour-blind people see, and in
# lightness; predictions are dashed as well, and every line has a dark rim to stand out on H&E.
TRUTH_RGB: RGB = (90, 215, 255)
PRED_RGB: RGB = (255, 208, 0)
_RIM: RGB = (20, 20, 30)

_STROKE, _DASH = 2, 10  # px
_CROP_UM = 32.0
_WIDEST = 2048  # px of an image that are shown as a whole


@dataclass(frozen=True, slots=True)
class Picture:
    """A piece of an image and the lines that go over it, as files."""

    photo: bytes
    """JPEG."""
    lines: bytes
    """PNG of the same size, transparent where there is no line."""
    size: tuple[int, int]
    """Width and height, px."""

    def uris(self) -> tuple[str, str]:
        """Both as data URIs."""
        kinds = (("jpeg", self.photo), ("png", self.lines))
        photo, lines = (
            f"data:image/{kind};base64,{base64.b64encode(data).decode()}" for kind, data in kinds
        )
        return photo, lines


def crop_of(error: ErrorCase, mpp: float, shape: tuple[int, ...]) -> Box:
    """A square of about 32 µm around an error, larger where it does not fit, inside ``shape``."""
    y0, x0, y1, x1 = error.box
    side = max(_CROP_UM / mpp, 1.3 * max(y1 - y0, x1 - x0))
    return _square(((y0 + y1) / 2, (x0 + x1) / 2), round(side), shape)


def field_of(shape: tuple[int, ...]) -> Box:
    """The whole of an image, or the middle of a very large one."""
    size = [min(n, _WIDEST) for n in shape]
    start = tuple((n - s) // 2 for n, s in zip(shape, size, strict=True))
    return Box(start, tuple(a + s for a, s in zip(start, size, strict=True)))


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """An image with its truth and its prediction."""

    pixels: NDArray[np.uint8]
    """(h, w, 3) RGB."""
    truth: Truth
    """What is known of it."""
    pred: Objects
    """What was found."""
    mpp: float
    """µm per px."""


def draw_crop(scene: Scene, box: Box, *, width: int, focus: ErrorCase | None = None) -> Picture:
    """The pixels of ``box`` (px of the image), ``width`` px wide, with both sides' outlines.

    With ``focus`` the objects of that error have strong lines and the others thin ones.
    """
    scale = width / box.shape[1]
    size = (width, max(1, round(box.shape[0] * scale)))
    pixels = Image.fromarray(np.ascontiguousarray(scene.pixels[box.slices()]))
    photo = pixels.resize(size, Image.Resampling.LANCZOS)
    truth = _painted_truth(scene, box, size)
    pred = _painted(scene.pred, box, size)
    lines = np.zeros((size[1], size[0], 4), np.uint8)
    thin = 1 if focus else _STROKE
    for labels, rgb, ids, dashed in (
        (truth, TRUTH_RGB, None if focus is None else focus.truth, False),
        (pred, PRED_RGB, None if focus is None else focus.pred, True),
    ):
        chosen = labels if ids is None else np.where(np.isin(labels, ids), labels, 0)
        if ids is not None:
            _stroke(lines, np.where(chosen > 0, 0, labels), rgb, thin, dashed, 170)
        _stroke(lines, chosen, rgb, _STROKE, dashed, 255)
    overlay = Image.fromarray(lines)
    _scale_bar(overlay, scene.mpp / scale)
    return Picture(_file(photo, "JPEG", quality=85), _file(overlay, "PNG", compress_level=6), size)


def _square(middle: tuple[float, float], side: int, shape: tuple[int, ...]) -> Box:
    """A square of ``side`` px, moved so far that it lies inside ``shape``, cut if it cannot."""
    start = [
        min(max(0, round(m - side / 2)), max(0, n - side))
        for m, n in zip(middle, shape, strict=True)
    ]
    return Box(tuple(start), tuple(a + side for a in start)).clip(shape)


def _painted_truth(scene: Scene, box: Box, size: tuple[int, int]) -> NDArray[np.int32]:
    truth = scene.truth
    if truth.objects is not None:
        return _painted(truth.objects, box, size)
    points = shapely.points(truth.centres[:, ::-1])
    discs = shapely.buffer(points, max(1.0, DISC_UM / scene.mpp))
    return _painted(Polygons(np.asarray(discs), np.full(len(points), None), 0), box, size)


def _painted(objects: Objects, box: Box, size: tuple[int, int]) -> NDArray[np.int32]:
    """``box`` at (width, height): ids of a label image, or places of polygons plus 1.

    Polygons are painted at that size, as smooth as they are; labels show their pixels.
    """
    if not isinstance(objects, Polygons):
        return _enlarged(np.asarray(objects[box.slices()], dtype=np.int32), size)
    top, left, bottom, right = (*box.start, *box.stop)[:4]
    x0, y0, x1, y1 = (shapely.bounds(objects.geometry).reshape(-1, 4)[:, i] for i in range(4))
    near = np.flatnonzero((x0 < right) & (x1 > left) & (y0 < bottom) & (y1 > top))
    scale = np.divide(size, box.shape[::-1])
    moved = shapely.transform(objects.geometry[near], lambda xy: (xy - (left, top)) * scale)
    labels = np.zeros(size[::-1], np.int32)
    spans = pixel_spans(np.asarray(moved), labels.shape)
    columns = (spans.object, spans.row, spans.start, spans.stop)
    for owner, row, start, stop in zip(*(c.tolist() for c in columns), strict=True):
        labels[row, start:stop] = near[owner] + 1
    return labels


def _enlarged(labels: NDArray[np.int32], size: tuple[int, int]) -> NDArray[np.int32]:
    """``labels`` at (width, height), each pixel that of its centre."""
    rows = ((np.arange(size[1]) + 0.5) * labels.shape[0] / size[1]).astype(np.intp)
    columns = ((np.arange(size[0]) + 0.5) * labels.shape[1] / size[0]).astype(np.intp)
    return labels[np.ix_(rows, columns)]


def _stroke(
    lines: NDArray[np.uint8],
    labels: NDArray[np.int32],
    rgb: RGB,
    width: int,
    dashed: bool,
    alpha: int,
) -> None:
    """Draw the inner edges of ``labels``, ``width`` px wide, with a rim of 1 px inside."""
    inner = _edge(labels, width)
    rim = _edge(labels, width + 1) & ~inner
    if dashed:
        rows, columns = (np.arange(n) // _DASH for n in labels.shape)
        gap = (rows[:, None] + columns) % 2 == 1
        inner, rim = inner & ~gap, rim & ~gap
    empty = lines[..., 3] == 0
    lines[rim & empty] = (*_RIM, alpha // 2)
    lines[inner] = (*rgb, alpha)


def _edge(labels: NDArray[np.int32], width: int) -> NDArray[np.bool_]:
    """Pixels of objects within ``width`` px (along an axis) of a pixel of another one."""
    edge = np.zeros(labels.shape, np.bool_)
    for axis in (0, 1):
        along = np.moveaxis(labels, axis, 0)
        found = np.moveaxis(edge, axis, 0)
        for step in range(1, width + 1):
            differs = along[step:] != along[:-step]
            found[step:] |= differs
            found[:-step] |= differs
    return edge & (labels > 0)


def _scale_bar(image: Any, um_per_px: float) -> None:
    """A bar of a round length, at most a third of the width, at the lower left."""
    most = image.width * um_per_px / 3
    power = 10.0 ** np.floor(np.log10(most))
    length = max(step * power for step in (1, 2, 5) if step * power <= most)
    wide, text = length / um_per_px, f"{length:g} µm"
    size = max(11, image.width // 40)
    plate = max(wide, text_width(text, size)) + 12
    bottom = image.height - 4
    draw = ImageDraw.Draw(image)
    draw.rectangle((4, bottom - size - 16, 4 + plate, bottom), fill=(255, 255, 255, 215))
    draw.rectangle((10, bottom - 8, 10 + wide, bottom - 5), fill=(30, 30, 36, 255))
    draw_text(draw, (10, bottom - 13), text, size, (30, 30, 36))


def _file(image: Any, kind: str, **options: Any) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()
