"""Maps of any box of the lattice, from patches that never move.

Patches lie on one global lattice fixed by the model's spec; the maps of a pixel come from the one
patch that owns it. So maps do not depend on which box is asked for, and patches shared by
neighbouring regions may be remembered.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from math import prod
from threading import Condition, Lock

import numpy as np
from numpy.typing import NDArray

from wsiseg.engine.clock import Clock
from wsiseg.engine.helping import InWork, Unbegun
from wsiseg.errors import ModelError, OutOfMemoryError
from wsiseg.geometry import Box, Space, Tile, TileGrid
from wsiseg.image.source import Source
from wsiseg.model.base import Maps, Model, ModelSpec

__all__ = ["PatchMaps", "Turns", "patch_grid"]

Stack = NDArray[np.float16]

_EXPONENT = np.uint16(0x7C00)  # of a float16


def patch_grid(space: Space, spec: ModelSpec) -> TileGrid:
    """The lattice of patches: what each owns is its core, what it reads includes the margin."""
    return TileGrid(space.shape, spec.core, spec.margin)


class PatchMaps:
    """Maps of boxes of one lattice, from one source and one model; thread-safe.

    ``active`` is a bool array over the patch grid: a patch that is not active (no tissue) is
    never read, and its maps are 0. ``memory`` bounds, in bytes, what is remembered of patches that
    several regions see. Where memory runs out in a forward, it is run again alone, and from then
    on fewer run at once; OutOfMemoryError where one alone does not fit.
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
        self._memo, self._turns, self._in_work = _Memo(memory), Turns(), InWork()

    def __reduce__(self) -> tuple[object, ...]:
        parts = (self._source, self._model, self.space, self._active, self._memo.limit)
        return (PatchMaps, parts)

    def maps(self, tile: Tile, clock: Clock, regions: TileGrid | None = None) -> Maps:
        """Maps ``(·, *tile.read.shape)``; 0 outside the lattice and where no patch is active.

        ``regions``: the grid that ``tile`` is of; patches that other tiles of it see as well are
        run once, for as long as they are remembered. By default every patch is run.
        """
        out = np.zeros((_depth(self._model.spec), *tile.read.shape), dtype=np.float16)
        mine: dict[Tile, Future[Stack]] = {}
        others: list[tuple[Tile, Future[Stack]]] = []
        unbegun = Unbegun(self._patches(tile.read), lambda patch: self._claim(patch, regions))
        try:
            with self._in_work.listed(unbegun):
                while claim := unbegun.first():
                    patch, stack, is_mine = claim
                    if is_mine:
                        mine[patch] = stack
                    elif stack.done():
                        _put(out, tile.read, patch.core, stack.result())
                    else:
                        others.append((patch, stack))
                    # run before more are claimed, so that threads at work on neighbouring regions
                    # share what both need instead of waiting for each other
                    if len(mine) == self._model.spec.batch:
                        self._run(mine, out, tile.read, clock)
            self._run(mine, out, tile.read, clock)
        except BaseException as error:
            self._memo.give_up(mine, error)
            raise
        others += unbegun.taken
        for patch, stack in others:  # only now, when no one waits for this region
            while not stack.done() and self._assist_once():
                pass
            _put(out, tile.read, patch.core, stack.result())
        for seconds in unbegun.seconds:
            clock.add(seconds)
        return _unstack(out, self._model.spec)

    def assist(self) -> None:
        """Run patches of boxes that other threads are at work on, until all have been begun.

        For a thread that has no box of its own. Whose patches they are gets the errors.
        """
        while self._assist_once():
            pass

    def _assist_once(self) -> bool:
        """Run at most a batch of another thread's patches; whether there may be more to do."""
        unbegun = self._in_work.longest()
        if unbegun is None:
            return False
        claimed: dict[Tile, Future[Stack]] = {}
        clock = Clock()
        try:
            unbegun.last(self._model.spec.batch, claimed)
            stacks = list(self._forward(list(claimed), clock)) if claimed else []
        except BaseException as error:
            self._memo.give_up(claimed, error)
            return False
        unbegun.seconds.append(clock.seconds)  # before those who wait for the stacks go on
        for patch, stack in stacks:
            self._memo.deliver(patch.index, claimed[patch], stack)
        return True

    def _claim(self, patch: Tile, regions: TileGrid | None) -> tuple[Future[Stack], bool]:
        return self._memo.claim(patch.index, 1 if regions is None else _seen_by(patch, regions))

    def _patches(self, box: Box) -> Iterator[Tile]:
        return (patch for patch in self.grid.overlapping(box) if self._active[patch.index])

    def _run(self, claimed: dict[Tile, Future[Stack]], out: Stack, box: Box, clock: Clock) -> None:
        """Run claimed patches, at most a batch, and let go of them; ``out`` is of ``box``."""
        if not claimed:
            return
        for patch, stack in self._forward(list(claimed), clock):
            self._memo.deliver(patch.index, claimed[patch], stack)
            _put(out, box, patch.core, stack)
        claimed.clear()

    def _forward(self, patches: Sequence[Tile], clock: Clock) -> Iterator[tuple[Tile, Stack]]:
        """Stacks of at most a batch of patches."""
        spec = self._model.spec
        pixels = np.zeros(
            (spec.batch, *spec.patch, self._source.channels), dtype=self._source.dtype
        )
        with clock("read"):
            for k, patch in enumerate(patches):
                pixels[k] = self._source.read(_full_read(patch, spec), self.space)
        with clock("network"):
            maps = _stack(self._turns.run(lambda: self._model(pixels), spec), spec)
        for k, patch in enumerate(patches):
            yield patch, _checked(_kept(maps[k], patch, spec), patch, spec)


def _seen_by(patch: Tile, regions: TileGrid) -> int:
    """How many of ``regions`` need the maps of ``patch``."""
    box = patch.core.grow(regions.halo).clip(regions.shape)
    sides = zip(box.start, box.stop, regions.tile, strict=True)
    return prod(-(-b // t) - a // t for a, b, t in sides)


def _full_read(patch: Tile, spec: ModelSpec) -> Box:
    """The box that a patch reads: always the full patch, also where its core was clipped."""
    start = tuple(a - spec.margin for a in patch.core.start)
    return Box(start, tuple(a + p for a, p in zip(start, spec.patch, strict=True)))


def _kept(stack: Stack, patch: Tile, spec: ModelSpec) -> Stack:
    inner = tuple(slice(spec.margin, spec.margin + k) for k in patch.core.shape)
    return stack[(slice(None), *inner)].copy()


def _checked(stack: Stack, patch: Tile, spec: ModelSpec) -> Stack:
    # an exponent of all ones is not finite; isfinite asks one number at a time
    if (stack.view(np.uint16) & _EXPONENT).max(initial=0) == _EXPONENT:
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
    """Stacks of patches that several regions see: those in work, and the least recently used
    ones within a bound, each until the last of its regions has had it.

    Pure: it saves work, and cannot change a result.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self._held, self._lock = limit, 0, Lock()
        self._stacks: OrderedDict[tuple[int, ...], Future[Stack]] = OrderedDict()
        self._wanted: dict[tuple[int, ...], int] = {}

    def claim(self, index: tuple[int, ...], seen: int) -> tuple[Future[Stack], bool]:
        """The stack of a patch, now or later, and whether the caller has to compute it.

        ``seen``: how many regions will ask for it, this time included.
        """
        with self._lock:
            if index in self._stacks:
                return self._given(index), False
            stack: Future[Stack] = Future()
            if seen > 1:
                self._stacks[index], self._wanted[index] = stack, seen - 1
            return stack, True

    def deliver(self, index: tuple[int, ...], future: Future[Stack], stack: Stack) -> None:
        """Hand in the stack of a claimed patch."""
        with self._lock:
            future.set_result(stack)
            if self._stacks.get(index) is future:
                self._held += stack.nbytes
            while self._held > self.limit:  # those still in work hold nothing
                self._forget(next(i for i, f in self._stacks.items() if f.done()))

    def give_up(self, claims: dict[Tile, Future[Stack]], error: BaseException) -> None:
        """Hand back what was claimed and not delivered; those who wait get the error."""
        with self._lock:
            for patch, future in claims.items():
                if not future.done():
                    if self._stacks.get(patch.index) is future:
                        self._forget(patch.index)
                    future.set_exception(error)

    def _given(self, index: tuple[int, ...]) -> Future[Stack]:
        stack = self._stacks[index]
        self._stacks.move_to_end(index)
        self._wanted[index] -= 1
        if not self._wanted[index]:
            self._forget(index)
        return stack

    def _forget(self, index: tuple[int, ...]) -> None:
        stack = self._stacks.pop(index)
        del self._wanted[index]
        if stack.done():
            self._held -= stack.result().nbytes


class Turns:
    """Forwards of one process: as many at once as callers, fewer once memory has run out."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._running, self._alone, self._most = 0, 0, sys.maxsize

    def run(self, forward: Callable[[], Maps], spec: ModelSpec) -> Maps:
        """``forward()``; where memory runs out, once more with no other beside it."""
        try:
            with self._beside_others():
                return forward()
        except MemoryError:
            pass  # what the failed forward holds must be gone before the next
        with self._by_itself():
            try:
                return forward()
            except MemoryError as error:
                raise OutOfMemoryError(
                    f"model {spec.name!r}: memory ran out in a forward of {spec.batch} patches of "
                    f"{spec.patch} px with no other beside it ({error}): free some, give a "
                    "smaller --batch, or use a machine with more"
                ) from error

    @contextmanager
    def _beside_others(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._alone and self._running < self._most)
            self._running += 1
        try:
            yield
        except MemoryError:
            with self._changed:
                self._most = max(1, min(self._most, self._running) - 1)
            raise
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    @contextmanager
    def _by_itself(self) -> Iterator[None]:
        with self._changed:
            self._alone += 1  # from now on no other begins
            self._changed.wait_for(lambda: not self._running)
            self._running += 1
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._alone -= 1
                self._changed.notify_all()
