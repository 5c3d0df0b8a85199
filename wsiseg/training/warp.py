"""Geometry of augmentation: one map from the pixels of a crop to those of its image.

Rotation, flip, scale and a smooth elastic field make one invertible map; image, labels and
distance are all sampled through it, so that they cannot come apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["Warp", "elastic", "jacobian", "random_warp", "sample"]

_KNOT = 32  # px between the knots of an elastic field: about two nuclei
_LEAST = 0.4  # of the Jacobian's determinant: an area shrinks to 0.4 of what it was at most


@dataclass(frozen=True, slots=True, eq=False)
class Warp:
    """``source(p) = linear @ (p + field(p) - middle) + centre``, all (row, col)."""

    linear: NDArray[np.float64]
    """(2, 2): source px per crop px, rotation and flip included."""
    centre: NDArray[np.float64]
    """(2,): where in the source the middle of the crop lies, px."""
    field: NDArray[np.float32] | None
    """(2, S, S): elastic displacement in crop px; None: none."""
    side: int
    """S: px of the crop."""

    def places(self) -> NDArray[np.float32]:
        """(2, S, S): source coordinates (row, col) of each pixel of the crop."""
        p: NDArray[np.float32] = np.indices((self.side, self.side), dtype=np.float32)
        p = p - np.float32((self.side - 1) / 2)
        if self.field is not None:
            p += self.field
        (a, b), (c, d) = self.linear.astype(np.float32)
        y, x = self.centre.astype(np.float32)
        return np.stack([a * p[0] + b * p[1] + y, c * p[0] + d * p[1] + x])

    def into_crop(self, offsets: NDArray[np.float32]) -> NDArray[np.float32]:
        """Offsets (2, *s) between points of the source, px, as offsets in the crop, px.

        Without the elastic field, whose effect over the width of a nucleus is slight.
        """
        inverse = np.linalg.inv(self.linear)
        moved: NDArray[np.float32] = np.einsum(
            "ij,j...->i...", inverse, offsets, dtype=np.float32, casting="same_kind"
        )
        return moved

    def points_into_crop(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Points (N, 2) of the source in px of the crop, without the elastic field."""
        inside: NDArray[np.float64] = (points - self.centre) @ np.linalg.inv(self.linear).T
        return inside + (self.side - 1) / 2


def random_warp(
    rng: np.random.Generator,
    centre: NDArray[np.float64],
    side: int,
    scale: float,
    bend: float,
) -> Warp:
    """A random rotation and flip around ``centre``, at ``scale`` source px per crop px.

    ``bend``: px of elastic displacement (standard deviation at its knots); 0: none.
    """
    angle = rng.uniform(0, 2 * np.pi)
    c, s = np.cos(angle), np.sin(angle)
    linear = scale * np.array([[c, -s], [s, c]])
    if rng.random() < 0.5:
        linear[:, 1] *= -1
    field = elastic(rng, side, bend) if bend > 0 else None
    return Warp(linear, np.asarray(centre, dtype=np.float64), field, side)


def elastic(rng: np.random.Generator, side: int, bend: float) -> NDArray[np.float32]:
    """A smooth displacement field (2, S, S), px, of which the map p + u(p) is invertible.

    Random displacements of knots 32 px apart, cubic between them (Simard et al. 2003, ICDAR, with
    a spline for the Gaussian), halved until the determinant of the Jacobian is at least 0.4.
    """
    knots = side // _KNOT + 3
    coarse = rng.normal(0, bend, (2, knots, knots)).astype(np.float32)
    grown = [
        cv2.resize(k, (knots * _KNOT, knots * _KNOT), interpolation=cv2.INTER_CUBIC) for k in coarse
    ]
    field = np.stack([g[_KNOT : _KNOT + side, _KNOT : _KNOT + side] for g in grown])
    while jacobian(field).min() < _LEAST:
        field = field / 2
    return np.ascontiguousarray(field)


def jacobian(field: NDArray[np.float32]) -> NDArray[np.float32]:
    """Determinant (S - 1, S - 1) of the Jacobian of p + u(p), by forward differences."""
    dy = np.diff(field, axis=1)[:, :, :-1]
    dx = np.diff(field, axis=2)[:, :-1, :]
    return np.asarray((1 + dy[0]) * (1 + dx[1]) - dy[1] * dx[0])


def sample(
    array: NDArray[Any], places: NDArray[np.float32], *, exact: bool, fill: int | None = None
) -> NDArray[Any]:
    """``array`` (H, W[, C]) at ``places`` (2, S, S): nearest if ``exact``, else linear.

    Beyond its edge the array is ``fill``, or mirrored where that is None.
    """
    how = cv2.INTER_NEAREST if exact else cv2.INTER_LINEAR
    edge = cv2.BORDER_REFLECT if fill is None else cv2.BORDER_CONSTANT
    value = (fill or 0,) * 4
    return np.asarray(cv2.remap(array, places[1], places[0], how, None, edge, value))
