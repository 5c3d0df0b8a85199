"""Synthetic cells: holes, several parts, odd class names, missing measurements, all seeded."""

from __future__ import annotations

import json
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


def qupath_problems(text: bytes) -> list[str]:
    """What QuPath 0.4 to 0.8 would refuse or misread in a GeoJSON file of cells, by its rules.

    Independent of the writer: plain json, one feature at a time.
    """
    found: list[str] = []
    top = json.loads(text.decode("utf-8"), parse_constant=found.append)  # NaN, Infinity
    if not isinstance(top, dict) or top.get("type") != "FeatureCollection":
        return ["not a FeatureCollection"]
    for i, feature in enumerate(top["features"]):
        found += [f"feature {i}: {what}" for what in _feature_problems(feature)]
    return found


def _feature_problems(feature) -> list[str]:
    extra = set(feature) - {"type", "id", "geometry", "nucleusGeometry", "properties"}
    properties = feature["properties"]
    extra |= set(properties) - {"objectType", "classification", "measurements"}
    kind = properties.get("objectType")
    found = [f"unknown key {k}" for k in extra]
    if feature["type"] != "Feature" or str(UUID(feature["id"])) != feature["id"]:
        found.append("type or id")
    if kind not in ("detection", "cell") or ("nucleusGeometry" in feature and kind != "cell"):
        found.append(f"objectType {kind}")
    if "classification" in properties:
        found += _class_problems(properties["classification"])
    for name, value in properties.get("measurements", {}).items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            found.append(f"measurement {name}: {value!r}")
    found += _geometry_problems(feature["geometry"])
    if "nucleusGeometry" in feature:
        found += _geometry_problems(feature["nucleusGeometry"])
    return found


def _class_problems(given) -> list[str]:
    name, color = given["name"], given["color"]
    fine = isinstance(color, list) and len(color) == 3
    fine = fine and all(type(c) is int and 0 <= c <= 255 for c in color)
    levels = name.split(":")
    fine = fine and all(level.strip() for level in levels) and "\n" not in name
    return [] if fine else [f"classification {given}"]


def _geometry_problems(given) -> list[str]:
    polygons = {"Polygon": lambda c: [c], "MultiPolygon": lambda c: c}[given["type"]](
        given["coordinates"]
    )
    found = ["MultiPolygon of one part"] * (given["type"] == "MultiPolygon" and len(polygons) < 2)
    positions = [p for polygon in polygons for ring in polygon for p in ring]
    for ring in (ring for polygon in polygons for ring in polygon):
        if len(ring) < 4 or ring[0] != ring[-1]:
            found.append("ring not closed")
    for v in (v for p in positions for v in p):
        if round(v, 2) != v or (isinstance(v, float) and v.is_integer()):
            found.append(f"coordinate {v!r} not short")
    shape = shapely.geometry.shape(given)
    packed = shapely.transform(shape, lambda xy: xy.astype(np.float32).astype(np.float64))
    if not shape.is_valid or not packed.is_valid:
        found.append("invalid: " + shapely.is_valid_reason(shape))
    return found if shape.area >= 0.01 else [*found, "no area"]


@pytest.fixture(scope="session")
def problems() -> Callable[[bytes], list[str]]:
    return qupath_problems
