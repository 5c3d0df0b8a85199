"""Bounded immersion: splits a foreground into objects, each link from a bounded neighbourhood.

A marker-controlled watershed floods without limit, so that one far pixel can move a border
anywhere. Here the water falls through fixed levels, floods a fixed number of steps at each, and
a new basin opens where a fixed number of pixels surfaced, so that the answer at a pixel is a
function of the landscape within ``Immersion.reach`` px, in any number of dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import ModelError
from wsiseg.geometry.links import FOREGROUND, eight
from wsiseg.jit import kernel

__all__ = ["Immersion", "flood"]

_FREE, _LABELLED, _QUEUED, _VISITED = 1, 2, 3, 4  # states of foreground; 0 is outside
_SEED = 5
_WALKED = np.uint8(0x80)  # added to a state
_Pixels = NDArray[np.uint64]  # unsigned: none is asked whether it counts from the end
_Counts = NDArray[np.int64]
_Bytes = NDArray[np.uint8]
_Tops = NDArray[np.int16]
_Strides = tuple[
    np.uint64, ...
]  # a tuple, so that its length is known when loops over it are compiled
_Seed = tuple[int, int, int]  # min_seed, radius, and what _countable says

_NEVER = 255  # level index of pixels that no level reaches
_NO_TOP = np.int16(-1)
_LANES = 8  # bytes of a word


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
    shape = tuple(n + 2 for n in mask.shape)
    height, inside = _padded(landscape, shape), _padded(mask, shape)
    strides = tuple(map(np.uint64, height.strides))  # of bytes: one per px
    order, starts = _by_level(height.ravel(), inside.ravel(), _level_table(rule), len(rule.levels))
    steps = np.array(rule.steps, dtype=np.int64)
    seed = (rule.min_seed, rule.radius, _countable(mask.ndim, rule.radius))
    links = _flood(order, starts, height.ravel(), strides, steps, seed)
    return np.ascontiguousarray(links.reshape(shape)[_inner(mask.ndim)])


def _padded(values: NDArray[Any], shape: tuple[int, ...]) -> _Bytes:
    """``values`` with one px of 0 all around, so that no neighbour needs a bounds check."""
    padded = np.zeros(shape, dtype=np.uint8)
    padded[_inner(values.ndim)] = values
    return padded


def _inner(ndim: int) -> tuple[slice, ...]:
    return (slice(1, -1),) * ndim


def _level_table(rule: Immersion) -> NDArray[np.uint8]:
    """Index of the first level that reaches each of the 256 heights."""
    heights = np.arange(256)[:, None]
    reached = heights >= np.array(rule.levels)
    return np.where(reached.any(axis=1), reached.argmax(axis=1), _NEVER).astype(np.uint8)


def _countable(ndim: int, radius: int) -> int:
    """The largest number of steps up to ``radius`` that `_within` can count, in bytes."""
    fit = [r for r in range(min(radius, _LANES - 1) + 1) if _ball(ndim, r) < 256]
    return fit[-1]


def _ball(ndim: int, radius: int) -> int:
    """Pixels within ``radius`` steps of one, in a lattice without outside."""
    return sum(2**k * comb(ndim, k) * comb(radius, k) for k in range(ndim + 1))


@kernel
def _by_level(height: _Bytes, inside: _Bytes, table: _Bytes, count: int) -> tuple[Any, Any]:
    """Pixels that any level reaches, by level and in raster order, and where each level starts."""
    size = 1  # one more than there are, because each is put down before it is looked at
    for one in inside:
        size += one
    reached = np.empty(size, dtype=np.uint64)
    levels = np.empty(size, dtype=np.uint8)
    n = np.int64(0)
    eights = inside.size // 8 * 8
    for first in range(0, eights, 8):
        if eight(inside, first):  # most of a slide is outside
            for p in range(first, first + 8):
                k = table[height[p]]
                reached[n], levels[n] = p, k
                n += np.int64(inside[p] & np.uint8(k < count))
    for p in range(eights, inside.size):
        k = table[height[p]]
        reached[n], levels[n] = p, k
        n += np.int64(inside[p] & np.uint8(k < count))
    starts = np.zeros(count + 1, dtype=np.int64)
    for k in levels[:n]:
        starts[k + 1] += 1
    for k in range(count):
        starts[k + 1] += starts[k]
    order = np.empty(n, dtype=np.uint64)
    at = starts.copy()
    for j in range(n):
        order[at[levels[j]]] = reached[j]
        at[levels[j]] += 1
    return order, starts


@kernel
def _flood(
    order: _Pixels,
    starts: _Counts,
    height: _Bytes,
    strides: _Strides,
    steps: _Counts,
    seed: _Seed,
) -> _Bytes:
    """Links of a flattened, padded lattice, level by level."""
    state = np.zeros(height.size, dtype=np.uint8)
    top = np.full(height.size, _NO_TOP, dtype=np.int16)  # height of those that have an object
    links = np.zeros(height.size, dtype=np.uint8)
    queue = np.empty(order.size, dtype=np.uint64)
    spare = np.empty(order.size, dtype=np.uint64)
    waiting = 0
    for k in range(len(steps)):
        surfaced = order[starts[k] : starts[k + 1]]
        for p in surfaced:
            state[p] = _FREE
        waiting = _touching(surfaced, state, strides, queue, waiting)
        for _ in range(steps[k]):
            if waiting == 0:
                break
            _adopt(queue[:waiting], top, strides, links)
            waiting = _next_rim(queue[:waiting], spare, state, top, height, strides)
            queue, spare = spare, queue
        for j in range(waiting):
            state[queue[j]] = _FREE
        end = _gather(surfaced, spare, state, strides, seed[0])
        pixels = _in_raster_order(spare[:end], surfaced, state)
        _choose_seeds(pixels, state, strides, seed)
        _link_seeds(pixels, state, top, height, strides, links)
        waiting = _still_free(queue, waiting, state)
        waiting = _touching(pixels, state, strides, queue, waiting)
    return links


@kernel
def _touching(
    pixels: _Pixels, state: _Bytes, strides: _Strides, queue: _Pixels, waiting: int
) -> int:
    """Queue the free pixels that touch an object behind those that wait; returns how many wait."""
    for j in range(waiting):
        state[queue[j]] = _QUEUED
    for p in pixels:
        if state[p] != _FREE:
            continue
        touches = False
        for s in strides:
            touches |= state[p - s] == _LABELLED or state[p + s] == _LABELLED
        if touches:
            state[p] = _QUEUED
            queue[waiting] = p
            waiting += 1
    return waiting


@kernel
def _adopt(pixels: _Pixels, top: _Tops, strides: _Strides, links: _Bytes) -> None:
    """One synchronous step: each pixel joins its highest neighbour that has an object.

    Equal heights: the lower axis first, and the neighbour before ahead of the one behind.
    """
    for p in pixels:
        best, bit, lower = _NO_TOP, np.uint8(0), p
        for i, s in enumerate(strides):
            if top[p - s] > best:
                best, bit, lower = top[p - s], np.uint8(1 << i), p - s
            if top[p + s] > best:
                best, bit, lower = top[p + s], np.uint8(1 << i), p
        links[p] |= FOREGROUND
        links[lower] |= bit


@kernel
def _next_rim(
    adopted: _Pixels, rim: _Pixels, state: _Bytes, top: _Tops, height: _Bytes, strides: _Strides
) -> int:
    """Label the pixels ``adopted``, queue the free ones that touch them; returns how many."""
    found = 0
    for p in adopted:
        state[p], top[p] = _LABELLED, height[p]
        for s in strides:
            for q in (p - s, p + s):
                if state[q] == _FREE:
                    state[q] = _QUEUED
                    rim[found] = q
                    found += 1
    return found


@kernel
def _gather(
    surfaced: _Pixels, stack: _Pixels, state: _Bytes, strides: _Strides, min_seed: int
) -> int:
    """Put the free components that may hold seeds into ``stack``; returns the end.

    They are left _VISITED. One without a pixel that surfaced now is as it was a level before, or
    less.
    """
    end = 0
    small = stack.size  # too small ones are kept at the far end, so that each is visited once
    for first in surfaced:
        if state[first] != _FREE:
            continue
        last = _component(first, stack, end, state, strides)
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
def _component(first: int, stack: _Pixels, begin: int, state: _Bytes, strides: _Strides) -> int:
    """Put the free component of ``first`` into ``stack[begin:]``; returns its end."""
    stack[begin], end, at = first, begin + 1, begin
    state[first] = _VISITED
    while at < end:
        for s in strides:
            for q in (stack[at] - s, stack[at] + s):
                if state[q] == _FREE:
                    state[q] = _VISITED
                    stack[end] = q
                    end += 1
        at += 1
    return end


@kernel
def _in_raster_order(visited: _Pixels, surfaced: _Pixels, state: _Bytes) -> _Pixels:
    """The pixels ``visited``, sorted; most have just surfaced, and these are."""
    pixels = np.empty(visited.size, dtype=np.uint64)
    n = 0
    for p in surfaced:
        if state[p] == _VISITED:
            pixels[n] = p
            n += 1
    return pixels if n == visited.size else np.sort(visited)


@kernel
def _choose_seeds(pixels: _Pixels, state: _Bytes, strides: _Strides, seed: _Seed) -> None:
    """Mark as _SEED the visited ``pixels`` that reach ``seed[0]`` of them in ``seed[1]`` steps.

    Most are told by a count that leaves some out. The others take a walk: if a pixel has enough
    within R steps, all within ``seed[1] - R`` steps of it have them too.
    """
    min_seed, radius, countable = seed
    counts = _within(pixels, strides)
    for j in range(pixels.size):
        if np.int64(counts[j] >> np.uint64(8 * countable) & np.uint64(255)) >= min_seed:
            state[pixels[j]] = _SEED
    ball = np.empty(pixels.size, dtype=np.uint64)
    ends = np.empty(radius + 2, dtype=np.int64)
    for first in pixels:
        if state[first] != _VISITED:
            continue
        needed = _walk(first, ball, ends, state, strides, min_seed, radius)
        if needed <= radius:
            for j in range(ends[radius - needed]):
                state[ball[j]] = _SEED


@kernel
def _within(pixels: _Pixels, strides: _Strides) -> NDArray[np.uint64]:
    """Byte r: how many of ``pixels``, in raster order, each reaches within r steps, or fewer.

    Counted are those that a walk along the first axis, then along the second, and so on, leads
    to. So those within r steps are, along the last axis, the pixel itself and what its neighbours
    reach in r - 1 steps on their side; along the axis before, the same of what was counted so far.
    """
    counts = np.full(pixels.size, 0x0101010101010101, dtype=np.uint64)
    ahead = np.empty(pixels.size, dtype=np.uint64)
    behind = np.empty(pixels.size, dtype=np.uint64)
    for k in range(len(strides)):
        s = strides[len(strides) - 1 - k]
        i = pixels.size - 1
        for j in range(pixels.size - 1, -1, -1):
            while pixels[i] > pixels[j] + s:
                i -= 1
            met = pixels[i] == pixels[j] + s
            ahead[j] = (counts[i] + ahead[i]) << np.uint64(8) if met else np.uint64(0)
        i = 0
        for j in range(pixels.size):
            while pixels[i] < pixels[j] - s:
                i += 1
            met = pixels[i] == pixels[j] - s
            behind[j] = (counts[i] + behind[i]) << np.uint64(8) if met else np.uint64(0)
        for j in range(pixels.size):
            counts[j] += ahead[j] + behind[j]
    return counts


@kernel
def _walk(
    first: int,
    ball: _Pixels,
    ends: _Counts,
    state: _Bytes,
    strides: _Strides,
    min_seed: int,
    radius: int,
) -> int:
    """Steps in which ``first`` reaches ``min_seed`` visited pixels; ``radius + 1`` if it cannot.

    ``ball[: ends[r]]`` are those within r steps, at least up to r = radius less the answer.
    """
    ball[0], ends[0] = first, 1
    state[first] |= _WALKED
    needed = 0 if min_seed <= 1 else radius + 1
    r, at = 0, 0
    while r < max(needed, radius - needed) and r < radius:
        end = ends[r]
        for j in range(at, ends[r]):
            for s in strides:
                for q in (ball[j] - s, ball[j] + s):
                    if state[q] == _VISITED or state[q] == _SEED:
                        state[q] |= _WALKED
                        ball[end] = q
                        end += 1
        at = ends[r]
        r += 1
        ends[r] = end
        if needed > radius and end >= min_seed:
            needed = r
    for j in range(ends[r]):
        state[ball[j]] ^= _WALKED
    return needed


@kernel
def _link_seeds(
    pixels: _Pixels,
    state: _Bytes,
    top: _Tops,
    height: _Bytes,
    strides: _Strides,
    links: _Bytes,
) -> None:
    """Link adjacent seeds and label them; free the rest."""
    for p in pixels:
        if state[p] == _SEED:
            links[p] |= FOREGROUND
            for i, s in enumerate(strides):
                if state[p + s] == _SEED:
                    links[p] |= np.uint8(1 << i)
    for p in pixels:
        if state[p] == _SEED:
            state[p], top[p] = _LABELLED, height[p]
        else:
            state[p] = _FREE


@kernel
def _still_free(queue: _Pixels, count: int, state: _Bytes) -> int:
    kept = 0
    for j in range(count):
        if state[queue[j]] == _FREE:
            queue[kept] = queue[j]
            kept += 1
    return kept
