"""Models that are never wrong: their pixels are the perfect maps of known labels.

What goes wrong with an oracle went wrong in reading, tiling or stitching.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import ModelError, SpaceError
from wsiseg.geometry import Space
from wsiseg.geometry.links import components, links_of
from wsiseg.image.source import ArraySource
from wsiseg.model import hv
from wsiseg.model.base import FOREGROUND, Maps, ModelSpec

__all__ = ["HVOracleModel", "OracleModel", "hv_source", "oracle_source"]


class OracleModel:
    """A LocalModel for ``oracle_source``: objects are the components of the true labels.

    ``OracleModel(2, patch=(64, 48), margin=5, classes=("a", "b"))``: keywords replace fields of
    the spec. Its links at a pixel depend on the maps at that pixel alone (``reach`` 0), so
    touching objects stay apart and an object may have any shape and size.
    """

    def __init__(self, ndim: int, **fields: Any) -> None:
        self.spec = _spec("oracle", ndim, {"reach": 0, **fields})
        """What it is."""

    def __call__(self, patches: NDArray[Any]) -> Maps:
        """Maps (B, ...) of ``patches`` (B, *patch, 1 + K) uint8 of ``oracle_source``."""
        bits = _checked(patches, self.spec, np.uint8)[..., 0]
        linked = [bits >> axis & 1 for axis in range(self.spec.ndim)]
        classes = np.moveaxis(patches[..., 1:], -1, 1) / np.float32(255)
        return Maps(
            prob=(bits >= FOREGROUND).astype(np.float16),
            hv=np.stack(linked, axis=1).astype(np.float16),
            classes=classes.astype(np.float16),
        )

    def links(self, maps: Maps) -> NDArray[np.uint8]:
        """The true links ``(*s)``."""
        bits = np.where(maps.prob > 0.5, FOREGROUND, np.uint8(0))
        for axis, linked in enumerate(maps.hv > 0.5):
            bits |= linked.astype(np.uint8) << np.uint8(axis)
        return bits

    def decode(self, maps: Maps) -> NDArray[np.int32]:
        """The true objects, 1.. in raster order."""
        return components(self.links(maps))


class HVOracleModel:
    """A LocalModel for ``hv_source``: perfect HV maps in, decoded as a network's are."""

    def __init__(self, ndim: int, rule: hv.VoteRule = hv.RULE, **fields: Any) -> None:
        self._rule = rule
        given = {"reach": rule.reach, "channels": 1 + ndim, **fields}
        self.spec = _spec("hv-oracle", ndim, given)
        """What it is."""

    def __call__(self, patches: NDArray[Any]) -> Maps:
        """Maps (B, ...) of ``patches`` (B, *patch, 1 + n) float16 of ``hv_source``."""
        maps = np.moveaxis(_checked(patches, self.spec, np.float16), -1, 1)
        nothing = np.zeros((len(maps), 0, *self.spec.patch), dtype=np.float16)
        return Maps(prob=maps[:, 0].copy(), hv=maps[:, 1:].copy(), classes=nothing)

    def links(self, maps: Maps) -> NDArray[np.uint8]:
        """Links ``(*s)`` by ``wsiseg.model.hv``."""
        return hv.links(maps, self._rule)

    def decode(self, maps: Maps) -> NDArray[np.int32]:
        """Instance labels ``(*s)`` by ``wsiseg.model.hv``."""
        return hv.decode(maps, self._rule)


def oracle_source(
    labels: NDArray[Any],
    spacing: tuple[float, ...] | None = None,
    class_prob: NDArray[Any] | None = None,
    unit: str = "um",
) -> ArraySource:
    """The pixels of which ``OracleModel`` reads ``labels`` (*s): uint8, 1 + K channels.

    Channel 0 holds the links; the others 255 times ``class_prob`` (number of labels + 1, K), a
    row per label. ``spacing`` defaults to 0.5 ``unit`` per px.
    """
    channels = [links_of(labels)]
    for column in np.asarray(class_prob if class_prob is not None else ()).T:
        channels.append(np.rint(255 * column).astype(np.uint8)[labels])
    return ArraySource(np.stack(channels, axis=-1), _space(labels.shape, spacing, unit))


def hv_source(
    labels: NDArray[Any],
    spacing: tuple[float, ...] | None = None,
    rule: hv.VoteRule = hv.RULE,
    unit: str = "um",
) -> ArraySource:
    """The pixels of which ``HVOracleModel`` reads ``labels`` (*s): float16, prob and n HV maps."""
    maps = hv.encode(labels, rule)
    pixels = np.stack([maps.prob, *maps.hv], axis=-1)
    return ArraySource(pixels, _space(labels.shape, spacing, unit))


def _space(shape: tuple[int, ...], spacing: tuple[float, ...] | None, unit: str) -> Space:
    return Space.regular(shape, spacing or (0.5,) * len(shape), unit)


def _spec(name: str, ndim: int, fields: dict[str, Any]) -> ModelSpec:
    base = ModelSpec(
        name=name, ndim=ndim, spacing=(0.5,) * ndim, unit="um", channels=1, hv_channels=ndim,
        classes=(), patch=(64 if ndim < 3 else 24,) * ndim, margin=4, batch=2, reach=0,
        min_object=1, max_object=None, sha256="", licence="CC0-1.0",
    )  # fmt: skip
    classes = fields.get("classes", ())
    channels = fields.pop("channels", 1) + len(classes)
    spec = replace(base, **{"channels": channels, **fields})
    if len(spec.patch) != ndim or len(spec.spacing) != ndim or min(spec.core) < 1:
        raise SpaceError(
            f"an oracle of {ndim} axes needs a patch and a spacing of as many, and a margin below "
            f"half the patch; got {spec.patch}, {spec.spacing} and {spec.margin}"
        )
    if spec.sha256:
        return spec
    return replace(spec, sha256=hashlib.sha256(repr(asdict(spec)).encode()).hexdigest())


def _checked(patches: NDArray[Any], spec: ModelSpec, dtype: Any) -> NDArray[Any]:
    expected = (*spec.patch, spec.channels)
    if patches.shape[1:] != expected or patches.dtype != dtype:
        raise ModelError(
            f"model {spec.name!r} takes patches of {np.dtype(dtype)} (B, {expected}), got "
            f"{patches.dtype} {patches.shape}: use its own source"
        )
    return patches
