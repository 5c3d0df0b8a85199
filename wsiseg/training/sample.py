"""Which crop is next: a function of seed and step alone, so that training resumes exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import cv2
import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import InputFileError
from wsiseg.training.colour import Colour, recoloured
from wsiseg.training.labelled import Labelled
from wsiseg.training.targets import Emphasis, Grid, Prepared, Targets, prepare, targets_of
from wsiseg.training.warp import random_warp, sample

__all__ = ["Batch", "Crops", "Sampling"]

Batch = dict[str, NDArray[np.generic]]
"""``image`` (B, S, S, 3) uint8 and the fields of Targets with a leading B."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """What crops are drawn, and how they are varied."""

    spacing: float = 0.25
    """µm per px of the network's input."""
    side: int = 256
    """Px of a crop."""
    batch: int = 8
    sets: tuple[tuple[str, float], ...] = ()
    """Share of each data set; (): as many as it has images."""
    on_nucleus: float = 0.6
    """How often a crop is centred near a nucleus, drawn by the rarity of its class."""
    scale: float = 0.25
    """Objects are enlarged or shrunk by up to 1 + this (log-uniform)."""
    scale_unknown: float = 1.0
    """The same for images of unknown pixel size."""
    bend: float = 1.5
    """Px of elastic displacement."""
    glass: float = 0.15
    """How often white lies beyond the edge of an image, as beyond that of a slide; else the image
    is mirrored there."""
    colour: Colour = field(default_factory=Colour)
    emphasis: Emphasis = field(default_factory=Emphasis)


class Crops:
    """Batches by number, from images in memory; picklable, for worker processes."""

    def __init__(
        self, items: Sequence[Labelled], how: Sampling, *, stem: int, classes: int, seed: int
    ) -> None:
        if not items:
            raise InputFileError("there is no image to train on: check the paths and the splits")
        self.how, self._stem, self._classes, self._seed = how, stem, classes, seed
        self._items = [prepare(item) for item in items]
        self._chance = _chances(items, dict(how.sets))
        kinds = sum((_counts(item, classes) for item in items), np.zeros(classes + 1))
        self._rarity = np.concatenate([[0.0], 1 / np.sqrt(np.maximum(kinds[1:], 1))])
        self._rarity[0] = self._rarity[1:].min(initial=1.0)  # no class: as the commonest

    def __getitem__(self, step: int) -> Batch:
        cv2.setNumThreads(0)  # its threads would fight those of the network
        rng = np.random.default_rng((self._seed, step))
        crops = [self._crop(rng) for _ in range(self.how.batch)]
        batch: Batch = {"image": np.stack([image for image, _ in crops])}
        for part in fields(Targets):
            batch[part.name] = np.stack([getattr(t, part.name) for _, t in crops])
        return batch

    def _crop(self, rng: np.random.Generator) -> tuple[NDArray[np.uint8], Targets]:
        chosen = self._items[rng.choice(len(self._items), p=self._chance)]
        how, item = self.how, chosen.item
        spread = np.log1p(how.scale_unknown if item.mpp is None else how.scale)
        zoom = float(np.exp(rng.uniform(-spread, spread)))
        scale = how.spacing / (item.mpp or how.spacing) * zoom
        bend = how.bend if item.labels is not None else 0.0
        warp = random_warp(rng, self._centre(chosen, rng, scale), how.side, scale, bend)
        glass = bool(rng.random() < how.glass)
        fill = 255 if glass else None
        image = sample(item.image, warp.places(), exact=False, fill=fill)
        grid = Grid(how.spacing, self._stem, self._classes)
        targets = targets_of(chosen, warp, grid, how.emphasis, glass=glass)
        return recoloured(image, rng, how.colour), targets

    def _centre(
        self, chosen: Prepared, rng: np.random.Generator, scale: float
    ) -> NDArray[np.float64]:
        """Anywhere, or within half a crop of a nucleus; so that little lies beyond the edge."""
        shape = np.array(chosen.item.image.shape[:2])
        half = np.minimum(self.how.side * scale / 2, shape / 2)
        points, kinds = _nuclei(chosen)
        if len(points) and rng.random() < self.how.on_nucleus:
            share = self._rarity[np.where(kinds < len(self._rarity), kinds, 0)]
            near = points[rng.choice(len(points), p=share / share.sum())]
            middle = near + rng.uniform(-0.5, 0.5, 2) * half
        else:
            middle = rng.uniform(0, shape)
        return np.asarray(np.clip(middle, half, shape - half))


def _nuclei(chosen: Prepared) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Points (N, 2) and kinds (N,) of the nuclei of an image."""
    item = chosen.item
    if item.centres is not None:
        return item.centres.points, item.centres.kinds
    ids = np.flatnonzero(chosen.centroids.any(axis=1))
    ids = ids[ids > 0]
    kinds = np.zeros(max(len(chosen.centroids), len(item.kinds)), dtype=np.uint8)
    kinds[: len(item.kinds)] = item.kinds
    return chosen.centroids[ids].astype(np.float64), kinds[ids]


def _chances(items: Sequence[Labelled], sets: dict[str, float]) -> NDArray[np.float64]:
    """Chance of each image: by the share of its set, alike within a set."""
    names = [item.set for item in items]
    missing = sorted(sets.keys() - set(names))
    if missing:
        raise InputFileError(
            f"no training image is of set {', '.join(missing)}; there are "
            f"{', '.join(sorted(set(names)))}"
        )
    share = [sets.get(n, 0.0) / names.count(n) if sets else 1.0 for n in names]
    if min(share) < 0 or not 0 < sum(share) < np.inf:
        raise InputFileError(f"shares of data sets must be 0 or more and not all 0, got {sets}")
    return np.array(share) / sum(share)


def _counts(item: Labelled, classes: int) -> NDArray[np.float64]:
    kinds = item.kinds if item.centres is None else item.centres.kinds
    return np.bincount(kinds, minlength=classes + 1)[: classes + 1].astype(np.float64)
