"""What moves the scores of the default nuclei model, and how fast its network is.

Mean PQ per image on the validation split: as shipped, in fp32, by mirrored views, with other
margins, and on the same fields at half the resolution (20x). Speed: the bare forward in bf16 on
one and two threads, in Mpx/s counted at 0.25 µm.

python benchmarks/nuclei_model.py --data ../shared/data
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from record import save

from wsiseg.model.unet import UNetModel
from wsiseg.model.weights import Weights, with_facts
from wsiseg.model.zoo import find_weights
from wsiseg.training.dataset import read_dataset
from wsiseg.training.labelled import Labelled
from wsiseg.training.validate import predict, score, summary

ROOT = Path(__file__).resolve().parents[1]
SETS = ("gbm40", "lgg", "kumar", "consep")
MARGINS = (0, 8, 16, 24, 32, 64)


def pq(model: UNetModel, items: Sequence[Labelled]) -> dict[str, float]:
    rows = [(item.set, score(predict(model, item)[0], item)) for item in items]
    return {name: round(found["pq"], 4) for name, found in summary(rows).items()}


def halved(item: Labelled) -> Labelled:
    """The same field as a 20x scanner might have seen it; labels stay as they are."""
    h, w = (n // 2 * 2 for n in item.image.shape[:2])
    small = cv2.resize(item.image[:h, :w], (w // 2, h // 2), interpolation=cv2.INTER_AREA)
    return replace(item, image=small, labels=item.labels[:h:2, :w:2], mpp=2 * item.mpp)


def full_size_score(model: UNetModel, item: Labelled) -> dict[str, float]:
    """Scores of the 20x image against the labels at full resolution."""
    found = predict(model, halved(item))[0]
    h, w = (n * 2 for n in found.labels.shape)
    grown = found.labels.repeat(2, axis=0).repeat(2, axis=1)
    return score(
        replace(found, labels=grown),
        replace(item, image=item.image[:h, :w], labels=item.labels[:h, :w]),
    )


def with_margin(weights: Weights, margin: int) -> Weights:
    return with_facts(weights, spec={**weights.facts["spec"], "margin": margin})


def variants(weights: Weights) -> Iterator[tuple[str, UNetModel]]:
    yield "as shipped, bf16", UNetModel(weights, precision="bf16")
    yield "fp32", UNetModel(weights, precision="fp32")
    yield "bf16, mirrored", UNetModel(weights, precision="bf16", mirrored=True)
    for margin in sorted({*MARGINS} - {weights.facts["spec"]["margin"]}):
        yield f"bf16, margin {margin}", UNetModel(with_margin(weights, margin), precision="bf16")


def forward_speed(weights: Weights, threads: int) -> float:
    """Mpx/s of the network alone, ``threads`` forwards at once, each on one thread."""
    model = UNetModel(weights, precision="bf16")
    spec = model.spec
    patches = np.random.default_rng(0).integers(
        0, 256, (spec.batch, *spec.patch, 3), dtype=np.uint8
    )
    rounds = 12
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(model, [patches] * threads))  # warm
        began = time.perf_counter()
        list(pool.map(model, [patches] * threads * rounds))
        seconds = time.perf_counter() - began
    return round(threads * rounds * patches[..., 0].size / seconds / 1e6, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = os.environ.get("WSISEG_DATA", ROOT.parent / "shared" / "data")
    parser.add_argument("--data", type=Path, default=Path(default))
    parser.add_argument("--model", default="nuclei-he")
    options = parser.parse_args()
    weights = find_weights(options.model)
    torch.set_num_threads(1)
    result: dict[str, Any] = {"model": options.model, "sha256": weights.sha256}
    result["forward_mpx_s"] = {str(n): forward_speed(weights, n) for n in (1, 2)}
    print("forward, Mpx/s by threads:", result["forward_mpx_s"])
    items = [i for i in read_dataset(options.data / "nuclei", split="val") if i.set in SETS]
    result["pq"] = {}
    for name, model in variants(weights):
        result["pq"][name] = pq(model, items)
        print(name, result["pq"][name], flush=True)
    model = UNetModel(weights, precision="bf16")
    rows = [(item.set, full_size_score(model, item)) for item in items]
    result["pq"]["20x"] = {n: round(found["pq"], 4) for n, found in summary(rows).items()}
    print("20x", result["pq"]["20x"])
    print(save("nuclei_model", result).relative_to(ROOT))


if __name__ == "__main__":
    main()
