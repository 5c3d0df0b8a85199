"""Polygons: areas of intersections, and the pixels whose centres a polygon holds."""

from itertools import pairwise

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from wsiseg.errors import InputFileError, SpaceError
from wsiseg.metrics import aji, count_overlaps, dice, grid_overlaps, polygon_overlaps
from wsiseg.metrics import polygons as module
from wsiseg.metrics.polygons import pixel_spans

SHAPE = (23, 31)


@st.composite
def blobs(draw):
    """Valid polygons, some with holes and some of several parts, partly outside the image."""
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(draw(st.integers(0, 6))):
        centre = rng.uniform(-3, 30, 2)
        ring = shapely.Point(centre).buffer(rng.uniform(1, 9), quad_segs=int(rng.integers(1, 5)))
        hole = shapely.Point(centre + rng.normal(0, 2, 2)).buffer(rng.uniform(0.3, 5))
        shape = shapely.difference(ring, hole)
        if draw(st.booleans()):
            # vertices on centres and corners of pixels
            shape = shapely.set_precision(shapely.set_precision(shape, 0.5), 0)
        if shape.area > 0 and shape.geom_type in ("Polygon", "MultiPolygon"):
            found.append(shape)
    return np.array(found, dtype=object)


def painted(polygons, shape=SHAPE):
    """(N, rows, columns) masks of the spans."""
    masks = np.zeros((len(polygons), *shape), int)
    spans = pixel_spans(polygons, shape)
    for i, row, start, stop in zip(spans.object, spans.row, spans.start, spans.stop, strict=True):
        masks[i, row, start:stop] += 1
    return masks


@given(blobs())
def test_a_polygon_owns_the_pixels_whose_centres_it_holds(polygons):
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]] + 0.5
    for polygon, mask in zip(polygons, painted(polygons), strict=True):
        inside = shapely.contains_xy(polygon, x, y)
        edge = shapely.distance(polygon.boundary, shapely.points(x, y)) < 1e-9
        assert np.array_equal(mask[~edge], inside[~edge])
        assert mask.max(initial=0) <= 1


def test_neighbours_share_no_pixel_and_leave_none_out():
    # vertices on pixel centres: the worst case for a tie
    cuts = [0, 4.5, 9.5, 20.5, 31]
    boxes = np.array(
        [
            shapely.box(a, b, c, d)
            for a, c in pairwise(cuts)
            for b, d in zip([0, 7.5], [7.5, 23], strict=True)
        ]
    )
    assert (painted(boxes).sum(axis=0) == 1).all()


def test_a_centre_on_an_outline_belongs_to_the_right_and_below():
    mask = painted(np.array([shapely.box(0.5, 0.5, 2.5, 1.5)]))[0]
    assert np.argwhere(mask).tolist() == [[0, 0], [0, 1]]


def test_whole_pixel_outlines_give_their_pixels_back():
    masks = painted(np.array([shapely.box(3, 5, 9, 6), shapely.box(-4, -4, 2, 1)]))
    assert np.argwhere(masks[0]).tolist() == [[5, c] for c in range(3, 9)]
    assert np.argwhere(masks[1]).tolist() == [[0, 0], [0, 1]]


@given(blobs(), st.integers(0, 2**32 - 1), st.sampled_from([3, 1 << 22]))
def test_grid_table_equals_a_count_of_masks(polygons, seed, chunk):
    labels = np.kron(np.random.default_rng(seed).integers(0, 5, (5, 7)), np.ones((5, 5), int))
    labels = labels[: SHAPE[0], : SHAPE[1]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", chunk)
        table, kept = grid_overlaps(labels, polygons)
    masks = painted(polygons).astype(bool)
    sizes = masks.sum(axis=(1, 2))
    assert kept.tolist() == np.flatnonzero(sizes).tolist()
    assert table.pred_size.tolist() == sizes[kept].tolist()
    found = {
        (int(table.truth_id[t]), int(table.pred_id[p]) - 1): n
        for t, p, n in zip(table.truth, table.pred, table.size, strict=True)
    }
    expected = {
        (int(i), j): (masks[j] & (labels == i)).sum()
        for i in np.unique(labels[labels > 0])
        for j in range(len(polygons))
        if (masks[j] & (labels == i)).any()
    }
    assert found == expected
    covered = masks.any(axis=0)
    assert table.foreground == ((labels > 0).sum(), covered.sum(), (covered & (labels > 0)).sum())


def test_polygons_on_a_volume_are_refused():
    with pytest.raises(InputFileError, match=r"2-D"):
        grid_overlaps(np.zeros((3, 3, 3), int), np.array([shapely.box(0, 0, 1, 1)]))


@given(st.integers(0, 2**32 - 1))
def test_pixel_boxes_score_as_their_labels_do(seed):
    rng = np.random.default_rng(seed)
    truth, pred = (np.kron(rng.integers(0, 4, (3, 4)), np.ones((2, 2), int)) for _ in range(2))
    table = polygon_overlaps(outlines(truth), outlines(pred))
    expected = count_overlaps(truth, pred)
    assert table.truth_size.tolist() == expected.truth_size.tolist()
    assert table.size.tolist() == expected.size.tolist()
    assert (table.truth.tolist(), table.pred.tolist()) == (
        expected.truth.tolist(),
        expected.pred.tolist(),
    )
    assert table.foreground == pytest.approx(expected.foreground)


def outlines(labels):
    ids = np.unique(labels[labels > 0])
    boxes = [[shapely.box(c, r, c + 1, r + 1) for r, c in np.argwhere(labels == i)] for i in ids]
    return np.array([shapely.union_all(b) for b in boxes], dtype=object)


def test_shared_edges_are_no_overlap():
    table = polygon_overlaps(
        np.array([shapely.box(0, 0, 2, 2)]), np.array([shapely.box(2, 0, 4, 2)])
    )
    assert len(table.size) == 0


def test_polygons_that_overlap_their_own_side_count_once_in_dice():
    square = shapely.box(0, 0, 2, 2)
    twice, once = np.array([square, square]), np.array([square])
    table = polygon_overlaps(twice, once)
    assert table.foreground == pytest.approx((4, 4, 4))
    assert float(dice(table)) == pytest.approx(1)
    assert float(aji(table)) == pytest.approx(8 / 8)  # both take the one prediction
    with pytest.raises(SpaceError, match="cannot be restricted"):
        table.restrict(np.array([True, False]), np.array([True]))


@given(blobs(), blobs())
def test_foreground_is_the_area_of_the_unions(truth, pred):
    t, p = shapely.union_all(truth), shapely.union_all(pred)
    expected = (t.area, p.area, shapely.intersection(t, p).area)
    assert polygon_overlaps(truth, pred).foreground == pytest.approx(expected, abs=1e-4)


def test_a_precision_grid_of_the_input_moves_no_area():
    coarse = shapely.set_precision(np.array([shapely.box(0, 0, 10, 10)]), 5)
    table = polygon_overlaps(coarse, np.array([shapely.box(8, 0, 20, 10)]))
    assert table.size.tolist() == [20]


def test_batches_change_nothing(monkeypatch):
    rng = np.random.default_rng(4)
    a, b = (shapely.buffer(shapely.points(rng.uniform(0, 90, (40, 2))), 6) for _ in range(2))
    whole = polygon_overlaps(a, b)
    monkeypatch.setattr(module, "_BATCH", 7)
    parts = polygon_overlaps(a, b)
    for field in ("truth", "pred", "size", "truth_size"):
        assert np.array_equal(getattr(whole, field), getattr(parts, field))
    assert parts.foreground == pytest.approx(whole.foreground)
    assert len(whole.size) > 50


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize(
    "wkt", ["POLYGON ((0 0, 2 2, 2 0, 0 2, 0 0))", "POINT (1 1)", "POLYGON EMPTY"]
)
def test_geometries_without_a_sound_area_are_refused(wkt, side):
    good = np.array([shapely.box(0, 0, 1, 1)])
    sides = [good, good]
    sides[side] = np.array([shapely.box(0, 0, 1, 1), shapely.from_wkt(wkt)])
    with pytest.raises(InputFileError, match=r"1 of 2 .* number 1"):
        polygon_overlaps(*sides)


def test_no_polygons_on_either_side():
    none = np.array([], dtype=object)
    assert polygon_overlaps(none, none).empty
    assert len(polygon_overlaps(none, np.array([shapely.box(0, 0, 1, 1)])).pred_id) == 1
