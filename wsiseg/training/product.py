"""From a network to weights that people can use: rounded, scored as stored, calibrated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wsiseg.metrics.bootstrap import Resamples, mean_of
from wsiseg.model.unet import UNet, UNetModel, default_spec, map_sizes, weights_of
from wsiseg.model.weights import Weights, load_weights, save_weights, with_facts
from wsiseg.training.calibrate import Calibration, calibrate, joined, typed_nuclei
from wsiseg.training.config import TrainConfig
from wsiseg.training.labelled import Labelled
from wsiseg.training.provenance import Terms, card_of
from wsiseg.training.scoring import judge, summary_of
from wsiseg.training.validate import Scores

__all__ = ["Scored", "intervals", "model_of", "raw_weights", "score_all", "store"]


@dataclass(frozen=True, slots=True)
class Scored:
    """How weights do on the validation images."""

    sets: dict[str, dict[str, float | None]]
    """Set -> metric -> mean over its images; ``images`` is their number."""
    intervals: dict[str, dict[str, tuple[float, float]]]
    """Set -> metric -> 95 % interval of that mean, over resampled cases; where there is one."""
    calibration: Calibration | None


def raw_weights(net: UNet, config: TrainConfig, licence: str) -> Weights:
    """``net`` as weights of float32, with the spec that ``config`` asks for.

    A HV map beside a DT map only helps the training: the rule reads DT, and HV is left out.
    """
    product, spacing = config.model, config.sampling.spacing
    if net.config.distance and net.config.vectors:
        net = _without_vectors(net)
    spec = default_spec(
        product.name,
        net.config,
        spacing=(spacing,) * config.network.ndim,
        classes=product.classes,
        patch=(product.patch,) * config.network.ndim,
        margin=product.margin,
        batch=product.batch,
        min_object=product.min_object,
        licence=licence,
    )
    return weights_of(net, spec, config.rule)


def _without_vectors(net: UNet) -> UNet:
    sizes = map_sizes(net.config)
    keep = [i for i in range(sum(sizes.values())) if not 1 <= i < 1 + sizes["hv"]]
    lean = UNet(replace(net.config, vectors=False))
    state = dict(net.state_dict())
    lean.load_state_dict(state | {k: state[k][keep] for k in ("head.weight", "head.bias")})
    return lean


@contextmanager
def model_of(weights: Weights, config: TrainConfig) -> Iterator[UNetModel]:
    """The model as users run it, on the machine of the training.

    It computes on one thread; afterwards the number of threads is what it was.
    """
    threads = torch.get_num_threads()
    precision = "bf16" if config.machine.precision == "bf16" else "fp32"
    try:
        yield UNetModel(weights, device=config.machine.device, precision=precision)
    finally:
        torch.set_num_threads(threads)


def score_all(
    weights: Weights,
    config: TrainConfig,
    items: Sequence[Labelled],
    check: Callable[[], None],
) -> Scored:
    """Scores of ``weights`` on images, and the temperature that fits its classes there."""
    rows, typed = [], []
    with model_of(weights, config) as model:
        for judged in judge(model, items, check):
            rows.append((judged.item.set, judged.scores))
            if config.model.classes:
                typed.append(typed_nuclei(judged))
    cases = [item.case or item.name for item in items]
    sets = _counted(summary_of(rows), items)
    return Scored(sets, intervals(rows, cases), calibrate(joined(typed)) if typed else None)


def intervals(
    rows: Sequence[tuple[str, Scores]], cases: Sequence[str]
) -> dict[str, dict[str, tuple[float, float]]]:
    """95 % intervals of the means of (set, scores) by resampling ``cases``, one per row."""
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for name in sorted({name for name, _ in rows}):
        mine = [k for k, (other, _) in enumerate(rows) if other == name]
        draws = Resamples.draw([cases[k] for k in mine])
        for metric in rows[mine[0]][1]:
            values = np.array([rows[k][1].get(metric, np.nan) for k in mine])
            estimate = draws.estimate(mean_of(values))
            if np.isfinite((estimate.low, estimate.high)).all():
                found.setdefault(name, {})[metric] = (estimate.low, estimate.high)
    return found


def store(
    folder: Path, weights: Weights, scored: Scored, made: dict[str, Any], terms: Terms
) -> Weights:
    """Write the weights folder: calibrated, with scores, card and licence; returns what is read
    back from it.

    ``made``: how they were made, JSON values.
    """
    found = scored.calibration
    product = made["config"]["model"]
    spec = {**weights.facts["spec"], "name": product["name"], "licence": terms.expression}
    config = {**weights.facts["config"], "temperature": found.temperature if found else 1.0}
    facts: dict[str, Any] = {
        "about": product["about"],
        "config": config,
        "spec": spec,
        "scores": {"val": scored.sets} if scored.sets else {},
        "intervals": {"val": scored.intervals},
        "calibration": None if found is None else asdict(found),
        "training": made,
    }
    done = with_facts(weights, **facts)
    save_weights(folder, done, card=card_of(done.facts), licence=terms.text, half=True)
    return load_weights(folder)


def _counted(
    sets: dict[str, dict[str, float | None]], items: Sequence[Labelled]
) -> dict[str, dict[str, float | None]]:
    names = [item.set for item in items]
    return {name: {**scores, "images": names.count(name)} for name, scores in sets.items()}
