"""Ranges for int8 from images of the training: weights are scaled for what they were made from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from wsiseg.model.base import ModelSpec
from wsiseg.model.unet import UNetModel
from wsiseg.model.weights import Weights, with_facts
from wsiseg.training.labelled import Labelled
from wsiseg.training.validate import on_lattice

__all__ = ["with_ranges"]

_MOST = 32  # patches


def with_ranges(weights: Weights, items: Sequence[Labelled]) -> Weights:
    """``weights`` with the fact ``ranges`` that int8 needs, see ``wsiseg.model.unet.ranges``.

    Seen in the middle of up to 32 of ``items``, spread evenly; without any, they stay as they are.
    """
    if not items:
        return weights
    model = UNetModel(weights)
    chosen = items[:: -(-len(items) // _MOST)]
    return with_facts(weights, ranges=model.ranges(_patches(chosen, model.spec)))


def _patches(items: Sequence[Labelled], spec: ModelSpec) -> Iterator[NDArray[np.uint8]]:
    """One of each, (*patch, 3): of its middle, with white where the image ends."""
    for item in items:
        image = on_lattice(item, spec)
        patch = np.full((*spec.patch, image.shape[-1]), 255, dtype=np.uint8)
        places = [_middle(*sides) for sides in zip(image.shape, spec.patch, strict=False)]
        patch[tuple(b for _, b in places)] = image[tuple(a for a, _ in places)]
        yield patch


def _middle(of: int, to: int) -> tuple[slice, slice]:
    """The part of a line of ``of`` px that is kept, and where it lies in one of ``to`` px."""
    n = min(of, to)
    a, b = (of - n) // 2, (to - n) // 2
    return slice(a, a + n), slice(b, b + n)
