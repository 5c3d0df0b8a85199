"""Pictures of errors: outlines lie where the objects are, at the size of the picture."""

import io

import numpy as np
import pytest
import shapely
from PIL import Image

from wsiseg.geometry import Box
from wsiseg.run.error_cases import DISC_UM
from wsiseg.run.error_pictures import PRED_RGB, TRUTH_RGB, Scene, draw_crop
from wsiseg.run.evaluate_cases import Truth
from wsiseg.run.inputs import Polygons

NONE = Polygons(np.array([], dtype=object), np.array([], dtype=object), 0)
WIDTH = 320


def circles(centre, radius):
    x, y = centre
    return Polygons(
        np.array([shapely.Point(x, y).buffer(radius, quad_segs=64)]), np.array([None]), 0
    )


def drawn(truth, pred, rgb, mpp=0.5):
    """(N, 2) places (x, y) of lines of one colour, px of a picture of x 10-26, y 20-36."""
    scene = Scene(np.full((97, 61, 3), 200, np.uint8), truth, pred, mpp)
    picture = draw_crop(scene, Box((20, 10), (36, 26)), width=WIDTH)
    lines = np.asarray(Image.open(io.BytesIO(picture.lines)))
    y, x = np.nonzero((lines[..., :3] == rgb).all(axis=2) & (lines[..., 3] == 255))
    return np.column_stack([x + 0.5, y + 0.5])


@pytest.mark.parametrize(("centre", "radius"), [((18.3, 27.6), 4.2), ((16.0, 30.0), 1.1)])
def test_polygons_are_as_smooth_as_they_are(centre, radius):
    empty = Truth(NONE, np.zeros((0, 2)), {})
    places = drawn(empty, circles(centre, radius), PRED_RGB)
    scale = WIDTH / 16
    away = np.hypot(*(places - np.subtract(centre, (10, 20)) * scale).T) - radius * scale
    assert len(places) > radius * scale
    assert -4 < away.min() < away.max() < 1  # lines of 2 px lie inside: never a px of the image


def test_centres_are_discs_of_a_fixed_size():
    truth = Truth(None, np.array([[27.5, 17.25]]), (None,))
    places = drawn(truth, NONE, TRUTH_RGB, mpp=0.5)
    away = np.hypot(*(places - np.subtract((17.25, 27.5), (10, 20)) * 20).T)
    assert 20 * DISC_UM / 0.5 - 5 < away.min() < away.max() < 20 * DISC_UM / 0.5 + 1


def test_labels_show_their_pixels():
    labels = np.zeros((97, 61), np.uint16)
    labels[24:30, 13:20] = 7
    places = drawn(Truth(labels, np.zeros((0, 2)), {}), NONE, TRUTH_RGB)
    assert (places.min(axis=0) == (60.5, 80.5)).all()
    assert (places.max(axis=0) == (199.5, 199.5)).all()
