"""hematoxylin: nuclei of H&E slides without weights, from colour and fixed constants alone.

Red-blue density is unmixed, compared with what is usual around each pixel, and the dark blobs
are split by a bounded immersion. Every value is a function of the pixels within the margin, no
statistic of a tile is used, and so results are the same under any tiling. It is a sound start
where no trained weights are at hand, not a rival to them: it knows no shapes, and takes dark
ink, pigment and pyknotic debris for nuclei where their colour says so.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import ModelError
from wsiseg.geometry.links import FOREGROUND, components
from wsiseg.jit import kernel
from wsiseg.model.base import Maps, ModelSpec
from wsiseg.model.flood import Immersion, flood
from wsiseg.stain import OD_TABLE, REFERENCE, StainMatrix

__all__ = ["Hematoxylin"]

_ALGORITHM = 1
"""To be raised whenever the same constants give other maps or links."""


@dataclass(frozen=True, slots=True)
class _Constants:
    """All numbers; densities in OD, lengths in px of 0.5 µm. Tuned on train splits only."""

    red_over_green: float = 1.0
    """Red density counts up to this times the green: blue and green ink has more."""
    red_offset: float = 0.05
    """Density of red that is allowed beyond it."""
    max_density: float = 1.3
    """Density of a channel counts up to this: below 12 of 255, a grey level is noise."""
    smooth: float = 0.6
    """Sigma of the densities before they are compared."""
    window: int = 57
    """Side of the square in which 'usual' is measured."""
    tissue: float = 0.135
    """Sum of the three densities from which a pixel takes part in it: glass does not."""
    position: float = 0.45
    """The border of a nucleus, from the usual background (0) to the usual nucleus (1)."""
    floor: float = 0.1
    """No nucleus has less hematoxylin."""
    min_contrast: float = 0.1
    """Difference of background and nucleus that is taken at least."""
    softness: float = 0.25
    """Width of the rise of the probability, in contrasts."""
    max_hole: int = 120
    """Holes of fewer px are filled: pale chromatin."""
    hole_radius: int = 25
    """Steps within which the px of a hole are counted."""
    depth: int = 7
    """Distance to the border at which the landscape has its full height."""
    depth_smooth: float = 2.0
    """Sigma of that distance."""
    blob: float = 1.7
    """Sigma of the darkness, about a third of the radius of a lymphocyte."""
    darkness: float = 0.3
    """Share of darkness in the landscape; the rest is distance to the border."""
    darkest: float = 1.5
    """Contrasts above the background at which darkness saturates."""


_CONSTANTS = _Constants()
_HOLES = Immersion((0,), (0,), min_seed=_CONSTANTS.max_hole, radius=_CONSTANTS.hole_radius)
_IMMERSION = Immersion(
    levels=(221, 203, 184, 166, 147, 128, 110, 91, 72, 54, 35),
    steps=(3,) * 11,
    min_seed=25,
    radius=6,
)
_TABLE = np.minimum(OD_TABLE, np.float32(_CONSTANTS.max_density))
_FOREGROUND = np.float16(0.5)
_CLEAR = np.float32(0.01)  # from _FOREGROUND at least, so that float16 does not change the side


class Hematoxylin:
    """The weight-free nuclei model, at 0.5 µm, without classes; a LocalModel.

    ``stain``: dye vectors of the slide, for example from ``wsiseg.stain.macenko``; the reference
    vectors by default. ``batch``: patches of one call, which change nothing but memory.
    """

    def __init__(self, stain: StainMatrix | None = None, *, batch: int = 1) -> None:
        if batch < 1:
            raise ModelError(f"a batch holds at least 1 patch, got {batch}")
        self.stain = stain or REFERENCE
        red, green, blue = self.stain.inverse[:, 0].astype(np.float32)
        self._hematoxylin = (red, green, blue)
        self._spec = _spec(self.stain, batch)

    @property
    def spec(self) -> ModelSpec:
        """What it is."""
        return self._spec

    def __reduce__(self) -> tuple[Callable[..., Hematoxylin], tuple[StainMatrix, int]]:
        return _rebuilt, (self.stain, self._spec.batch)

    def __call__(self, patches: NDArray[np.uint8]) -> Maps:
        """Maps of RGB ``patches`` (B, h, w, 3) uint8.

        ``prob`` is not calibrated: 0.5 is the border, and it rises with the contrast there.
        ``hv[0]`` is the landscape, [0, 1], with a top in each nucleus.
        """
        if patches.dtype != np.uint8 or patches.ndim != 4 or patches.shape[3] != 3:
            raise ModelError(
                f"hematoxylin takes uint8 RGB patches (B, h, w, 3), got {patches.dtype} "
                f"{patches.shape}"
            )
        shape = patches.shape[:3]
        prob = np.empty(shape, dtype=np.float16)
        landscape = np.empty(shape, dtype=np.float16)
        for b, patch in enumerate(patches):
            prob[b], landscape[b] = self._maps(patch)
        return Maps(prob, landscape[:, None], np.empty((shape[0], 0, *shape[1:]), np.float16))

    def links(self, maps: Maps) -> NDArray[np.uint8]:
        """Links ``(h, w)`` of maps without a batch axis."""
        scaled = np.clip(maps.hv[0].astype(np.float32), 0, 1) * np.float32(255)
        return flood(scaled.astype(np.uint8), maps.prob > _FOREGROUND, _IMMERSION)

    def decode(self, maps: Maps) -> NDArray[np.int32]:
        """Instance labels ``(h, w)``, 0 outside, of maps without a batch axis."""
        return components(self.links(maps))

    def _maps(self, patch: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Probability and landscape, (h, w), of one patch."""
        c = _CONSTANTS
        dye, density = _densities(
            np.ascontiguousarray(patch), _TABLE, self._hematoxylin, c.red_over_green, c.red_offset
        )
        smooth = _gauss(dye, c.smooth)
        background, nucleus = _two_means(smooth, _gauss(density, c.smooth) > c.tissue, c.window)
        contrast = np.maximum(nucleus - background, c.min_contrast)
        border = np.maximum(background + c.position * contrast, c.floor)
        prob = _logistic((smooth - border) / (c.softness * contrast))
        mask = _without_holes(prob > _FOREGROUND)
        darkness = (_gauss(dye, c.blob) - background) / (c.darkest * contrast)
        landscape = (1 - c.darkness) * _depth(mask) + c.darkness * np.clip(darkness, 0, 1)
        prob = np.where(mask, np.maximum(prob, 0.5 + _CLEAR), np.minimum(prob, 0.5 - _CLEAR))
        return prob, landscape


def _without_holes(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """``mask`` with its small holes filled: background that cannot walk to ``max_hole`` px of it.

    Also fills the tips of clefts narrower than 2 px. Local, unlike a fill of connected components.
    """
    return np.asarray(flood(np.zeros(mask.shape, np.uint8), ~mask, _HOLES) < FOREGROUND)


def _depth(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Distance to the border of ``mask``, cut off, as a share of the cut-off, smoothed."""
    distance = cv2.distanceTransform(
        mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE, dstType=cv2.CV_32F
    )
    depth = np.float32(_CONSTANTS.depth)
    return _gauss(np.minimum(distance, depth) / depth, _CONSTANTS.depth_smooth)


def _two_means(
    values: NDArray[np.float32], taking_part: NDArray[np.bool_], window: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean of the pixels below and above the mean of a window, around each pixel.

    One step of the iterative two-class threshold: Ridler & Calvard 1978, IEEE SMC 8(8).
    """
    weight = taking_part.astype(np.float32)
    mean = _window_mean(values, weight, window)
    above = weight * (values > mean)
    return _window_mean(values, weight - above, window), _window_mean(values, above, window)


def _window_mean(
    values: NDArray[np.float32], weight: NDArray[np.float32], window: int
) -> NDArray[np.float32]:
    """Weighted mean over a square; 0 where nothing has weight."""
    size = (window, window)
    total = cv2.blur(values * weight, size, borderType=cv2.BORDER_REFLECT_101)
    share = cv2.blur(weight, size, borderType=cv2.BORDER_REFLECT_101)
    # a single pixel of the window has a share of 1 / window²; less is rounding
    return np.asarray(total / np.maximum(share, np.float32(0.5 / window**2)))


def _gauss(values: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """Gaussian cut off at 4 sigma, mirrored at the border of the patch."""
    side = 2 * _radius(sigma) + 1
    return np.asarray(
        cv2.GaussianBlur(values, (side, side), sigma, borderType=cv2.BORDER_REFLECT_101)
    )


def _radius(sigma: float) -> int:
    return int(np.ceil(4 * sigma))


def _logistic(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logistic function of slope 1 at 0."""
    return np.asarray(1 / (1 + np.exp(np.clip(-4 * x, -20, 20))))


@kernel
def _densities(
    rgb: NDArray[np.uint8],
    table: NDArray[np.float32],
    hematoxylin: tuple[np.float32, np.float32, np.float32],
    red_over_green: float,
    red_offset: float,
) -> tuple[Any, Any]:
    """Hematoxylin, and the sum of the densities, (h, w), of a patch (h, w, 3)."""
    h, w, _ = rgb.shape
    dye = np.empty((h, w), dtype=np.float32)
    total = np.empty((h, w), dtype=np.float32)
    for y in range(h):
        for x in range(w):
            r, g, b = table[rgb[y, x, 0]], table[rgb[y, x, 1]], table[rgb[y, x, 2]]
            total[y, x] = r + g + b
            r = min(r, red_over_green * g + red_offset)
            dye[y, x] = r * hematoxylin[0] + g * hematoxylin[1] + b * hematoxylin[2]
    return dye, total


def _margin() -> int:
    """Px that a map looks away: smoothing and two windows, then a hole, its depth, and blur."""
    c = _CONSTANTS
    compared = _radius(c.smooth) + 2 * (c.window // 2)
    # a seed of the background may differ one step beyond its radius: its link asks both ends
    shaped = _HOLES.reach + c.depth + _radius(c.depth_smooth)
    return compared + max(shaped, _radius(c.blob))


def _rebuilt(stain: StainMatrix, batch: int) -> Hematoxylin:
    return Hematoxylin(stain, batch=batch)


def _spec(stain: StainMatrix, batch: int) -> ModelSpec:
    return ModelSpec(
        name="hematoxylin",
        ndim=2,
        spacing=(0.5, 0.5),
        unit="um",
        channels=3,
        hv_channels=1,
        classes=(),
        patch=(1024, 1024),
        margin=_margin(),
        batch=batch,
        reach=_IMMERSION.reach,
        min_object=20,
        max_object=None,
        sha256=_fingerprint(stain),
        licence="BSD-3-Clause",
    )


def _fingerprint(stain: StainMatrix) -> str:
    """Hash of everything that the maps and links depend on."""
    facts = {
        "algorithm": _ALGORITHM,
        "constants": asdict(_CONSTANTS),
        "foreground": float(_FOREGROUND),
        "immersion": asdict(_IMMERSION),
        "stain": asdict(stain),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
