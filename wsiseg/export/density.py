"""How many cells lie where: counted as they stream by, in memory that does not grow with them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import shapely
from numpy.typing import NDArray

from wsiseg.cells.batch import CellBatch
from wsiseg.geometry import Box

__all__ = ["Density", "pick_field"]


class Density:
    """Cells per square bin of a slide of ``shape`` (height, width), level-0 px."""

    def __init__(self, shape: tuple[int, int], bin_px: int) -> None:
        self.shape, self.bin_px = shape, bin_px
        rows, columns = (max(1, -(-extent // bin_px)) for extent in shape)
        self.counts: NDArray[np.int64] = np.zeros((rows, columns), dtype=np.int64)
        """(rows, columns): bin (i, j) covers bin_px level-0 px from (i, j) * bin_px."""

    @classmethod
    def over(cls, shape: tuple[int, int], *, bins: int = 256) -> Density:
        """None counted yet, with ``bins`` bins along the longer side."""
        return cls(shape, max(1, -(-max(shape) // bins)))

    @classmethod
    def of(
        cls, batches: Iterable[CellBatch], shape: tuple[int, int], *, bins: int = 256
    ) -> Density:
        """Density of all cells, with ``bins`` bins along the longer side."""
        density = cls.over(shape, bins=bins)
        for batch in batches:
            density.add(batch)
        return density

    def add(self, batch: CellBatch) -> None:
        """Count the centroids of ``batch``; one outside the slide counts in the nearest bin."""
        xy = shapely.get_coordinates(shapely.centroid(batch.geometry))
        rows, columns = self.counts.shape
        row = np.clip(xy[:, 1] // self.bin_px, 0, rows - 1).astype(np.int64)
        column = np.clip(xy[:, 0] // self.bin_px, 0, columns - 1).astype(np.int64)
        flat = np.bincount(row * columns + column, minlength=rows * columns)
        self.counts += flat.reshape(rows, columns)

    @property
    def cells(self) -> int:
        """Number of cells counted."""
        return int(self.counts.sum())


def pick_field(density: Density, side: int) -> Box:
    """A representative dense field of ``side`` level-0 px: a Box (y, x) inside the slide.

    Of all fields that begin at a bin and hold cells, the one whose count is the 90th percentile
    (the densest are often folds and clots); the first in raster order among equals. The middle of
    the slide where there is no cell. Smaller than ``side`` where the slide is.
    """
    height, width = (min(side, extent) for extent in density.shape)
    window = (max(1, round(height / density.bin_px)), max(1, round(width / density.bin_px)))
    sums = _window_sums(density.counts, window)
    filled = np.sort(sums[sums > 0])
    if filled.size:
        wanted = filled[(filled.size - 1) * 9 // 10]
        i, j = np.argwhere(sums == wanted)[0].tolist()
        start = (i * density.bin_px, j * density.bin_px)
    else:
        start = ((density.shape[0] - height) // 2, (density.shape[1] - width) // 2)
    y, x = min(start[0], density.shape[0] - height), min(start[1], density.shape[1] - width)
    return Box((y, x), (y + height, x + width))


def _window_sums(counts: NDArray[np.int64], window: tuple[int, int]) -> NDArray[np.int64]:
    """Sum of each window that lies inside (of the whole, where the window is larger)."""
    h, w = (min(k, n) for k, n in zip(window, counts.shape, strict=True))
    total = np.pad(counts.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    return np.asarray(total[h:, w:] - total[:-h, w:] - total[h:, :-w] + total[:-h, :-w])
