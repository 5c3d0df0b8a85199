"""Space: a lattice in the body, that is a shape, an affine and a unit, without pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wsiseg.errors import SpaceError

__all__ = ["Space"]


@dataclass(frozen=True, slots=True)
class Space:
    """A lattice of ``shape`` px whose index maps to the world; corner-based: px i is [i, i + 1).

    ``world = affine[:n, :n] @ index + affine[:n, n]``, axes in the order (z, y, x).
    """

    shape: tuple[int, ...]
    """Pixels per axis."""
    affine: tuple[tuple[float, ...], ...]
    """(n+1, n+1) matrix from index to world, as nested tuples so that a Space can be hashed."""
    unit: str
    """Unit of the world: "um", "mm", or "px" of the finest level where no pixel size is known."""

    @classmethod
    def regular(
        cls,
        shape: Sequence[int],
        spacing: Sequence[float],
        unit: str = "um",
        origin: Sequence[float] | None = None,
    ) -> Space:
        """A lattice along the axes of the world with ``spacing`` units per px."""
        n = len(shape)
        if len(spacing) != n or min(spacing, default=1) <= 0:
            raise SpaceError(f"spacing must be {n} positive numbers, got {tuple(spacing)}")
        matrix = np.diag([*map(float, spacing), 1.0])
        matrix[:n, n] = origin if origin is not None else 0.0
        return cls(tuple(map(int, shape)), _nested(matrix), unit)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def matrix(self) -> NDArray[np.float64]:
        """The affine as an (n+1, n+1) array."""
        return np.array(self.affine, dtype=np.float64)

    @property
    def spacing(self) -> tuple[float, ...]:
        """World units per px along each axis."""
        columns = self.matrix[: self.ndim, : self.ndim]
        return tuple(float(v) for v in np.sqrt((columns**2).sum(axis=0)))

    def at(self, spacing: float | Sequence[float]) -> Space:
        """The lattice over the same body with another ``spacing``; the last px may reach beyond.

        Raises SpaceError where this space has no physical unit.
        """
        if self.unit == "px":
            raise SpaceError("a space without a pixel size has no other spacing: give mpp")
        n = self.ndim
        wanted = (spacing,) * n if isinstance(spacing, int | float) else tuple(spacing)
        ratio = [w / s for w, s in zip(wanted, self.spacing, strict=True)]
        # 1e-6 px: 1000 * 0.25 / 0.5 must not become 501 by the last bit of a float
        shape = [max(1, int(np.ceil(k / r - 1e-6))) for k, r in zip(self.shape, ratio, strict=True)]
        return Space(tuple(shape), _nested(self.matrix @ np.diag([*ratio, 1.0])), self.unit)

    def to_world(self, points: ArrayLike) -> NDArray[np.float64]:
        """World coordinates (N, n) of index points (N, n)."""
        m = self.matrix
        n = self.ndim
        return np.asarray(np.asarray(points, dtype=np.float64) @ m[:n, :n].T + m[:n, n])

    def to_index(self, points: ArrayLike) -> NDArray[np.float64]:
        """Index coordinates (N, n) of world points (N, n)."""
        m = np.linalg.inv(self.matrix)
        n = self.ndim
        return np.asarray(np.asarray(points, dtype=np.float64) @ m[:n, :n].T + m[:n, n])

    def scale_to(self, other: Space) -> tuple[float, ...]:
        """Px of ``other`` per px of this, along each axis (both along the same axes).

        Rounded to 1e-9, so that a level of half the size has a scale of exactly 2.
        """
        pairs = zip(self.spacing, other.spacing, strict=True)
        return tuple(round(mine / theirs, 9) for mine, theirs in pairs)


def _nested(matrix: NDArray[Any]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(v) for v in row) for row in matrix)
