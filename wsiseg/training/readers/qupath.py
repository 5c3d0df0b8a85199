"""QuPath annotations: GeoJSON beside an image or slide."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import shapely
from numpy.typing import NDArray

from wsiseg.errors import InputFileError
from wsiseg.training.labelled import Labelled
from wsiseg.training.readers.drawn import Drawn, labelled_crops, valid_polygons
from wsiseg.training.readers.files import (
    IMAGE_FOLDERS,
    IMAGE_SUFFIXES,
    LABEL_FOLDERS,
    by_stem,
    files_in,
    join,
    listed,
    stem_of,
)
from wsiseg.training.readers.reading import Reading

__all__ = ["SUFFIXES", "accepts", "read", "read_qupath"]

SUFFIXES = (".geojson.gz", ".geojson")
_OBJECTS = {
    "detection": "detection",
    "cell": "cell",
    "tile": "other",
    "root": "other",
    "tmaCore": "other",
    "tma_core": "other",
    # QuPath 0.2 wrote the name of the Java class as the id
    "PathDetectionObject": "detection",
    "PathCellObject": "cell",
    "PathTileObject": "other",
    "PathRootObject": "other",
    "TMACoreObject": "other",
}
_AREAL = ("Polygon", "MultiPolygon")
_POINTS = ("Point", "MultiPoint", "LineString", "MultiLineString")


def accepts(root: Path) -> bool:
    """Whether there is a .geojson file."""
    return bool(_files(root))


def read(root: Path, reading: Reading) -> list[Labelled]:
    """Crops of the images of a folder that have a GeoJSON file of the same name.

    Both ``a.geojson`` and ``a.svs.geojson`` belong to ``a.svs``. Images without one are left out,
    with a note. See ``read_qupath`` and ``labelled_crops``.
    """
    images = by_stem(files_in(root, IMAGE_FOLDERS, IMAGE_SUFFIXES), IMAGE_SUFFIXES)
    drawings = by_stem([], SUFFIXES) | {_image_stem(path): path for path in _files(root)}
    bare = sorted(images.keys() - drawings.keys())
    what = f"{len(bare)} of {len(images)} images have no annotations: {listed(bare)}"
    reading.note(root, "left out", what, len(bare), len(images))
    pairs = join({k: v for k, v in images.items() if k in drawings}, drawings, root)
    return [
        item
        for image, drawing in pairs
        for item in labelled_crops(image, read_qupath(drawing, reading), reading)
    ]


def read_qupath(path: Path, reading: Reading) -> Drawn:
    """Nuclei and regions of a GeoJSON file; a FeatureCollection, an array, or one feature.

    Nuclei are detections, cells (their ``nucleusGeometry`` where they have one) and annotations,
    except annotations around two or more other objects. An annotation whose class begins with
    Region was annotated completely, of one that begins with Ignore nothing is known. Points,
    lines, tiles and TMA cores are left out, counted. Children come after their parent.

    Raises InputFileError, naming the feature, where anything is broken.
    """
    found = [_object(number, feature, path) for number, feature in _features(path)]
    objects = [one for one in found if one is not None]
    geometry = np.empty(len(objects), dtype=object)
    geometry[:] = [one.geometry for one in objects]
    outlines = valid_polygons(geometry)
    sound = shapely.area(outlines) > 0
    roles = np.array([one.role for one in objects], dtype="<U6")
    roles[_areas(outlines, roles, [one.kind for one in objects])] = "area"
    _note_left_out(path, len(found), len(objects), roles, sound, reading)
    nuclei = np.flatnonzero((roles == "") & sound)
    return Drawn(
        path,
        outlines[nuclei],
        [objects[i].name for i in nuclei.tolist()],
        regions=outlines[(roles == "region") & sound],
        ignored=outlines[(roles == "ignore") & sound],
    )


@dataclass(frozen=True, slots=True)
class _Object:
    kind: str
    name: str | None
    geometry: Any

    @property
    def role(self) -> str:
        """What an object is: "region", "ignore", or "" for a nucleus."""
        name = (self.name or "").casefold()
        if self.kind != "annotation":
            return ""
        return next((role for role in ("region", "ignore") if name.startswith(role)), "")


def _files(root: Path) -> list[Path]:
    return files_in(root, LABEL_FOLDERS, SUFFIXES)


def _image_stem(path: Path) -> str:
    stem = stem_of(path.name, SUFFIXES) or path.name
    return stem_of(stem, IMAGE_SUFFIXES) or stem


def _object(number: int, feature: dict[str, Any], path: Path) -> _Object | None:
    """One object; None of what is no nucleus and no region."""
    properties = feature.get("properties") or {}
    stated = properties.get("objectType") or properties.get("object_type") or feature.get("id")
    kind = _OBJECTS.get(str(stated), "annotation")
    given = feature.get("geometry")
    if kind == "cell":
        given = feature.get("nucleusGeometry") or given
    if kind == "other" or (isinstance(given, dict) and given.get("type") in _POINTS):
        return None
    return _Object(kind, _class_name(properties, number, path), _geometry(given, number, path))


def _geometry(given: Any, number: int, path: Path) -> Any:
    if not isinstance(given, dict) or given.get("type") not in _AREAL:
        kind = given.get("type") if isinstance(given, dict) else given
        raise _error(path, number, f"expected a Polygon or MultiPolygon, got {str(kind)[:60]!r}")
    try:
        outline = shapely.from_geojson(orjson.dumps(given))
    except (shapely.GEOSException, TypeError, ValueError) as error:
        raise _error(path, number, f"a broken outline: {str(error)[:200]}") from error
    if not np.isfinite(shapely.get_coordinates(outline)).all():
        raise _error(path, number, "a coordinate is not finite")
    return outline


def _class_name(properties: dict[str, Any], number: int, path: Path) -> str | None:
    given = properties.get("classification")
    if isinstance(given, dict):
        names = given.get("names") or given.get("name")
        given = ": ".join(map(str, names)) if isinstance(names, list) else names
    if given is not None and not isinstance(given, str):
        raise _error(path, number, f"expected the name of a class, got {str(given)[:60]}")
    return given or None


def _areas(outlines: NDArray[Any], roles: NDArray[Any], kinds: list[str]) -> NDArray[np.intp]:
    """Places of annotations around the centres of two or more other nuclei."""
    candidates = np.flatnonzero((np.array(kinds) == "annotation") & (roles == ""))
    nuclei = np.flatnonzero(roles == "")
    tree = shapely.STRtree(shapely.centroid(outlines[nuclei]))
    holder, held = tree.query(outlines[candidates], predicate="contains")
    others = candidates[holder] != nuclei[held]
    return candidates[np.bincount(holder[others], minlength=len(candidates)) >= 2]


def _note_left_out(
    path: Path, n: int, areal: int, roles: NDArray[Any], sound: NDArray[Any], reading: Reading
) -> None:
    areas = int(np.count_nonzero(roles == "area"))
    for count, what in (
        (n - areal, "points, lines, tiles or cores, no outlines of nuclei"),
        (areas, "annotations around several nuclei"),
        (int(np.count_nonzero(~sound)), "outlines without an area"),
    ):
        reading.note(path, "left out", f"{count} of {n} objects are left out: {what}", count, n)


def _features(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Features by number, children with that of their parent."""
    top = _parsed(path)
    if isinstance(top, dict) and top.get("type") == "FeatureCollection":
        top = top.get("features")
    elif isinstance(top, dict):
        top = [top]
    if not isinstance(top, list):
        raise InputFileError(
            f"{path}: expected GeoJSON (a FeatureCollection, an array of features, or a feature)"
        )
    for number, feature in enumerate(top, 1):
        yield from _with_children(feature, number, path)


def _with_children(feature: Any, number: int, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    properties = feature.get("properties") if isinstance(feature, dict) else 0
    if not isinstance(properties, dict | None) or feature.get("type", "Feature") != "Feature":
        raise _error(path, number, f"expected a Feature, got {str(feature)[:60]}")
    yield number, feature
    properties = properties or {}
    for child in properties.get("childObjects") or properties.get("children") or ():
        yield from _with_children(child, number, path)


def _parsed(path: Path) -> Any:
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except (OSError, EOFError, zlib.error) as error:
        raise InputFileError(f"{path}: cannot be read: {error}") from error
    data = data.removeprefix(b"\xef\xbb\xbf")
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        try:
            return json.loads(data)  # slower, but takes the NaN that many programs write
        except (ValueError, RecursionError):
            raise InputFileError(f"{path}: not JSON: {error}") from None


def _error(path: Path, number: int, what: str) -> InputFileError:
    return InputFileError(f"{path}: feature {number}: {what}")
