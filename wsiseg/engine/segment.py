"""The sentence: maps -> links -> fragments of each region -> every object once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.cells.objects import Objects, objects_in
from wsiseg.engine.clock import Clock
from wsiseg.engine.executor import Executor, Serial
from wsiseg.engine.infer import PatchMaps, Turns, patch_grid
from wsiseg.engine.stitch import Fragments, stitch
from wsiseg.engine.tiles import Tiles
from wsiseg.engine.twins import VIEW_COLUMNS, views
from wsiseg.errors import ModelError
from wsiseg.geometry import Box, Space, Tile, TileGrid
from wsiseg.geometry.links import FOREGROUND, components, links_of
from wsiseg.image.source import Source
from wsiseg.model.base import LocalModel, Maps, Model, ModelSpec

__all__ = ["RegionWork", "find_objects", "in_bands", "region_grid", "regions_to_do", "warm_up"]


def region_grid(space: Space, spec: ModelSpec, region: int) -> TileGrid:
    """Regions of ``region`` px of the lattice, each read far enough to decode 1 px beyond."""
    return TileGrid(space.shape, (region,) * space.ndim, spec.reach + 1)


def regions_to_do(
    grid: TileGrid, space: Space, spec: ModelSpec, active: NDArray[np.bool_]
) -> Tiles:
    """Regions that see an active patch, in row-major order; the others hold nothing."""
    core = patch_grid(space, spec).tile
    seen = active.astype(np.int32)
    for axis, sides in enumerate(zip(grid.shape, grid.tile, core, strict=True)):
        first, last = _patches_under(*sides, grid.halo)
        sums = np.insert(np.cumsum(seen, axis, dtype=np.int32), 0, 0, axis)
        seen = sums.take(last, axis) - sums.take(first, axis)
    return Tiles(grid, np.flatnonzero(seen))


def in_bands(tiles: Tiles, width: int, processes: int = 1) -> Tiles:
    """``tiles`` in bands along their longest axis, at most ``width`` wide, each slice by slice.

    What neighbours share is then needed again soon, however large the slide is. Cut into equal
    runs for ``processes``, which share nothing, bands are as wide as makes the runs compact.
    """
    places = tiles.indices
    if not len(places):
        return tiles
    places -= places.min(axis=0)
    extent = places.max(axis=0) + 1
    side = (len(places) / processes) ** (1 / len(extent))  # of a compact run
    bands = np.maximum(1, np.rint(extent / side))
    widths = np.minimum(width, np.ceil(extent / bands)).astype(np.int64)
    # the border between two runs is the shortest when one band holds all along the longest axis,
    # or else when many lie along the shortest
    along = int(extent.argmax() if np.sort(extent)[-2:][0] <= width else extent.argmin())
    across = np.delete(places // widths, along, axis=1)
    keys = [*across.T, places[:, along], *np.delete(places, along, axis=1).T]
    return Tiles(tiles.grid, tiles.numbers[np.lexsort(keys[::-1])])


def _patches_under(
    length: int, tile: int, core: int, halo: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Along one axis: the first patch that each region reads, and the one after the last."""
    starts = np.arange(0, length, tile)
    low = np.maximum(starts - halo, 0)
    high = np.minimum(np.minimum(starts + tile, length) + halo, length)
    return low // core, -(-high // core)


@dataclass(frozen=True, slots=True)
class RegionWork:
    """What one worker does with one region: read, infer, decode, cut into fragments."""

    maps: PatchMaps
    """Where maps come from."""
    model: Model
    """How they are decoded."""
    grid: TileGrid
    """The regions."""

    def __call__(self, tile: Tile, clock: Clock | None = None) -> Fragments:
        """Fragments inside the core of ``tile``, in lattice px."""
        clock = clock or Clock()
        maps = self.maps.maps(tile, clock, self.grid)
        with clock("decode"):
            if isinstance(self.model, LocalModel):
                links = self._checked(self.model.links(maps), tile, np.uint8)
                return cut(tile, links, maps, self.grid)
            labels = self._checked(self.model.decode(maps), tile, np.int32)
            found = cut(tile, links_of(labels), maps, self.grid)
            return replace(found, views=views(labels, tile, self.grid))

    def _checked(self, decoded: NDArray[Any], tile: Tile, dtype: Any) -> NDArray[Any]:
        if decoded.shape != tile.read.shape or decoded.dtype != dtype:
            raise ModelError(
                f"model {self.model.spec.name!r} must decode into {np.dtype(dtype)} "
                f"{tile.read.shape}, got {decoded.dtype} {decoded.shape}"
            )
        return decoded


def warm_up(model: Model, source: Source) -> None:
    """Compile kernels and load weights on blank pixels, so that no region pays for it."""
    spec = model.spec
    blank = np.zeros((spec.batch, *spec.patch, source.channels), dtype=source.dtype)
    maps = Turns().run(lambda: model(blank), spec)
    one = Maps(prob=maps.prob[0], hv=maps.hv[0], classes=maps.classes[0])
    grid = TileGrid(spec.patch, spec.patch, 0)
    decoded = model.links(one) if isinstance(model, LocalModel) else links_of(model.decode(one))
    cut(grid[(0,) * len(spec.patch)], decoded, one, grid)


def cut(tile: Tile, links: NDArray[np.uint8], maps: Maps, grid: TileGrid) -> Fragments:
    """The components of ``links`` inside the core, and what leads into and out of it.

    ``links`` and ``maps`` cover ``tile.read``, a tile of ``grid``.
    """
    inside = tile.core.slices(tile.read.start)
    core = links[inside]
    labels = components(core)
    channels = np.concatenate([maps.prob[inside][None], maps.classes[(slice(None), *inside)]])
    objects = objects_in(labels, channels, tile.core.start)
    leading, entered = [], []
    for axis in range(core.ndim):
        if tile.core.stop[axis] < grid.shape[axis]:
            leading.append(_leading_out(links, labels, tile, axis))
        if tile.core.start[axis] > 0:
            entered.append(_entered(labels, tile, axis))
    no_views = np.zeros((0, VIEW_COLUMNS), np.int64)
    return Fragments(objects, _rows(leading, core.ndim), _rows(entered, core.ndim), no_views)


def _leading_out(
    links: NDArray[np.uint8], labels: NDArray[np.int32], tile: Tile, axis: int
) -> NDArray[np.int32]:
    """(M, n + 1) pixels of the next tile that a link along ``axis`` leads to, and from where."""
    start, stop = list(tile.core.start), list(tile.core.stop)
    start[axis] = stop[axis] - 1
    face = Box(tuple(start), tuple(stop))
    step = tuple(int(a == axis) for a in range(labels.ndim))
    bits = FOREGROUND | np.uint8(1 << axis)
    linked = (links[face.slices(tile.read.start)] & bits) == bits
    linked &= links[face.shift(step).slices(tile.read.start)] >= FOREGROUND
    at = np.argwhere(linked).astype(np.int32)
    fragment = labels[face.slices(tile.core.start)][tuple(at.T)] - 1
    return np.column_stack([at + np.asarray(face.shift(step).start, np.int32), fragment])


def _entered(labels: NDArray[np.int32], tile: Tile, axis: int) -> NDArray[np.int32]:
    """(M, n + 1) pixels on the low face of ``axis`` and the fragments they belong to."""
    face = tuple(slice(0, 1) if a == axis else slice(None) for a in range(labels.ndim))
    at = np.argwhere(labels[face] > 0).astype(np.int32)
    fragment = labels[face][tuple(at.T)] - 1
    return np.column_stack([at + np.asarray(tile.core.start, np.int32), fragment])


def _rows(parts: list[NDArray[np.int32]], ndim: int) -> NDArray[np.int32]:
    return np.concatenate([np.zeros((0, ndim + 1), np.int32), *parts]).astype(np.int32)


def find_objects(
    source: Source,
    model: Model,
    *,
    active: NDArray[np.bool_] | None = None,
    executor: Executor | None = None,
    region: int = 2048,
) -> Objects:
    """Every object of ``source`` once, in lattice px, in raster order of the first pixels.

    ``active`` selects patches (all by default), ``region`` is the size of a region in lattice px.
    The result depends on source, model and ``active`` alone.
    For work of any length, with resume and files, see ``wsiseg.segment``.
    """
    spec = model.spec
    space = source.at(spec.spacing)
    if active is None:
        active = np.ones(patch_grid(space, spec).counts, dtype=bool)
    grid = region_grid(space, spec, region)
    tiles = regions_to_do(grid, space, spec, active)
    work = RegionWork(PatchMaps(source, model, space, active), model, grid)
    found = {
        grid.number(tile.index): fragments
        for tile, fragments in (executor or Serial()).map(work, tiles)
    }
    return stitch(found, space.shape, 1 + len(spec.classes))
