"""A picture of many labelled images at once, to see at a glance what is wrong with them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.atomic import atomic_write, writing
from wsiseg.training.checks.finding import Finding
from wsiseg.training.labelled import Labelled

__all__ = ["contact_sheet", "edges"]

_log = logging.getLogger(__name__)

_SIDE = 224  # px of the image that is shown, from its middle or where most labels are
_FRAME = 6
_CAPTION = 30
_COLUMNS = 6
_MOST = 120
_INK = (20, 20, 20)
_PAPER = (255, 255, 255)
_FRAMES = {"severe": (220, 0, 0), "warning": (240, 160, 0)}
_OUTLINE = (0, 230, 90)
_UNKNOWN = 0.45  # brightness of what was not annotated


def contact_sheet(items: Sequence[Labelled], path: Path, findings: Sequence[Finding] = ()) -> None:
    """Write a PNG of crops (224 px) with the outlines or centres of their nuclei.

    Images with a severe finding come first and are framed in red, those with a warning in orange,
    each with the kinds of the findings. What was not annotated is dimmed. At most 120 images are
    shown, evenly taken from those without findings; how many are not is logged.
    Raises OutputError where the file cannot be written.
    """
    import cv2

    worst = _worst(findings)
    shown = _chosen(items, worst)
    if len(shown) < len(items):
        _log.info("%s shows %d of %d images", path, len(shown), len(items))
    rows = max(1, -(-len(shown) // _COLUMNS))
    height, width = _SIDE + 2 * _FRAME + _CAPTION, _SIDE + 2 * _FRAME
    sheet = np.full((rows * height, min(_COLUMNS, max(1, len(shown))) * width, 3), 255, np.uint8)
    for i, item in enumerate(shown):
        y, x = (i // _COLUMNS) * height, (i % _COLUMNS) * width
        sheet[y : y + height, x : x + width] = _tile(item, worst.get(item.name), (height, width))
    data = cv2.imencode(".png", np.ascontiguousarray(sheet[..., ::-1]))[1]
    with writing(path), atomic_write(path) as file:
        file.write(data.tobytes())


def _worst(findings: Sequence[Finding]) -> dict[str, tuple[str, str]]:
    """Name of an image -> its worst severity and the kinds of its findings."""
    found: dict[str, tuple[str, str]] = {}
    for severity in _FRAMES:
        for finding in findings:
            if finding.severity == severity:
                former = found.get(finding.name, (severity, ""))
                kinds = [*filter(None, former[1].split(", ")), finding.kind]
                found[finding.name] = (former[0], ", ".join(dict.fromkeys(kinds)))
    return found


def _chosen(items: Sequence[Labelled], worst: dict[str, tuple[str, str]]) -> list[Labelled]:
    order = list(_FRAMES)
    flagged = sorted(
        (item for item in items if item.name in worst), key=lambda i: order.index(worst[i.name][0])
    )[:_MOST]
    sound = [item for item in items if item.name not in worst]
    room = min(_MOST - len(flagged), len(sound))
    places = np.linspace(0, len(sound) - 1, room).round().astype(int).tolist()
    return flagged + [sound[i] for i in places]


def _tile(
    item: Labelled, flag: tuple[str, str] | None, shape: tuple[int, int]
) -> NDArray[np.uint8]:
    """One image with frame and caption, ``shape`` (h, w)."""
    from PIL import Image, ImageDraw

    severity, kinds = flag or ("", "")
    tile = np.full((*shape, 3), _PAPER, dtype=np.uint8)
    tile[: _SIDE + 2 * _FRAME] = _FRAMES.get(severity, _PAPER)
    crop = _drawn(item)
    tile[_FRAME : _FRAME + _SIDE, _FRAME : _FRAME + _SIDE] = 235
    tile[_FRAME : _FRAME + crop.shape[0], _FRAME : _FRAME + crop.shape[1]] = crop
    picture = Image.fromarray(tile)
    draw = ImageDraw.Draw(picture)
    _caption(draw, _short(item), _SIDE + 2 * _FRAME, _INK)
    _caption(draw, kinds, _SIDE + 2 * _FRAME + 14, _FRAMES.get(severity, _INK))
    return np.asarray(picture)


def _short(item: Labelled) -> str:
    name = item.name.replace("\\", "/").rsplit("/", 1)[-1]
    return f"{item.set}/{name}" if item.set else name


def _caption(draw: Any, text: str, y: int, color: tuple[int, int, int]) -> None:
    from PIL import ImageFont

    font = ImageFont.load_default(11)
    line = text.encode("ascii", "replace").decode("ascii")  # the font has little more
    while line and font.getlength(line) > _SIDE:
        line = ".." + line[4:] if len(line) > 4 else ""  # the ends of names tell them apart
    draw.text((_FRAME, y), line, font=font, fill=color)


def _drawn(item: Labelled) -> NDArray[np.uint8]:
    """A crop with its outlines, what is not known dimmed."""
    box = _busiest(item)
    out = item.image[box].copy()
    if item.known is not None:
        out[~item.known[box]] = (out[~item.known[box]] * _UNKNOWN).astype(np.uint8)
    if item.labels is not None:
        out[edges(item.labels[box])] = _OUTLINE
    elif item.centres is not None:
        corner = np.array([box[0].start, box[1].start])
        _crosses(out, np.round(item.centres.points - corner).astype(int))
    return out


def _busiest(item: Labelled) -> tuple[slice, slice]:
    """The window of the side of a tile with most labels, on a coarse grid; ties: the first."""
    h, w = item.image.shape[:2]
    if item.labels is None:
        top, left = max(0, (h - _SIDE) // 2), max(0, (w - _SIDE) // 2)
        return slice(top, top + _SIDE), slice(left, left + _SIDE)
    sums = np.zeros((h + 1, w + 1), dtype=np.int64)
    sums[1:, 1:] = (item.labels > 0).cumsum(axis=0).cumsum(axis=1)
    tops = np.unique(np.linspace(0, max(0, h - _SIDE), 5).astype(int))
    lefts = np.unique(np.linspace(0, max(0, w - _SIDE), 5).astype(int))
    ends = np.minimum(tops + _SIDE, h), np.minimum(lefts + _SIDE, w)
    inside = (
        sums[np.ix_(ends[0], ends[1])]
        - sums[np.ix_(tops, ends[1])]
        - sums[np.ix_(ends[0], lefts)]
        + sums[np.ix_(tops, lefts)]
    )
    i, j = np.unravel_index(int(inside.argmax()), inside.shape)
    return slice(int(tops[i]), int(ends[0][i])), slice(int(lefts[j]), int(ends[1][j]))


def edges(labels: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Pixels of labels that have another value above, below, left or right."""
    edge = np.zeros(labels.shape, dtype=np.bool_)
    down, right = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    edge[1:] |= down
    edge[:-1] |= down
    edge[:, 1:] |= right
    edge[:, :-1] |= right
    return np.asarray(edge & (labels > 0))


def _crosses(image: NDArray[np.uint8], points: NDArray[np.int_]) -> None:
    """Mark points (row, col) by a cross of 5 px."""
    for dy, dx in ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1), (-2, 0), (2, 0), (0, -2), (0, 2)):
        at = points + np.array([dy, dx])
        at = at[((at >= 0) & (at < image.shape[:2])).all(axis=1)]
        image[at[:, 0], at[:, 1]] = _OUTLINE
