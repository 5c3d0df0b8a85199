"""Fine-tuning: weights that are there, and 20 to 200 nuclei that a user has drawn, in minutes.

A part of the annotations is held back and scored before and after, and the weights are those of
the last step, so that the score has chosen nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from wsiseg.errors import ModelError, SettingsError
from wsiseg.model.unet import rule_of
from wsiseg.model.weights import Weights
from wsiseg.model.zoo import find_weights
from wsiseg.training.colour import Colour
from wsiseg.training.config import Product, TrainConfig, Validation
from wsiseg.training.dataset import read_annotations
from wsiseg.training.examples import Examples
from wsiseg.training.holdout import hold_out
from wsiseg.training.labelled import Labelled
from wsiseg.training.loop import Machine
from wsiseg.training.losses import LossWeights
from wsiseg.training.outcome import Tell, Trained
from wsiseg.training.provenance import OWN
from wsiseg.training.sample import Sampling
from wsiseg.training.start import network_of
from wsiseg.training.state import Schedule
from wsiseg.training.train import train_on

__all__ = ["FineTune", "Judgement", "fine_tune", "judgement_of"]

_log = logging.getLogger(__name__)

_CLEAR = 0.01  # of PQ: less than that is called the same


@dataclass(frozen=True, slots=True)
class FineTune:
    """How weights are adapted to a few nuclei."""

    schedule: Schedule = field(
        default_factory=lambda: Schedule(steps=300, rate=2e-4, last=0.05, warmup=30, ema=0.98)
    )
    sampling: Sampling = field(
        default_factory=lambda: Sampling(
            batch=4,
            on_nucleus=0.9,
            scale=0.15,
            glass=0.05,
            colour=Colour(stain=0.08, coarse=0.15, noise=0.1, jpeg=0.15),
        )
    )
    """Colours vary half as much as in a training from noise: the slide in question is at hand.
    The spacing is that of the weights."""
    loss: LossWeights = field(default_factory=LossWeights)
    norms: float = 0.0
    """See TrainConfig: statistics of a few crops say less than those of the weights."""
    held_out: float = 0.25
    """Share of the nuclei that are scored and not trained on."""
    seed: int = 0
    machine: Machine = field(default_factory=lambda: Machine(precision="auto", threads=0))


@dataclass(frozen=True, slots=True)
class Judgement:
    """Whether it helped, on the nuclei that were held back."""

    nuclei: int
    before: float
    """Mean PQ of the weights it started from."""
    after: float
    better: bool
    """By .01 of PQ or more."""
    worse: bool


def fine_tune(
    start: str | Path | Weights,
    drawn: Sequence[tuple[str | Path, str | Path]],
    out: str | Path,
    how: FineTune | None = None,
    *,
    mpp: float | None = None,
    renames: Mapping[str, str] | None = None,
    fresh: bool = False,
    progress: Tell | None = None,
) -> Trained:
    """Adapt weights (a name of ``wsiseg models``, a path, or Weights) to drawn nuclei.

    ``drawn``: pairs of a slide or image and its QuPath GeoJSON. ``mpp``: µm per px of level 0,
    before what the slides say. ``renames``: see ``read_annotations``. The classes, the licence and
    the use of the weights stay as they are; where the nuclei are of fewer than two classes, what
    tells classes apart is not trained. Interrupted, the same call goes on.

    Raises as ``read_annotations`` and ``train``; InputFileError for fewer than 10 nuclei.
    """
    how = how or FineTune()
    weights = start if isinstance(start, Weights) else find_weights(start)
    product = _product(weights)
    items = [
        item
        for slide, geojson in drawn
        for item in read_annotations(
            slide, geojson, classes=product.classes, mpp=mpp, renames=renames
        )
    ]
    if not items:
        raise SettingsError("give annotations and the slide that they were drawn on")
    own = [replace(item, licence=OWN) for item in items]
    examples = Examples(*hold_out(own, how.held_out))
    config = _config(weights, product, how, examples.train)
    return train_on(config, examples, out, start=weights, fresh=fresh, progress=progress)


def judgement_of(trained: Trained) -> Judgement | None:
    """Whether a fine-tuning helped; None where nothing was scored before and after."""
    names = [name for name in trained.scores if name in trained.before]
    before = [trained.before[name].get("pq") for name in names]
    after = [trained.scores[name].get("pq") for name in names]
    pairs = [(b, a) for b, a in zip(before, after, strict=True) if b is not None and a is not None]
    if not pairs:
        return None
    mean_before, mean_after = (float(v) for v in np.mean(pairs, axis=0))
    gain = mean_after - mean_before
    return Judgement(trained.nuclei, mean_before, mean_after, gain >= _CLEAR, gain <= -_CLEAR)


def _product(weights: Weights) -> Product:
    """What the weights are called and how they are used, taken over."""
    spec = weights.facts.get("spec")
    if not isinstance(spec, dict):
        raise ModelError(f"{weights.path}: its facts have no spec")
    return Product(
        name=f"{str(spec['name']).removesuffix('-tuned')}-tuned",
        about=f"{spec['name']}, fine-tuned on nuclei of one's own",
        classes=tuple(spec["classes"]),
        licence=str(spec["licence"]),
        patch=int(spec["patch"][0]),
        margin=int(spec["margin"]),
        batch=int(spec["batch"]),
        min_object=int(spec["min_object"]),
    )


def _config(
    weights: Weights, product: Product, how: FineTune, items: Sequence[Labelled]
) -> TrainConfig:
    network = network_of(weights)
    spacing = float(weights.facts["spec"]["spacing"][0])
    loss = how.loss if _classes_in(items) > 1 else replace(how.loss, tp=0.0)
    if product.classes and loss.tp == 0:
        _log.info("the nuclei are of fewer than two classes: what tells classes apart stays as is")
    return TrainConfig(
        model=product,
        network=network,
        rule=rule_of(weights),
        sampling=replace(how.sampling, spacing=spacing),
        loss=loss,
        schedule=how.schedule,
        machine=how.machine,
        validation=Validation(every=how.schedule.steps, keep="last"),
        start=(str(weights.path),) if weights.path else (),
        norms=how.norms,
        seed=how.seed,
        checkpoint=100,
        log_every=10,
    )


def _classes_in(items: Sequence[Labelled]) -> int:
    found: set[int] = set()
    for item in items:
        found |= set(item.kinds.tolist()) - {0}
    return len(found)
