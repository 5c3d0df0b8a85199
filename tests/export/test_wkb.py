import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from wsiseg.export.wkb import wkb_of


def as_geos_would(geometry) -> list[bytes]:
    return shapely.to_wkb(geometry, byte_order=1, flavor="iso").tolist()


@st.composite
def polygons(draw):
    """Any polygon, with any number of holes wherever they lie; WKB asks for no validity."""
    number = st.floats(-1e12, 1e12) | st.just(-0.0)
    rings = st.lists(st.tuples(number, number), min_size=3, max_size=9)
    return shapely.Polygon(draw(rings), draw(st.lists(rings, max_size=3)))


ANY = polygons() | st.lists(polygons(), min_size=1, max_size=4).map(shapely.MultiPolygon)


@given(st.lists(ANY, max_size=9))
def test_the_bytes_are_those_of_geos(shapes):
    geometry = np.array([*shapes, None], dtype=object)[:-1]
    assert wkb_of(geometry).tolist() == as_geos_would(geometry)


@pytest.mark.parametrize("n", [0, 1, 500])
def test_the_bytes_of_cells_are_those_of_geos(make_cells, n):
    geometry = make_cells(n).geometry
    rows = wkb_of(geometry)
    assert rows.tolist() == as_geos_would(geometry)
    assert rows.joined() == b"".join(as_geos_would(geometry))
