"""The synthetic slide looks like H&E to a measurement, is the same in tiles, and opens anywhere."""

from __future__ import annotations

import numpy as np
import openslide
import pytest
import tifffile

from wsiseg.errors import SpaceError
from wsiseg.geometry import Box, TileGrid
from wsiseg.synth import he_slide, plan_he, write_he_slide
from wsiseg.synth.texture import grain, keep_apart, noise

SHAPE = (611, 797)


@pytest.fixture(scope="module")
def slide():
    return he_slide(SHAPE, np.random.default_rng(5))


def _at(shape):
    return np.indices(shape) + 0.5


def test_a_slide_is_the_same_for_the_same_generator(slide):
    again = he_slide(SHAPE, np.random.default_rng(5))
    assert np.array_equal(again.rgb, slide.rgb)
    assert np.array_equal(again.labels, slide.labels)
    assert not np.array_equal(he_slide(SHAPE, np.random.default_rng(6)).labels, slide.labels)


@pytest.mark.parametrize("tile", [(97, 131), (611, 100)])
def test_tiles_are_cut_from_the_same_picture(slide, tile):
    plan = plan_he(SHAPE, np.random.default_rng(5))
    for part in TileGrid(SHAPE, tile, 0):
        rgb, labels = plan.render(part.core)
        assert np.array_equal(rgb, slide.rgb[part.core.slices()])
        assert np.array_equal(labels, slide.labels[part.core.slices()])


def test_labels_and_centroids_are_of_the_same_nuclei(slide):
    count = len(slide.centroids)
    assert np.array_equal(np.unique(slide.labels), np.arange(count + 1))
    area = np.bincount(slide.labels.ravel())
    for axis, place in enumerate(np.indices(SHAPE)):
        mean = np.bincount(slide.labels.ravel(), weights=place.ravel() + 0.5) / area
        assert np.abs(mean[1:] - slide.centroids[:, axis]).max() < 4
        assert np.median(np.abs(mean[1:] - slide.centroids[:, axis])) < 0.3


def test_nuclei_have_the_sizes_and_the_density_of_tissue(slide):
    diameter_um = 2 * np.sqrt(np.bincount(slide.labels.ravel())[1:] / np.pi) * slide.mpp
    assert 6 < np.median(diameter_um) < 10
    assert np.quantile(diameter_um, 0.02) > 4
    assert np.quantile(diameter_um, 0.98) < 13
    tissue_mm2 = (slide.rgb.min(axis=2) < 225).sum() * (slide.mpp / 1000) ** 2
    assert 1000 < len(slide.centroids) / tissue_mm2 < 3500


def test_some_nuclei_touch_and_some_are_pale(slide):
    labels = slide.labels
    meet = (labels[:, 1:] != labels[:, :-1]) & (labels[:, 1:] > 0) & (labels[:, :-1] > 0)
    pairs = np.unique(np.stack([labels[:, 1:][meet], labels[:, :-1][meet]]), axis=1)
    assert 0.03 < pairs.shape[1] / labels.max() < 0.5
    red = np.bincount(labels.ravel(), weights=slide.rgb[..., 0].ravel())[1:]
    red /= np.bincount(labels.ravel())[1:]
    assert 0.03 < (red > 150).mean() < 0.35


def test_glass_is_white_stroma_pink_and_nuclei_purple(slide):
    red, green, blue = np.moveaxis(slide.rgb.astype(int), -1, 0)
    corner = slide.rgb[:20, :20]
    assert corner.mean() > 238
    assert 1 < corner.std() < 4
    inside = slide.labels > 0
    stroma = ~inside & (green < 215)
    assert np.median(red[stroma]) > np.median(blue[stroma]) > np.median(green[stroma]) + 20
    assert np.median(blue[inside]) > np.median(red[inside]) > np.median(green[inside])
    assert np.median(red[stroma]) - np.median(red[inside]) > 60


def test_another_pixel_size_shows_the_same_nuclei_larger():
    sides = ((400, 0.5), (800, 0.25))
    coarse, fine = (he_slide((n, n), np.random.default_rng(1), mpp=m) for n, m in sides)
    areas = [np.median(np.bincount(s.labels.ravel())[1:]) for s in (coarse, fine)]
    assert areas[1] / areas[0] == pytest.approx(4, rel=0.08)
    assert len(coarse.centroids) == pytest.approx(len(fine.centroids), rel=0.08)


@pytest.mark.parametrize("name", ["demo.tif", "demo.ome.tiff"])
def test_the_file_opens_as_a_pyramid_with_its_pixel_size(slide, tmp_path, name):
    path = tmp_path / name
    write_he_slide(path, slide, tile=64)
    with tifffile.TiffFile(path) as tiff:
        levels = tiff.series[0].levels
        assert [level.shape[:2] for level in levels] == [(611, 797), (153, 200), (39, 50)]
        assert all(level.keyframe.is_tiled for level in levels)
        full, small = levels[0].asarray(), levels[1].asarray()
    assert np.abs(full.astype(int) - slide.rgb).mean() < 4
    blocks = slide.rgb[:608, :796].reshape(152, 4, 199, 4, 3).mean(axis=(1, 3))
    assert np.abs(small[:152, :199] - blocks).mean() < 4
    with openslide.OpenSlide(path) as opened:
        assert opened.dimensions == (797, 611)
        assert float(opened.properties["openslide.mpp-x"]) == pytest.approx(0.5)
        region = np.asarray(opened.read_region((300, 200), 0, (90, 80)))[..., :3]
    assert np.abs(region.astype(int) - slide.rgb[200:280, 300:390]).mean() < 4


@pytest.mark.parametrize("name", ["a.tif", "a.ome.tif"])
def test_a_plan_is_streamed_into_the_same_file(slide, tmp_path, name):
    for folder, source in (("s", slide), ("p", plan_he(SHAPE, np.random.default_rng(5)))):
        (tmp_path / folder).mkdir()
        write_he_slide(tmp_path / folder / name, source)
    assert (tmp_path / "s" / name).read_bytes() == (tmp_path / "p" / name).read_bytes()


@pytest.mark.parametrize(("shape", "mpp"), [((63, 500), 0.5), ((500, 500), 5.0), ((500,), 0.5)])
def test_a_slide_too_small_or_without_a_sane_pixel_size_is_refused(shape, mpp):
    with pytest.raises(SpaceError, match="64 px"):
        plan_he(shape, np.random.default_rng(0), mpp=mpp)


def test_noise_is_smooth_bounded_and_a_function_of_position():
    whole = noise(_at((61, 67)), (5, 9), seed=3)
    assert np.array_equal(noise(_at((61, 67))[:, 10:30, 20:50], (5, 9), 3), whole[10:30, 20:50])
    assert -1 <= whole.min() < -0.6 < 0.6 < whole.max() <= 1
    assert np.abs(np.diff(whole, axis=1)).max() < 2 * 1.5 / 9 * 1.01
    assert np.abs(np.corrcoef(whole.ravel(), noise(_at((61, 67)), (5, 9), 4).ravel())[0, 1]) < 0.3
    moved = noise(_at((61, 67)) - 1000.0, (5, 9), 3)
    assert np.ptp(moved) > 1
    assert not np.array_equal(moved, whole)


def test_grain_is_white_of_unit_variance():
    values = grain(_at((150, 170)), 3, seed=1)
    assert values.mean() == pytest.approx(0, abs=0.02)
    assert values.std() == pytest.approx(1, abs=0.02)
    flat = values.reshape(-1, 3)
    assert np.abs(np.corrcoef(flat.T)[np.triu_indices(3, 1)]).max() < 0.03
    assert np.abs((values[:, 1:] * values[:, :-1]).mean()) < 0.03


def test_points_are_kept_apart_as_by_brute_force():
    rng = np.random.default_rng(2)
    points, radii = rng.uniform(-50, 200, (300, 2)), rng.uniform(1, 9, 300)
    kept = keep_apart(points, radii, 0.8)
    expected: list[int] = []
    for k in range(300):
        distance = np.linalg.norm(points[expected] - points[k], axis=1)
        if (distance >= 0.8 * (radii[expected] + radii[k])).all():
            expected.append(k)
    assert np.flatnonzero(kept).tolist() == expected
    assert 30 < len(expected) < 299


def test_a_box_may_reach_outside_the_slide(slide):
    plan = plan_he(SHAPE, np.random.default_rng(5))
    rgb, labels = plan.render(Box((-30, -40), (20, 30)))
    assert np.array_equal(rgb[30:, 40:], slide.rgb[:20, :30])
    assert not labels[:30].any()
