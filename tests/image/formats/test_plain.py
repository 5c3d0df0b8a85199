"""Plain images and arrays."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from PIL import Image

from wsiseg.errors import UnreadableSlideError, UnsupportedFormatError
from wsiseg.geometry import Box
from wsiseg.image import open_slide
from wsiseg.image.formats import plain

H, W = 37, 53


@pytest.fixture
def rgb():
    return np.random.default_rng(1).integers(0, 256, (H, W, 3), dtype=np.uint8)


def whole(source, **options):
    with open_slide(source, **options) as slide:
        return slide.read_level(0, Box.of_shape(slide.levels[0].shape))


@pytest.mark.parametrize("suffix", ["png", "bmp", "webp"])
def test_lossless_images(tmp_path, rgb, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(rgb).save(path, lossless=True)
    assert np.array_equal(whole(path), rgb)


def test_jpeg_and_its_orientation(tmp_path):
    ramp = np.add.outer(np.arange(40), 2 * np.arange(60))[..., None].repeat(3, -1).astype(np.uint8)
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(ramp).save(path, quality=95, exif=exif)
    found = whole(path)
    assert found.shape == (60, 40, 3)
    assert np.abs(found.astype(int) - np.rot90(ramp, -1)).max() <= 6


def test_modes(tmp_path, rgb):
    path = tmp_path / "a.png"
    alpha = np.random.default_rng(2).integers(0, 256, (H, W), dtype=np.uint8)
    Image.fromarray(np.dstack([rgb, alpha])).save(path)
    a = alpha[..., None] / 255
    assert np.abs(whole(path) - (rgb * a + 255 * (1 - a))).max() <= 0.51
    Image.fromarray(rgb[..., 0]).save(path)
    assert np.array_equal(whole(path), rgb[..., :1].repeat(3, -1))
    palette = Image.fromarray(rgb).quantize(16)
    palette.save(path)
    assert np.array_equal(whole(path), np.asarray(palette.convert("RGB")))
    deep = rgb[..., 0].astype(np.uint16) * 257
    Image.fromarray(deep).save(path)
    assert np.array_equal(whole(path)[..., 0], rgb[..., 0])
    Image.fromarray(rgb[..., 0] > 99).save(path)
    assert np.array_equal(whole(path)[..., 0], np.where(rgb[..., 0] > 99, 255, 0))


def test_a_resolution_is_taken_only_where_it_is_believable(tmp_path, rgb):
    path = tmp_path / "a.png"
    for dpi, mpp in (((50_800, 101_600), (0.25, 0.5)), ((96, 96), None)):
        Image.fromarray(rgb).save(path, dpi=dpi)
        with open_slide(path) as slide:
            assert slide.mpp == (None if mpp is None else pytest.approx(mpp, rel=1e-3))


def test_arrays(rgb):
    assert np.array_equal(whole(rgb), rgb)
    assert np.array_equal(whole(rgb[..., 0]), rgb[..., :1].repeat(3, -1))
    assert np.array_equal(whole(rgb[..., :1].astype(np.uint16) << 8), rgb[..., :1].repeat(3, -1))
    with open_slide(rgb, mpp=0.5) as slide:
        again = pickle.loads(pickle.dumps(slide))
        assert again.mpp == (0.5, 0.5)
        assert np.array_equal(again.read_level(0, Box.of_shape((H, W))), rgb)
    for bad in (np.zeros((3, 4, 5)), np.zeros(7), np.zeros((0, 4), np.uint8)):
        with pytest.raises(UnsupportedFormatError, match="array must be"):
            open_slide(bad)
    with pytest.raises(UnsupportedFormatError, match="int64"):
        open_slide(np.zeros((4, 4), np.int64))


def test_large_and_damaged_images_are_refused(tmp_path, rgb, monkeypatch):
    path = tmp_path / "a.png"
    Image.fromarray(rgb).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with open_slide(path) as slide, pytest.raises(UnreadableSlideError, match="level 0"):
        slide.read_level(0, Box((0, 0), (5, 5)))
    monkeypatch.setattr(plain, "MAX_PLAIN_PIXELS", 1000)
    with pytest.raises(UnsupportedFormatError, match=r"37 x 53 px.*tiled TIFF"):
        open_slide(path)
