"""GeoJSON into cells or a region: files of wsiseg, of QuPath 0.2 to 0.8, and of others alike."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from wsiseg.cells.batch import CellBatch, uuids_from
from wsiseg.export.exportable import polygonal_part
from wsiseg.export.geojson_geometry import has_area, outlines_of
from wsiseg.export.geojson_parse import Features, without_collection

__all__ = ["read_geojson", "read_region"]

_log = logging.getLogger(__name__)

_CHUNK = 10_000
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_CELLS = {"detection", "cell"}
_KINDS = {
    # QuPath 0.4 and later; 0.3; 0.2 wrote the name of the Java class as the id
    **{k: k for k in ("annotation", "detection", "cell", "tile", "root")},
    **dict.fromkeys(("tmaCore", "tma_core", "TMACoreObject"), "core"),
    **{f"Path{k}Object": k.lower() for k in ("Annotation", "Detection", "Cell", "Tile", "Root")},
}
_Numbered = tuple[int, dict[str, Any]]


def read_geojson(path: str | Path) -> Iterator[CellBatch]:
    """Cells of a GeoJSON file in order, in batches with the same classes and columns.

    Where the file has detections or cells, these are taken and its annotations, tiles and TMA
    cores are not; otherwise every object with an area is a cell. Child objects come after their
    parent; the plane (z, t) is not looked at; an ellipse becomes a polygon of 128 sides. An id
    that is not a UUID is replaced by one hashed from outline and row. Outlines that are not
    OGC-valid are made so, with a warning; coordinates are not rounded (``exportable`` does that).
    Measurements have the precision of float32, as in QuPath.

    The file is gone through twice, first for its columns. Raises InputFileError, naming the
    feature, where anything is broken.
    """
    features = Features(Path(path))
    contents = _survey(features)
    if contents.without_area:
        _log.warning("%s: objects without an area are left out: %d", path, contents.without_area)
    return _batches(features, contents)


def read_region(path: str | Path) -> list[Any]:
    """The union of the annotations and bare geometries of a GeoJSON file, as disjoint Polygons.

    Shapely, level-0 px (x, y). Detections, cells and tiles are not regions. Raises InputFileError
    where the file is broken, or holds no region with an area.
    """
    features = Features(Path(path))
    found = [f for f in features if _kind(f[1]) == "annotation" and has_area(f[1].get("geometry"))]
    region = shapely.union_all(_made_valid(outlines_of(found, "geometry", features.error)))
    polygons = shapely.get_parts(polygonal_part(region))
    if not len(polygons):
        raise features.error(
            0, "expected an annotation with an area (a polygon, rectangle or ellipse), found none"
        )
    return list(polygons)


@dataclass(slots=True)
class _Contents:
    kinds: set[str] = field(default_factory=set)
    classes: dict[str, None] = field(default_factory=dict)
    columns: list[str] = field(default_factory=list)
    nuclei: bool = False
    without_area: int = 0


def _survey(features: Features) -> _Contents:
    """What the file holds, of the objects that will be read."""
    of_kind: dict[bool, _Contents] = {True: _Contents(), False: _Contents()}
    for number, feature in features:
        kind = _kind(feature)
        contents = of_kind[kind in _CELLS]
        if not has_area(feature.get("geometry")):
            contents.without_area += kind != "root"
            continue
        contents.kinds.add(kind)
        name = _class_name(feature["properties"].get("classification"), number, features)
        contents.classes |= {} if name is None else {name: None}
        _merge(contents.columns, _measurements(feature, number, features))
        contents.nuclei |= kind == "cell" and feature.get("nucleusGeometry") is not None
    return of_kind[bool(of_kind[True].kinds)]


def _merge(columns: list[str], names: Iterable[str]) -> None:
    """Add new names after the one that they follow: a first row may lack some of the columns."""
    place = 0
    for name in names:
        if name not in columns:
            columns.insert(place, name)
        place = columns.index(name) + 1


def _batches(features: Features, contents: _Contents) -> Iterator[CellBatch]:
    wanted = (
        f for f in features if _kind(f[1]) in contents.kinds and has_area(f[1].get("geometry"))
    )
    tally: Counter[str] = Counter()
    first = 0
    while chunk := _next(wanted):
        yield _batch(chunk, first, contents, features, tally)
        first += len(chunk)
    for what, n in sorted(tally.items()):
        _log.warning("%d outlines were not valid polygons: %s", n, what)


def _next(features: Iterator[_Numbered]) -> list[_Numbered]:
    with without_collection():
        return list(islice(features, _CHUNK))


def _batch(
    chunk: list[_Numbered], first: int, contents: _Contents, features: Features, tally: Counter[str]
) -> CellBatch:
    geometry = _made_valid(outlines_of(chunk, "geometry", features.error), tally)
    classes = tuple(contents.classes)
    names = [_class_name(f["properties"].get("classification"), n, features) for n, f in chunk]
    values = [_measurements(f, n, features) for n, f in chunk]
    batch = CellBatch(
        id=_ids(chunk, geometry, first),
        geometry=geometry,
        class_index=np.array([-1 if n is None else classes.index(n) for n in names], np.int32),
        classes=classes,
        measurements={
            column: np.array([row.get(column, np.nan) for row in values], np.float32).astype(float)
            for column in contents.columns
        },
        nucleus=_nuclei(chunk, features) if contents.nuclei else None,
    )
    empty = shapely.is_empty(geometry)
    return batch.take(~empty) if empty.any() else batch


def _ids(chunk: list[_Numbered], geometry: NDArray[Any], first: int) -> NDArray[np.str_]:
    ids = uuids_from(geometry, first)
    for row, (_, feature) in enumerate(chunk):
        given = feature.get("id")
        if isinstance(given, str) and _UUID.fullmatch(given):
            ids[row] = given.lower()
    return ids


def _nuclei(chunk: list[_Numbered], features: Features) -> NDArray[Any]:
    nuclei = np.full(len(chunk), None, dtype=object)
    given = [f.get("nucleusGeometry") if _kind(f) == "cell" else None for _, f in chunk]
    rows = [i for i, outline in enumerate(given) if outline is not None and has_area(outline)]
    nuclei[rows] = _made_valid(
        outlines_of([chunk[i] for i in rows], "nucleusGeometry", features.error)
    )
    return nuclei


def _made_valid(geometry: NDArray[Any], tally: Counter[str] | None = None) -> NDArray[Any]:
    """Valid polygons; empty where nothing with an area is left."""
    bad = np.flatnonzero(~shapely.is_valid(geometry))
    for row in bad:
        whole = shapely.make_valid(geometry[row], method="structure", keep_collapsed=False)
        geometry[row] = polygonal_part(whole)
    if tally is not None and bad.size:
        gone = int(shapely.is_empty(geometry[bad]).sum())
        tally.update({"made valid": bad.size - gone, "left out, without area": gone})
        tally += Counter()  # no zeros
    return geometry


def _kind(feature: dict[str, Any]) -> str:
    """Object type in QuPath's sense; what is unknown or missing is an annotation, as there."""
    properties = feature["properties"]
    for key in ("objectType", "object_type", "type"):
        if isinstance(stated := properties.get(key), str):
            return _KINDS.get(stated, "annotation")
    return _KINDS.get(str(feature.get("id")), "annotation")


def _class_name(given: Any, number: int, features: Features) -> str | None:
    """Name of a classification: a string, ``name``, ``names`` or a chain of ``parentClass``."""
    if given is None or given in ({}, ""):
        return None
    if isinstance(given, str):
        return given
    if not isinstance(given, dict):
        raise features.error(number, f"expected a classification, got {given!r}")
    levels = given.get("names") or [given.get("name")]
    if not isinstance(levels, list) or not all(isinstance(level, str) for level in levels):
        raise features.error(number, f"expected a class name, got {str(given)[:60]}")
    parent = _class_name(given.get("parentClass"), number, features)
    return ": ".join([parent, *levels] if parent else levels)


def _measurements(feature: dict[str, Any], number: int, features: Features) -> dict[str, float]:
    """Name -> number, of a map or of the array of QuPath 0.2 and 0.3; others are left out."""
    given = feature["properties"].get("measurements") or {}
    if isinstance(given, list):
        try:
            given = {entry["name"]: entry.get("value") for entry in given}
        except (TypeError, KeyError, AttributeError):
            raise features.error(number, "a measurement has no name and value") from None
    if not isinstance(given, dict):
        raise features.error(number, f"expected measurements, got {str(given)[:60]}")
    return {str(name): value for name, raw in given.items() if (value := _number(raw)) == value}


def _number(raw: Any) -> float:
    """The number that QuPath would read, NaN where it would read none."""
    if isinstance(raw, bool) or not isinstance(raw, (int, float, str)):
        return float("nan")
    try:
        return float(raw)
    except (ValueError, OverflowError):
        return float("nan")
