"""What kernels.py times: calls of ours beside those of libraries, on one window of maps.

A group makes its calls from a window and its model; a call returns how many objects it found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
import shapely
from biopsy import Window
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import find_contours, label, regionprops_table
from skimage.segmentation import watershed

from wsiseg.cells.moments import colours_of, shapes_of
from wsiseg.cells.objects import Objects, objects_in
from wsiseg.cells.polygons import outlines
from wsiseg.geometry.links import components, links_of
from wsiseg.model import hv
from wsiseg.model.base import LocalModel, Maps
from wsiseg.synth import scene

__all__ = ["CROWDED", "GROUPS", "WHOLE", "Calls"]

ORIGIN = (0, 0)
TOP = 96 / 255  # of DT: what our own rule takes for the top of a nucleus
MEASURED = ("area", "centroid", "bbox", "mean_intensity")
AXES = ("axis_major_length", "axis_minor_length")
COLOURS = ("mean_intensity", "intensity_std")
WHOLE = "polygons and measurements"
CROWDED = f"{WHOLE}, crowded"

Labels = NDArray[np.int32]
Channels = NDArray[np.float16]
Calls = dict[str, Callable[[], int]]


def decoding(window: Window, model: LocalModel) -> Calls:
    """Maps to labels."""
    maps = window.maps
    votes = Maps(maps.prob, hv.encode(model.decode(maps)).hv, maps.classes)
    return {
        "wsiseg: unit distance": lambda: int(model.decode(maps).max()),
        "wsiseg: HV": lambda: int(hv.decode(votes).max()),
        "skimage: watershed": lambda: int(plain_watershed(maps).max()),
    }


def plain_watershed(maps: Maps) -> Labels:
    """The textbook way with the same two thresholds: markers by scipy, flood by skimage."""
    depth = maps.hv[-1].astype(np.float32)
    inside = maps.prob > 0.5
    markers = ndimage.label((depth > TOP) & inside)[0]
    return np.asarray(watershed(-depth, markers, mask=inside))


def labelling(window: Window, model: LocalModel) -> Calls:
    """Links, or the foreground, to connected components."""
    links = model.links(window.maps)
    labels = components(links)
    inside = (links >= 128).astype(np.uint8)
    return {
        "wsiseg: components of links": lambda: int(components(links).max()),
        "scipy: label of the foreground": lambda: int(ndimage.label(inside)[1]),
        "cv2: connectedComponents of the foreground": lambda: (
            cv2.connectedComponents(inside, connectivity=4)[0] - 1
        ),
        "skimage: label of the labels": lambda: int(label(labels, connectivity=1).max()),
    }


def tracing(window: Window, model: LocalModel) -> Calls:
    """Labels to outlines."""
    labels = model.decode(window.maps)
    prob = window.maps.prob[None]
    return {
        "wsiseg: labels to outlines": lambda: (
            len(outlines(objects_in(labels, prob, ORIGIN)).polygons) - 1
        ),
        "cv2: findContours of each box": lambda: sum(1 for _ in cv2_contours(labels)),
        "skimage: find_contours of each box": lambda: sum(1 for _ in skimage_contours(labels)),
    }


def cv2_contours(labels: Labels) -> Iterator[Any]:
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        mask = (labels[box] == number).view(np.uint8)
        yield cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]


def skimage_contours(labels: Labels) -> Iterator[Any]:
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        yield find_contours(np.pad(labels[box] == number, 1), 0.5)


def measuring(window: Window, model: LocalModel) -> Calls:
    """Labels to area, centroid, bounding box and means of foreground and class probabilities."""
    labels, channels = model.decode(window.maps), channels_of(window)
    return {
        "wsiseg: sums over runs": lambda: len(measured(labels, channels)),
        "skimage: regionprops_table": lambda: by_skimage(labels, channels),
        "numpy: bincount, scipy: find_objects": lambda: by_bincount(labels, channels),
    }


def channels_of(window: Window) -> Channels:
    return np.concatenate([window.maps.prob[None], window.maps.classes])


def measured(labels: Labels, channels: Channels) -> Objects:
    objects = objects_in(labels, channels, ORIGIN)
    _ = objects.areas, objects.centroids, objects.boxes, objects.means
    return objects


def by_skimage(labels: Labels, channels: Channels) -> int:
    last = np.moveaxis(channels, 0, -1).astype(np.float32)
    return len(regionprops_table(labels, last, properties=MEASURED)["area"])


def by_bincount(labels: Labels, channels: Channels) -> int:
    flat = labels.ravel()
    areas = np.bincount(flat)
    for axis in np.indices(labels.shape, sparse=True):
        np.bincount(flat, np.broadcast_to(axis, labels.shape).ravel())
    for channel in channels:
        np.bincount(flat, channel.ravel())
    ndimage.find_objects(labels)
    return len(areas) - 1


def whole(window: Window, model: LocalModel) -> Calls:
    """Labels to shapely polygons, with what files have of them and moments of shape and colour."""
    return cells(model.decode(window.maps), channels_of(window), window.pixels)


def crowded(window: Window, model: LocalModel) -> Calls:
    """The same of a drawn scene as large, a nucleus per 700 px: pixels cost least per object."""
    shape, rng = window.maps.prob.shape, np.random.default_rng(0)
    count = shape[0] * shape[1] // 700
    labels = scene(shape, count, rng, extent=(18, 30), kinds=("ellipsoid",))
    labels[np.bincount(labels.ravel())[labels] < model.spec.min_object] = 0  # slivers
    labels = components(links_of(labels))  # numbered without gaps
    prob = (labels > 0).astype(np.float16)
    return cells(labels, np.stack([prob] * (1 + len(model.spec.classes))), window.pixels)


def cells(labels: Labels, channels: Channels, pixels: NDArray[np.uint8]) -> Calls:
    def ours() -> int:
        objects = objects_in(labels, channels, ORIGIN)
        _ = objects.boxes, objects.means, shapes_of(objects).axes
        colours_of(objects, pixels, ORIGIN)
        return len(outlines(objects).to_shapely())

    def without_moments() -> int:
        return len(outlines(measured(labels, channels)).to_shapely())

    def by_libraries() -> int:
        last = np.moveaxis(channels, 0, -1).astype(np.float32)
        regionprops_table(labels, last, properties=(*MEASURED, *AXES))
        regionprops_table(labels, pixels, properties=COLOURS)
        found = [max(c, key=len)[:, 0] for c in cv2_contours(labels)]
        return len([shapely.Polygon(xy) for xy in found if len(xy) > 2])

    return {
        "wsiseg": ours,
        "wsiseg, without moments": without_moments,
        "cv2 + skimage + shapely": by_libraries,
    }


GROUPS: dict[str, Callable[[Window, LocalModel], Calls]] = {
    "decode": decoding,
    "label": labelling,
    "trace": tracing,
    "measure": measuring,
    WHOLE: whole,
    CROWDED: crowded,
}
