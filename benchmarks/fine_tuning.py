"""What 20 to 200 drawn nuclei do for tissue that a model has never seen.

Nuclei of training images of a set that the weights were not trained on are handed to
``fine_tune`` as a user hands them over: an image beside QuPath's GeoJSON, with a rectangle that
marks what was fully annotated. Mean PQ on the validation images of that set, before and after,
and of the sets that the weights know (what is forgotten); wall seconds of each fine-tuning.

python workflows/train_nuclei.py workflows/train_held_out.toml --data ../shared/data --out runs
python benchmarks/fine_tuning.py --weights runs/train_held_out/weights --data ../shared/data
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from record import save

from wsiseg.metrics import centroids
from wsiseg.model.unet import UNetModel
from wsiseg.model.weights import Weights
from wsiseg.model.zoo import find_weights
from wsiseg.training.dataset import read_dataset
from wsiseg.training.finetune import fine_tune
from wsiseg.training.labelled import Labelled
from wsiseg.training.validate import predict, score, summary

ROOT = Path(__file__).resolve().parents[1]
UNSEEN, SEEN = ("gbm40", "lgg"), ("kumar", "consep")
DRAWN = {20: 1, 60: 2, 200: 4}
"""Nuclei -> images that they are drawn on."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = os.environ.get("WSISEG_DATA", ROOT.parent / "shared" / "data")
    parser.add_argument("--data", type=Path, default=Path(default))
    parser.add_argument("--weights", required=True)
    parser.add_argument("--seeds", type=int, default=3, help="draws of images")
    options = parser.parse_args()
    start = find_weights(options.weights)
    items = {
        split: read_dataset(options.data / "nuclei", split=split) for split in ("train", "val")
    }
    result: dict[str, Any] = {"before": pq(start, items["val"]), "after": []}
    print("before", result["before"], flush=True)
    for unseen in UNSEEN:
        images = [item for item in items["train"] if item.set == unseen]
        for wanted in DRAWN:
            for seed in range(options.seeds):
                row = one(start, images, items["val"], wanted, seed)
                result["after"].append({"set": unseen} | row)
                print(result["after"][-1], flush=True)
    print(save("fine_tuning", result).relative_to(ROOT))


def one(
    start: Weights, images: Sequence[Labelled], val: Sequence[Labelled], wanted: int, seed: int
) -> dict[str, Any]:
    """Scores after one fine-tuning on about ``wanted`` nuclei."""
    chosen = np.random.default_rng(seed).permutation(len(images))[: DRAWN[wanted]]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        drawn = [drawing(images[k], wanted // len(chosen), folder) for k in chosen]
        began = time.perf_counter()
        tuned = fine_tune(start, [pair for pair, _ in drawn], folder / "out", mpp=0.25)
        seconds = time.perf_counter() - began
        scores = pq(find_weights(tuned.weights), val)
    nuclei = sum(count for _, count in drawn)
    return {"nuclei": nuclei, "seed": seed, "seconds": round(seconds, 1), "pq": scores}


def pq(weights: Weights, items: Sequence[Labelled]) -> dict[str, float]:
    model = UNetModel(weights, precision="bf16")
    used = [item for item in items if item.set in UNSEEN + SEEN]
    rows = [(item.set, score(predict(model, item)[0], item)) for item in used]
    return {name: round(found["pq"], 4) for name, found in summary(rows).items()}


def drawing(item: Labelled, wanted: int, folder: Path) -> tuple[tuple[Path, Path], int]:
    """The image, and the outlines of all nuclei in a square about its middle with ``wanted``."""
    assert item.labels is not None
    h, w = item.labels.shape
    ids, points = centroids(item.labels)
    reach = np.abs(points - (h / 2, w / 2)).max(axis=1)
    half = min(float(np.sort(reach)[min(wanted, len(ids)) - 1]) + 0.5, min(h, w) / 2)
    inside = ids[reach <= half]
    y0, x0, y1, x1 = (int(v) for v in (h / 2 - half, w / 2 - half, h / 2 + half, w / 2 + half))
    ring = [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]
    features = [
        feature(ring, "Region*"),
        *(feature(outline(item.labels == k), None) for k in inside),
    ]
    stem = Path(item.name).stem
    image, geojson = folder / f"{stem}.png", folder / f"{stem}.geojson"
    cv2.imwrite(str(image), item.image[..., ::-1])
    geojson.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return (image, geojson), len(inside)


def outline(mask: NDArray[np.bool_]) -> list[list[float]]:
    """The largest part of ``mask`` as a ring of px, corners at whole numbers."""
    twice = np.kron(mask, np.ones((2, 2))).astype(np.uint8)  # contours run through pixel centres
    parts = cv2.findContours(twice, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
    ring = ((max(parts, key=cv2.contourArea)[:, 0] + 0.5) / 2).tolist()
    return [*ring, ring[0]]


def feature(ring: list[Any], name: str | None) -> dict[str, Any]:
    properties: dict[str, Any] = {"objectType": "annotation"}
    if name:
        properties["classification"] = {"name": name}
    shape = {"type": "Polygon", "coordinates": [ring]}
    return {"type": "Feature", "geometry": shape, "properties": properties}


if __name__ == "__main__":
    main()
