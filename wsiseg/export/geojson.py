"""Cells as GeoJSON that QuPath 0.4 and later opens: one feature per line, streamed as bytes.

Coordinates are (x, y), level-0 px of the image that QuPath opens.
Layout: ``{"type":"FeatureCollection","features":[``, a line per feature, ``]}``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import orjson
import shapely
from numpy.typing import NDArray

from wsiseg.atomic import atomic_write
from wsiseg.cells.batch import CellBatch
from wsiseg.export.colors import RGB, class_color
from wsiseg.export.coordinates import ring_texts
from wsiseg.export.decimals import decimals
from wsiseg.export.exportable import ids_as_bytes
from wsiseg.export.gzipped import gzipped
from wsiseg.export.rings import Rings
from wsiseg.export.texts import Texts, chosen, of_width, woven

__all__ = ["FIRST_LINE", "LAST_LINE", "geojson_lines", "geojson_sink"]

FIRST_LINE = b'{"type":"FeatureCollection","features":[\n'
LAST_LINE = b"\n]}\n"

_BLOCK = 1 << 20
# by what begins or ends with a ring: itself, a part of a MultiPolygon, a geometry
_BEFORE = (
    b",[",
    b",[[",
    b'{"type":"Polygon","coordinates":[[',
    b'{"type":"MultiPolygon","coordinates":[[[',
)
_AFTER = (b"]", b"]]", b"]]}", b"]]]}")


@contextmanager
def geojson_sink(
    path: Path, colors: Mapping[str, RGB] | None = None
) -> Iterator[Callable[[CellBatch], None]]:
    """A function that appends exportable cells to ``path``, gzipped where it ends in ``.gz``.

    The file appears when the block ends well. ``colors`` overrides the colour of a class. Bytes
    depend on the cells alone: gzip has no time, no name and a fixed level.
    Raises OutputError where the file cannot be written.
    """
    with atomic_write(path) as file, _blocks(file, path.name.endswith(".gz")) as write:
        separator = FIRST_LINE

        def add(batch: CellBatch) -> None:
            nonlocal separator
            if len(batch):
                write(separator)
                write(geojson_lines(batch, colors, between=b",\n").joined())
                separator = b",\n"

        yield add
        write((FIRST_LINE if separator is FIRST_LINE else b"") + LAST_LINE)


@contextmanager
def _blocks(file: BinaryIO, compressed: bool) -> Iterator[Callable[[bytes | memoryview], None]]:
    """A write function that hands on blocks of a fixed size, however the rows arrive."""
    with gzipped(file) if compressed else nullcontext(file.write) as hand_on:
        waiting = bytearray()

        def hand_on_first(size: int) -> None:
            for first in range(0, size, _BLOCK):
                hand_on(bytes(waiting[first : min(first + _BLOCK, size)]))
            del waiting[:size]

        def write(data: bytes | memoryview) -> None:
            waiting.extend(data)
            hand_on_first(len(waiting) // _BLOCK * _BLOCK)

        yield write
        hand_on_first(len(waiting))


def geojson_lines(
    batch: CellBatch, colors: Mapping[str, RGB] | None = None, *, between: bytes = b""
) -> Texts:
    """One Feature per cell, without line breaks; ``batch`` must come from ``exportable``.

    ``objectType`` is ``detection``, or ``cell`` where the batch has nuclei. All but the last are
    followed by ``between``.
    """
    n = len(batch)
    every, last = np.zeros(n, np.int64), np.arange(n) == n - 1
    kind = "detection" if batch.nucleus is None else "cell"
    return woven(
        [
            chosen([b'{"type":"Feature","id":"'], every),
            of_width(ids_as_bytes(batch.id)),
            chosen([b'","geometry":'], every),
            geometry_texts(batch.geometry),
            *_nucleus_texts(batch),
            chosen(_property_heads(kind, batch.classes, colors or {}), batch.class_index),
            *_measurement_texts(batch.measurements, n),
            chosen([b"}}" + between, b"}}"], last.astype(np.int64)),
        ]
    )


def _property_heads(kind: str, classes: tuple[str, ...], colors: Mapping[str, RGB]) -> list[bytes]:
    """``objectType`` and ``classification`` per class; the last one, index -1, has no class."""
    plain = b',"properties":{"objectType":"%b"' % kind.encode()
    looks = ({"name": name, "color": list(colors.get(name, class_color(name)))} for name in classes)
    return [plain + b',"classification":' + orjson.dumps(look) for look in looks] + [plain]


def geometry_texts(geometry: NDArray[Any]) -> Texts:
    """GeoJSON geometry objects of Polygons and MultiPolygons (none missing or empty)."""
    rings = Rings.of(geometry)
    vertices = ring_texts(rings.xy, rings.offsets)
    columns = [chosen(_BEFORE, rings.begins), vertices, chosen(_AFTER, rings.ends)]
    return woven(columns).grouped(rings.geometries)


def _nucleus_texts(batch: CellBatch) -> list[Texts]:
    if batch.nucleus is None:
        return []
    present = ~shapely.is_missing(batch.nucleus)
    found = geometry_texts(batch.nucleus[present])
    starts, stops = np.zeros((2, len(batch)), np.int64)
    starts[present], stops[present] = found.starts, found.stops
    key = chosen([b"", b',"nucleusGeometry":'], present.astype(np.int64))
    return [key, Texts(found.data, starts, stops)]


def _measurement_texts(columns: Mapping[str, NDArray[np.float64]], n: int) -> list[Texts]:
    """``,"measurements":{...}`` of each row, without NaN; nothing where none is left."""
    before = np.zeros(n, np.int64)  # whether a value was there in an earlier column
    texts = []
    for name, column in columns.items():
        present = ~np.isnan(column)
        key = orjson.dumps(name) + b":"
        heads = [b"", b',"measurements":{' + key, b"," + key]
        texts += [chosen(heads, present * (1 + before)), decimals(column.astype(np.float32))]
        before |= present
    return [*texts, chosen([b"", b"}"], before)] if texts else []
