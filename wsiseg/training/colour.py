"""Pixels of augmentation: how stains, scanners and files differ, without moving anything."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from wsiseg.stain import OD_TABLE, REFERENCE

__all__ = ["Colour", "recoloured", "restained"]

Image = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Colour:
    """How much is varied, and how often."""

    stain: float = 0.12
    """Each dye's density is scaled by 1 ± this (uniform)."""
    offset: float = 0.02
    """And shifted by ± this, OD."""
    brightness: float = 0.06
    """Intensities are scaled by 1 ± this."""
    gamma: float = 0.1
    """And raised to a power of 1 ± this."""
    coarse: float = 0.35
    """How often the image is made coarser and enlarged again, as a 20x slide is."""
    coarsest: float = 2.4
    """By which factor at most: 0.25 µm become 0.60 µm."""
    blur: float = 0.12
    """How often it is blurred, sigma 0.3 to 1.2 px."""
    noise: float = 0.15
    """How often noise is added, sigma 1 to 6 grey levels."""
    jpeg: float = 0.25
    """How often it goes through JPEG, quality 40 to 95."""


def recoloured(image: Image, rng: np.random.Generator, how: Colour) -> Image:
    """``image`` (S, S, 3) RGB as another laboratory, scanner or file might have it."""
    if rng.random() < how.coarse:
        image = _coarser(image, rng.uniform(1.2, max(1.2, how.coarsest)))
    elif rng.random() < how.blur:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 1.2)).astype(np.uint8)
    image = restained(image, rng, how)
    if rng.random() < how.noise:
        noise = rng.normal(0, rng.uniform(1, 6), image.shape).astype(np.float32)
        image = np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)
    if rng.random() < how.jpeg:
        image = _through_jpeg(image, int(rng.integers(40, 96)))
    return image


def restained(image: Image, rng: np.random.Generator, how: Colour) -> Image:
    """Densities of the dyes scaled and shifted (Tellez et al. 2019, Medical Image Analysis 58),
    then brightness and gamma.
    """
    gain = rng.uniform(1 - how.stain, 1 + how.stain, 3)
    shift = rng.uniform(-how.offset, how.offset, 3)
    stain = REFERENCE.array
    mixed = (np.linalg.inv(stain) * gain @ stain).astype(np.float32)
    density = cv2.LUT(image, OD_TABLE) @ mixed + (shift @ stain).astype(np.float32)
    power, scale = (
        rng.uniform(1 - how.gamma, 1 + how.gamma),
        rng.uniform(1 - how.brightness, 1 + how.brightness),
    )
    table = _intensities(power, scale)
    return np.asarray(table[np.clip(density * 400 + 0.5, 0, 1199).astype(np.int16)])


def _intensities(power: float, scale: float) -> NDArray[np.uint8]:
    """Intensity by density in steps of 1/400 OD."""
    light = 10 ** (-np.arange(1200) / 400)
    return np.asarray(np.clip(np.rint(256 * scale * light**power - 1), 0, 255), dtype=np.uint8)


def _coarser(image: Image, factor: float) -> Image:
    side = image.shape[0]
    small = max(8, round(side / factor))
    less = cv2.resize(image, (small, small), interpolation=cv2.INTER_AREA)
    grown = cv2.resize(less, (side, side), interpolation=cv2.INTER_LINEAR)
    return np.asarray(grown, dtype=np.uint8)


def _through_jpeg(image: Image, quality: int) -> Image:
    data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    back = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), dtype=np.uint8)
    return np.ascontiguousarray(back[..., ::-1])
