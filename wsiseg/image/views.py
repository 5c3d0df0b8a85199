"""A level as a dask or zarr array: nothing is read until a chunk is asked for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from typing import Any, Protocol

import dask.array
import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.store import (
    ByteRequest,
    OffsetByteRequest,
    RangeByteRequest,
    Store,
    SuffixByteRequest,
)
from zarr.core.buffer import Buffer, BufferPrototype

from wsiseg.geometry import Box
from wsiseg.image.level import Level

__all__ = ["as_dask", "as_zarr", "chunks_of"]

CHUNK = 1024  # px per side that chunks come near to, in whole tiles of the file
METADATA = "zarr.json"


class Leveled(Protocol):
    """What a view needs of a slide."""

    @property
    def levels(self) -> tuple[Level, ...]:
        """Its levels."""
        ...

    def read_level(self, level: int, box: Box) -> NDArray[np.uint8]:
        """Pixels of a box of a level."""
        ...


def chunks_of(level: Level) -> tuple[int, int]:
    """Chunk (h, w) of a level: whole tiles of the file, of about 1024 px per side."""
    h, w = (
        min(size, tile * max(1, CHUNK // tile))
        for size, tile in zip(level.shape, level.tile, strict=True)
    )
    return h, w


def as_dask(slide: Leveled, level: int) -> dask.array.Array:
    """The level as a lazy array (h, w, 3) uint8; its tasks carry the slide by reference."""
    lazy = _LevelArray(slide, level)
    return dask.array.from_array(
        lazy,
        chunks=(*chunks_of(slide.levels[level]), 3),
        name=False,  # no hash of the pixels
        asarray=False,
        lock=False,
        meta=np.empty((0, 0, 0), dtype=np.uint8),
    )


def as_zarr(slide: Leveled, level: int) -> zarr.Array[Any]:
    """The level as a read-only zarr v3 array (h, w, 3) uint8, chunks as ``chunks_of``."""
    return zarr.open_array(LevelStore(slide, level), mode="r", zarr_format=3)


class _LevelArray:
    """What dask needs to take blocks from a level."""

    dtype = np.dtype(np.uint8)
    ndim = 3

    def __init__(self, slide: Leveled, level: int) -> None:
        self._slide, self._level = slide, level
        self.shape = (*slide.levels[level].shape, 3)

    def __getitem__(self, index: tuple[slice, ...]) -> NDArray[np.uint8]:
        (y, x), rest = index[:2], index[2:]
        spans = [part.indices(size)[:2] for part, size in zip((y, x), self.shape, strict=False)]
        box = Box((spans[0][0], spans[1][0]), (spans[0][1], spans[1][1]))
        return self._slide.read_level(self._level, box)[(slice(None), slice(None), *rest)]


class LevelStore(Store):  # type: ignore[misc]  # zarr is not followed by mypy here
    """A zarr v3 store of one uncompressed array, whose chunks are read from a level."""

    def __init__(self, slide: Leveled, level: int) -> None:
        super().__init__(read_only=True)
        self._slide, self._level = slide, level
        self._chunk = chunks_of(slide.levels[level])
        self._metadata = json.dumps(_metadata((*slide.levels[level].shape, 3), self._chunk))

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, LevelStore)
            and (self._slide is other._slide)
            and self._level == other._level
        )

    def __hash__(self) -> int:
        return hash((id(self._slide), self._level))

    def __reduce__(self) -> tuple[Any, ...]:
        return LevelStore, (self._slide, self._level)

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Bytes of the metadata or of a chunk; None for any other key."""
        if key == METADATA:
            data = self._metadata.encode()
        elif (index := self._index(key)) is not None:
            data = await asyncio.to_thread(self._chunk_bytes, index)
        else:
            return None
        return prototype.buffer.from_bytes(_cut(data, byte_range))

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> list[Buffer | None]:
        """As ``get``, for several."""
        return [await self.get(key, prototype, part) for key, part in key_ranges]

    async def exists(self, key: str) -> bool:
        """Whether ``key`` is the metadata or a chunk."""
        return key == METADATA or self._index(key) is not None

    @property
    def supports_writes(self) -> bool:
        """Never."""
        return False

    @property
    def supports_deletes(self) -> bool:
        """Never."""
        return False

    @property
    def supports_listing(self) -> bool:
        """Always."""
        return True

    async def set(self, key: str, value: Buffer) -> None:
        """Refused: the store is read-only."""
        self._check_writable()

    async def delete(self, key: str) -> None:
        """Refused: the store is read-only."""
        self._check_writable()

    async def list(self) -> AsyncIterator[str]:
        """All keys."""
        yield METADATA
        counts = self._counts()
        for i in range(counts[0]):
            for j in range(counts[1]):
                yield f"c/{i}/{j}/0"

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Keys that begin with ``prefix``."""
        async for key in self.list():
            if key.startswith(prefix):
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Names directly below ``prefix``."""
        below = prefix.rstrip("/") + "/" if prefix else ""
        seen: set[str] = set()
        async for key in self.list_prefix(below):
            name = key[len(below) :].split("/")[0]
            if name not in seen:
                seen.add(name)
                yield name

    def _counts(self) -> tuple[int, int]:
        h, w = self._slide.levels[self._level].shape
        return -(-h // self._chunk[0]), -(-w // self._chunk[1])

    def _index(self, key: str) -> tuple[int, int] | None:
        parts = key.split("/")
        if len(parts) != 4 or parts[0] != "c" or not all(p.isdigit() for p in parts[1:]):
            return None
        i, j, last = map(int, parts[1:])
        counts = self._counts()
        return (i, j) if i < counts[0] and j < counts[1] and last == 0 else None

    def _chunk_bytes(self, index: tuple[int, int]) -> bytes:
        start = tuple(i * c for i, c in zip(index, self._chunk, strict=True))
        stop = tuple(s + c for s, c in zip(start, self._chunk, strict=True))
        return self._slide.read_level(self._level, Box(start, stop)).tobytes()


def _metadata(shape: tuple[int, ...], chunk: tuple[int, int]) -> dict[str, Any]:
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": "uint8",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [*chunk, 3]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 255,
        "codecs": [{"name": "bytes"}],
        "dimension_names": ["y", "x", "c"],
        "attributes": {},
    }


def _cut(data: bytes, part: ByteRequest | None) -> bytes:
    if isinstance(part, RangeByteRequest):
        return data[part.start : part.end]
    if isinstance(part, OffsetByteRequest):
        return data[part.offset :]
    if isinstance(part, SuffixByteRequest):
        return data[-part.suffix :]
    return data
