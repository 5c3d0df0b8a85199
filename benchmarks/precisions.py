"""What each precision of the default model costs and finds, by torch and by OpenVINO.

Mean PQ per image on the validation split, and Mpx/s of the model (pixels to maps), counted at
0.25 µm: processor time of one thread, and wall time of two at once, each on one thread; the
smallest of several rounds, in each of which every precision has its turn.

python benchmarks/precisions.py --data ../shared/data
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from record import save

from wsiseg.model.unet import UNetModel
from wsiseg.model.zoo import find_weights
from wsiseg.training.dataset import read_dataset
from wsiseg.training.labelled import Labelled
from wsiseg.training.validate import on_lattice, predict, score, summary

ROOT = Path(__file__).resolve().parents[1]
SETS = ("gbm40", "lgg", "kumar", "consep")
HOWS = (
    ("cpu", "fp32"),
    ("cpu", "bf16"),
    ("openvino", "fp32"),
    ("openvino", "bf16"),
    ("openvino", "int8"),
)
Models = dict[str, UNetModel]


def pq(model: UNetModel, items: Sequence[Labelled]) -> dict[str, float]:
    rows = [(item.set, score(predict(model, item)[0], item)) for item in items]
    found = {name: scores["pq"] for name, scores in summary(rows).items()}
    found["mean"] = float(np.mean([*found.values()]))
    return {name: round(value, 4) for name, value in found.items()}


def patches_of(item: Labelled, model: UNetModel) -> NDArray[np.uint8]:
    """A batch of real tissue."""
    height, width = model.spec.patch
    patch = on_lattice(item, model.spec)[:height, :width]
    return np.repeat(patch[None], model.spec.batch, axis=0)


def least(
    models: Models, patches: NDArray[np.uint8], rounds: int, seconds: Callable[..., float]
) -> dict[str, float]:
    """Mpx/s of each in its best round."""
    best: dict[str, float] = {}
    for model in models.values():
        seconds(model, patches)
    for _ in range(rounds):
        for name, model in models.items():
            best[name] = min(best.get(name, np.inf), seconds(model, patches))
    return {name: round(patches[..., 0].size / best[name] / 1e6, 2) for name in models}


def alone(model: UNetModel, patches: NDArray[np.uint8]) -> float:
    """Processor seconds of a forward in this thread."""
    began = time.thread_time()
    model(patches)
    return time.thread_time() - began


def two_at_once(model: UNetModel, patches: NDArray[np.uint8], each: int = 6) -> float:
    """Wall seconds per forward."""
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(model, [patches] * 2))
        began = time.perf_counter()
        list(pool.map(model, [patches] * 2 * each))
        return (time.perf_counter() - began) / (2 * each)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = os.environ.get("WSISEG_DATA", ROOT.parent / "shared" / "data")
    parser.add_argument("--data", type=Path, default=Path(default))
    parser.add_argument("--model", default="nuclei-he")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    weights = find_weights(options.model)
    models = {f"{d} {p}": UNetModel(weights, device=d, precision=p) for d, p in HOWS}
    items = [i for i in read_dataset(options.data / "nuclei", split="val") if i.set in SETS]
    result: dict[str, Any] = {"model": options.model, "sha256": weights.sha256}
    result["numerics"] = {name: model.numerics for name, model in models.items()}
    patches = patches_of(next(i for i in items if i.set == "kumar"), models["cpu fp32"])
    for name, seconds in (("one_thread", alone), ("two_threads", two_at_once)):
        result[f"{name}_mpx_s"] = least(models, patches, options.rounds, seconds)
        print(name, result[f"{name}_mpx_s"], flush=True)
    result["pq"] = {}
    for name, model in models.items():
        result["pq"][name] = pq(model, items)
        print(name, result["pq"][name], flush=True)
    print(save("precisions", result).relative_to(ROOT))


if __name__ == "__main__":
    main()
