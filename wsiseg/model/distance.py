"""DT maps: unit distance to the border, encoded from labels, decoded by a bounded immersion.

A pixel's DT is its distance to the border of its object over the largest one in that object: 1
at the deepest pixel, near 0 at the border, 0 outside, whatever the size. Between two nuclei that
touch, it has a valley, and one level tells their tops apart; on trained maps more levels were no
better. Distance maps as targets: Naylor et al. 2019 (IEEE TMI 38).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from wsiseg.errors import ModelError
from wsiseg.geometry.links import components
from wsiseg.jit import kernel
from wsiseg.model.base import Maps
from wsiseg.model.flood import Immersion, flood

__all__ = ["VERSION", "DistanceRule", "decode", "encode", "links", "unit_distance"]

VERSION = 1
"""To be raised whenever the same maps and rule give other links."""


@dataclass(frozen=True, slots=True)
class DistanceRule:
    """The constants of decoding."""

    threshold: float = 0.5
    """Foreground is a probability above this."""
    immersion: Immersion = field(
        default_factory=lambda: Immersion(levels=(96, 0), steps=(0, 28), min_seed=25, radius=5)
    )
    """How DT, times 255, is split into objects."""

    @property
    def reach(self) -> int:
        """Px: the links of a pixel depend on maps at most this far away."""
        return self.immersion.reach


def unit_distance(labels: NDArray[Any]) -> NDArray[np.float32]:
    """DT ``(*s)`` of labels ``(*s)``: distance to the border of the own object, largest 1.

    Pixels of an object that have a neighbour (by a face) of another label are 0.5 px from the
    border; the edge of the image is none.
    """
    edge = labels == 0
    for axis in range(labels.ndim):
        here = (slice(None),) * axis + (slice(None, -1),)
        after = (slice(None),) * axis + (slice(1, None),)
        differ = labels[here] != labels[after]
        edge[here] |= differ
        edge[after] |= differ
    if not edge.any():  # one object that fills the image
        return np.ones(labels.shape, dtype=np.float32)
    depth: NDArray[np.float32] = ndimage.distance_transform_edt(~edge).astype(
        np.float32
    ) + np.float32(0.5)
    depth[labels == 0] = 0
    ids, number = np.unique(labels, return_inverse=True)
    deepest = np.asarray(ndimage.maximum(depth, number.reshape(labels.shape), np.arange(ids.size)))
    deepest[ids == 0] = 1
    depth /= deepest.astype(np.float32)[number.reshape(labels.shape)]
    return depth


def encode(labels: NDArray[Any]) -> Maps:
    """Perfect maps of ``labels`` (*s): prob 0 or 1, DT as the only channel, no classes."""
    nothing = np.zeros((0, *labels.shape), dtype=np.float16)
    depth = unit_distance(labels).astype(np.float16)
    return Maps(prob=(labels != 0).astype(np.float16), hv=depth[None], classes=nothing)


def links(maps: Maps, rule: DistanceRule) -> NDArray[np.uint8]:
    """Links ``(*s)`` of maps (prob ``(*s)``, hv ``(V, *s)``) whose last shape channel is DT."""
    shape = maps.prob.shape
    if len(maps.hv) < 1 or maps.hv.shape[1:] != shape:
        raise ModelError(
            f"a DT map of shape (1, *{shape}) is needed beside a probability map of {shape}, got "
            f"shape channels of {maps.hv.shape}"
        )
    landscape = _looked_up(_heights(), maps.hv[-1])
    mask = _looked_up(_above(rule.threshold), maps.prob)
    return flood(landscape, mask.view(np.bool_), rule.immersion)


def decode(maps: Maps, rule: DistanceRule) -> NDArray[np.int32]:
    """Instance labels ``(*s)`` of ``maps``: the components of their links."""
    return components(links(maps, rule))


# Arithmetic of float16 is slow, and there are but 65,536 of them: results are looked up by bits.


@lru_cache
def _heights() -> NDArray[np.uint8]:
    """255 times each float16, rounded; what is not in [0, 1] is brought there, NaN to 0."""
    heights = np.rint(np.nan_to_num(_every_float16()).clip(0, 1) * 255)
    return np.asarray(heights, dtype=np.uint8)


@lru_cache
def _above(threshold: float) -> NDArray[np.uint8]:
    """Whether each float16 is above ``threshold``."""
    return (_every_float16() > np.float16(threshold)).astype(np.uint8)


def _every_float16() -> NDArray[np.float32]:
    return np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)


def _looked_up(table: NDArray[np.uint8], values: NDArray[np.float16]) -> NDArray[np.uint8]:
    bits = np.ascontiguousarray(values, dtype=np.float16).view(np.uint16).ravel()
    return _entries(table, bits).reshape(values.shape)


@kernel
def _entries(table: NDArray[np.uint8], index: NDArray[np.uint16]) -> NDArray[np.uint8]:
    out = np.empty(index.size, dtype=np.uint8)
    for i in range(index.size):
        out[i] = table[index[i]]
    return out
