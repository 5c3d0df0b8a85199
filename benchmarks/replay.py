"""A real field of tissue repeated over a slide of any size, and a model that replays its maps.

The slide is a small file: its tiles are those of one block, their offsets repeated. The maps of the
block are computed once by the default model; a patch is known by its pixels. So a run on many
gigapixels costs reading, decoding, stitching and writing, but no network.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from biopsy import BIOPSY, densest, plan_for
from numpy.typing import NDArray

from wsiseg.engine.clock import Clock
from wsiseg.engine.infer import PatchMaps
from wsiseg.geometry import Box, Tile
from wsiseg.model.base import LocalModel, Maps, ModelSpec
from wsiseg.model.zoo import load_model
from wsiseg.synth.pyramid import write_he_slide

__all__ = ["BLOCK", "UNIT", "Replay", "make_block", "repeat", "replay", "write_block"]

BLOCK, PATCH = 4096, 512
UNIT = 4 * BLOCK
"""Px: blocks are repeated by so many, so that the pyramid has the levels of large slides."""
WHITE = 255

_WIDTH, _HEIGHT, _OFFSETS, _COUNTS = 256, 257, 324, 325  # TIFF tags
_LONG = 4


class _Pixels:
    """A field of tissue in the middle of each white block, over the corner of four regions."""

    def __init__(self, field: NDArray[np.uint8], mpp: float) -> None:
        self.shape, self.mpp = (UNIT, UNIT), mpp
        self._rgb = np.full((BLOCK, BLOCK, 3), WHITE, np.uint8)
        at = (BLOCK - len(field)) // 2
        self._rgb[at : at + len(field), at : at + len(field)] = field

    def pixels(self, box: Box) -> NDArray[np.uint8]:
        rows, columns = (np.arange(a, b) % BLOCK for a, b in zip(box.start, box.stop, strict=True))
        return self._rgb[np.ix_(rows, columns)]


def write_block(folder: Path, side: int) -> None:
    """Write ``block.tif`` with the densest field of ``side`` px in each block."""
    (field,) = densest(plan_for(BIOPSY), side, 1)
    spacing = plan_for(BIOPSY).space.spacing[0]
    write_he_slide(folder / "block.tif", _Pixels(field.pixels, spacing))


def make_block(folder: Path, side: int) -> None:
    """Write ``block.tif``, UNIT px of blocks, and ``maps.npz``: the default model's maps of one."""
    write_block(folder, side)
    plan = plan_for(folder / "block.tif")
    if plan.space.shape != (UNIT, UNIT):
        raise RuntimeError(f"the block must be its own lattice, got {plan.space.shape}")
    source = PatchMaps(plan.slide, plan.model, plan.space, plan.active)
    one = Box.of_shape((BLOCK, BLOCK))
    maps = source.maps(Tile((0, 0), one, one), Clock())
    pixels = plan.slide.read_level(0, one)
    stack = np.concatenate([maps.prob[None], maps.hv, maps.classes])
    known = {_name(pixels[box.slices()]): stack[(slice(None), *box.slices())] for box in _boxes()}
    names = np.array(list(known))
    np.savez(folder / "maps.npz", names=names, stacks=np.stack(list(known.values())))


def _boxes() -> list[Box]:
    starts = range(0, BLOCK, PATCH)
    return [Box((y, x), (y + PATCH, x + PATCH)) for y in starts for x in starts]


def _name(pixels: NDArray[np.uint8]) -> str:
    return blake2b(np.ascontiguousarray(pixels), digest_size=16).hexdigest()


class Replay:
    """A LocalModel that looks its maps up and decodes them as the default model does."""

    def __init__(self, model: LocalModel, stacks: dict[str, NDArray[np.float16]]) -> None:
        self._model, self._stacks = model, stacks
        self.spec: ModelSpec = replace(model.spec, patch=(PATCH, PATCH), margin=0, batch=1)
        self.numerics = "replay"

    def __call__(self, patches: NDArray[Any]) -> Maps:
        stacks = np.stack([self._stacks.get(_name(p), self._blank) for p in patches])
        v = 1 + self.spec.hv_channels
        return Maps(prob=stacks[:, 0], hv=stacks[:, 1:v], classes=stacks[:, v:])

    @property
    def _blank(self) -> NDArray[np.float16]:
        """Of the patch that warms up the kernels."""
        return np.zeros_like(next(iter(self._stacks.values())))

    def links(self, maps: Maps) -> NDArray[np.uint8]:
        return self._model.links(maps)

    def decode(self, maps: Maps) -> NDArray[np.int32]:
        return self._model.decode(maps)


def replay(folder: Path) -> Replay:
    """The model that knows the block of ``folder``."""
    with np.load(folder / "maps.npz") as stored:
        stacks = dict(zip(stored["names"].tolist(), stored["stacks"], strict=True))
    model = load_model(plan_for(folder / "block.tif").spec.name)
    assert isinstance(model, LocalModel)
    return Replay(model, stacks)


def repeat(block: Path, times: int, out: Path) -> None:
    """Write a slide of ``times`` x ``times`` units: the tiles of ``block`` and larger lists."""
    data = bytearray(block.read_bytes())
    with tifffile.TiffFile(block) as file:
        order = file.byteorder
        pages = [_repeated(page, times) for page in file.pages]
        starts = [page.offset for page in file.pages]
    at = struct.pack_into
    link = 4  # where the offset of the next directory is written
    for start, lists in zip(starts, pages, strict=True):
        (count,) = struct.unpack_from(order + "H", data, start)
        entries = [bytes(data[start + 2 + 12 * i : start + 14 + 12 * i]) for i in range(count)]
        made = b"".join(_entry(entry, lists, data, order) for entry in entries)
        data.extend(b"\0" * (len(data) % 2))
        at(order + "I", data, link, len(data))
        data.extend(struct.pack(order + "H", count) + made)
        link = len(data)
        data.extend(b"\0" * 4)
    out.write_bytes(data)


def _repeated(page: Any, times: int) -> dict[int, NDArray[np.uint32]]:
    """New values of the tags that say how large a level is and where its tiles lie."""
    grid = (page.imagelength // page.tilelength, page.imagewidth // page.tilewidth)
    lists = {_OFFSETS: page.dataoffsets, _COUNTS: page.databytecounts}
    values = {
        tag: np.tile(np.array(v, np.uint32).reshape(grid), (times, times)).ravel()
        for tag, v in lists.items()
    }
    sizes = {_WIDTH: page.imagewidth, _HEIGHT: page.imagelength}
    return values | {tag: np.array([times * v], np.uint32) for tag, v in sizes.items()}


def _entry(
    entry: bytes, lists: dict[int, NDArray[np.uint32]], data: bytearray, order: str
) -> bytes:
    """A directory entry, with new values if ``lists`` has any: they go to the end of ``data``."""
    (tag,) = struct.unpack_from(order + "H", entry)
    if tag not in lists:
        return entry
    values = lists[tag].astype(order + "u4").tobytes()
    head = struct.pack(order + "HHI", tag, _LONG, len(lists[tag]))
    if len(values) <= 4:
        return head + values
    data.extend(b"\0" * (len(data) % 2))
    place = struct.pack(order + "I", len(data))
    data.extend(values)
    return head + place
