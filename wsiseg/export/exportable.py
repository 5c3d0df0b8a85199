"""What may be written: one rule for every format, so that all files hold the same rows and values.

QuPath refuses a whole file for one doubtful feature, so nothing doubtful passes: outlines are
polygons that are OGC-valid *after* rounding to 0.01 px, class names are ones it can read, and
measurements are finite and exact in float32 (as it stores them) or absent.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from wsiseg.cells.batch import CellBatch
from wsiseg.errors import InputFileError
from wsiseg.export.coordinates import FARTHEST
from wsiseg.export.simple import simple_rings

__all__ = ["SMALLEST_AREA", "class_label", "exportable", "ids_as_bytes", "polygonal_part"]

SMALLEST_AREA = 0.01
"""px²: QuPath makes empty objects of polygons about this small, and no cell is."""

_DECIMALS = 2
_POLYGON, _MULTIPOLYGON = 3, 6
# QuPath packs coordinates into float32, which moves them by 0.0005 px at 2**13 px, 0.004 at 2**16
_FLOAT32_MOVES = 2**13
_COARSE = 0.25  # px: exact in two decimals, and in float32 up to 4 million px
_DASHES = [8, 13, 18, 23]  # of the 36 characters of a UUID
_HEX = [i for i in range(36) if i not in _DASHES]
_KEPT, _NOT_POLYGON, _NOT_FINITE, _TOO_SMALL, _INVALID = range(5)
_REASONS = {
    _NOT_POLYGON: "not_polygon",
    _NOT_FINITE: "not_finite",
    _TOO_SMALL: "zero_area",
    _INVALID: "invalid_outline",
}


def exportable(batch: CellBatch) -> tuple[CellBatch, dict[str, int]]:
    """The cells that can be written, as they are written, and how many cannot, by reason.

    Outlines are rounded to 0.01 px; those that rounding (or their maker) left invalid are
    repaired, which may give a MultiPolygon; a MultiPolygon of one part becomes a Polygon. Class
    names follow ``class_label``. Measurements become float32 numbers (in float64 columns),
    infinite ones NaN. Idempotent. Dropped are

    - ``not_polygon``: another type, missing or empty
    - ``not_finite``: NaN, infinite or absurd coordinates (beyond ``FARTHEST``)
    - ``zero_area``: below ``SMALLEST_AREA`` once rounded
    - ``invalid_outline``: beyond repair
    - ``nucleus_...``: the nucleus only, for the same reasons; its cell stays

    Raises InputFileError for an id that is not a UUID in lower case: QuPath would replace it.
    """
    _check_ids(batch.id)
    fate = np.full(len(batch), _KEPT, dtype=np.int8)
    geometry = batch.geometry
    if not batch.sound:
        geometry, fate = _writable(geometry)
    dropped = _count(fate)
    nucleus = batch.nucleus
    if nucleus is not None:
        nucleus, lost = _writable(nucleus)
        lost[shapely.is_missing(batch.nucleus)] = _KEPT  # a cell may have none
        dropped |= {f"nucleus_{reason}": n for reason, n in _count(lost[fate == _KEPT]).items()}
    out = replace(
        batch,
        geometry=geometry,
        classes=tuple(map(class_label, batch.classes)),
        measurements={name: _as_float32(column) for name, column in batch.measurements.items()},
        nucleus=nucleus,
    )
    return out if (fate == _KEPT).all() else out.take(fate == _KEPT), dropped


def class_label(name: str) -> str:
    """A class name as QuPath can read it.

    Line breaks, control characters and runs of blanks become one blank. A colon separates the
    levels of a derived class, as it does in QuPath: blanks around it become ``": "``, and empty
    levels are left out. A name of which nothing is left is called ``unnamed``.
    """
    readable = name.encode("utf-8", "replace").decode()  # lone surrogates are not text
    words = "".join(c if c.isprintable() else " " for c in readable)
    levels = (" ".join(level.split()) for level in words.split(":"))
    return ": ".join(filter(None, levels)) or "unnamed"


def ids_as_bytes(ids: NDArray[np.str_]) -> NDArray[np.uint8]:
    """(N, 36) ASCII of the ids of exportable cells."""
    return _code_points(ids, 36).astype(np.uint8)


def _check_ids(ids: NDArray[np.str_]) -> None:
    points = _code_points(ids, 37)
    hexes = points[:, _HEX]
    good = (points[:, _DASHES] == ord("-")).all(axis=1) & (points[:, 36] == 0)
    good &= (((hexes >= ord("0")) & (hexes <= ord("9"))) | _is_a_to_f(hexes)).all(axis=1)
    for row in np.flatnonzero(~good)[:1].tolist():
        raise InputFileError(
            f"cell {row} has the id {str(ids[row])!r}: expected a UUID in lower case, because "
            "QuPath replaces other ids; make some with wsiseg.cells.batch.uuids_from"
        )


def _code_points(ids: NDArray[np.str_], width: int) -> NDArray[np.uint32]:
    """(N, width) Unicode of the first characters, 0 beyond the last."""
    fixed = np.ascontiguousarray(ids.astype(f"U{width}"))
    return fixed.view(np.uint32).reshape(len(ids), width)


def _is_a_to_f(points: NDArray[np.uint32]) -> NDArray[np.bool_]:
    return np.asarray((points >= ord("a")) & (points <= ord("f")))


def _count(fate: NDArray[np.int8]) -> dict[str, int]:
    return {name: int(n) for code, name in _REASONS.items() if (n := np.sum(fate == code))}


def _as_float32(column: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(over="ignore"):
        short = np.asarray(column).astype(np.float32).astype(np.float64)
    short[~np.isfinite(short)] = np.nan
    return short


def _writable(geometry: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int8]]:
    """(N,) outlines fit for writing, None where there is none, and what became of each."""
    flat = (shapely.get_coordinate_dimension(geometry) <= 2).all()
    given = np.asarray(geometry, dtype=object) if flat else shapely.force_2d(geometry)
    fate = _first_look(given)
    live = np.flatnonzero(fate == _KEPT)
    out = np.full(len(given), None, dtype=object)
    out[live] = _unwrapped(_rounded(given[live]))
    bad = live[~_sound(out[live])]
    for row in bad:
        out[row], fate[row] = _repaired(given[row])
    small = live[shapely.area(out[live]) < SMALLEST_AREA]
    fate[small] = np.where(fate[small] == _KEPT, _TOO_SMALL, fate[small])
    out[fate != _KEPT] = None
    return out, fate


def _first_look(geometry: NDArray[Any]) -> NDArray[np.int8]:
    fate = np.full(len(geometry), _KEPT, dtype=np.int8)
    polygonal = np.isin(shapely.get_type_id(geometry), (_POLYGON, _MULTIPOLYGON))
    fate[~polygonal | shapely.is_empty(geometry)] = _NOT_POLYGON
    xy, owner = shapely.get_coordinates(geometry, return_index=True)
    far = ~(np.abs(xy) <= FARTHEST)  # NaN is
    fate[owner[np.flatnonzero(far) // 2]] = _NOT_FINITE
    return fate


def _rounded(geometry: NDArray[Any]) -> NDArray[Any]:
    xy = shapely.get_coordinates(geometry)
    rounded = np.round(xy, _DECIMALS) + 0.0  # + 0: no negative zeros
    if np.array_equal(xy.view(np.int64), rounded.view(np.int64)):  # -0 is not 0
        return geometry
    return np.asarray(shapely.set_coordinates(geometry.copy(), rounded))


def _unwrapped(geometry: NDArray[Any]) -> NDArray[Any]:
    """Without empty parts, and of one part a Polygon: QuPath 0.4 and 0.5 fail on others."""
    multi = np.flatnonzero(shapely.get_type_id(geometry) == _MULTIPOLYGON)
    if not multi.size:
        return geometry
    parts, owner = shapely.get_parts(geometry[multi], return_index=True)
    full = ~shapely.is_empty(parts)
    whole = np.asarray(shapely.multipolygons(parts[full], indices=owner[full]))
    single = shapely.get_num_geometries(whole) == 1
    whole[single] = shapely.get_geometry(whole[single], 0)
    out = geometry.copy()
    out[multi] = whole
    return out


def _sound(geometry: NDArray[Any]) -> NDArray[np.bool_]:
    """(N,) whether each is valid, also in the float32 coordinates that QuPath reads it into."""
    xy, owner = shapely.get_coordinates(geometry, return_index=True)
    sound = _valid(geometry, xy)
    packed = xy.astype(np.float32).astype(np.float64)
    moved = (np.abs(xy) > _FLOAT32_MOVES) & (xy != packed)
    far = np.zeros(len(geometry), dtype=np.bool_)
    far[owner[np.flatnonzero(moved) // 2]] = True
    if far.any():
        sound[far] &= _valid(geometry[far], packed[far[owner]])
    return sound


def _valid(geometry: NDArray[Any], xy: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(N,) whether each would be valid if its vertices were those of ``xy`` (V, 2)."""
    counts = shapely.get_num_coordinates(geometry)
    one_ring = shapely.get_type_id(geometry) == _POLYGON
    one_ring &= shapely.get_num_interior_rings(geometry) == 0
    valid = one_ring & simple_rings(xy, np.concatenate(([0], np.cumsum(counts))))
    if not valid.all():
        others = shapely.set_coordinates(geometry[~valid].copy(), xy[np.repeat(~valid, counts)])
        valid[~valid] = shapely.is_valid(others)
    return np.asarray(valid)


def _repaired(geometry: Any) -> tuple[Any, int]:
    """A sound outline of the same shape, and what became of it.

    On the 0.01 px grid, or on one of 0.25 px where float32 would move it off that.
    """
    near = np.abs(shapely.bounds(geometry)).max() <= _FLOAT32_MOVES
    try:
        whole = shapely.make_valid(geometry, method="structure", keep_collapsed=False)
        grid = 10.0**-_DECIMALS if near else _COARSE
        snapped = shapely.set_precision(polygonal_part(whole), grid)
    except shapely.GEOSException:
        return None, _INVALID
    rounded = _rounded(np.array([polygonal_part(snapped)], dtype=object))
    if shapely.is_empty(rounded[0]):
        return None, _TOO_SMALL
    fixed = _unwrapped(rounded)
    return (fixed[0], _KEPT) if _sound(fixed)[0] else (None, _INVALID)


def polygonal_part(geometry: Any) -> Any:
    """The parts that have an area, as a Polygon or MultiPolygon (empty where there are none)."""
    if shapely.get_type_id(geometry) in (_POLYGON, _MULTIPOLYGON):
        return geometry
    parts = shapely.get_parts(geometry)
    kept = [polygonal_part(part) for part in parts if shapely.area(part) > 0]
    return shapely.multipolygons(shapely.get_parts(np.array(kept, dtype=object)))
