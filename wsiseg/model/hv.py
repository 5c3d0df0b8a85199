"""HV maps: encoded from labels, decoded into links by constants and bounded neighbourhoods.

A pixel's HV is its offset from the centroid of its object along each axis, ``(p - c) / scale``,
clipped to [-1, 1]. So ``p - scale * hv(p)`` is the centroid for which p *votes*: pixels of one
object vote alike whatever its shape, and at a contact the votes jump by the distance of two
centroids. Horizontal and vertical maps are those of HoVer-Net (Graham et al. 2019, Medical Image
Analysis 58), with a fixed scale in place of each object's own extent, and without its rescaling
by the extremes of the tile, which lets one artefact change every nucleus in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import ModelError
from wsiseg.geometry.links import FOREGROUND, components
from wsiseg.jit import kernel
from wsiseg.model.base import Maps

__all__ = ["RULE", "VERSION", "VoteRule", "decode", "encode", "links"]

VERSION = 1
"""To be raised whenever the same maps and rule give other links."""

_OUTSIDE, _SETTLED, _LOOSE, _JOINED = 0, 1, 2, 3


@dataclass(frozen=True, slots=True)
class VoteRule:
    """The constants of encoding and decoding.

    1. The votes of two adjacent foreground pixels *agree* if they differ by at most ``calm`` px
       along every axis (where HV is clipped, a step that stays clipped is no difference), and
       *jump* if by more than ``jump``. Between the two, they jump if over the step and the ones
       before and behind it, so far as these are foreground, votes move by more than ``slope``.
    2. A pixel is *loose* if votes jump on both its sides in the same direction (or on one side
       towards such a pixel, with the outside on the other), as they do where a network smears a
       contact over a few pixels, but not in perfect maps; or if it agrees with no neighbour and
       differs from one by at most ``near`` px, as under noise.
    3. Agreeing pixels that are not loose are linked. In synchronous steps, loose pixels join the
       neighbour with the nearest vote that has an object; in the first ``patience`` steps only
       one that differs by less than ``calm``. Those left after ``steps`` more link among
       themselves where they agree.

    Exact for objects of any shape and size that do not touch. Touching objects are told apart if
    their centroids lie more than ``jump`` px apart along some axis and within ``scale`` px of
    the contact, save for 1-px-thick parts between two others. Errs towards merging objects that
    share a centroid. The limits were chosen on touching ellipses whose perfect maps were blurred
    (sigma 1 to 3 px) and overlaid with noise (up to 2 px, white and smooth).
    """

    scale: float = 128.0
    """Px of offset at which HV saturates; float16 then errs by 0.03 px at most."""
    calm: float = 0.5
    """Px: votes of adjacent pixels this near agree."""
    jump: float = 1.9
    """Px: votes of adjacent pixels further apart disagree; below 2, so that objects 2 px thick
    that touch along their length stay apart."""
    slope: float = 3.0
    """Px in three steps: more is a smeared contact."""
    near: float = 4.0
    """Px: a lone pixel joins a neighbour whose vote is at most this far away."""
    patience: int = 1
    """Steps in which loose pixels join only who agrees with them."""
    steps: int = 6
    """Px from each side over which a smeared contact is given back to its objects."""
    threshold: float = 0.5
    """Foreground is a probability above this."""

    def __post_init__(self) -> None:
        if not (
            0 < self.calm <= self.jump and self.scale > 0 and min(self.patience, self.steps) >= 0
        ):
            raise ModelError(f"needed: 0 < calm <= jump, 0 < scale, no negative steps; got {self}")

    @property
    def reach(self) -> int:
        """Px: the links of a pixel depend on maps at most this far away (in steps over faces).

        A jump looks 2 px far, looseness 3, each step 1 further, and a link asks both its ends.
        """
        return self.patience + self.steps + 4


RULE = VoteRule()
"""The rule of the models of the zoo."""


def encode(labels: NDArray[Any], rule: VoteRule = RULE) -> Maps:
    """Perfect maps of ``labels`` (*s): prob 0 or 1, hv (n, *s), no classes; float16."""
    inside = labels != 0
    number = np.unique(labels[inside], return_inverse=True)[1].ravel()
    count = np.bincount(number)
    hv = np.zeros((labels.ndim, *labels.shape), dtype=np.float16)
    for axis, place in enumerate(np.nonzero(inside)):
        centroid = np.bincount(number, weights=place) / count
        hv[axis, inside] = np.clip((place - centroid[number]) / rule.scale, -1, 1)
    nothing = np.zeros((0, *labels.shape), dtype=np.float16)
    return Maps(prob=inside.astype(np.float16), hv=hv, classes=nothing)


def decode(maps: Maps, rule: VoteRule = RULE) -> NDArray[np.int32]:
    """Instance labels ``(*s)`` of ``maps``: the components of their links."""
    return components(links(maps, rule))


def links(maps: Maps, rule: VoteRule = RULE) -> NDArray[np.uint8]:
    """Links ``(*s)`` of ``maps`` (prob ``(*s)``, hv ``(n, *s)``) by ``rule``."""
    shape = maps.prob.shape
    if maps.hv.shape != (len(shape), *shape):
        raise ModelError(
            f"HV maps of shape {(len(shape), *shape)} are needed beside a probability map of "
            f"{shape}, got {maps.hv.shape}"
        )
    # padded with outside all round, so that no neighbour needs a bounds check; pad keeps F order
    inside = np.ascontiguousarray(np.pad(maps.prob > rule.threshold, 1))
    votes = np.pad(maps.hv.astype(np.float32, order="C"), [(0, 0)] + [(1, 1)] * len(shape))
    strides = np.array([s // inside.itemsize for s in inside.strides], dtype=np.int64)
    limits = np.array([1, rule.calm, rule.jump, rule.slope, rule.near], dtype=np.float32)
    found = _links(
        inside.reshape(-1),
        votes.reshape(len(shape), -1),
        strides,
        limits / np.float32(rule.scale),
        rule.patience,
        rule.steps,
    )
    inner = found.reshape(inside.shape)[tuple(slice(1, -1) for _ in shape)]
    return np.ascontiguousarray(inner)


@kernel
def _links(
    inside: NDArray[np.bool_],
    hv: NDArray[np.float32],
    strides: NDArray[np.int64],
    limits: NDArray[np.float32],
    patience: int,
    steps: int,
) -> NDArray[np.uint8]:
    """Links of a flattened, padded lattice.

    ``limits`` are 1 px, calm, jump, slope and near, in units of hv.
    """
    agree, cut = _compare(inside, hv, strides, limits)
    smeared = _smeared(hv, strides, limits, cut)
    state = _states(inside, strides, agree, cut, smeared)
    _loosen_lone(state, hv, strides, limits, agree, cut)
    found = np.zeros(inside.size, dtype=np.uint8)
    loose = np.flatnonzero(state == _LOOSE)
    for k in range(patience + steps):
        limit = float(limits[1]) if k < patience else np.inf
        loose = _join(loose, state, hv, strides, limits[0], limit, found)
    for p in np.flatnonzero(inside):
        found[p] |= FOREGROUND
        for i in range(len(strides)):
            alike = state[p] == state[p + strides[i]] and state[p] != _JOINED
            if alike and agree[p] >> i & 1:
                found[p] |= np.uint8(1 << i)
    return found


@kernel
def _compare(
    inside: NDArray[np.bool_],
    hv: NDArray[np.float32],
    strides: NDArray[np.int64],
    limits: NDArray[np.float32],
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Bit i: the votes of a pixel and the next along axis i agree; and: they disagree."""
    agree = np.zeros(inside.size, dtype=np.uint8)
    cut = np.zeros(inside.size, dtype=np.uint8)
    for p in np.flatnonzero(inside):
        for i in range(len(strides)):
            if inside[p + strides[i]]:
                bit = np.uint8(1 << i)
                if _jumps(inside, hv, p, strides, i, limits):
                    cut[p] |= bit
                else:
                    agree[p] |= bit
    return agree, cut


@kernel
def _jumps(
    inside: NDArray[np.bool_],
    hv: NDArray[np.float32],
    p: Any,
    strides: NDArray[np.int64],
    i: int,
    limits: NDArray[np.float32],
) -> bool:
    """Whether the votes of a pixel and the next along axis i disagree."""
    px, calm, jump, slope = limits[0], limits[1], limits[2], limits[3]
    one = _distance(hv, p, strides, i, px)
    if one <= calm or one > jump:
        return bool(one > calm)
    before, after = p - strides[i], p + strides[i]
    most = 0.0
    for j in range(len(strides)):
        total = _difference(hv, p, strides, i, j, px)
        if inside[before]:
            total += _difference(hv, before, strides, i, j, px)
        if inside[after + strides[i]]:
            total += _difference(hv, after, strides, i, j, px)
        most = max(most, abs(total))
    return bool(most > slope)


@kernel
def _difference(
    hv: NDArray[np.float32], p: Any, strides: NDArray[np.int64], i: int, j: int, px: float
) -> float:
    """By how much axis j of hv at the next pixel along axis i is not as in one object.

    Within an object hv grows by ``px`` along its own axis and not along the others. With scale
    128, 0.25 is followed by 0.2578; -1 by anything from -1 (further out) to -0.9922; 1 by 1.
    """
    here, after = hv[j, p], hv[j, p + strides[i]]
    if i != j:
        return float(after - here)
    expected = min(here + px, np.float32(1))
    if after < expected and here <= -1:
        return 0.0
    return float(after - expected)


@kernel
def _distance(
    hv: NDArray[np.float32], p: Any, strides: NDArray[np.int64], i: int, px: float
) -> float:
    """Distance of the votes of a pixel and the next along axis i: the largest along any axis."""
    most = 0.0
    for j in range(len(strides)):
        most = max(most, abs(_difference(hv, p, strides, i, j, px)))
    return most


@kernel
def _smeared(
    hv: NDArray[np.float32],
    strides: NDArray[np.int64],
    limits: NDArray[np.float32],
    cut: NDArray[np.uint8],
) -> NDArray[np.uint8]:
    """Bit i: votes jump on both sides of the pixel along axis i, in the same direction."""
    smeared = np.zeros(cut.size, dtype=np.uint8)
    for p in np.flatnonzero(cut):
        for i in range(len(strides)):
            before = p - strides[i]
            if cut[p] & cut[before] & (1 << i):
                dot = 0.0
                for j in range(len(strides)):
                    after = _difference(hv, p, strides, i, j, limits[0])
                    dot += after * _difference(hv, before, strides, i, j, limits[0])
                if dot > 0:
                    smeared[p] |= np.uint8(1 << i)
    return smeared


@kernel
def _states(
    inside: NDArray[np.bool_],
    strides: NDArray[np.int64],
    agree: NDArray[np.uint8],
    cut: NDArray[np.uint8],
    smeared: NDArray[np.uint8],
) -> NDArray[np.uint8]:
    """Whether each pixel is outside, settled or loose."""
    state = np.zeros(inside.size, dtype=np.uint8)
    for p in np.flatnonzero(inside):
        state[p] = _LOOSE if smeared[p] else _SETTLED
        for i in range(len(strides)):
            before, after, bit = p - strides[i], p + strides[i], 1 << i
            if not inside[before] and cut[p] & smeared[after] & bit:
                state[p] = _LOOSE
            if not inside[after] and cut[before] & smeared[before] & bit:
                state[p] = _LOOSE
    return state


@kernel
def _loosen_lone(
    state: NDArray[np.uint8],
    hv: NDArray[np.float32],
    strides: NDArray[np.int64],
    limits: NDArray[np.float32],
    agree: NDArray[np.uint8],
    cut: NDArray[np.uint8],
) -> None:
    """Loosen the pixels that agree with none of their neighbours and are near one."""
    for p in np.flatnonzero(state == _SETTLED):
        nearest, lone = np.inf, True
        for i in range(len(strides)):
            for q in (p - strides[i], p):
                if agree[q] >> i & 1:
                    lone = False
                elif cut[q] >> i & 1:
                    nearest = min(nearest, _distance(hv, q, strides, i, limits[0]))
        if lone and nearest <= limits[4]:
            state[p] = _LOOSE


@kernel
def _join(
    loose: NDArray[np.int64],
    state: NDArray[np.uint8],
    hv: NDArray[np.float32],
    strides: NDArray[np.int64],
    px: float,
    limit: float,
    found: NDArray[np.uint8],
) -> NDArray[np.int64]:
    """One step of joining neighbours at most ``limit`` away; returns what is still loose.

    Equal distances: the lower axis first, and the neighbour before ahead of the one behind.
    """
    left = np.zeros(loose.size, dtype=np.bool_)
    for k in range(loose.size):
        nearest, owner, axis = float(limit), -1, 0
        for i in range(len(strides)):
            for q in (loose[k] - strides[i], loose[k]):  # the pair (q, q + stride)
                other = state[2 * q + strides[i] - loose[k]]
                if other in (_SETTLED, _JOINED):
                    distance = _distance(hv, q, strides, i, px)
                    if distance < nearest:
                        nearest, owner, axis = distance, q, i
        left[k] = owner < 0
        if owner >= 0:
            found[owner] |= np.uint8(1 << axis)
    for k in range(loose.size):  # only now: who joins in a step is not joined in the same step
        if not left[k]:
            state[loose[k]] = _JOINED
    return loose[left]
