"""Stains: optical density, unmixing into dyes, and the dyes of one slide estimated from it.

Knows colours of stained tissue; does not know slides, tiles or models. Optical density is
``-log10((I + 1) / 256)`` per channel, so that 255 has none and 0 has 2.41.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import ModelError

__all__ = [
    "OD_TABLE",
    "REFERENCE",
    "StainMatrix",
    "looks_like_he",
    "macenko",
    "optical_density",
    "unmix",
]

OD_TABLE: NDArray[np.float32] = (-np.log10((np.arange(256) + 1) / 256)).astype(np.float32)
"""(256,) optical density of an 8-bit intensity."""

# Macenko et al. 2009: beta, below it a pixel is background; here of the mean of the channels,
# because clean eosin has next to no density in red, and pale pixels are noise
_MIN_DENSITY = 0.15
_EXTREME = 1.0  # ibid.: alpha, per cent of the angles cut off at each end
_MIN_PIXELS = 500  # fewer cannot carry a 1st percentile
_MIN_RED_APART = 0.15  # hematoxylin less eosin; slides have 0.3 to 0.6, what shows one dye 0.1
_SAMPLE = 1_000_000  # pixels at most, evenly strided

# on real slides at 8 µm: H&E up to 0.76 and 0.71, Ki-67 at least 0.9 or 1.1 (see the tests)
_MAX_RED = 0.9
_MAX_BLUE = 0.85
_DARK = 60  # brightest channel of the median pixel
_MIN_JUDGED = 50  # pixels


@dataclass(frozen=True, slots=True)
class StainMatrix:
    """Optical density vectors of three dyes: hematoxylin, eosin and a residual; unit length."""

    hematoxylin: tuple[float, float, float]
    """Optical density per channel (R, G, B)."""
    eosin: tuple[float, float, float]
    """Likewise."""
    residual: tuple[float, float, float]
    """Likewise; takes what neither explains (brown, black)."""

    def __post_init__(self) -> None:
        for name in ("hematoxylin", "eosin", "residual"):
            object.__setattr__(self, name, _unit(name, getattr(self, name)))
        if abs(np.linalg.det(self.array)) < 1e-3:
            raise ModelError(
                f"the dyes of a stain matrix must point in different directions, got {self}: "
                "leave the stain out to use the reference vectors"
            )

    @property
    def array(self) -> NDArray[np.float64]:
        """(3, 3): a dye per row, a channel per column."""
        return np.array([self.hematoxylin, self.eosin, self.residual])

    @property
    def inverse(self) -> NDArray[np.float64]:
        """(3, 3): optical density (row vector) @ inverse = amount of each dye."""
        return np.asarray(np.linalg.inv(self.array))


def _unit(name: str, vector: tuple[float, float, float]) -> tuple[float, ...]:
    values = np.asarray(vector, dtype=np.float64)
    length = float(np.linalg.norm(values))
    if values.shape != (3,) or not np.isfinite(length) or length == 0:
        raise ModelError(f"{name} must be three finite densities (R, G, B), not all 0: {vector}")
    # 12 digits: a matrix that went through JSON and back is the same matrix
    return tuple(round(float(v), 12) for v in values / length)


# Ruifrok & Johnston 2001, Anal. Quant. Cytol. Histol. 23(4), table of H, E and DAB
REFERENCE = StainMatrix((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78))
"""Vectors that suit most slides, of any scanner."""


def optical_density(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Optical density ``(..., 3)`` of 8-bit intensities ``(..., 3)``."""
    if rgb.dtype != np.uint8 or rgb.shape[-1:] != (3,):
        raise ModelError(f"optical density needs uint8 (..., 3), got {rgb.dtype} {rgb.shape}")
    return OD_TABLE[rgb]


def unmix(rgb: NDArray[np.uint8], stain: StainMatrix = REFERENCE) -> NDArray[np.float32]:
    """Amounts ``(..., 3)`` of hematoxylin, eosin and residual; may be slightly negative.

    Ruifrok & Johnston 2001.
    """
    density = optical_density(rgb)
    inverse = stain.inverse.astype(np.float32)
    # sums of three, not a matrix product: the same bits whatever BLAS and threads
    red, green, blue = (density[..., i, None] * inverse[i] for i in range(3))
    return np.asarray(red + green + blue)


def macenko(pixels: NDArray[np.uint8]) -> StainMatrix:
    """The stain matrix of a slide, from a sample of its tissue ``(..., 3)``; deterministic.

    The two extreme directions in the plane of the two largest variances. Macenko et al. 2009,
    ISBI, A method for normalizing histology slides. The residual is that of the reference.
    Raises ModelError where the pixels do not show both dyes.
    """
    density = optical_density(pixels).reshape(-1, 3).astype(np.float64)
    density = density[:: max(1, len(density) // _SAMPLE)]
    stained = density[density.mean(axis=1) > _MIN_DENSITY]
    if len(stained) < _MIN_PIXELS:
        raise ModelError(_too_little(len(stained), len(density)))
    plane = _main_plane(stained)
    angles = np.arctan2(stained @ plane[:, 1], stained @ plane[:, 0])
    low, high = np.percentile(angles, [_EXTREME, 100 - _EXTREME])
    pair = [np.maximum(plane @ (np.cos(a), np.sin(a)), 0) for a in (low, high)]
    pair = [v / np.linalg.norm(v) for v in pair]
    pair.sort(key=lambda v: -float(v[0]))  # of the two, hematoxylin absorbs more red
    if pair[0][0] - pair[1][0] < _MIN_RED_APART:
        raise ModelError(
            "the stain estimate needs two dyes that differ in red, got optical densities (R, G, B) "
            f"of {pair[0].round(2)} and {pair[1].round(2)}: leave --stain out to use the reference "
            "vectors"
        )
    return StainMatrix(_triple(pair[0]), _triple(pair[1]), REFERENCE.residual)


def _too_little(stained: int, total: int) -> str:
    return (
        f"the stain estimate needs at least {_MIN_PIXELS} stained pixels, got {stained} of {total}"
        ": leave --stain out to use the reference vectors"
    )


def _main_plane(stained: NDArray[np.float64]) -> NDArray[np.float64]:
    """(3, 2): the two main directions, the first pointing towards more density."""
    _, vectors = np.linalg.eigh(np.cov(stained.T))
    plane = vectors[:, [2, 1]]
    # eigenvectors have no sign of their own: fix both, or the result would depend on LAPACK
    largest = np.abs(plane).argmax(axis=0)
    plane *= np.sign(plane[largest, [0, 1]])
    return np.asarray(plane * np.where(plane.sum(axis=0) < 0, [-1.0, 1.0], 1.0))


def _triple(vector: NDArray[np.float64]) -> tuple[float, float, float]:
    r, g, b = (float(v) for v in vector)
    return r, g, b


def looks_like_he(rgb: NDArray[np.uint8], mask: NDArray[np.bool_]) -> tuple[bool, str]:
    """Whether a thumbnail ``(H, W, 3)`` is coloured as H&E is, judged on its tissue ``(H, W)``.

    Returns True and "", or False and the reason, a sentence to show. A doubt is no: what shows
    no tissue passes. Hematoxylin and eosin absorb green most; DAB absorbs more blue, and
    hematoxylin without eosin more red.
    """
    if rgb.size and float(np.median(rgb.max(axis=-1))) < _DARK:
        return False, "its background is dark, as in fluorescence, where H&E is bright"
    tissue = rgb[mask]
    density = optical_density(tissue[:: 1 + len(tissue) // _SAMPLE]).astype(np.float64)
    density = density[density.max(axis=1) > _MIN_DENSITY]
    if len(density) < _MIN_JUDGED:
        return True, ""
    red, green, blue = density.mean(axis=0)
    if red > _MAX_RED * green:
        return False, (
            f"its tissue absorbs red {red / max(green, 1e-9):.2f} times as much as green (H&E: "
            f"below {_MAX_RED}), as hematoxylin without eosin does, in immunohistochemistry"
        )
    if blue > _MAX_BLUE * green:
        return False, (
            f"its tissue absorbs blue {blue / max(green, 1e-9):.2f} times as much as green (H&E: "
            f"below {_MAX_BLUE}), as brown dyes such as DAB do"
        )
    return True, ""
