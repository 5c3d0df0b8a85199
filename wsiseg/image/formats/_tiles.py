"""A plane stored in tiles: boxes are put together from the tiles they touch, and from no others."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import UnreadableSlideError, UnsupportedFormatError, WsisegError
from wsiseg.geometry import Box, Tile, TileGrid
from wsiseg.image.level import DECODE_ERRORS

__all__ = ["MAX_PIXELS", "MAX_TILE_PIXELS", "TileCache", "TiledPlane", "check_size"]

MAX_PIXELS = 1 << 40  # of a level: ten times the largest scanner's slide
MAX_TILE_PIXELS = 1 << 28  # decoded in one piece: 16384 x 16384
CACHE_BYTES = 64 << 20


class TileCache:
    """Decoded tiles of one open slide, the least recently used thrown out first."""

    def __init__(self, capacity: int = CACHE_BYTES) -> None:
        self._capacity, self._bytes = capacity, 0
        self._tiles: OrderedDict[Hashable, NDArray[np.uint8]] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Hashable, decode: Callable[[], NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """The tile of ``key``, decoded if it is not here (outside the lock; at worst twice)."""
        with self._lock:
            if key in self._tiles:
                self._tiles.move_to_end(key)
                return self._tiles[key]
        tile = decode()
        with self._lock:
            if key not in self._tiles and tile.nbytes <= self._capacity // 4:
                self._tiles[key] = tile
                self._bytes += tile.nbytes
            while self._bytes > self._capacity:
                self._bytes -= self._tiles.popitem(last=False)[1].nbytes
        return tile


class TiledPlane:
    """One level (h, w, 3) uint8 stored in tiles of a fixed size from its corner."""

    def __init__(
        self,
        shape: tuple[int, int],
        tile: tuple[int, int],
        decode: Callable[[int, int], NDArray[np.uint8] | None],
        cache: TileCache,
        *,
        lanes: int = 1,
    ) -> None:
        """``lanes``: tiles of a box that are asked for at once, where each takes a journey."""
        self.shape, self.tile = shape, tile
        self._lanes = lanes
        self._decode, self._cache = decode, cache
        self._grid = TileGrid(shape, tile, 0)

    def read(self, box: Box) -> NDArray[np.uint8]:
        """Pixels of a box inside the plane; tiles that the file leaves out are white."""
        out = np.empty((*box.shape, 3), dtype=np.uint8)
        for tile, pixels in self._found(box):
            part = tile.core.intersect(box)
            self._check(pixels, tile.core)
            inside = pixels[part.slices(tile.core.start)] if pixels.size else np.uint8(255)
            out[part.slices(box.start)] = inside
        return out

    def _found(self, box: Box) -> Iterator[tuple[Tile, NDArray[np.uint8]]]:
        """Each tile that a box touches, with its pixels."""
        tiles = iter(self._grid.overlapping(box))
        if self._lanes == 1:
            yield from ((tile, self._tile(tile)) for tile in tiles)
            return
        with ThreadPoolExecutor(self._lanes) as pool:
            while some := list(islice(tiles, 4 * self._lanes)):
                yield from zip(some, pool.map(self._tile, some), strict=True)

    def _tile(self, tile: Tile) -> NDArray[np.uint8]:
        return self._cache.get((id(self), tile.index), partial(self._one, tile.index))

    def _one(self, index: tuple[int, ...]) -> NDArray[np.uint8]:
        try:
            pixels = self._decode(index[0], index[1])
        except DECODE_ERRORS as error:
            kind = type(error) if isinstance(error, WsisegError) else UnreadableSlideError
            y, x = (i * t for i, t in zip(index, self.tile, strict=True))
            raise kind(f"the tile at y {y}, x {x}: {type(error).__name__}: {error}") from error
        return np.empty((0, 0, 3), dtype=np.uint8) if pixels is None else pixels

    def _check(self, pixels: NDArray[np.uint8], core: Box) -> None:
        enough = all(a >= b for a, b in zip(pixels.shape, core.shape, strict=False))
        if pixels.size and not enough:
            raise UnreadableSlideError(
                f"the tile at y {core.start[0]}, x {core.start[1]} holds {pixels.shape[:2]} px, "
                f"expected {core.shape}"
            )


def check_size(what: str, shape: tuple[int, ...], tile: tuple[int, ...]) -> None:
    """Refuse a level without pixels, or with more than any slide has, before anything is decoded.

    Raises UnreadableSlideError (no pixels) or UnsupportedFormatError (too many).
    """
    if min(shape) < 1 or min(tile) < 1:
        raise UnreadableSlideError(f"{what} has no pixels: shape {shape}, tiles of {tile}")
    if shape[0] * shape[1] > MAX_PIXELS:
        raise UnsupportedFormatError(
            f"{what} claims {shape[0]} x {shape[1]} px; at most 2^40 px are accepted"
        )
    size = min(tile[0], shape[0]) * min(tile[1], shape[1])
    if size > MAX_TILE_PIXELS or tile[0] * tile[1] > 4 * MAX_TILE_PIXELS:
        raise UnsupportedFormatError(
            f"{what} ({shape[0]} x {shape[1]} px) is stored in pieces of {tile[0]} x {tile[1]} px; "
            f"at most 2^28 px can be decoded at once: convert it to a tiled TIFF"
        )
