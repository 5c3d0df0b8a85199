"""Synthetic cells: holes, several parts, odd class names, missing measurements, all seeded."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

import numpy as np
import pytest
import shapely

from wsiseg.cells.layer import CellBatch

CLASSES = (
    "Tumor",
    "Drüsenepithel",
    "腫瘍細胞",
    'say "cheese" \\ 100 %',
    "Tumor: Positive",
    "=1+1",
    "💠",
)

Make = Callable[..., CellBatch]


@pytest.fixture(scope="session")
def make_cells() -> Make:
    return _cells


def _cells(n: int, seed: int = 0, *, nuclei: bool = False, classes=CLASSES) -> CellBatch:
    """n wobbly cells on a grid, every 7th with a hole, every 11th of two parts, fractional px."""
    rng = np.random.default_rng(seed)
    wide = int(np.ceil(np.sqrt(n))) or 1
    centres = np.stack(np.divmod(np.arange(n), wide)[::-1], axis=1) * 40.0 + 20
    shells = _rings(rng, centres, 24, 8, 14)
    holes = _rings(rng, centres, 9, 2, 4)
    satellites = _rings(rng, centres + 17, 5, 1, 2)
    geometry = shapely.polygons(shells)
    holed = np.arange(n) % 7 == 0
    geometry[holed] = shapely.polygons(shells[holed], holes=holes[holed][:, None])
    for i in np.flatnonzero(np.arange(n) % 11 == 0):
        geometry[i] = shapely.MultiPolygon([geometry[i], shapely.Polygon(satellites[i])])
    area = shapely.area(geometry)
    odd = rng.normal(size=n) * 10.0 ** rng.integers(-20, 20, n)
    odd[rng.random(n) < 0.3] = np.nan
    return CellBatch(
        id=np.array([str(UUID(bytes=rng.bytes(16))) for _ in range(n)], dtype="U36"),
        geometry=geometry,
        class_index=rng.integers(-1, len(classes), n, dtype=np.int32),
        classes=tuple(classes),
        measurements={
            "Area px^2": area.astype(np.float32).astype(np.float64),
            "Größe µm^2 (50 %)": odd.astype(np.float32).astype(np.float64),
            "Count": rng.integers(0, 9, n).astype(np.float64),
        },
        nucleus=shapely.polygons(holes) if nuclei else None,
    )


def _rings(rng, centres, vertices, least, most):
    """(n, vertices, 2) star-shaped rings, rounded to 0.01 px."""
    angle = np.linspace(0, 2 * np.pi, vertices, endpoint=False)
    radius = rng.uniform(least, most, (len(centres), 1)) * rng.uniform(
        0.9, 1.1, (len(centres), vertices)
    )
    offsets = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
    return np.round(centres[:, None] + offsets, 2)
