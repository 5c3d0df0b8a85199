"""Resampling: the same values in every cut, and those of an independent implementation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from wsiseg.geometry import Box
from wsiseg.image import resample as module
from wsiseg.image.resample import resample, taps

H, W = 97, 113


@pytest.fixture(scope="module")
def image() -> NDArray[np.uint8]:
    rng = np.random.default_rng(3)
    smooth = np.add.outer(np.arange(H) * 2.0, np.arange(W) * 1.1)[..., None]
    noise = rng.integers(0, 60, (H, W, 3))
    return np.clip(smooth % 190 + noise, 0, 255).astype(np.uint8)


def reader(image: NDArray[np.uint8], log: list[Box] | None = None):
    def read(box: Box) -> NDArray[np.uint8]:
        assert Box.of_shape(image.shape[:2]).contains(box), box
        if log is not None:
            log.append(box)
        return image[box.slices()]

    return read


def target(scale: float) -> tuple[int, int]:
    return max(1, int(np.ceil(H / scale))), max(1, int(np.ceil(W / scale)))


scales = st.floats(0.4, 9.0)


@settings(max_examples=40, deadline=None)
@given(scale=scales, data=st.data())
def test_values_do_not_depend_on_the_cut(image, scale, data):
    shape = target(scale)
    whole = resample(reader(image), (H, W), (scale, scale), Box.of_shape(shape))
    cuts = [sorted({0, n, *data.draw(st.lists(st.integers(0, n), max_size=3))}) for n in shape]
    for y0, y1 in zip(cuts[0], cuts[0][1:], strict=False):
        for x0, x1 in zip(cuts[1], cuts[1][1:], strict=False):
            part = Box((y0, x0), (y1, x1))
            found = resample(reader(image), (H, W), (scale, scale), part)
            assert np.array_equal(found, whole[part.slices()])


def test_values_do_not_depend_on_how_much_is_held_at_a_time(image, monkeypatch):
    box = Box.of_shape(target(3.3))
    whole = resample(reader(image), (H, W), (3.3, 3.3), box)
    monkeypatch.setattr(module, "BLOCK", 20)
    monkeypatch.setattr(module, "BAND", 50)
    log: list[Box] = []
    assert np.array_equal(resample(reader(image, log), (H, W), (3.3, 3.3), box), whole)
    assert max(b.size for b in log) <= 50
    assert len(log) > 100


@pytest.mark.parametrize("shape", [(49, 57), (33, 38), (20, 25), (97, 50), (130, 180)])
def test_agrees_with_pillow_bilinear(image, shape):
    # Pillow's BILINEAR is the same triangle, with weights of 8 fractional bits
    ours = resample(reader(image), (H, W), (H / shape[0], W / shape[1]), Box.of_shape(shape))
    size = (shape[1], shape[0])
    theirs = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
    assert np.abs(ours.astype(int) - theirs).max() <= 1


@settings(max_examples=60, deadline=None)
@given(scale=st.floats(0.1, 40.0), size=st.integers(1, 300))
def test_weights_sum_to_one_and_stay_inside(scale, size):
    n = max(1, int(np.ceil(size / scale)))
    found = taps(0, n, scale, size)
    assert np.abs(found.weight.sum(axis=1) - 1).max() < 1e-5
    assert found.span[0] >= 0
    assert found.span[1] <= size
    assert found.count.min() >= 1


def test_an_even_image_stays_even():
    flat = np.full((41, 43, 3), 201, dtype=np.uint8)
    found = resample(reader(flat), (41, 43), (2.7, 3.1), Box.of_shape((16, 14)))
    assert (found == 201).all()


def test_scale_two_is_the_hand_computed_triangle():
    # centre of target px 1 is source 3.0; weights 1/8, 3/8, 3/8, 1/8 of px 1, 2, 3, 4
    line = np.array([10, 20, 40, 80, 160, 200], dtype=np.uint8)
    image = np.broadcast_to(line[None, :, None], (1, 6, 3)).copy()
    found = resample(reader(image), (1, 6), (1.0, 2.0), Box((0, 1), (1, 2)))
    assert found[0, 0, 0] == round((20 + 3 * 40 + 3 * 80 + 160) / 8 + 1e-9)


def test_fine_stripes_do_not_alias():
    stripes = np.zeros((64, 600, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    found = resample(reader(stripes), (64, 600), (7.3, 7.3), Box((1, 1), (7, 80)))
    assert np.abs(found.astype(int) - 127).max() <= 3
