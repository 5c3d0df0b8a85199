"""GeoJSON text into features, numbered as in the file: streamed where its layout is our own."""

from __future__ import annotations

import gc
import gzip
import json
import logging
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import orjson

from wsiseg.errors import InputFileError
from wsiseg.export.geojson import FIRST_LINE, LAST_LINE

__all__ = ["Features", "without_collection"]

_log = logging.getLogger(__name__)

_LARGE = 500 << 20  # bytes of text: worth a note, because parsed it takes several times that
_GEOMETRIES = (
    *("Point", "MultiPoint", "LineString", "MultiLineString"),
    *("Polygon", "MultiPolygon", "GeometryCollection"),
)


class Features:
    """The features of a GeoJSON file, children included; may be iterated more than once.

    Yields (number, feature): the number counts the features of the file from 1, and the children
    of a feature (``childObjects``) bear the number of their parent. A file laid out a feature per
    line, as ours are, is read line by line in flat memory; any other is held in memory whole.
    Accepted are what QuPath accepts, plain or gzipped: a FeatureCollection, an array of features,
    one feature, or a bare geometry.

    Raises InputFileError, naming the file and the feature.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._opened() as file:
            head = file.readline(), file.readline()
        self._whole = None if _is_ours(*head) else self._load()

    def __iter__(self) -> Iterator[tuple[int, dict[str, Any]]]:
        features = self._stream() if self._whole is None else enumerate(self._whole, 1)
        for number, feature in features:
            yield from self._with_children(number, feature)

    def error(self, number: int, what: str) -> InputFileError:
        """The error that says what is wrong with a feature."""
        return InputFileError(f"{self._path}: feature {number}: {what}")

    @contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        try:
            with self._path.open("rb") as raw:
                magic = raw.read(2)
                raw.seek(0)
                yield cast("BinaryIO", gzip.GzipFile(fileobj=raw)) if magic == b"\x1f\x8b" else raw
        except (OSError, EOFError, zlib.error) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise InputFileError(f"{self._path}: cannot be read: {reason}") from error

    def _stream(self) -> Iterator[tuple[int, Any]]:
        with self._opened() as file:
            file.readline()
            for number, line in enumerate(file, 1):
                text = line.strip()
                if text == LAST_LINE.strip():
                    break
                yield number, self._parsed(text.removesuffix(b","), f"feature {number}")
            else:
                raise InputFileError(f"{self._path}: the file is cut off: it does not end in ]}}")
            if file.read().strip():
                raise InputFileError(f"{self._path}: there is text after the end of the features")

    def _load(self) -> list[Any]:
        with self._opened() as file:
            text = file.read().removeprefix(b"\xef\xbb\xbf")
        if len(text) > _LARGE:
            _log.info("%s: %d MB of GeoJSON are read whole", self._path, len(text) >> 20)
        with without_collection():
            return self._features_of(self._parsed(text, "the file"))

    def _parsed(self, text: bytes, where: str) -> Any:
        try:
            return orjson.loads(text)
        except orjson.JSONDecodeError as error:
            try:
                return json.loads(text)  # slower, but takes the NaN that many programs write
            except (ValueError, RecursionError):
                raise InputFileError(f"{self._path}: {where} is not JSON: {error}") from None

    def _features_of(self, top: Any) -> list[Any]:
        if isinstance(top, list):
            return top
        kind = top.get("type") if isinstance(top, dict) else None
        if kind == "FeatureCollection" and isinstance(top.get("features"), list):
            return cast("list[Any]", top["features"])
        if kind == "Feature":
            return [top]
        if kind in _GEOMETRIES:
            return [{"type": "Feature", "geometry": top}]
        raise InputFileError(
            f"{self._path}: expected GeoJSON (a FeatureCollection, an array of features, a feature "
            f"or a geometry), got {f'type {kind!r}' if kind else type(top).__name__}"
        )

    def _with_children(self, number: int, feature: Any) -> Iterator[tuple[int, dict[str, Any]]]:
        if not isinstance(feature, dict) or feature.get("type", "Feature") != "Feature":
            raise self.error(number, f"expected a Feature, got {str(feature)[:60]}")
        properties = feature.setdefault("properties", {}) or {}
        if not isinstance(properties, dict):
            raise self.error(number, f"expected properties, got {str(properties)[:60]}")
        feature["properties"] = properties
        yield number, feature
        for child in properties.get("childObjects") or properties.get("children") or ():
            yield from self._with_children(number, child)


@contextmanager
def without_collection() -> Iterator[None]:
    """No garbage collection meanwhile: among millions of parsed lists it takes most of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _is_ours(first: bytes, second: bytes) -> bool:
    """Whether the layout is a feature per line."""
    if first != FIRST_LINE:
        return False
    try:
        return isinstance(orjson.loads(second.strip().removesuffix(b",")), dict)
    except orjson.JSONDecodeError:
        return False
