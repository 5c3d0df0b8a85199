"""Tissue: where a slide is worth looking at, from a thumbnail of about 8 µm per px.

Fixed colour rules, no threshold that adapts to the slide: an empty slide stays empty, and no
noise is split into two classes. Thresholds are optical densities at 8 µm, found on the pen,
blank and whole-slide images that the tests name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import SpaceError
from wsiseg.stain import optical_density

__all__ = ["SPACING_UM", "Tissue", "everything", "find_tissue", "from_polygons", "tissue_mask"]

SPACING_UM = 8.0
"""µm per px of the thumbnail that the rules are made for, and that is assumed without mpp."""

_MIN_DENSITY = 0.05  # of the channel that absorbs most
_MIN_CHROMA = 0.03  # densest channel less the least dense: glass, dust and shadow are grey
_MIN_RELATIVE_CHROMA = 0.15  # share of the density that is colour
_UNLIT = 40  # brightest channel below this: black padding, or unlit ground in fluorescence

_PEN_EDGE_UM = 100.0  # how far the thin edge of a pen stroke is followed
_MIN_PEN_MM2 = 0.003  # smaller patches of pen colour are pigment or debris
_CLOSE_UM = 24.0  # radius of gaps bridged: fat cells, clefts
_MAX_HOLE_MM2 = 0.1  # holes up to this are filled: vessels and gland lumina, not the gut's
_MIN_FRAGMENT_MM2 = 0.01  # smaller fragments are dropped: dust, floating cells
_MIN_SHARE = 0.02  # of the thumbnail; fragments that fill this are kept whatever their area
_GROW_UM = 16.0  # margin added at the end, for cells on the rim

_BAND = 1 << 20  # px that are judged at once: their densities take twelve times as many bytes
_STAINED = 1 << 15  # bit of a px: as stained tissue; bits 2k and 2k + 1: core and edge of ink k


@dataclass(frozen=True, slots=True, eq=False)
class Tissue:
    """A mask over a whole slide, at low resolution."""

    mask: NDArray[np.bool_]
    """``(H, W)``, True in tissue; covers the whole slide whatever its shape."""
    spacing: tuple[float, float] | None
    """µm per px of the mask (y, x); None where the slide has no pixel size."""

    def __post_init__(self) -> None:
        if self.mask.ndim != 2 or self.mask.dtype != np.bool_ or self.mask.size == 0:
            raise SpaceError(
                f"a tissue mask is bool (H, W) and not empty, got {self.mask.dtype} "
                f"{self.mask.shape}"
            )

    @property
    def area_mm2(self) -> float | None:
        """Area of the tissue; None without a pixel size."""
        if self.spacing is None:
            return None
        return float(self.mask.sum() * self.spacing[0] * self.spacing[1] / 1e6)

    @property
    def fraction(self) -> float:
        """Share of the slide that is tissue, in [0, 1]."""
        return float(self.mask.mean())

    def touching(self, boxes: NDArray[np.integer], shape: Sequence[int]) -> NDArray[np.bool_]:
        """Which ``boxes`` (N, 4) touch tissue: (y, x) of their start, then of their stop.

        In px of a lattice of ``shape`` (height, width) over the whole slide. A box counts as
        touching when any px of the mask that it meets, even in part, is tissue. Depends on box
        and shape alone, so that the answer is the same under any tiling.
        """
        boxes = np.asarray(boxes, dtype=np.int64).reshape(-1, 4)
        scale = np.array(self.mask.shape) / np.asarray(shape, dtype=np.float64)
        # 1e-9: a box that ends on a px border must not meet the next px by rounding
        start = np.floor(boxes[:, :2] * scale + 1e-9).astype(np.int64)
        stop = np.ceil(boxes[:, 2:] * scale - 1e-9).astype(np.int64)
        empty = (boxes[:, 2:] <= boxes[:, :2]).any(axis=1)
        return (self._count(start, stop) > 0) & ~empty

    def _count(self, start: NDArray[np.int64], stop: NDArray[np.int64]) -> NDArray[np.int64]:
        """Tissue px in boxes of mask px, clipped to the mask."""
        table = np.zeros([n + 1 for n in self.mask.shape], dtype=np.int32)
        np.cumsum(self.mask, axis=0, out=table[1:, 1:])
        np.cumsum(table[1:, 1:], axis=1, out=table[1:, 1:])
        (y0, x0), (y1, x1) = (np.clip(c, 0, self.mask.shape).T for c in (start, stop))
        inside = table[y1, x1] - table[y0, x1] - table[y1, x0] + table[y0, x0]
        return np.where((y1 > y0) & (x1 > x0), inside, 0)


def find_tissue(rgb: NDArray[np.uint8], spacing: tuple[float, float] | None) -> Tissue:
    """The tissue of a whole-slide thumbnail ``(H, W, 3)`` of ``spacing`` µm per px (y, x)."""
    mean = None if spacing is None else float(np.sqrt(spacing[0] * spacing[1]))
    return Tissue(tissue_mask(rgb, mean), spacing)


def everything(shape: Sequence[int], spacing: tuple[float, float] | None) -> Tissue:
    """A mask of ``shape`` that keeps all of the slide."""
    return Tissue(np.ones(tuple(shape), dtype=np.bool_), spacing)


def tissue_mask(rgb: NDArray[np.uint8], spacing_um: float | None) -> NDArray[np.bool_]:
    """Tissue ``(H, W)`` of a thumbnail ``(H, W, 3)`` of ``spacing_um`` µm per px, best about 8.

    Coloured, stained pixels that are neither pen nor padding; gaps of 48 µm bridged, holes up to
    0.1 mm² filled, fragments below 0.01 mm² dropped, and 16 µm added around. Without a spacing,
    8 µm is assumed for these. Errs towards keeping: a patch too many costs time, one too few
    costs cells. Tissue under opaque ink is given up.
    """
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        raise SpaceError(f"a thumbnail is uint8 (H, W, 3), got {rgb.dtype} {rgb.shape}")
    um = spacing_um or SPACING_UM
    signs = _signs(rgb, max(0.3, SPACING_UM / um))
    mask = ((signs & _STAINED) > 0) & ~_pen(signs, um)
    mask = _morph(cv2.MORPH_CLOSE, mask, _CLOSE_UM / um)
    # a small image is one fragment: what fills a good part of it is not dust
    mask = _without_small(mask, min(_MIN_FRAGMENT_MM2 * 1e6 / um**2, mask.size * _MIN_SHARE))
    mask |= _holes(mask, _MAX_HOLE_MM2 * 1e6 / um**2)
    return _morph(cv2.MORPH_DILATE, mask, _GROW_UM / um)


def _signs(rgb: NDArray[np.uint8], sigma: float) -> NDArray[np.uint16]:
    """``(H, W)`` what each px could be, as bits, from densities blurred by ``sigma`` px.

    Taken in bands of rows, so that memory is a small multiple of the thumbnail's.
    """
    height, width = rgb.shape[:2]
    around = int(np.ceil(4 * sigma)) + 1  # the blur reaches 4 sigma
    rows = max(1, _BAND // width)
    signs = np.empty((height, width), dtype=np.uint16)
    for first in range(0, height, rows):
        low, last = max(0, first - around), min(height, first + rows)
        density = optical_density(rgb[low : last + around])
        density = cv2.GaussianBlur(density, (0, 0), sigma)[first - low : last - low]
        lit = rgb[first:last].max(axis=2) >= _UNLIT
        signs[first:last] = _bits(density, lit)
    return signs


def _bits(density: NDArray[np.float32], lit: NDArray[np.bool_]) -> NDArray[np.uint16]:
    bits = np.where(_stained(density) & lit, np.uint16(_STAINED), np.uint16(0))
    for k, (core, edge) in enumerate(_inks(density)):
        bits |= core.astype(np.uint16) << 2 * k | edge.astype(np.uint16) << 2 * k + 1
    return bits


def _stained(density: NDArray[np.float32]) -> NDArray[np.bool_]:
    most = density.max(axis=2)
    chroma = most - density.min(axis=2)
    enough = (most > _MIN_DENSITY) & (chroma > _MIN_CHROMA)
    return np.asarray(enough & (chroma > _MIN_RELATIVE_CHROMA * most))


def _inks(density: NDArray[np.float32]) -> tuple[tuple[NDArray[np.bool_], NDArray[np.bool_]], ...]:
    """Of each ink: what must be it, and what could be the edge of its stroke.

    H&E absorbs green most, red and blue less (R/G 0.2 to 0.75, B/G 0.35 to 0.75 at 8 µm), and
    immunohistochemistry stays below R/G 1.5; so does not ink.
    """
    red, green, blue = np.moveaxis(density, 2, 0)
    most, least = density.max(axis=2), density.min(axis=2)
    chroma = most - least
    return (
        # blue and green ink: red light is absorbed much more than green
        ((red > 1.5 * green) & (chroma > 0.15), red > 1.1 * green),
        # dark blue ink: less so, but blue light hardly at all
        ((red > 1.15 * green) & (blue < 0.45 * red) & (chroma > 0.25), red > green),
        # red ink: blue light is absorbed nearly as much as green, red light hardly
        ((blue > 0.75 * green) & (blue < 1.15 * green) & (red < 0.62 * green) & (chroma > 0.25),
         (blue > 0.7 * green) & (red < 0.7 * green)),
        # black ink: everything is absorbed alike
        ((least > 0.6) & (chroma < 0.5 * most), chroma < 0.35 * most),
    )  # fmt: skip


def _pen(signs: NDArray[np.uint16], um: float) -> NDArray[np.bool_]:
    """Ink: a sure core of each colour, and around it what could be the edge of the stroke."""
    pen = np.zeros(signs.shape, dtype=np.bool_)
    for k in range(4):
        core = (signs & 1 << 2 * k) > 0
        if not core.any():
            continue
        sure = _without_small(core, _MIN_PEN_MM2 * 1e6 / um**2)
        edge = (signs & 2 << 2 * k) > 0
        pen |= sure | (edge & _morph(cv2.MORPH_DILATE, sure, _PEN_EDGE_UM / um))
    return pen


def _morph(operation: int, mask: NDArray[np.bool_], radius: float) -> NDArray[np.bool_]:
    """A morphological operation with a disc of ``radius`` px; what lies outside is not tissue."""
    r = round(radius)
    if r < 1:
        return mask
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * r + 1, 2 * r + 1))
    padded = np.pad(mask.astype(np.uint8), 2 * r)
    result = cv2.morphologyEx(padded, operation, disc)[2 * r : -2 * r, 2 * r : -2 * r]
    return np.asarray(result > 0)


def _without_small(mask: NDArray[np.bool_], pixels: float) -> NDArray[np.bool_]:
    """``mask`` without its 8-connected parts of fewer than ``pixels`` px."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    keep = stats[:, cv2.CC_STAT_AREA] >= pixels
    keep[0] = False
    return np.asarray(keep[labels])


def _holes(mask: NDArray[np.bool_], pixels: float) -> NDArray[np.bool_]:
    """Holes of at most ``pixels`` px: what is enclosed, not what the border of the slide cuts."""
    around = np.pad(~mask, 1, constant_values=True).astype(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(around, connectivity=4)
    small = stats[:, cv2.CC_STAT_AREA] <= pixels
    small[[0, labels[0, 0]]] = False
    return np.asarray(small[labels][1:-1, 1:-1])


def from_polygons(
    polygons: Iterable[Any],
    level0_shape: Sequence[int],
    shape: Sequence[int],
    spacing: tuple[float, float] | None,
) -> Tissue:
    """A user's region: shapely polygons in level-0 px (x, y) of a slide of ``level0_shape``.

    ``shape`` and ``spacing`` are those of the mask. Every px that a polygon touches is kept, so
    that no cell of the region is lost; parts outside the slide are ignored. Raises SpaceError
    where a geometry has no area.
    """
    import shapely

    mask = np.zeros(tuple(shape), dtype=np.bool_)
    frame = shapely.box(-1, -1, mask.shape[1] + 1, mask.shape[0] + 1)
    scale = np.array([mask.shape[1] / level0_shape[1], mask.shape[0] / level0_shape[0]])
    for number, geometry in enumerate(polygons):
        region = shapely.make_valid(geometry)
        if region is None or not region.area > 0:
            raise SpaceError(f"geometry {number} of the tissue region has no area: {geometry}")
        scaled = shapely.transform(region, lambda xy: xy * scale)
        for part in _polygons(scaled.intersection(frame)):
            _draw(mask, [part.exterior, *part.interiors])
    return Tissue(mask, spacing)


def _polygons(geometry: Any) -> list[Any]:
    """The polygons in a geometry of any nesting."""
    if geometry.geom_type == "Polygon":
        return [geometry] if geometry.area > 0 else []
    return [p for part in getattr(geometry, "geoms", ()) for p in _polygons(part)]


def _draw(mask: NDArray[np.bool_], rings: Sequence[Any]) -> None:
    """Set every px of ``mask`` that the polygon of ``rings`` meets: its inside and its border."""
    edges = [np.asarray(ring.coords)[:, :2] for ring in rings]
    begin = np.concatenate([e[:-1] for e in edges])
    end = np.concatenate([e[1:] for e in edges])
    mask |= _inside(begin, end, mask.shape)
    # an edge along a px border runs through no px; what lies inside of it has its centre there,
    # or is crossed by another edge
    between = ((begin == end) & (begin == np.floor(begin))).any(axis=1)
    for a, b in zip(begin[~between], end[~between], strict=True):
        x, y = _crossed(a, b).T
        kept = (x >= 0) & (x < mask.shape[1]) & (y >= 0) & (y < mask.shape[0])
        mask[y[kept], x[kept]] = True


def _inside(
    begin: NDArray[np.float64], end: NDArray[np.float64], shape: tuple[int, ...]
) -> NDArray[np.bool_]:
    """Px whose centre is inside the closed rings of edges ``begin`` to ``end`` (E, 2) of (x, y).

    Even-odd rule: each edge that a row of centres crosses flips all px to the right of it.
    """
    flips = np.zeros((shape[0], shape[1] + 1), dtype=np.int32)
    for (ax, ay), (bx, by) in zip(begin, end, strict=True):
        low, high = sorted((ay, by))
        rows = np.arange(max(0, np.ceil(low - 0.5)), min(shape[0], np.ceil(high - 0.5)))
        if rows.size:
            x = ax + (rows + 0.5 - ay) * (bx - ax) / (by - ay)
            columns = np.clip(np.ceil(x - 0.5), 0, shape[1]).astype(np.int64)
            flips[rows.astype(np.int64), columns] += 1
    return np.asarray(flips[:, :-1].cumsum(axis=1) % 2 == 1)


def _crossed(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.int64]:
    """Px (N, 2) of (x, y) that the segment from ``a`` to ``b`` runs through."""
    cuts = [np.array([0.0, 1.0])]
    for low, high in zip(a, b, strict=True):
        lines = np.arange(np.ceil(min(low, high)), np.floor(max(low, high)) + 1)
        if low != high:
            cuts.append((lines - low) / (high - low))
    t = np.sort(np.clip(np.concatenate(cuts), 0, 1))
    middles = (t[:-1] + t[1:])[:, None] / 2  # between two cuts a segment stays within one px
    return np.asarray(np.floor(a + middles * (b - a)), dtype=np.int64)
