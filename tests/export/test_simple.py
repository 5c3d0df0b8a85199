import numpy as np
import shapely
from hypothesis import given
from hypothesis import strategies as st

from wsiseg.export.simple import simple_rings


def answer(*rings) -> list[bool]:
    """For rings given without their last vertex."""
    closed = [np.array([*ring, ring[0]], dtype=float) for ring in rings]
    offsets = np.cumsum([0, *map(len, closed)])
    return simple_rings(np.concatenate(closed), offsets).tolist()


COARSE = st.integers(0, 5)  # so that vertices and edges meet often
FINE = st.integers(-1_000_000, 1_000_000).map(lambda v: v / 100)
FAR = st.integers(12_000_000, 12_000_300).map(lambda v: float(np.float32(v / 100)))


@given(
    st.sampled_from([COARSE, FINE, FAR]).flatmap(lambda v: st.lists(st.tuples(v, v), min_size=3))
)
def test_a_ring_called_simple_is_a_valid_polygon(ring):
    if answer(ring)[0]:
        assert shapely.Polygon(ring).is_valid
        assert shapely.LinearRing(ring).is_simple
        assert shapely.Polygon(ring).area > 0


@given(st.integers(0, 2**32 - 1), st.integers(3, 256))
def test_stars_are_called_simple(seed, vertices):
    rng = np.random.default_rng(seed)
    angle = (np.arange(vertices) + rng.uniform(0, 0.9, vertices)) * 2 * np.pi / vertices
    radius = rng.uniform(0.3, 20, vertices)
    star = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    if vertices > 6:  # fewer need not go around the centre
        assert answer(star) == [True]


def test_a_staircase_is_called_simple():
    steps = [(i + k, i) for i in range(9) for k in (0, 1)]
    assert (
        answer([*steps, (9, 20), (0, 20)], [(0, 0), (5, 0), (9, 0), (9, 9), (0, 9)]) == [True] * 2
    )


def test_what_is_in_doubt_is_not_called_simple():
    rings = {
        "bow tie": [(0, 0), (4, 4), (4, 0), (0, 4)],
        "spike": [(0, 0), (4, 0), (8, 0), (4, 0), (4, 4)],
        "vertex on an edge": [(0, 0), (8, 0), (8, 8), (4, 0), (0, 8)],
        "vertex on a vertex": [(0, 0), (4, 4), (8, 0), (8, 8), (4, 4), (0, 8)],
        "edge on an edge": [(0, 0), (9, 0), (9, 9), (6, 0), (3, 0), (0, 9)],
        "vertex twice": [(0, 0), (4, 0), (4, 0), (4, 4)],
        "no area": [(0, 0), (4, 4), (9, 9)],
        "two vertices": [(0, 0), (1, 1)],
        "too many vertices": [(np.cos(t), np.sin(t)) for t in np.linspace(0, 6, 300)],
        "nearly flat, far away": [(1e9, 1e9), (1e9 + 1e-6, 1e9 + 1e-6), (1e9 + 1, 1e9 + 1)],
    }
    assert dict(zip(rings, answer(*rings.values()), strict=True)) == dict.fromkeys(rings, False)


def test_an_open_ring_is_not_called_simple():
    xy = np.array([(0, 0), (4, 0), (4, 4), (0, 4.0)])
    assert simple_rings(xy, np.array([0, 4])).tolist() == [False]


def test_no_rings_give_no_answers():
    assert simple_rings(np.zeros((0, 2)), np.zeros(1, np.int64)).tolist() == []
