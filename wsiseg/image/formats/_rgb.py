"""How stored samples become RGB: the rules, in one place.

- RGB of 8 bits stays as it is.
- More bits: a value ``v`` of ``bits`` significant bits becomes ``v >> (bits - 8)``. ``bits`` is
  what the file states (OME SignificantBits), otherwise the width of the sample: 16 or 32. The
  rule is of the file, never of a tile's minimum and maximum. Fewer bits:
  ``v * 255 // (2^bits - 1)``.
- Floats are taken when they lie in [0, 1] (times 255, rounded) and refused otherwise.
- Signed integers and complex numbers are refused.
- Alpha: composited over white, premultiplied (associated) or not, as the file states.
- Grey: repeated on the three channels; "white is zero" is inverted first.
- Palette: looked up; the colour map's 16 bits lose their lower 8.
- CMYK: ``R = (255 - C) * (255 - K) / 255`` and so on, without a colour profile.
- Two, or four and more, channels without a colour model (fluorescence): each times its colour
  (that of the file, otherwise red, green, blue, cyan, magenta, yellow, white, in turn), summed and
  clipped at 255. Three channels without a colour model are taken as red, green and blue.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import UnsupportedFormatError

__all__ = ["DEFAULT_COLOURS", "ColourRule", "over_white", "to_rgb", "to_uint8"]

DEFAULT_COLOURS = (
    (255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 255, 255), (255, 0, 255), (255, 255, 0),
    (255, 255, 255),
)  # fmt: skip

MODELS = ("grey", "inverted", "rgb", "palette", "cmyk", "channels")


@dataclass(frozen=True, slots=True)
class ColourRule:
    """How the samples of one file are to be read."""

    model: str
    """"grey", "inverted" (grey, white is zero), "rgb", "palette", "cmyk" or "channels"."""
    bits: int = 8
    """Significant bits of a sample."""
    alpha: str | None = None
    """The last sample is alpha: "straight" or "premultiplied"."""
    palette: NDArray[np.uint8] | None = None
    """(N, 3) for "palette"."""
    colours: tuple[tuple[int, int, int], ...] = ()
    """RGB of each of the "channels"."""


def to_rgb(samples: NDArray[Any], rule: ColourRule) -> NDArray[np.uint8]:
    """RGB (h, w, 3) uint8 of samples (h, w, c) by ``rule``; see the module for the rules.

    Raises UnsupportedFormatError where no rule covers them.
    """
    if rule.model == "palette" and rule.palette is not None:
        index = np.minimum(samples[..., 0], len(rule.palette) - 1)
        return np.asarray(rule.palette[index])
    values = to_uint8(samples, rule.bits)
    if rule.alpha is None:
        return _colour(values, rule)
    colour = _colour(values[..., :-1], rule)
    return over_white(colour, values[..., -1], premultiplied=rule.alpha == "premultiplied")


def to_uint8(samples: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Samples of any supported type as uint8, by the rules of the module."""
    kind = samples.dtype.kind
    if kind == "b":
        return np.where(samples, np.uint8(255), np.uint8(0))
    if kind == "f":
        return _unit_floats(samples)
    if kind != "u":
        raise UnsupportedFormatError(
            f"samples of type {samples.dtype} are not supported: expected unsigned integers, or "
            "floats in [0, 1]; convert to uint8"
        )
    if bits == 8 and samples.dtype == np.uint8:
        return samples
    if bits == 8:
        return np.asarray(np.minimum(samples, 255), dtype=np.uint8)
    if bits < 8:
        return np.asarray(samples.astype(np.uint16) * 255 // (2**bits - 1), dtype=np.uint8)
    return np.asarray(np.minimum(samples >> samples.dtype.type(bits - 8), 255), dtype=np.uint8)


def over_white(
    colour: NDArray[np.uint8],
    alpha: NDArray[np.uint8],
    *,
    premultiplied: bool,
    background: tuple[int, int, int] = (255, 255, 255),
) -> NDArray[np.uint8]:
    """``colour`` (h, w, 3) with ``alpha`` (h, w), over ``background``; rounded to nearest."""
    if alpha.size == 0 or alpha.min() == 255:
        return np.ascontiguousarray(colour)
    a = alpha[..., None].astype(np.uint32)
    under = (255 - a) * np.array(background, dtype=np.uint32)
    front = colour.astype(np.uint32) * (np.uint32(255) if premultiplied else a)
    return np.asarray(np.minimum((front + under + 127) // 255, 255), dtype=np.uint8)


def _colour(values: NDArray[np.uint8], rule: ColourRule) -> NDArray[np.uint8]:
    channels = values.shape[-1]
    if rule.model == "inverted":
        values = 255 - values
    if rule.model in ("grey", "inverted") and channels == 1:
        return np.repeat(values, 3, axis=-1)
    if rule.model == "rgb" and channels >= 3:
        return np.ascontiguousarray(values[..., :3])
    if rule.model == "cmyk" and channels >= 4:
        ink = 255 - values[..., :4].astype(np.uint16)
        return np.asarray((ink[..., :3] * ink[..., 3:] + 127) // 255, dtype=np.uint8)
    if rule.model == "channels":
        return _composite(values, rule.colours)
    raise UnsupportedFormatError(
        f"{channels} samples per px as {rule.model!r} have no rule to RGB; convert to RGB"
    )


def _composite(
    values: NDArray[np.uint8], colours: tuple[tuple[int, int, int], ...]
) -> NDArray[np.uint8]:
    total = np.zeros((*values.shape[:-1], 3), dtype=np.uint32)
    for c in range(values.shape[-1]):
        colour = colours[c] if c < len(colours) else DEFAULT_COLOURS[c % len(DEFAULT_COLOURS)]
        total += values[..., c, None].astype(np.uint32) * np.array(colour, dtype=np.uint32)
    return np.asarray(np.minimum((total + 127) // 255, 255), dtype=np.uint8)


def _unit_floats(samples: NDArray[Any]) -> NDArray[np.uint8]:
    low, high = (samples.min(), samples.max()) if samples.size else (0.0, 1.0)
    if not (low >= 0 and high <= 1):  # a NaN fails both
        raise UnsupportedFormatError(
            f"float samples must lie in [0, 1], got {low} to {high}; convert to uint8"
        )
    return np.asarray(np.rint(samples * 255), dtype=np.uint8)
