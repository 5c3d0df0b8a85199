"""Bounded immersion: splits a foreground into objects, each link from a bounded neighbourhood.

A marker-controlled watershed floods without limit, so that one far pixel can move a border
anywhere. Here the water falls through fixed levels, floods a fixed number of steps at each, and
a new basin opens where a fixed number of pixels surfaced, so that the answer at a pixel is a
function of the landscape within ``Immersion.reach`` px, in any number of dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import ModelError
from wsiseg.geometry.links import FOREGROUND
from wsiseg.jit import kernel

__all__ = ["Immersion", "flood"]

_FREE, _LABELLED, _QUEUED, _VISITED = 1, 2, 3, 4  # states of foreground; 0 is outside
_SEED = 5
_Pixels = NDArray[np.int64]
_Bytes = NDArray[np.uint8]
_Stamps = NDArray[np.int32]

_NEVER = 255  # level index of pixels that no level reaches


@dataclass(frozen=True, slots=True)
class Immersion:
    """The constants of a flood.

    At each level k, in this order, among the foreground pixels of at least ``levels[k]``:

    1. for ``steps[k]`` synchronous steps, every pixel without an object that touches one (by a
       face) joins it, through its highest neighbour that has one;
    2. every pixel still without an object that can walk, within ``radius`` steps over pixels of
       its kind, to at least ``min_seed`` of them (itself included) is a seed; adjacent seeds of
       one level are one new object.

    What the last level leaves is background. Errs towards leaving a shallow pair merged: a
    second top becomes an object only where a level and ``min_seed`` both tell it apart.
    """

    levels: tuple[int, ...]
    """Falling thresholds, of the landscape's uint8 values."""
    steps: tuple[int, ...]
    """Steps of growth at each level."""
    min_seed: int
    """Pixels of which a new object is made, at least."""
    radius: int
    """Steps within which they are counted."""

    def __post_init__(self) -> None:
        falling = all(a > b for a, b in zip(self.levels, self.levels[1:], strict=False))
        if not (self.levels and falling and self.levels[-1] >= 0 and self.levels[0] <= 255):
            raise ModelError(f"levels must fall strictly within 255..0, got {self.levels}")
        if len(self.steps) != len(self.levels) or min(self.steps) < 0:
            raise ModelError(f"{len(self.levels)} levels need as many steps >= 0: {self.steps}")
        if self.min_seed < 1 or self.radius < 0:
            raise ModelError(
                f"a flood needs min_seed >= 1 and radius >= 0, got {self.min_seed}, {self.radius}"
            )

    @property
    def reach(self) -> int:
        """Px: the links of a pixel depend on landscape and mask at most this far away.

        A step looks 1 px further, a count of seeds ``radius`` px, and a link asks both its ends.
        """
        return sum(self.steps) + len(self.levels) * self.radius + 1


def flood(
    landscape: NDArray[np.uint8], mask: NDArray[np.bool_], rule: Immersion
) -> NDArray[np.uint8]:
    """Links ``(*s)`` of the objects of ``mask`` (*s), split along the valleys of ``landscape``.

    Bit 0x80: in an object; bit i: in the same object as the next pixel along axis i. Objects
    are face-connected. Costs O(pixels), whatever the number of levels and objects.

    A bounded form of watershed by immersion: Vincent & Soille 1991, IEEE PAMI 13(6).
    """
    if landscape.dtype != np.uint8 or landscape.shape != mask.shape or mask.ndim > 7:
        raise ModelError(
            f"a flood needs a uint8 landscape and a mask of the same shape of at most 7 axes, got "
            f"{landscape.dtype} {landscape.shape} and {mask.shape}"
        )
    # one px of outside all around, so that no neighbour needs a bounds check
    inner = tuple(slice(1, -1) for _ in mask.shape)
    height = np.zeros([n + 2 for n in mask.shape], dtype=np.uint8)
    level = np.full_like(height, _NEVER)
    height[inner] = landscape
    reached = _levels(landscape.ravel(), mask.ravel(), _level_table(rule))
    level[inner] = reached.reshape(mask.shape)
    steps = np.array(rule.steps, dtype=np.int64)
    strides = np.array(height.strides, dtype=np.int64)  # of bytes: one per px
    seed = (rule.min_seed, rule.radius)
    links = _flood(level.ravel(), height.ravel(), strides, steps, seed)
    return np.ascontiguousarray(links.reshape(height.shape)[inner])


def _level_table(rule: Immersion) -> NDArray[np.uint8]:
    """Index of the first level that reaches each of the 256 heights."""
    heights = np.arange(256)[:, None]
    reached = heights >= np.array(rule.levels)
    return np.where(reached.any(axis=1), reached.argmax(axis=1), _NEVER).astype(np.uint8)


@kernel
def _levels(landscape: _Bytes, mask: NDArray[np.bool_], table: _Bytes) -> _Bytes:
    out = np.empty(landscape.size, dtype=np.uint8)
    for i in range(landscape.size):
        out[i] = table[landscape[i]] if mask[i] else _NEVER
    return out


@kernel
def _flood(
    level: _Bytes, height: _Bytes, strides: _Pixels, steps: _Pixels, seed: tuple[int, int]
) -> _Bytes:
    """Links of a flattened, padded lattice: ``level`` (N,) is the level that reaches a pixel."""
    order, starts = _by_level(level, len(steps))
    state = np.zeros(level.size, dtype=np.uint8)
    for p in order:
        state[p] = _FREE
    links = np.zeros(level.size, dtype=np.uint8)
    queue = np.empty(order.size, dtype=np.int64)
    spare = np.empty(order.size, dtype=np.int64)
    stamp = np.zeros(level.size, dtype=np.int32)
    waiting = 0
    for k in range(len(steps)):
        surfaced = order[starts[k] : starts[k + 1]]
        waiting = _touching(surfaced, state, strides, queue, waiting)
        for _ in range(steps[k]):
            if waiting == 0:
                break
            _adopt(queue[:waiting], state, height, strides, links)
            waiting = _next_rim(queue, waiting, spare, level, state, strides, k)
            queue, spare = spare, queue
        for j in range(waiting):
            state[queue[j]] = _FREE
        end = _gather(surfaced, spare, level, state, strides, k, seed[0])
        _choose_seeds(spare[:end], state, strides, stamp, seed)
        _link_seeds(spare[:end], state, strides, links)
        waiting = _still_free(queue, waiting, state)
        waiting = _touching(spare[:end], state, strides, queue, waiting)
    return links


@kernel
def _by_level(level: _Bytes, count: int) -> tuple[Any, Any]:
    """Pixels that any level reaches, sorted by level, and where each level starts."""
    starts = np.zeros(count + 1, dtype=np.int64)
    for value in level:
        if value < count:
            starts[value + 1] += 1
    for k in range(count):
        starts[k + 1] += starts[k]
    order = np.empty(starts[count], dtype=np.int64)
    at = starts.copy()
    for p in range(level.size):
        k = level[p]
        if k < count:
            order[at[k]] = p
            at[k] += 1
    return order, starts


@kernel
def _touching(
    pixels: _Pixels, state: _Bytes, strides: _Pixels, queue: _Pixels, waiting: int
) -> int:
    """Queue the free pixels that touch an object behind those that wait; returns how many wait."""
    for j in range(waiting):
        state[queue[j]] = _QUEUED
    for p in pixels:
        if state[p] != _FREE:
            continue
        touches = False
        for s in strides:
            if state[p - s] == _LABELLED or state[p + s] == _LABELLED:
                touches = True
        if touches:
            state[p] = _QUEUED
            queue[waiting] = p
            waiting += 1
    return waiting


@kernel
def _adopt(pixels: _Pixels, state: _Bytes, height: _Bytes, strides: _Pixels, links: _Bytes) -> None:
    """One synchronous step: each pixel joins its highest neighbour that has an object.

    Equal heights: the lower axis first, and the neighbour before ahead of the one behind.
    """
    for p in pixels:
        best, axis, owner = np.int64(-1), 0, np.int64(p)
        for i in range(len(strides)):
            for q in (p - strides[i], p + strides[i]):
                if state[q] == _LABELLED and np.int64(height[q]) > best:
                    best, axis, owner = np.int64(height[q]), i, q
        links[p] |= FOREGROUND
        links[min(p, owner)] |= np.uint8(1 << axis)
    for p in pixels:  # only now: who joins in a step is not joined in the same step
        state[p] = _LABELLED


@kernel
def _next_rim(
    queue: _Pixels, count: int, rim: _Pixels, level: _Bytes, state: _Bytes, strides: _Pixels, k: int
) -> int:
    """Queue in ``rim`` the pixels of level k that touch those just labelled; returns how many."""
    found = 0
    for j in range(count):
        for s in strides:
            for q in (queue[j] - s, queue[j] + s):
                if state[q] == _FREE and level[q] <= k:
                    state[q] = _QUEUED
                    rim[found] = q
                    found += 1
    return found


@kernel
def _gather(
    surfaced: _Pixels,
    stack: _Pixels,
    level: _Bytes,
    state: _Bytes,
    strides: _Pixels,
    k: int,
    min_seed: int,
) -> int:
    """Put the free components of level k that may hold seeds into ``stack``; returns the end.

    They are left _VISITED. One without a pixel that surfaced at k is as it was at k - 1, or less.
    """
    end = 0
    small = stack.size  # too small ones are kept at the far end, so that each is visited once
    for first in surfaced:
        if state[first] != _FREE:
            continue
        last = _component(first, stack, end, level, state, strides, k)
        if last - end >= min_seed:
            end = last
            continue
        while last > end:
            last -= 1
            small -= 1
            stack[small] = stack[last]
    for p in stack[small:]:
        state[p] = _FREE
    return end


@kernel
def _component(
    first: int, stack: _Pixels, begin: int, level: _Bytes, state: _Bytes, strides: _Pixels, k: int
) -> int:
    """Put the free component of ``first`` at level k into ``stack[begin:]``; returns its end."""
    stack[begin], end, at = first, begin + 1, begin
    state[first] = _VISITED
    while at < end:
        for s in strides:
            for q in (stack[at] - s, stack[at] + s):
                if state[q] == _FREE and level[q] <= k:
                    state[q] = _VISITED
                    stack[end] = q
                    end += 1
        at += 1
    return end


@kernel
def _choose_seeds(
    pixels: _Pixels, state: _Bytes, strides: _Pixels, stamp: _Stamps, seed: tuple[int, int]
) -> None:
    """Mark as _SEED the visited pixels that reach ``seed[0]`` of them in ``seed[1]`` steps.

    If a pixel has them within R steps, all within ``seed[1] - R`` steps of it have them too, so
    that most need no walk of their own.
    """
    min_seed, radius = seed
    ball = np.empty(pixels.size, dtype=np.int64)
    ends = np.empty(radius + 2, dtype=np.int64)
    for first in pixels:
        if state[first] != _VISITED:
            continue
        needed = _walk(first, ball, ends, state, strides, stamp, min_seed, radius)
        if needed <= radius:
            for j in range(ends[radius - needed]):
                state[ball[j]] = _SEED


@kernel
def _walk(
    first: int,
    ball: _Pixels,
    ends: _Pixels,
    state: _Bytes,
    strides: _Pixels,
    stamp: _Stamps,
    min_seed: int,
    radius: int,
) -> int:
    """Steps in which ``first`` reaches ``min_seed`` visited pixels; ``radius + 1`` if it cannot.

    ``ball[: ends[r]]`` are those within r steps, at least up to r = radius less the answer.
    """
    stamp[0] += 1  # pixel 0 is padding, never walked on: it counts the walks
    mark = stamp[0]
    ball[0], stamp[first], ends[0] = first, mark, 1
    needed = 0 if min_seed <= 1 else radius + 1
    r, at = 0, 0
    while r < max(needed, radius - needed) and r < radius:
        end = ends[r]
        for j in range(at, ends[r]):
            for s in strides:
                for q in (ball[j] - s, ball[j] + s):
                    inside = state[q] == _VISITED or state[q] == _SEED
                    if inside and stamp[q] != mark:
                        stamp[q] = mark
                        ball[end] = q
                        end += 1
        at = ends[r]
        r += 1
        ends[r] = end
        if needed > radius and end >= min_seed:
            needed = r
    return needed


@kernel
def _link_seeds(pixels: _Pixels, state: _Bytes, strides: _Pixels, links: _Bytes) -> None:
    """Link adjacent seeds and label them; free the rest."""
    for p in pixels:
        if state[p] == _SEED:
            links[p] |= FOREGROUND
            for i in range(len(strides)):
                if state[p + strides[i]] == _SEED:
                    links[p] |= np.uint8(1 << i)
    for p in pixels:
        state[p] = _LABELLED if state[p] == _SEED else _FREE


@kernel
def _still_free(queue: _Pixels, count: int, state: _Bytes) -> int:
    kept = 0
    for j in range(count):
        if state[queue[j]] == _FREE:
            queue[kept] = queue[j]
            kept += 1
    return kept
