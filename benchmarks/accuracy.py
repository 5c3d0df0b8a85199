"""PQ of ``hematoxylin`` on labelled nuclei, beside a plain Otsu threshold and watershed.

    python benchmarks/accuracy.py [--data DIR] [--split val]

Both work on the same means of 2 x 2 px (0.5 µm) and drop the same small objects; their labels are
doubled and scored at the resolution of the truth (0.25 µm), as users get them. The model's
constants were chosen on the train split. ``dsb_colour`` has no known pixel size: it is scored as
if it had 0.25 µm, for what it is worth.
"""

from __future__ import annotations

import argparse
import csv
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from record import save
from scipy import ndimage as ndi
from skimage.color import rgb2gray, rgb2hed
from skimage.feature import peak_local_max
from skimage.filters import threshold_otsu
from skimage.segmentation import watershed

from wsiseg.metrics import count_overlaps, dice, dq, match_overlaps, pq, sq
from wsiseg.model.base import Maps
from wsiseg.model.hematoxylin import Hematoxylin

ROOT = Path(__file__).resolve().parents[1]
SETS = ("gbm40", "kumar", "lgg", "consep", "dsb_colour")
MODEL = Hematoxylin()

Image = NDArray[np.uint8]
Labels = NDArray[Any]


def hematoxylin(rgb: Image) -> Labels:
    maps = MODEL(rgb[None])
    return MODEL.decode(Maps(maps.prob[0], maps.hv[0], maps.classes[0]))


def otsu_hematoxylin(rgb: Image) -> Labels:
    return otsu_watershed(rgb2hed(rgb)[..., 0])


def otsu_grey(rgb: Image) -> Labels:
    return otsu_watershed(1 - rgb2gray(rgb))


def otsu_watershed(darkness: NDArray[np.float64]) -> Labels:
    """The textbook way: smooth, Otsu, fill holes, watershed of the distance from its tops."""
    smooth = ndi.gaussian_filter(darkness, 1)
    mask = ndi.binary_fill_holes(smooth > threshold_otsu(smooth))
    distance = ndi.distance_transform_edt(mask)
    tops = peak_local_max(distance, min_distance=5, labels=ndi.label(mask)[0])
    markers = np.zeros(mask.shape, dtype=np.int32)
    markers[tuple(tops.T)] = np.arange(1, len(tops) + 1)
    return watershed(-distance, markers, mask=mask)


METHODS: dict[str, Callable[[Image], Labels]] = {
    "hematoxylin": hematoxylin,
    "otsu of hematoxylin + watershed": otsu_hematoxylin,
    "otsu of grey + watershed": otsu_grey,
}


def labelled(data: Path, name: str, split: str) -> Iterator[tuple[Image, Labels]]:
    """Images at half resolution, and their labels at full resolution."""
    with (data / "nuclei" / "manifest.csv").open() as file:
        rows = [r for r in csv.DictReader(file) if r["set"] == name and r["split"] == split]
    for row in rows:
        rgb = cv2.cvtColor(cv2.imread(str(data / "nuclei" / row["image"])), cv2.COLOR_BGR2RGB)
        truth = cv2.imread(str(data / "nuclei" / row["labels"]), cv2.IMREAD_UNCHANGED)
        h, w = (n // 2 * 2 for n in truth.shape)
        blocks = rgb[:h, :w].reshape(h // 2, 2, w // 2, 2, 3).astype(np.uint16)
        yield ((blocks.sum(axis=(1, 3)) + 2) // 4).astype(np.uint8), truth[:h, :w]


def without_small(labels: Labels) -> Labels:
    size = np.bincount(labels.ravel())
    keep = size >= MODEL.spec.min_object
    keep[0] = False
    return np.where(keep[labels], labels, 0)


def score(images: list[tuple[Image, Labels]], method: Callable[[Image], Labels]) -> dict[str, Any]:
    """Means over the images, and the time that the method took."""
    rows, seconds = [], 0.0
    for rgb, truth in images:
        began = time.perf_counter()
        labels = without_small(method(rgb))
        seconds += time.perf_counter() - began
        overlaps = count_overlaps(truth, labels.repeat(2, axis=0).repeat(2, axis=1))
        found = match_overlaps(overlaps)
        rows.append([float(v) for v in (pq(found), dq(found), sq(found), dice(overlaps))])
    means = dict(zip(("pq", "dq", "sq", "dice"), np.nanmean(rows, axis=0), strict=True))
    per_image = [round(row[0], 4) for row in rows]
    rounded = {k: round(float(v), 4) for k, v in means.items()}
    return {**rounded, "images": len(rows), "pq_per_image": per_image, "seconds": round(seconds, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = os.environ.get("WSISEG_DATA", ROOT.parent / "shared" / "data")
    parser.add_argument("--data", type=Path, default=Path(default))
    parser.add_argument("--split", choices=("val", "train"), default="val")
    options = parser.parse_args()
    MODEL(np.zeros((1, 64, 64, 3), np.uint8))  # compile outside the clock
    result: dict[str, Any] = {}
    for name in SETS:
        images = list(labelled(options.data, name, options.split))
        result[name] = {method: score(images, run) for method, run in METHODS.items()}
        line = ", ".join(f"{method} {row['pq']:.3f}" for method, row in result[name].items())
        print(f"{name:10} PQ of {len(images)} images: {line}")
    name = "accuracy" if options.split == "val" else f"accuracy-{options.split}"
    path = save(name, {"split": options.split, "model_sha256": MODEL.spec.sha256, "sets": result})
    print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
