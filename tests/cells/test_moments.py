import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wsiseg.cells.moments import colours_of, shapes_of
from wsiseg.cells.objects import Objects, merge, objects_in
from wsiseg.geometry.links import components, links_of

MASKS = hnp.array_shapes(min_dims=1, max_dims=3, max_side=9).flatmap(lambda s: hnp.arrays(bool, s))
ORIGIN = (1000, -70, 4_000_000)


def objects_of(mask):
    labels = components(links_of(mask.astype(np.int32)))
    origin = ORIGIN[: mask.ndim]
    return labels, objects_in(labels, np.zeros((1, *mask.shape), np.float16), origin)


@given(MASKS)
def test_shapes_are_those_of_the_pixels(mask):
    labels, objects = objects_of(mask)
    shapes = shapes_of(objects)
    for i in range(len(objects)):
        places = np.argwhere(labels == i + 1) + 0.5
        assert shapes.areas[i] == len(places)
        centre = places.mean(axis=0) + ORIGIN[: mask.ndim]
        np.testing.assert_allclose(shapes.centroids[i], centre, rtol=1e-12)
        spread = np.cov(places.T, bias=True).reshape([mask.ndim] * 2) + np.eye(mask.ndim) / 12
        np.testing.assert_allclose(shapes.covariances[i], spread, atol=1e-9)
    np.testing.assert_allclose(shapes.centroids, objects.centroids, rtol=1e-12)


@given(MASKS, st.integers(1, 4), st.randoms(use_true_random=False))
def test_colours_are_those_of_the_pixels(mask, channels, random):
    labels, objects = objects_of(mask)
    rng = np.random.default_rng(random.getrandbits(32))
    pixels = rng.integers(0, 256, (*mask.shape, channels), dtype=np.uint8)
    colours = colours_of(objects, pixels, ORIGIN[: mask.ndim])
    for i in range(len(objects)):
        values = pixels[labels == i + 1].astype(float)
        np.testing.assert_allclose(colours.means[i], values.mean(axis=0), atol=1e-9)
        np.testing.assert_allclose(colours.variances[i], values.var(axis=0), atol=1e-9)


def test_a_disc_has_the_axes_of_a_disc():
    y, x = np.indices((201, 201)) - 100
    shapes = shapes_of(objects_of(4 * y**2 + x**2 < 90**2)[1])  # 180 px wide, 90 px high
    assert shapes.axes[0] == pytest.approx([180, 90], rel=0.01)


def test_a_ball_has_the_axes_of_a_ball():
    z, y, x = np.indices((41, 41, 41)) - 20
    shapes = shapes_of(objects_of(z**2 + y**2 + x**2 < 18**2)[1])
    assert shapes.axes[0] == pytest.approx([36, 36, 36], rel=0.02)


def test_no_objects_have_no_moments():
    none = Objects.none(2, 1)
    assert shapes_of(none).axes.shape == (0, 2)
    assert colours_of(none, np.zeros((4, 4, 3), np.uint8), (0, 0)).means.shape == (0, 3)


def test_moments_do_not_depend_on_how_an_object_was_cut():
    _, whole = objects_of(np.ones((30, 40), bool))
    halves = np.ones((30, 40), np.int32)
    halves[:, 17:] = 2
    cut = objects_in(halves, np.zeros((1, 30, 40), np.float16), ORIGIN[:2])
    joined = merge(cut, np.zeros(2, np.int64), 1)
    np.testing.assert_array_equal(shapes_of(joined).covariances, shapes_of(whole).covariances)
