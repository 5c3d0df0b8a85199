import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsiseg.errors import SpaceError
from wsiseg.geometry import Space

SPACING = st.floats(0.05, 20)


@given(st.tuples(SPACING, SPACING, SPACING), st.tuples(*[st.floats(-1e4, 1e4)] * 3))
def test_to_index_undoes_to_world(spacing: tuple[float, ...], point: tuple[float, ...]) -> None:
    space = Space.regular((9, 8, 7), spacing, "mm", origin=(5.0, -3.0, 1.0))
    back = space.to_index(space.to_world([point]))
    assert np.allclose(back, [point], atol=1e-6)


@given(st.tuples(SPACING, SPACING), SPACING)
def test_another_lattice_covers_the_same_body(spacing: tuple[float, ...], other: float) -> None:
    space = Space.regular((997, 1013), spacing)
    lattice = space.at(other)
    assert np.allclose(lattice.spacing, other)
    mine, theirs = space.to_world([space.shape])[0], lattice.to_world([lattice.shape])[0]
    assert (theirs >= mine - 1e-5 * other).all()
    assert (theirs < mine + other * (1 + 1e-6)).all()


def test_half_the_spacing_is_a_scale_of_exactly_two() -> None:
    level0 = Space.regular((10624, 14464), (0.2485, 0.2485))
    level1 = Space.regular((5312, 7232), (0.497, 0.497))
    assert level1.scale_to(level0) == (2.0, 2.0)


def test_a_whole_number_of_pixels_gains_none_by_rounding() -> None:
    assert Space.regular((1000, 1000), (0.25, 0.25)).at(0.5).shape == (500, 500)


def test_a_space_without_a_pixel_size_has_no_other_spacing() -> None:
    with pytest.raises(SpaceError, match="give mpp"):
        Space.regular((10, 10), (1, 1), "px").at(0.5)
