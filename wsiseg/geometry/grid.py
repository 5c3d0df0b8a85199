"""TileGrid: a concrete partition of one lattice into cores, each read with a halo."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import SpaceError
from wsiseg.geometry.box import Box

__all__ = ["Tile", "TileGrid"]


@dataclass(frozen=True, slots=True)
class Tile:
    """One cell of a grid: what it owns and what it needs to see."""

    index: tuple[int, ...]
    """Place in the grid."""
    core: Box
    """The pixels that this tile owns; cores partition the lattice."""
    read: Box
    """The core grown by the halo, not clipped: it may reach outside the lattice."""


@dataclass(frozen=True, slots=True)
class TileGrid:
    """A partition of a lattice of ``shape`` into cores of ``tile`` px from the origin.

    >>> [t.core.start for t in TileGrid((5,), (2,), 1)]
    [(0,), (2,), (4,)]
    """

    shape: tuple[int, ...]
    """The lattice, px."""
    tile: tuple[int, ...]
    """Core size, px; the last core of an axis may be smaller."""
    halo: int
    """Px read beyond the core on each side."""

    def __post_init__(self) -> None:
        if len(self.tile) != len(self.shape) or min(self.tile) < 1 or self.halo < 0:
            raise SpaceError(
                f"a grid over {self.shape} needs {len(self.shape)} positive tile sizes and a halo "
                f">= 0, got tile {self.tile} and halo {self.halo}"
            )

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of tiles along each axis."""
        return tuple(-(-s // t) for s, t in zip(self.shape, self.tile, strict=True))

    def __len__(self) -> int:
        return int(np.prod(self.counts, dtype=np.int64))

    def __iter__(self) -> Iterator[Tile]:
        return (self[index] for index in product(*map(range, self.counts)))

    def __getitem__(self, index: Sequence[int]) -> Tile:
        start = tuple(i * t for i, t in zip(index, self.tile, strict=True))
        stop = tuple(a + t for a, t in zip(start, self.tile, strict=True))
        core = Box(start, stop).clip(self.shape)
        return Tile(tuple(index), core, core.grow(self.halo) if self.halo else core)

    def number(self, index: Sequence[int]) -> int:
        """Place of a tile in row-major order."""
        return int(np.ravel_multi_index(tuple(index), self.counts))

    def owner(self, points: NDArray[np.integer]) -> NDArray[np.int64]:
        """Row-major number of the tile that owns each lattice point (N, n)."""
        index = np.asarray(points, dtype=np.int64) // np.asarray(self.tile)
        return np.asarray(np.ravel_multi_index(tuple(index.T), self.counts), dtype=np.int64)

    def overlapping(self, box: Box) -> Iterator[Tile]:
        """Tiles whose core meets ``box``, in row-major order."""
        inside = box.clip(self.shape)
        if inside.empty:
            return iter(())
        ranges = (
            range(a // t, -(-b // t))
            for a, b, t in zip(inside.start, inside.stop, self.tile, strict=True)
        )
        return (self[index] for index in product(*ranges))
