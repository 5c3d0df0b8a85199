"""One invertible map for all that belongs to an image: fields never fold, nothing comes apart."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from wsiseg.synth import scene
from wsiseg.training.warp import Warp, elastic, jacobian, random_warp, sample

SEEDS = st.integers(0, 2**32 - 1)
SIDES = st.sampled_from([16, 31, 64, 97])
BENDS = st.sampled_from([0.3, 1.5, 4.0, 20.0, 1e4])


def _random(seed, *, side=64, bend=1.5, scale=1.0, centre=(70.0, 60.0)):
    return random_warp(np.random.default_rng(seed), np.array(centre), side, scale, bend)


@cache
def _labels(seed):
    return scene((131, 127), 60, np.random.default_rng(seed), extent=(5, 25))


def _area(a, b, c):
    """Signed areas, times 2, of triangles with corners (2, ...)."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, side=SIDES, bend=BENDS)
def test_an_elastic_field_never_folds(seed, side, bend):
    field = elastic(np.random.default_rng(seed), side, bend)
    assert field.shape == (2, side, side)
    assert field.dtype == np.float32
    assert field.any()
    assert jacobian(field).min() >= 0.4
    # both triangles of each square of pixels keep their orientation: the map has an inverse
    p = np.indices((side, side)) + field.astype(np.float64)
    here, down = p[:, :-1, :-1], p[:, 1:, :-1]
    right, across = p[:, :-1, 1:], p[:, 1:, 1:]
    assert _area(here, down, right).min() > 0
    assert _area(across, right, down).min() > 0


@settings(max_examples=20, deadline=None)
@given(rows=st.tuples(*[st.floats(-0.8, 0.8)] * 4))
def test_the_jacobian_of_a_linear_field_is_its_determinant(rows):
    matrix = np.array(rows).reshape(2, 2)
    field = np.einsum("ij,jkl->ikl", matrix, np.indices((9, 9))).astype(np.float32)
    expected = np.linalg.det(np.eye(2) + matrix)
    np.testing.assert_allclose(jacobian(field), expected, atol=1e-5)


def test_a_field_that_would_fold_is_weakened_and_a_gentle_one_is_not():
    gentle, wild = (elastic(np.random.default_rng(4), 64, bend) for bend in (0.5, 50))
    factor = np.abs(wild).max() / np.abs(gentle).max() / 100
    assert factor < 0.5
    assert np.log2(factor) == pytest.approx(round(np.log2(factor)), abs=1e-3)  # by halves
    np.testing.assert_allclose(wild, gentle * 100 * factor, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("side", [8, 97])
def test_places_of_the_identity_are_the_pixels_themselves(side):
    warp = Warp(np.eye(2), np.full(2, (side - 1) / 2), None, side)
    np.testing.assert_array_equal(warp.places(), np.indices((side, side)))


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, side=SIDES, scale=st.floats(0.2, 5))
def test_points_into_crop_is_the_inverse_of_places(seed, side, scale):
    warp = _random(seed, side=side, bend=0, scale=scale, centre=(511.3, 40.8))
    pixels = np.random.default_rng(seed).integers(0, side, (20, 2))
    points = warp.places()[:, pixels[:, 0], pixels[:, 1]].T.astype(np.float64)
    np.testing.assert_allclose(warp.points_into_crop(points), pixels, atol=2e-3 / min(1, scale))
    offsets = points - points[0]
    inside = warp.into_crop(offsets.T.astype(np.float32))
    np.testing.assert_allclose(inside.T, pixels - pixels[0], atol=2e-3 / min(1, scale))


def test_half_of_the_warps_mirror_and_all_scale_as_told():
    found = [np.linalg.det(_random(seed, scale=1.7).linear) for seed in range(200)]
    np.testing.assert_allclose(np.abs(found), 1.7**2)
    assert 70 < np.count_nonzero(np.array(found) < 0) < 130
    angles = [np.arctan2(*_random(seed).linear[:, 0]) for seed in range(200)]
    assert np.histogram(angles, bins=4, range=(-np.pi, np.pi))[0].min() > 25


def test_a_warp_is_a_function_of_its_generator():
    one, same, other = (_random(seed).places() for seed in (5, 5, 6))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_without_bend_there_is_no_field():
    assert _random(3, bend=0).field is None


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, bend=st.sampled_from([0, 1.5, 8]), scale=st.floats(0.3, 3))
def test_image_and_labels_stay_together_under_any_warp(seed, bend, scale):
    labels = _labels(seed % 4)
    red = (labels * 3 % 256).astype(np.uint8)
    least = ndimage.minimum_filter(labels, 3, mode="nearest")
    within = (labels == least) & (labels == ndimage.maximum_filter(labels, 3, mode="nearest"))
    places = _random(seed, bend=bend, scale=scale).places()
    seen = sample(red, places, exact=False)
    here = sample(labels.astype(np.uint16), places, exact=True)
    sure = sample(within.astype(np.uint8), places, exact=True) > 0
    assert sure.mean() > 0.2
    np.testing.assert_array_equal(seen[sure], here[sure] * 3 % 256)


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, fill=st.sampled_from([None, 0, 255]))
def test_sampling_is_linear_or_nearest_and_mirrored_or_filled(seed, fill):
    places = _random(seed, bend=0, scale=2.5).places()  # reaches far beyond the edge
    noise = np.random.default_rng(seed).integers(0, 255, (131, 127))
    image = ndimage.gaussian_filter(noise.astype(float), 2).astype(np.uint8)
    mode = {"mode": "reflect"} if fill is None else {"mode": "grid-constant", "cval": fill}
    linear = ndimage.map_coordinates(image.astype(float), places, order=1, **mode)
    off = np.abs(sample(image, places, exact=False, fill=fill) - linear)
    # places are rounded to 1/32 px, along each axis, and the result to a grey level
    steep = 255 if fill is not None else max(int(np.abs(np.diff(image.astype(int), axis=a)).max())
                                             for a in (0, 1))  # fmt: skip
    assert off.max() <= 2 * steep / 64 + 1
    nearest = ndimage.map_coordinates(image, places, order=0, **mode)
    tie = (np.abs(places - np.floor(places) - 0.5) < 1e-3).any(axis=0)
    exact = sample(image, places, exact=True, fill=fill)
    assert np.array_equal(exact[~tie], nearest[~tie])


def test_colours_and_labels_beyond_255_are_sampled_as_they_are():
    places = _random(0, bend=0).places()
    image = np.random.default_rng(0).integers(0, 255, (131, 127, 3), dtype=np.uint8)
    together = sample(image, places, exact=False)
    for k in range(3):
        apart = sample(np.ascontiguousarray(image[..., k]), places, exact=False)
        assert np.array_equal(together[..., k], apart)
    numbers = (np.arange(131 * 127).reshape(131, 127) * 4).astype(np.uint16)
    assert set(np.unique(sample(numbers, places, exact=True))) <= set(numbers.ravel())
