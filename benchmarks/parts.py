"""What the stages "decode" and "trace" of a run consist of: parts of their processor time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np
from biopsy import Window
from timing import timed

from wsiseg.cells.build import CellRecipe, cells_of, stable_ids
from wsiseg.cells.objects import objects_in
from wsiseg.cells.polygons import outlines
from wsiseg.geometry.links import components
from wsiseg.model.base import LocalModel

__all__ = ["MEASURE", "shares"]

MEASURE = "measure"
"""The part of a stage that sums over pixels or works these sums up."""
REPEATS, ORIGIN = 3, (0, 0)

Parts = dict[str, float]


def shares(windows: Iterable[Window], model: LocalModel, recipe: CellRecipe) -> dict[str, Parts]:
    """Stage -> part -> its share of the stage, over all ``windows``."""
    decode: Counter[str] = Counter()
    trace: Counter[str] = Counter()
    for window in windows:
        decode.update(_decode(window, model))
        trace.update(_trace(window, model, recipe))
    return {"decode": _normalised(decode), "trace": _normalised(trace)}


def _normalised(parts: Parts) -> Parts:
    whole = sum(parts.values())
    return {name: round(seconds / whole, 3) for name, seconds in parts.items()}


def _decode(window: Window, model: LocalModel) -> Parts:
    links = model.links(window.maps)
    labels = components(links)
    channels = _channels(window)
    return {
        "links": timed(lambda: model.links(window.maps), REPEATS).least,
        "components": timed(lambda: components(links), REPEATS).least,
        MEASURE: timed(lambda: objects_in(labels, channels, ORIGIN), REPEATS).least,
    }


def _trace(window: Window, model: LocalModel, recipe: CellRecipe) -> Parts:
    objects = objects_in(components(model.links(window.maps)), _channels(window), ORIGIN)
    scaled = outlines(objects).scaled(recipe.scale[::-1])
    parts = {
        "outlines": timed(lambda: outlines(objects), REPEATS).least,
        "polygons": timed(scaled.to_shapely, REPEATS).least,
        "ids": timed(lambda: stable_ids(objects, recipe.salt), REPEATS).least,
    }
    whole = timed(lambda: cells_of(objects, recipe), REPEATS).least
    return parts | {MEASURE: max(0.0, whole - sum(parts.values()))}


def _channels(window: Window) -> np.ndarray:
    return np.concatenate([window.maps.prob[None], window.maps.classes])
