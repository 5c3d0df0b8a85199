"""Tiles: many tiles of one grid, each made when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

from wsiseg.geometry import Tile, TileGrid

__all__ = ["Tiles"]


class Tiles(Sequence[Tile]):
    """The tiles of ``grid`` with the numbers (N,), in their order; 8 bytes for each."""

    def __init__(self, grid: TileGrid, numbers: NDArray[np.integer]) -> None:
        self.grid, self.numbers = grid, np.asarray(numbers, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, which: int) -> Tile: ...
    @overload
    def __getitem__(self, which: slice) -> Tiles: ...
    def __getitem__(self, which: int | slice) -> Tile | Tiles:
        if isinstance(which, slice):
            return Tiles(self.grid, self.numbers[which])
        at = np.unravel_index(int(self.numbers[which]), self.grid.counts)
        return self.grid[tuple(map(int, at))]

    def __iter__(self) -> Iterator[Tile]:
        return (self[i] for i in range(len(self)))

    @property
    def indices(self) -> NDArray[np.int64]:
        """(N, n) places in the grid."""
        return np.stack(np.unravel_index(self.numbers, self.grid.counts), axis=1)
