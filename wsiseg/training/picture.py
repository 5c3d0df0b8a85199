"""A picture of predictions: crops with the outlines that are true and those that were found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from wsiseg.atomic import atomic_write, make_folder, writing
from wsiseg.training.contact_sheet import edges
from wsiseg.training.labelled import Labelled
from wsiseg.training.scoring import Judged
from wsiseg.training.validate import Found

__all__ = ["chosen", "draw", "tile_of"]

Image = NDArray[np.uint8]

_SIDE = 224  # px of an image that are shown, from its middle
_ZOOM = 2
_CAPTION = 24
_COLUMNS = 4
_TRUE, _FOUND, _BOTH = (0, 220, 60), (255, 0, 200), (255, 255, 255)
_UNKNOWN = 0.5  # brightness of what was not annotated


def chosen(items: Sequence[Labelled], count: int) -> set[int]:
    """Places of ``count`` items to show: each set in turn, evenly within it."""
    sets: dict[str, list[int]] = {}
    for i, item in enumerate(items):
        sets.setdefault(item.set, []).append(i)
    quota = -(-count // max(1, len(sets)))
    rounds = [_even(members, quota) for members in sets.values()]
    turns = [r[k] for k in range(quota) for r in rounds if k < len(r)]
    return set(turns[:count])


def draw(path: Path, tiles: Sequence[Image], title: str) -> None:
    """Write tiles of one size as a PNG, with a legend; nothing where there are none."""
    if not tiles:
        return
    h, w = tiles[0].shape[:2]
    columns = min(_COLUMNS, len(tiles))
    sheet = np.full((_CAPTION + h * -(-len(tiles) // columns), w * columns, 3), 255, np.uint8)
    _text(sheet, f"{title}   green: truth   magenta: found   white: both", 16)
    for i, tile in enumerate(tiles):
        y, x = _CAPTION + h * (i // columns), w * (i % columns)
        sheet[y : y + h, x : x + w] = tile
    data = cv2.imencode(".png", np.ascontiguousarray(sheet[..., ::-1]))[1]
    make_folder(path.parent)
    with writing(path), atomic_write(path) as file:
        file.write(data.tobytes())


def tile_of(judged: Judged) -> Image:
    """The middle of an image, enlarged, with both outlines, its name and score."""
    item = judged.item
    window = tuple(_middle(n) for n in item.image.shape[:2])
    crop = item.image[window]
    if item.known is not None:
        dim = np.where(item.known[window], 1.0, _UNKNOWN)[..., None]
        crop = (crop * dim).astype(np.uint8)
    shown = np.repeat(np.repeat(crop, _ZOOM, axis=0), _ZOOM, axis=1)
    _outline(shown, item, judged.found, window)
    side = _SIDE * _ZOOM
    tile = np.full((side + _CAPTION, side + 6, 3), 255, dtype=np.uint8)
    tile[: shown.shape[0], : shown.shape[1]] = shown
    metric = "pq" if "pq" in judged.scores else "f1"
    name = item.name.replace("\\", "/").rsplit("/", 1)[-1]
    _text(tile, f"{item.set}/{name}  {metric} {judged.scores[metric]:.3f}", side + 16)
    return tile


def _outline(shown: Image, item: Labelled, found: Found, window: tuple[slice, ...]) -> None:
    mine = _enlarged_edges(found.labels[window])
    if item.labels is not None:
        truth = _enlarged_edges(item.labels[window])
        shown[truth], shown[mine], shown[truth & mine] = _TRUE, _FOUND, _BOTH
        return
    shown[mine] = _FOUND
    assert item.centres is not None
    corner = np.array([window[0].start, window[1].start])
    for y, x in (_ZOOM * (item.centres.points - corner + 0.5)).round().astype(int).tolist():
        cv2.drawMarker(shown, (x, y), _TRUE, cv2.MARKER_CROSS, 9, 2)


def _enlarged_edges(labels: NDArray[Any]) -> NDArray[np.bool_]:
    return edges(np.repeat(np.repeat(labels, _ZOOM, axis=0), _ZOOM, axis=1))


def _middle(size: int) -> slice:
    start = max(0, (size - _SIDE) // 2)
    return slice(start, min(size, start + _SIDE))


def _even(places: list[int], count: int) -> list[int]:
    """Up to ``count`` of ``places``, evenly, without repeats."""
    picks = np.linspace(0, len(places) - 1, min(count, len(places))).round().astype(int)
    return [places[i] for i in dict.fromkeys(picks.tolist())]


def _text(image: Image, text: str, y: int) -> None:
    plain = text.encode("ascii", "replace").decode("ascii")
    cv2.putText(image, plain, (4, y), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (20, 20, 20), 1, cv2.LINE_AA)
