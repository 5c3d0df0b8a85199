"""What may be written: one rule for every format, so that all files hold the same rows and values.

QuPath refuses a whole file for one doubtful feature, so nothing doubtful passes: outlines are
polygons that are OGC-valid *after* rounding to 0.01 px, class names are ones it can read, and
measurements are finite and exact in float32 (as it stores them) or absent.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from wsiseg.cells.batch import CellBatch
from wsiseg.errors import InputFileError

__all__ = ["SMALLEST_AREA", "class_label", "exportable", "polygonal_part"]

SMALLEST_AREA = 0.01
"""px²: QuPath makes empty objects of polygons about this small, and no cell is."""

_DECIMALS = 2
_POLYGON, _MULTIPOLYGON = 3, 6
# QuPath packs coordinates into float32, which moves them by 0.0005 px at 2**13 px, 0.004 at 2**16
_FLOAT32_MOVES = 2**13
_COARSE = 0.25  # px: exact in two decimals, and in float32 up to 4 million px
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
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
    - ``not_finite``: NaN or infinite coordinates
    - ``zero_area``: below ``SMALLEST_AREA`` once rounded
    - ``invalid_outline``: beyond repair
    - ``nucleus_...``: the nucleus only, for the same reasons; its cell stays

    Raises InputFileError for an id that is not a UUID in lower case: QuPath would replace it.
    """
    _check_ids(batch.id)
    geometry, fate = _writable(batch.geometry)
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


def _check_ids(ids: NDArray[np.str_]) -> None:
    for row, text in enumerate(ids.tolist()):
        if not _UUID.fullmatch(text):
            raise InputFileError(
                f"cell {row} has the id {text!r}: expected a UUID in lower case, because QuPath "
                "replaces other ids; make some with wsiseg.cells.batch.uuids_from"
            )


def _count(fate: NDArray[np.int8]) -> dict[str, int]:
    return {name: int(n) for code, name in _REASONS.items() if (n := np.sum(fate == code))}


def _as_float32(column: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(over="ignore"):
        short = np.asarray(column).astype(np.float32).astype(np.float64)
    short[~np.isfinite(short)] = np.nan
    return short


def _writable(geometry: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int8]]:
    """(N,) outlines fit for writing, None where there is none, and what became of each."""
    given = shapely.force_2d(geometry)
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
    fate[owner[~np.isfinite(xy).all(axis=1)]] = _NOT_FINITE
    return fate


def _rounded(geometry: NDArray[Any]) -> NDArray[Any]:
    xy = shapely.get_coordinates(geometry)
    rounded = np.round(xy, _DECIMALS) + 0.0  # + 0: no negative zeros
    if np.array_equal(xy, rounded):
        return geometry
    return np.asarray(shapely.set_coordinates(geometry.copy(), rounded))


def _unwrapped(geometry: NDArray[Any]) -> NDArray[Any]:
    """A MultiPolygon of one part as a Polygon: QuPath 0.4 and 0.5 fail on it."""
    single = shapely.get_type_id(geometry) == _MULTIPOLYGON
    single &= shapely.get_num_geometries(geometry) == 1
    if single.any():
        geometry = geometry.copy()
        geometry[single] = shapely.get_geometry(geometry[single], 0)
    return geometry


def _sound(geometry: NDArray[Any]) -> NDArray[np.bool_]:
    """(N,) whether each is valid, also in the float32 coordinates that QuPath reads it into."""
    sound = np.asarray(shapely.is_valid(geometry))
    xy, owner = shapely.get_coordinates(geometry, return_index=True)
    moved = (np.abs(xy) > _FLOAT32_MOVES) & (xy != xy.astype(np.float32))
    far = np.unique(owner[moved.any(axis=1)])
    if far.size:
        there = shapely.get_coordinates(geometry[far]).astype(np.float32)
        sound[far] &= shapely.is_valid(shapely.set_coordinates(geometry[far].copy(), there))
    return sound


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
    fixed = _unwrapped(_rounded(np.array([polygonal_part(snapped)], dtype=object)))
    if shapely.is_empty(fixed[0]):
        return None, _TOO_SMALL
    return (fixed[0], _KEPT) if _sound(fixed)[0] else (None, _INVALID)


def polygonal_part(geometry: Any) -> Any:
    """The parts that have an area, as a Polygon or MultiPolygon (empty where there are none)."""
    if shapely.get_type_id(geometry) in (_POLYGON, _MULTIPOLYGON):
        return geometry
    parts = shapely.get_parts(geometry)
    kept = [polygonal_part(part) for part in parts if shapely.area(part) > 0]
    return shapely.multipolygons(shapely.get_parts(np.array(kept, dtype=object)))
