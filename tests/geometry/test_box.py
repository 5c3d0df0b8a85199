import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsiseg.errors import SpaceError
from wsiseg.geometry import Box

INDEX = st.integers(-50, 50)


def boxes(ndim: int) -> st.SearchStrategy[Box]:
    corner = st.tuples(*[INDEX] * ndim)
    return st.builds(Box, corner, corner)


@pytest.mark.parametrize("ndim", [2, 3])
def test_the_intersection_holds_exactly_the_pixels_in_both(ndim: int) -> None:
    @given(boxes(ndim), boxes(ndim), st.tuples(*[INDEX] * ndim))
    def check(a: Box, b: Box, at: tuple[int, ...]) -> None:
        pixel = Box(at, tuple(i + 1 for i in at))
        assert a.intersect(b).contains(pixel) == (a.contains(pixel) and b.contains(pixel))

    check()


@given(boxes(3), st.integers(0, 9))
def test_shrinking_undoes_growing(box: Box, by: int) -> None:
    grown = box.grow(by)
    assert grown.grow(-by) == box
    assert grown.contains(box)


@given(boxes(2), st.tuples(INDEX, INDEX))
def test_shifting_keeps_the_shape(box: Box, by: tuple[int, int]) -> None:
    assert box.shift(by).shape == box.shape


def test_slices_are_relative_to_the_origin() -> None:
    assert Box((3, 5), (7, 6)).slices((1, 5)) == (slice(2, 6), slice(0, 1))


def test_a_box_with_unequal_corners_is_refused() -> None:
    with pytest.raises(SpaceError, match="as many starts as stops"):
        Box((1, 2), (3,))
