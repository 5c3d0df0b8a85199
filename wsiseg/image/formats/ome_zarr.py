"""OME-Zarr 0.4 (zarr v2) and 0.5 (zarr v3) folders, and the older 0.1 to 0.3.

Axes may come in any order of t, c, z, y, x; the first time point is read. ``scene`` counts the
images of a bioformats2raw collection (folders 0, 1, ...) or the multiscales of one group; ``z``
focal planes, the middle one being the default. The pixel size is the scale of the finest level
times that of the whole, in the unit of the axis. A chunk that is missing holds the array's
fill_value, as the format says; where the array declares none (zarr v2, ``null``), it is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.storage import FsspecStore, LocalStore

from wsiseg.errors import UnreadableSlideError, UnsupportedFormatError
from wsiseg.geometry import Box
from wsiseg.image.formats._mpp import UM_PER_UNIT, number
from wsiseg.image.formats._rgb import ColourRule, to_rgb
from wsiseg.image.formats._tiles import TileCache, TiledPlane, check_size
from wsiseg.image.level import Contents, Level, level_downsample
from wsiseg.storage.guarded import awaitable
from wsiseg.storage.remote import UrlPath

__all__ = ["open_contents"]

MAX_CHUNK_BYTES = 1 << 29
AXES = "tczyx"
LANES = 16  # chunks that are asked for at once, of a store that is far away


def open_contents(path: Path | UrlPath, scene: int | None, z: int | None) -> Contents:
    """Contents of an OME-Zarr folder, or of one at a URL, read chunk by chunk."""
    root = _group(path)
    images = _images(root)
    chosen = 0 if scene is None else scene
    if not 0 <= chosen < len(images):
        raise UnsupportedFormatError(f"scene must be 0 to {len(images) - 1}, got {chosen}")
    name, group, multiscales, omero = images[chosen]
    axes, units = _axes(multiscales)
    arrays = [_array(group, str(item["path"])) for item in multiscales["datasets"]]
    z_count = int(arrays[0].shape[axes.index("z")]) if "z" in axes else 1
    plane = z_count // 2 if z is None else z
    if not 0 <= plane < z_count:
        raise UnsupportedFormatError(f"z must be 0 to {z_count - 1}, got {plane}")
    state = _Open(path)
    levels = _levels(arrays, axes, plane, omero, state)
    mpp, note = _mpp(multiscales, axes, units)
    return Contents(
        format=f"ome-zarr (zarr v{root.metadata.zarr_format})",
        levels=levels,
        mpp=mpp,
        mpp_note=note,
        properties={"ome.name": str(multiscales.get("name") or name)},
        scene=chosen,
        scenes=tuple(image[0] for image in images),
        z=plane,
        z_count=z_count,
        close=state.close,
    )


class _Open:
    """Where the slide lies, whether it may still be read, and its decoded tiles."""

    def __init__(self, path: Path | UrlPath) -> None:
        self.path, self.closed, self.cache = path, False, TileCache()

    def close(self) -> None:
        self.closed = True


@dataclass(frozen=True, slots=True)
class _Chunks:
    """How a tile of one level is taken from its array."""

    array: Any
    axes: str
    z: int
    tile: tuple[int, int]
    shape: tuple[int, int]
    rule: ColourRule
    state: _Open

    def decode(self, i: int, j: int) -> NDArray[np.uint8]:
        if self.state.closed:
            raise UnreadableSlideError("the slide has been closed")
        start = (i * self.tile[0], j * self.tile[1])
        box = Box(start, (start[0] + self.tile[0], start[1] + self.tile[1])).clip(self.shape)
        place: dict[str, Any] = {"t": 0, "z": self.z, "c": slice(None)}
        place["y"], place["x"] = box.slices()
        key = tuple(place[axis] for axis in self.axes)
        if self.array.metadata.fill_value is None:
            self._refuse_missing(i, j)
        samples = np.asarray(self.array[key])
        kept = [axis for axis in self.axes if axis in "cyx"]
        if "c" in kept:
            samples = np.moveaxis(samples, kept.index("c"), -1)
            kept.remove("c")
        else:
            samples = samples[..., None]
        if kept == ["x", "y"]:
            samples = samples.swapaxes(0, 1)
        return to_rgb(samples, self.rule)

    def _refuse_missing(self, i: int, j: int) -> None:
        chunks = dict(zip(self.axes, self.array.chunks, strict=True))
        numbers = {"t": [0], "z": [self.z // chunks.get("z", 1)], "y": [i], "x": [j]}
        if "c" in self.axes:
            channels = self.array.shape[self.axes.index("c")]
            numbers["c"] = list(range(-(-channels // chunks["c"])))
        grid = np.array(np.meshgrid(*[numbers[axis] for axis in self.axes])).reshape(
            len(self.axes), -1
        )
        for coordinates in grid.T:
            name = self.array.metadata.encode_chunk_key(tuple(int(c) for c in coordinates))
            if not (self.state.path / self.array.path / name).is_file():
                raise UnreadableSlideError(
                    f"chunk {name} is missing, and the array declares no fill_value for it"
                )


def _store(path: Path | UrlPath) -> Any:
    if not isinstance(path, UrlPath):
        return LocalStore(path, read_only=True)
    files, inside = awaitable(path)
    return FsspecStore(files, path=inside, read_only=True)


def _group(path: Path | UrlPath) -> Any:
    try:
        return zarr.open_group(_store(path), mode="r")
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise UnreadableSlideError(
            f"the folder is not a zarr group that can be read: {type(error).__name__}: {error}"
        ) from error


def _images(root: Any) -> list[tuple[str, Any, Mapping[str, Any], Mapping[str, Any]]]:
    about = _about(root)
    if "plate" in about:
        raise UnsupportedFormatError("a high-content plate; open one of its fields (row/column/0)")
    found: list[tuple[str, Any, Mapping[str, Any], Mapping[str, Any]]] = [
        (str(item.get("name") or k), root, item, about.get("omero") or {})
        for k, item in enumerate(_list(about.get("multiscales")))
    ]
    if found:
        return found
    collection = (name for name in root.group_keys() if name.isdigit())
    for name in sorted(collection, key=int):
        image = root[name]
        inner = _about(image)
        for item in _list(inner.get("multiscales")):
            found.append((name, image, item, inner.get("omero") or {}))
    if not found:
        raise UnsupportedFormatError(
            "the zarr has no OME-Zarr multiscales (attributes 'multiscales' or 'ome.multiscales')"
        )
    return found


def _about(group: Any) -> Mapping[str, Any]:
    attributes = dict(group.attrs)
    inner = attributes.get("ome", attributes)
    return inner if isinstance(inner, dict) else {}


def _list(value: Any) -> list[dict[str, Any]]:
    items = value if isinstance(value, list) else []
    if any(not isinstance(item, dict) or not item.get("datasets") for item in items):
        raise UnreadableSlideError("its multiscales metadata name no datasets")
    return items


def _axes(multiscales: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    given = multiscales.get("axes") or list(AXES)  # 0.1 and 0.2 had no other order
    names = [a["name"] if isinstance(a, dict) else str(a) for a in given]
    if not {"y", "x"} <= set(names) or not set(names) <= set(AXES) or len(set(names)) < len(names):
        known = [name if name in AXES else "another" for name in names]
        raise UnsupportedFormatError(f"axes {known} are not y and x with some of t, c, z")
    units = {a["name"]: str(a["unit"]) for a in given if isinstance(a, dict) and a.get("unit")}
    return "".join(names), units


def _array(group: Any, path: str) -> Any:
    try:
        array = group[path]
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise UnreadableSlideError(
            f"its dataset {path!r} cannot be opened: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(array, zarr.Array):
        raise UnreadableSlideError(f"its dataset {path!r} is a group, not an array")
    return array


def _levels(
    arrays: list[Any], axes: str, z: int, omero: Mapping[str, Any], state: _Open
) -> tuple[Level, ...]:
    if not arrays:
        raise UnreadableSlideError("its multiscales metadata name no datasets")
    for k, array in enumerate(arrays):
        _check_array(f"level {k}", array, axes)
    full = max(_yx(array.shape, axes) for array in arrays)
    lanes = LANES if isinstance(state.path, UrlPath) else 1
    levels = []
    for k, array in enumerate(arrays):
        what = f"level {k}"
        shape, tile = _yx(array.shape, axes), _yx(array.chunks, axes)
        check_size(what, shape, tile)
        rule = _rule(array, axes, omero)
        chunks = _Chunks(
            array, axes, min(z, _extent(array, axes, "z") - 1), tile, shape, rule, state
        )
        plane = TiledPlane(shape, tile, chunks.decode, state.cache, lanes=lanes)
        levels.append(Level(shape, level_downsample(full, shape), plane.read, tile))
    return tuple(sorted(levels, key=lambda level: level.downsample))


def _check_array(what: str, array: Any, axes: str) -> None:
    if array.ndim != len(axes):
        raise UnreadableSlideError(f"{what} has {array.ndim} axes, its metadata name {axes!r}")
    if array.dtype.kind not in "bufi":
        raise UnsupportedFormatError(f"{what} has samples of type {array.dtype}, expected numbers")
    if min(array.shape) < 1:
        raise UnreadableSlideError(f"{what} has no pixels: shape {array.shape}")
    size = int(np.prod(array.chunks, dtype=object)) * array.dtype.itemsize
    if size > MAX_CHUNK_BYTES:
        raise UnsupportedFormatError(
            f"{what} has chunks of {array.chunks} ({size} bytes); at most 2^29 are decoded at once"
        )


def _rule(array: Any, axes: str, omero: Mapping[str, Any]) -> ColourRule:
    channels = _extent(array, axes, "c")
    bits = 8 * array.dtype.itemsize
    if channels == 1:
        rule = ColourRule("grey", bits)
    else:
        colours = _colours(omero, channels)
        red_green_blue = ((255, 0, 0), (0, 255, 0), (0, 0, 255))
        is_rgb = channels == 3 and colours in ((), red_green_blue)
        rule = ColourRule("rgb", bits) if is_rgb else ColourRule("channels", bits, colours=colours)
    to_rgb(np.zeros((1, 1, channels), array.dtype), rule)  # a type without a rule is refused now
    return rule


def _colours(omero: Mapping[str, Any], channels: int) -> tuple[tuple[int, int, int], ...]:
    try:
        texts = [int(str(c["color"]).lstrip("#")[:6], 16) for c in omero.get("channels", [])]
    except (KeyError, TypeError, ValueError):
        return ()
    colours = tuple((v >> 16 & 255, v >> 8 & 255, v & 255) for v in texts)
    return colours if len(colours) == channels else ()


def _mpp(
    multiscales: Mapping[str, Any], axes: str, units: Mapping[str, str]
) -> tuple[tuple[float, float] | None, str]:
    datasets = multiscales["datasets"]
    scale = np.ones(len(axes))
    for item in (datasets[0], multiscales):
        for step in item.get("coordinateTransformations") or []:
            if isinstance(step, dict) and step.get("type") == "scale":
                values = [number(v) for v in step.get("scale") or []]
                if len(values) != len(axes) or None in values:
                    return None, f"its scale {step.get('scale')} does not fit the axes {axes!r}"
                scale = scale * np.array(values, dtype=np.float64)
    found = []
    for axis in "yx":
        factor = UM_PER_UNIT.get(units.get(axis, "").lower())
        if factor is None:
            return None, f"its axis {axis} has no unit of length"
        found.append(float(scale[axes.index(axis)]) * factor)
    return (found[0], found[1]), "OME-Zarr scale"


def _yx(values: Any, axes: str) -> tuple[int, int]:
    return int(values[axes.index("y")]), int(values[axes.index("x")])


def _extent(array: Any, axes: str, axis: str) -> int:
    return int(array.shape[axes.index(axis)]) if axis in axes else 1
