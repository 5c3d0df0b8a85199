"""Box: a half-open integer interval on a lattice, in any number of dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from wsiseg.errors import SpaceError

__all__ = ["Box"]


@dataclass(frozen=True, slots=True)
class Box:
    """Pixels ``start[i] <= index[i] < stop[i]`` of a lattice, in the order (z, y, x).

    A box may reach outside its lattice, and may be empty.
    """

    start: tuple[int, ...]
    """First index inside, per axis, px."""
    stop: tuple[int, ...]
    """First index beyond, per axis, px; never below ``start``."""

    def __post_init__(self) -> None:
        if len(self.start) != len(self.stop):
            raise SpaceError(f"a box needs as many starts as stops, got {self.start}, {self.stop}")
        start = tuple(map(int, self.start))
        object.__setattr__(self, "start", start)
        object.__setattr__(self, "stop", tuple(map(max, start, map(int, self.stop))))

    @classmethod
    def of_shape(cls, shape: Sequence[int]) -> Box:
        """The box of a whole lattice: from the origin to ``shape``."""
        return cls((0,) * len(shape), tuple(shape))

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.start)

    @property
    def shape(self) -> tuple[int, ...]:
        """Extent per axis, px."""
        return tuple(b - a for a, b in zip(self.start, self.stop, strict=True))

    @property
    def size(self) -> int:
        """Number of pixels."""
        return prod(self.shape)

    @property
    def empty(self) -> bool:
        """Whether no pixel is inside."""
        return self.size == 0

    def grow(self, by: int | Sequence[int]) -> Box:
        """Add ``by`` px on each side (negative shrinks)."""
        by = _per_axis(by, self.ndim)
        start = tuple(a - g for a, g in zip(self.start, by, strict=True))
        return Box(start, tuple(b + g for b, g in zip(self.stop, by, strict=True)))

    def shift(self, by: Sequence[int]) -> Box:
        """Move by ``by`` px."""
        start = tuple(a + s for a, s in zip(self.start, by, strict=True))
        return Box(start, tuple(b + s for b, s in zip(self.stop, by, strict=True)))

    def intersect(self, other: Box) -> Box:
        """The pixels in both; an empty box where there is none."""
        start = tuple(map(max, self.start, other.start))
        return Box(start, tuple(map(min, self.stop, other.stop)))

    def clip(self, shape: Sequence[int]) -> Box:
        """The part inside a lattice of ``shape``."""
        return self.intersect(Box.of_shape(shape))

    def contains(self, other: Box) -> bool:
        """Whether every pixel of ``other`` is inside."""
        return other.empty or self.intersect(other) == other

    def slices(self, origin: Sequence[int] | None = None) -> tuple[slice, ...]:
        """Slices of this box in an array whose first pixel lies at ``origin``."""
        origin = origin or (0,) * self.ndim
        return tuple(
            slice(a - o, b - o) for a, b, o in zip(self.start, self.stop, origin, strict=True)
        )


def _per_axis(value: int | Sequence[int], ndim: int) -> tuple[int, ...]:
    return (value,) * ndim if isinstance(value, int) else tuple(value)
