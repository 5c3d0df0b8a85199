"""Synthetic H&E: tissue on glass, with glands, stroma and nuclei whose every pixel is known.

A plan holds what lies where; pixels are a function of the plan and their position, so a slide
can be rendered whole or in tiles, with the same values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from wsiseg.errors import SpaceError
from wsiseg.geometry import Box, TileGrid
from wsiseg.synth.texture import grain, inside_any, keep_apart, noise, paint_blobs

__all__ = ["HEPlan", "SyntheticSlide", "he_slide", "plan_he"]

HEMATOXYLIN = (0.65, 0.70, 0.29)  # Ruifrok & Johnston 2001, table 1: optical density of R, G, B
EOSIN = (0.15, 0.90, 0.41)  # between theirs (0.07, 0.99, 0.11) and a typical scanner's
GLASS = 243.0  # grey level of empty glass
BLUR_UM = 0.35  # sigma of the optics
GRAIN = 2.2  # sigma of the camera's noise, grey levels

_PAD = 4  # px around a tile that the blur looks at; its filter is cut there
_EDGE, _PATCHY, _GAP, _WARP, _FIBRE, _CLOTH, _CHROMATIN, _GRAIN = range(8)  # seeds of the fields


@dataclass(frozen=True, slots=True)
class SyntheticSlide:
    """A slide in memory, and the truth about it."""

    rgb: NDArray[np.uint8]
    """(H, W, 3)."""
    labels: NDArray[np.int32]
    """(H, W): k + 1 for a pixel of nucleus k, 0 outside."""
    centroids: NDArray[np.float64]
    """(N, 2): middle of each nucleus, px (y, x), px i being [i, i + 1)."""
    mpp: float
    """Micrometres per px."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width, px."""
        return self.labels.shape[0], self.labels.shape[1]

    def pixels(self, box: Box) -> NDArray[np.uint8]:
        """RGB of a box inside the slide."""
        return self.rgb[box.slices()]


@dataclass(frozen=True, slots=True)
class HEPlan:
    """What lies where on a synthetic slide."""

    shape: tuple[int, int]
    """Height and width, px."""
    mpp: float
    """Micrometres per px."""
    seed: int
    """Of the textures."""
    nuclei: NDArray[np.float64]
    """(N, 8): see ``paint_blobs``; px."""
    stain: NDArray[np.float64]
    """(N, 2): hematoxylin of each nucleus, and how much more of it its nucleolus has."""
    glands: NDArray[np.float64]
    """(M, 8): see ``paint_blobs``; px."""

    def render(self, box: Box) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
        """RGB ``(h, w, 3)`` and labels ``(h, w)`` of ``box``, the same in any tiling."""
        around = box.grow(_PAD)
        at = np.indices(around.shape).astype(np.float64)
        at += np.reshape(around.start, (2, 1, 1)) + 0.5
        labels, depth = _painted(self.nuclei, at)
        dyes = self._tissue(at)
        self._stain_nuclei(dyes, labels, depth, at)
        sigma = BLUR_UM / self.mpp
        inner = (slice(_PAD, -_PAD),) * 2
        dyes = np.stack([ndimage.gaussian_filter(dye, sigma, radius=_PAD)[inner] for dye in dyes])
        rgb = GRAIN * grain(at[:, inner[0], inner[1]], 3, self._seed(_GRAIN))
        for channel, densities in enumerate(zip(HEMATOXYLIN, EOSIN, strict=True)):
            weights = np.array(densities, dtype=np.float32).reshape(2, 1, 1)
            rgb[..., channel] += GLASS * np.exp(-(dyes * weights).sum(axis=0))
        return np.clip(np.rint(rgb), 0, 255).astype(np.uint8), labels[inner].copy()

    def pixels(self, box: Box) -> NDArray[np.uint8]:
        """RGB ``(h, w, 3)`` of ``box``."""
        return self.render(box)[0]

    def inside(self, at: NDArray[np.float64]) -> NDArray[np.float32]:
        """Share of tissue, [0, 1], at points (2, *s): 0 on glass and in gaps."""
        cell = min(self.shape) / 5
        centre = np.reshape(self.shape, (2,) + (1,) * (at.ndim - 1)) / 2
        outline = 1 - np.square(np.square((at - centre) / (0.94 * centre))).sum(axis=0)
        outline += 0.5 * noise(at, cell, self._seed(_EDGE))
        outline += 0.12 * noise(at, cell / 5, self._seed(_EDGE) + 1)
        gap = noise(at, 170 / self.mpp, self._seed(_GAP)) + 0.25 * noise(
            at, 40 / self.mpp, self._seed(_GAP) + 1
        )
        return _step(outline * min(self.shape) / 30) * (1 - _step((gap - 0.85) * 40))

    def lean(self, at: NDArray[np.float64]) -> NDArray[np.float32]:
        """By how many px the fibres at points (2, *s) are bent off the horizontal."""
        return noise(at, 130 / self.mpp, self._seed(_WARP)) * np.float32(45 / self.mpp)

    def _tissue(self, at: NDArray[np.float64]) -> NDArray[np.float32]:
        """Hematoxylin and eosin (2, h, w) of everything but the nuclei."""
        um = 1 / self.mpp
        patchy = noise(at, 200 * um, self._seed(_PATCHY))
        bent = at + np.stack([self.lean(at), np.zeros(at.shape[1:])])
        fibre = noise(bent, (2.2 * um, 30 * um), self._seed(_FIBRE))
        fibre += 0.7 * noise(bent, (6 * um, 55 * um), self._seed(_FIBRE) + 1)
        cloth = noise(at, 1.6 * um, self._seed(_CLOTH))
        stroma = np.stack([0.07 + 0.02 * cloth, 0.46 + 0.12 * patchy + 0.15 * fibre + 0.04 * cloth])
        gland, depth = _painted(self.glands, at)
        lining = np.stack(
            [0.24 + 0.05 * patchy + 0.04 * cloth, 0.34 + 0.06 * patchy + 0.05 * cloth]
        )
        wall = _step((1 - depth) * 12) * (gland > 0)
        lumen = _step((0.42 + 0.06 * noise(at, 9 * um, self._seed(_CLOTH) + 1) - depth) * 25)
        dyes = stroma * (1 - wall) + lining * wall * (1 - 0.93 * lumen * wall)
        return np.asarray(np.maximum(dyes, 0) * self.inside(at), dtype=np.float32)

    def _stain_nuclei(
        self,
        dyes: NDArray[np.float32],
        labels: NDArray[np.int32],
        depth: NDArray[np.float32],
        at: NDArray[np.float64],
    ) -> None:
        """Add chromatin, in clumps and along the rim, and nucleoli to ``dyes`` (2, h, w)."""
        here = labels > 0
        dark, spot = self.stain[labels[here] - 1].T
        clumps = noise(at[:, here], 1.3 / self.mpp, self._seed(_CHROMATIN))
        rim = _step((depth[here] - 0.6) / 0.3)
        shade = dark * (0.86 + 0.22 * rim + 0.26 * clumps) + spot * _step((0.3 - depth[here]) * 6)
        dyes[0, here] = 0.05 + np.maximum(shade, 0.1)
        dyes[1, here] = 0.5 * dyes[1, here] + 0.12

    def _seed(self, field: int) -> int:
        return self.seed + 16 * field


def he_slide(
    shape: tuple[int, int], rng: np.random.Generator, *, mpp: float = 0.5, density: float = 2000
) -> SyntheticSlide:
    """A synthetic H&E slide in memory; 4096 x 3072 px take a few seconds.

    ``density``: nuclei per mm² of tissue, about.
    """
    plan = plan_he(shape, rng, mpp=mpp, density=density)
    rgb = np.empty((*plan.shape, 3), dtype=np.uint8)
    labels = np.empty(plan.shape, dtype=np.int32)
    for tile in TileGrid(plan.shape, (512, 512), 0):
        rgb[tile.core.slices()], labels[tile.core.slices()] = plan.render(tile.core)
    return SyntheticSlide(rgb, labels, plan.nuclei[:, :2].copy(), mpp)


def plan_he(
    shape: tuple[int, int], rng: np.random.Generator, *, mpp: float = 0.5, density: float = 2000
) -> HEPlan:
    """What lies where on a synthetic H&E slide of ``shape`` (height, width), px.

    Glands with a lining of nuclei, spindle nuclei along the fibres of a stroma, and crowds of
    small dark ones; about 5 to 12 µm, some touching, some pale.
    """
    if len(shape) != 2 or min(shape) < 64 or not 0.05 <= mpp <= 2:
        raise SpaceError(
            f"a synthetic slide needs a height and width of 64 px or more and 0.05 to 2 µm per "
            f"px; got {tuple(shape)} and {mpp}"
        )
    nothing = np.empty((0, 8))
    size = (int(shape[0]), int(shape[1]))
    bare = HEPlan(size, mpp, int(rng.integers(1 << 40)), nothing, np.empty((0, 2)), nothing)
    glands = _glands(bare, rng)
    count = density * np.prod(size, dtype=float) * (mpp / 1000) ** 2
    nuclei, stain = _nuclei(bare, glands, count, rng)
    return HEPlan(size, mpp, bare.seed, nuclei, stain, glands)


def _glands(plan: HEPlan, rng: np.random.Generator) -> NDArray[np.float64]:
    """Blobs of 40 to 90 µm radius, apart from each other, in tissue."""
    tries = int(400 * np.prod(plan.shape, dtype=float) * (plan.mpp / 1000) ** 2) + 8
    middle = rng.uniform(0, 1, (tries, 2)) * plan.shape
    long = rng.uniform(40, 90, tries) / plan.mpp
    patchy = noise(middle.T, 500 / plan.mpp, plan.seed)  # glands keep to some regions
    fits = (plan.inside(middle.T) > 0.95) & (patchy > -0.1)
    middle, long = middle[fits], long[fits]
    kept = keep_apart(middle, long, 1.2)
    return _blobs(middle[kept], long[kept], (0.55, 1.0), 0.07, rng)


def _nuclei(
    plan: HEPlan, glands: NDArray[np.float64], count: float, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Blobs and stain of all nuclei: lining of glands first, then crowds, then stroma."""
    linings = [_lining(gland, plan, rng) for gland in glands]
    crowds = [_crowd(plan, rng) for _ in range(int(count / 500 + rng.random()))]
    kinds = [*linings, *crowds, _stroma(plan, int(count), rng)]
    blobs = np.concatenate([blob for blob, _ in kinds])
    stain = np.concatenate([stain for _, stain in kinds])
    free = ~inside_any(glands, blobs[:, :2])
    lining = np.arange(len(blobs)) < sum(len(blob) for blob, _ in linings)
    far = blobs[:, 2].max(initial=0)
    inner = ((blobs[:, :2] > far) & (blobs[:, :2] < np.array(plan.shape) - far)).all(axis=1)
    fits = inner & (plan.inside(blobs[:, :2].T) > 0.9) & (lining | free)
    blobs, stain = blobs[fits], stain[fits]
    kept = keep_apart(blobs[:, :2], np.sqrt(blobs[:, 2] * blobs[:, 3]), 0.86)
    return blobs[kept], stain[kept]


def _lining(
    gland: NDArray[np.float64], plan: HEPlan, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Oval nuclei that point to the lumen, in one row and a loose second one."""
    y, x, long, short, angle, phase2, phase3, wave = gland
    turn = np.sort(rng.uniform(0, 2 * np.pi, int(2.2 * (long + short) * plan.mpp / 2)))
    out = np.where(rng.random(len(turn)) < 0.75, 0.85, 0.68) + rng.normal(0, 0.03, len(turn))
    out *= 1 + wave * (np.cos(2 * turn + phase2) + 0.7 * np.cos(3 * turn + phase3))
    u, v = long * out * np.cos(turn), short * out * np.sin(turn)
    dy, dx = np.sin(angle) * u + np.cos(angle) * v, np.cos(angle) * u - np.sin(angle) * v
    radii = rng.uniform(4.2, 6.2, len(turn)) / plan.mpp
    middle = np.stack([y + dy, x + dx], axis=1)
    blobs = _blobs(middle, radii, (0.6, 0.85), 0.04, rng)
    blobs[:, 4] = np.arctan2(dy, dx) + rng.normal(0, 0.2, len(turn))
    return blobs, _stain(len(turn), (0.75, 1.15), 0.25, rng)


def _crowd(
    plan: HEPlan, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Small, round, dark nuclei, dense in the middle."""
    count = int(rng.uniform(40, 160))
    spread = rng.uniform(20, 45) / plan.mpp
    middle = rng.uniform(0, 1, 2) * plan.shape + rng.normal(0, spread, (count, 2))
    blobs = _blobs(middle, rng.uniform(2.8, 3.8, count) / plan.mpp, (0.8, 1), 0.03, rng)
    return blobs, _stain(count, (1.15, 1.5), 0.0, rng)


def _stroma(
    plan: HEPlan, count: int, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Spindles along the fibres, and a few plump pale ones."""
    middle = rng.uniform(0, 1, (count, 2)) * plan.shape
    blobs = _blobs(middle, rng.uniform(4.2, 7.0, count) / plan.mpp, (0.35, 0.7), 0.05, rng)
    step = np.array([0.0, 1.0])
    slope = plan.lean((middle + step).T) - plan.lean((middle - step).T)
    blobs[:, 4] = np.arctan2(-slope, 2) + rng.normal(0, 0.25, count)
    return blobs, _stain(count, (0.8, 1.3), 0.12, rng)


def _blobs(
    middle: NDArray[np.float64],
    long: NDArray[np.float64],
    flat: tuple[float, float],
    wave: float,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    count = len(middle)
    turns = rng.uniform(0, 2 * np.pi, (3, count))
    short = long * rng.uniform(*flat, count)
    return np.stack([*middle.T, long, short, *turns, rng.uniform(0, wave, count)], axis=1)


def _stain(
    count: int, dark: tuple[float, float], pale: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Hematoxylin and nucleolus (N, 2); a share of ``pale`` nuclei is light with a dark spot."""
    light = rng.random(count) < pale
    shade = np.where(light, rng.uniform(0.38, 0.55, count), rng.uniform(*dark, count))
    return np.stack([shade, np.where(light, 0.6, 0.0)], axis=1)


def _painted(
    blobs: NDArray[np.float64], at: NDArray[np.float64]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """``paint_blobs`` of those near the window, numbered from 1 as in ``blobs``."""
    far = 1.2 * blobs[:, 2:4].max(axis=1, initial=0)[:, None] + 1
    low, high = at[:, 0, 0], at[:, -1, -1]
    near = ((blobs[:, :2] > low - far) & (blobs[:, :2] < high + far)).all(axis=1)
    numbers = np.flatnonzero(near)
    return paint_blobs(blobs[numbers], numbers + 1, at)


def _step(t: Any) -> NDArray[np.float32]:
    """Smoothstep: 0 below 0, 1 above 1."""
    t = np.clip(t, 0, 1)
    return np.asarray(t * t * (3 - 2 * t), dtype=np.float32)
