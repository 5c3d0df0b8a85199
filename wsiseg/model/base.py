"""What a model is to the engine: pixels in, maps out, and a decode of bounded radius."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from wsiseg.geometry.links import FOREGROUND

__all__ = ["FOREGROUND", "LocalModel", "Maps", "Model", "ModelSpec"]


@dataclass(frozen=True, slots=True)
class Maps:
    """Network output over one box (or a batch of them, with a leading B on each)."""

    prob: NDArray[np.float16]
    """``(*s)``: probability of foreground, [0, 1] (the NP map)."""
    hv: NDArray[np.float16]
    """``(V, *s)``: what separates neighbours, V >= 0 channels (for HV models V = ndim)."""
    classes: NDArray[np.float16]
    """``(K, *s)``: probability of each of K >= 0 classes given foreground (the TP map)."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Everything about a model that its results depend on, and what users are told of it."""

    name: str
    """Name in the zoo."""
    ndim: int
    """2 for slides, 3 for volumes."""
    spacing: tuple[float, ...]
    """World units per px of the lattice it works on."""
    unit: str
    """"um" or "mm"."""
    channels: int
    """Input channels."""
    hv_channels: int
    """V of its maps."""
    classes: tuple[str, ...]
    """Names of its K classes, () if it has none."""
    patch: tuple[int, ...]
    """Input patch, px per axis, margins included; never changed at run time."""
    margin: int
    """Px of a patch, each side, whose maps are thrown away."""
    batch: int
    """Patches of one forward; the last batch is padded to it."""
    reach: int
    """Px: the links of a pixel depend on maps at most this far away."""
    min_object: int
    """Objects of fewer px are dropped and counted."""
    max_object: int | None
    """Objects with a larger extent (px, any axis) are dropped and counted; None: no limit."""
    sha256: str
    """Hash of weights and constants: two models with equal hashes give equal maps."""
    licence: str
    """Licence of the weights, as an SPDX expression."""

    @property
    def core(self) -> tuple[int, ...]:
        """Px per axis of a patch whose maps are kept: the stride of the patch lattice."""
        return tuple(p - 2 * self.margin for p in self.patch)


@runtime_checkable
class Model(Protocol):
    """A segmenter. Pickles by reference (name and hash); thread-safe after loading."""

    @property
    def spec(self) -> ModelSpec:
        """What it is."""
        ...

    def __call__(self, patches: NDArray[Any]) -> Maps:
        """Maps (B, ...) of ``patches`` (B, *patch, channels), of the full patch size.

        The maps of a patch must not depend on the other patches of the batch.
        """
        ...

    def decode(self, maps: Maps) -> NDArray[np.int32]:
        """Instance labels ``(*s)``, 0 outside, of maps without a batch axis."""
        ...


@runtime_checkable
class LocalModel(Model, Protocol):
    """A model whose decode is local, which makes results exact under any tiling.

    ``links`` says of each pixel, from maps within ``spec.reach`` px of it, whether it belongs to
    an object (bit ``FOREGROUND``) and whether it belongs to the same object as its next neighbour
    along axis i (bit i). Objects are the connected components of these links, of whatever size:
    an object that crosses tiles is the union of its parts, and no tile has to see it whole.
    """

    def links(self, maps: Maps) -> NDArray[np.uint8]:
        """Links ``(*s)`` of maps without a batch axis."""
        ...
