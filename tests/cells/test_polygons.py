import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wsiseg.cells.objects import Objects, objects_in
from wsiseg.cells.polygons import outlines
from wsiseg.errors import SpaceError
from wsiseg.geometry.links import components, links_of

MASKS = hnp.array_shapes(min_dims=2, max_dims=2, max_side=14).flatmap(lambda s: hnp.arrays(bool, s))


def objects_of(mask: np.ndarray, origin: tuple[int, int] = (0, 0)) -> Objects:
    labels = components(links_of(mask.astype(np.int32)))
    return objects_in(labels, np.ones((1, *mask.shape), np.float16), origin)


def polygons_of(mask: np.ndarray) -> np.ndarray:
    return outlines(objects_of(mask)).to_shapely()


@given(MASKS)
def test_the_outline_is_the_union_of_the_pixel_squares(mask: np.ndarray) -> None:
    labels = components(links_of(mask.astype(np.int32)))
    for label, polygon in enumerate(polygons_of(mask), start=1):
        y, x = np.nonzero(labels == label)
        squares = shapely.union_all(shapely.box(x, y, x + 1, y + 1))
        assert shapely.equals(polygon, squares)


@given(MASKS)
def test_every_ring_is_valid_and_the_area_is_the_pixel_count(mask: np.ndarray) -> None:
    objects = objects_of(mask)
    polygons = outlines(objects).to_shapely()
    assert shapely.is_valid(polygons).all()
    assert np.array_equal(shapely.area(polygons), objects.areas)
    assert shapely.is_ccw(shapely.get_exterior_ring(polygons)).all()


@given(MASKS, st.floats(0.3, 40))
def test_rings_stay_valid_in_px_of_another_lattice(mask: np.ndarray, scale: float) -> None:
    polygons = outlines(objects_of(mask)).scaled((scale, scale * 0.9)).to_shapely()
    assert shapely.is_valid(polygons).all()


def test_a_hole_that_touches_the_outline_at_a_corner_is_a_ring_of_its_own() -> None:
    mask = np.ones((4, 4), bool)
    mask[1, 1] = mask[0, 0] = False
    (polygon,) = polygons_of(mask)
    assert shapely.get_num_interior_rings(polygon) == 1
    assert shapely.is_valid(polygon)
    assert polygon.area == 14


def test_pixels_that_touch_only_at_a_corner_are_two_objects() -> None:
    assert len(polygons_of(np.eye(2, dtype=bool))) == 2


def test_collinear_vertices_are_left_out() -> None:
    (polygon,) = polygons_of(np.ones((5, 9), bool))
    assert shapely.get_num_coordinates(polygon) == 5


def test_large_objects_with_holes_are_traced_exactly() -> None:
    rng = np.random.default_rng(0)
    mask = rng.random((997, 1013)) < 0.7
    objects = objects_of(mask, origin=(123, 456))
    polygons = outlines(objects).to_shapely()
    assert np.array_equal(shapely.area(polygons), objects.areas)
    start, stop = objects.boxes
    bounds = np.column_stack([start[:, ::-1], stop[:, ::-1]])
    assert np.array_equal(shapely.bounds(polygons), bounds)


def test_objects_of_a_volume_have_no_outline() -> None:
    with pytest.raises(SpaceError, match="in 2-D"):
        outlines(Objects.none(3, 1))
