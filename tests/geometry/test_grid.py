import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsiseg.errors import SpaceError
from wsiseg.geometry import Box, TileGrid


@st.composite
def grids(draw: st.DrawFn) -> TileGrid:
    ndim = draw(st.integers(1, 3))
    sizes = st.tuples(*[st.integers(1, 17)] * ndim)
    return TileGrid(draw(sizes), draw(sizes), draw(st.integers(0, 5)))


@given(grids())
def test_every_pixel_has_one_owner(grid: TileGrid) -> None:
    seen = np.zeros(grid.shape, dtype=int)
    for tile in grid:
        seen[tile.core.slices()] += 1
    assert (seen == 1).all()


@given(grids())
def test_owner_names_the_tile_whose_core_holds_the_point(grid: TileGrid) -> None:
    points = np.argwhere(np.ones(grid.shape, dtype=bool))
    number = np.zeros(grid.shape, dtype=int)
    for tile in grid:
        number[tile.core.slices()] = grid.number(tile.index)
    assert np.array_equal(grid.owner(points), number.ravel())


@given(grids(), st.data())
def test_overlapping_finds_exactly_the_tiles_that_meet_the_box(
    grid: TileGrid, data: st.DataObject
) -> None:
    corner = st.tuples(*[st.integers(-4, 20)] * len(grid.shape))
    box = Box(data.draw(corner), data.draw(corner))
    expected = [t for t in grid if not t.core.intersect(box).empty]
    assert list(grid.overlapping(box)) == expected


def test_the_halo_reaches_outside_the_lattice() -> None:
    assert TileGrid((997, 1013), (128, 128), 24)[0, 0].read == Box((-24, -24), (152, 152))


def test_a_tile_size_of_zero_is_refused() -> None:
    with pytest.raises(SpaceError, match="positive tile sizes"):
        TileGrid((10, 10), (0, 5), 1)
