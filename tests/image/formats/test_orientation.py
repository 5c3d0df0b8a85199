"""Orientation tags: real files against numpy flips of the stored pixels, and all box cuts."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from wsiseg.geometry import Box
from wsiseg.image import open_slide
from wsiseg.image.formats._orientation import oriented
from wsiseg.image.level import Level

# by the definition of tag 274: where row 0 and column 0 of the stored image are seen
SEEN = {
    0: lambda a: a,
    1: lambda a: a,  # top, left
    2: lambda a: a[:, ::-1],  # top, right
    3: lambda a: a[::-1, ::-1],  # bottom, right
    4: lambda a: a[::-1],  # bottom, left
    5: lambda a: a.swapaxes(0, 1),  # left, top
    6: lambda a: np.rot90(a, -1),  # right, top
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),  # right, bottom
    8: lambda a: np.rot90(a, 1),  # left, bottom
}


@pytest.mark.data
@pytest.mark.parametrize("orientation", range(9))
def test_real_files_are_shown_as_meant_at_every_level(slides, orientation):
    path = slides / "odd" / f"test_orient{orientation}.tif"
    with tifffile.TiffFile(path) as tiff, open_slide(path) as slide:
        for k, level in enumerate(tiff.series[0].levels):
            seen = SEEN[orientation](level.asarray())
            assert slide.levels[k].shape == seen.shape
            assert slide.levels[k].downsample == (2.0**k, 2.0**k)
            found = slide.read_level(k, Box.of_shape(seen.shape))
            assert np.array_equal(found, np.repeat(seen[..., None], 3, axis=-1))


@given(
    orientation=st.integers(0, 8),
    shape=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    data=st.data(),
)
def test_any_box_of_the_seen_image(orientation, shape, data):
    stored = np.arange(np.prod(shape) * 3).reshape(*shape, 3).astype(np.uint8)
    level = Level(shape, (1.0, 2.0), lambda box: stored[box.slices()], (16, 32))
    turned = oriented(level, orientation)
    seen = SEEN[orientation](stored)
    assert turned.shape == seen.shape[:2]
    start = [data.draw(st.integers(0, s - 1)) for s in turned.shape]
    stop = [data.draw(st.integers(a + 1, s)) for a, s in zip(start, turned.shape, strict=True)]
    box = Box(tuple(start), tuple(stop))
    assert np.array_equal(turned.read(box), seen[box.slices()])
    swapped = orientation > 4
    assert turned.tile == ((32, 16) if swapped else (16, 32))
    assert turned.downsample == ((2.0, 1.0) if swapped else (1.0, 2.0))


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_pixel_sizes_turn_with_the_image(tmp_path, orientation):
    path = tmp_path / "a.tif"
    pixels = np.zeros((40, 60, 3), np.uint8)
    # 0.25 µm along the stored rows, 0.5 µm down the stored columns
    tifffile.imwrite(
        path, pixels, tile=(16, 16), resolution=(40_000, 20_000), resolutionunit="centimeter",
        extratags=[(274, 3, 1, orientation, True)],
    )  # fmt: skip
    with open_slide(path) as slide:
        assert slide.mpp == pytest.approx((0.25, 0.5) if orientation == 6 else (0.5, 0.25))
        assert slide.levels[0].shape == ((60, 40) if orientation == 6 else (40, 60))
