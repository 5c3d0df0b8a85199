"""Maps of any box of the lattice, from patches that never move.

Patches lie on one global lattice fixed by the model's spec; the maps of a pixel come from the one
patch that owns it. So maps do not depend on which box is asked for, and patches shared by
neighbouring regions may be remembered.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from wsiseg.engine.clock import Clock
from wsiseg.errors import ModelError
from wsiseg.geometry import Box, Space, Tile, TileGrid
from wsiseg.image.source import Source
from wsiseg.model.base import Maps, Model, ModelSpec

__all__ = ["PatchMaps", "patch_grid"]

Stack = NDArray[np.float16]


def patch_grid(space: Space, spec: ModelSpec) -> TileGrid:
    """The lattice of patches: what each owns is its core, what it reads includes the margin."""
    return TileGrid(space.shape, spec.core, spec.margin)


class PatchMaps:
    """Maps of boxes of one lattice, from one source and one model; thread-safe.

    ``active`` is a bool array over the patch grid: a patch that is not active (no tissue) is
    never read, and its maps are 0. ``memory`` bounds, in bytes, what is remembered.
    """

    def __init__(
        self,
        source: Source,
        model: Model,
        space: Space,
        active: NDArray[np.bool_],
        memory: int = 256 << 20,
    ) -> None:
        self._source, self._model, self.space, self._active = source, model, space, active
        self.grid = patch_grid(space, model.spec)
        self._memo = _Memo(memory)

    def __reduce__(self) -> tuple[object, ...]:
        parts = (self._source, self._model, self.space, self._active, self._memo.limit)
        return (PatchMaps, parts)

    def maps(self, tile: Tile, clock: Clock) -> Maps:
        """Maps ``(·, *tile.read.shape)``; 0 outside the lattice and where no patch is active."""
        out = np.zeros((_depth(self._model.spec), *tile.read.shape), dtype=np.float16)
        mine: dict[Tile, Future[Stack]] = {}
        others: dict[Tile, Future[Stack]] = {}
        for patch in self.grid.overlapping(tile.read):
            if self._active[patch.index]:
                claimed, is_mine = self._memo.claim(patch.index, self._is_shared(patch, tile))
                (mine if is_mine else others)[patch] = claimed
        try:
            for patch, stack in self._forward(list(mine), clock):
                self._memo.deliver(patch.index, mine[patch], stack)
                _put(out, tile.read, patch.core, stack)
        except BaseException as error:
            self._memo.give_up(mine, error)
            raise
        # only now: two regions that wait for each other's patches have both done their own
        for patch, computed in others.items():
            _put(out, tile.read, patch.core, computed.result())
        return _unstack(out, self._model.spec)

    def _is_shared(self, patch: Tile, tile: Tile) -> bool:
        """Whether another region of the same size may need the patch too."""
        halo = tile.core.start[0] - tile.read.start[0]
        return not tile.core.grow(-halo).contains(patch.core)

    def _forward(self, patches: Sequence[Tile], clock: Clock) -> Iterator[tuple[Tile, Stack]]:
        spec = self._model.spec
        for group in _groups(patches, spec.batch):
            pixels = np.zeros(
                (spec.batch, *spec.patch, self._source.channels), dtype=self._source.dtype
            )
            with clock("read"):
                for k, patch in enumerate(group):
                    pixels[k] = self._source.read(_full_read(patch, spec), self.space)
            with clock("network"):
                maps = _stack(self._model(pixels), spec)
            for k, patch in enumerate(group):
                yield patch, _checked(_kept(maps[k], patch, spec), patch, spec)


def _groups(patches: Sequence[Tile], size: int) -> Iterator[Sequence[Tile]]:
    return (patches[i : i + size] for i in range(0, len(patches), size))


def _full_read(patch: Tile, spec: ModelSpec) -> Box:
    """The box that a patch reads: always the full patch, also where its core was clipped."""
    start = tuple(a - spec.margin for a in patch.core.start)
    return Box(start, tuple(a + p for a, p in zip(start, spec.patch, strict=True)))


def _kept(stack: Stack, patch: Tile, spec: ModelSpec) -> Stack:
    inner = tuple(slice(spec.margin, spec.margin + k) for k in patch.core.shape)
    return stack[(slice(None), *inner)].copy()


def _checked(stack: Stack, patch: Tile, spec: ModelSpec) -> Stack:
    if not np.isfinite(stack).all():
        raise ModelError(
            f"model {spec.name!r} returned values that are not finite for the patch at "
            f"{patch.core.start} px of its lattice: its weights or its input are damaged"
        )
    return stack


def _put(out: Stack, box: Box, core: Box, stack: Stack) -> None:
    both = box.intersect(core)
    out[(slice(None), *both.slices(box.start))] = stack[(slice(None), *both.slices(core.start))]


def _depth(spec: ModelSpec) -> int:
    return 1 + spec.hv_channels + len(spec.classes)


def _stack(maps: Maps, spec: ModelSpec) -> Stack:
    """Batched maps as one array (B, 1 + V + K, *patch)."""
    expected = {
        "prob": (spec.batch, *spec.patch),
        "hv": (spec.batch, spec.hv_channels, *spec.patch),
        "classes": (spec.batch, len(spec.classes), *spec.patch),
    }
    for name, shape in expected.items():
        got = getattr(maps, name)
        if got.shape != shape or got.dtype != np.float16:
            raise ModelError(
                f"model {spec.name!r} must return {name} as float16 {shape}, "
                f"got {got.dtype} {got.shape}"
            )
    return np.concatenate([maps.prob[:, None], maps.hv, maps.classes], axis=1)


def _unstack(stack: Stack, spec: ModelSpec) -> Maps:
    v = 1 + spec.hv_channels
    return Maps(prob=stack[0], hv=stack[1:v], classes=stack[v:])


class _Memo:
    """Stacks of shared patches: those in work, and the least recently used ones within a bound.

    Pure: it saves work, and cannot change a result.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self._held, self._lock = limit, 0, Lock()
        self._stacks: OrderedDict[tuple[int, ...], Future[Stack]] = OrderedDict()

    def claim(self, index: tuple[int, ...], shared: bool) -> tuple[Future[Stack], bool]:
        """The stack of a patch, now or later, and whether the caller has to compute it."""
        with self._lock:
            if index in self._stacks:
                self._stacks.move_to_end(index)
                return self._stacks[index], False
            stack: Future[Stack] = Future()
            if shared:
                self._stacks[index] = stack
            return stack, True

    def deliver(self, index: tuple[int, ...], future: Future[Stack], stack: Stack) -> None:
        """Hand in the stack of a claimed patch."""
        future.set_result(stack)
        with self._lock:
            if self._stacks.get(index) is future:
                self._held += stack.nbytes
            for old in [i for i, f in self._stacks.items() if f.done()]:
                if self._held <= self.limit:
                    return
                self._held -= self._stacks.pop(old).result().nbytes

    def give_up(self, claims: dict[Tile, Future[Stack]], error: BaseException) -> None:
        """Hand back what was claimed and not delivered; those who wait get the error."""
        with self._lock:
            for patch, future in claims.items():
                if not future.done():
                    self._stacks.pop(patch.index, None)
                    future.set_exception(error)
