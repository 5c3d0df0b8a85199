from itertools import pairwise

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from wsiseg.cells.layer import CellBatch, uuids_from
from wsiseg.export.density import Density, pick_field


def at(*xy):
    boxes = np.array([shapely.box(x - 1, y - 1, x + 1, y + 1) for x, y in xy], dtype=object)
    return CellBatch(uuids_from(boxes), boxes, np.full(len(boxes), -1, np.int32), ())


def test_each_centroid_counts_in_its_bin_and_outsiders_in_the_nearest():
    density = Density((997, 1013), 100)
    density.add(at((150, 20), (199.9, 99.9), (1012, 996), (1500, -40)))
    assert density.counts.shape == (10, 11)
    assert density.cells == 4
    assert np.argwhere(density.counts).tolist() == [[0, 1], [0, 10], [9, 10]]
    assert density.counts[0, 1] == 2


@given(cuts=st.lists(st.integers(0, 40), max_size=5))
def test_counts_do_not_depend_on_the_batches(cuts):
    rng = np.random.default_rng(0)
    cells = at(*rng.uniform(0, 900, (40, 2)))
    edges = [0, *sorted(cuts), 40]
    parts = [cells.take(slice(a, b)) for a, b in pairwise(edges)]
    whole = Density.of([cells], (997, 1013), bins=64)
    assert np.array_equal(Density.of(parts, (997, 1013), bins=64).counts, whole.counts)
    assert max(whole.counts.shape) <= 64


@pytest.mark.parametrize("shape", [(997, 1013), (100, 3000), (90, 90)])
def test_a_field_lies_inside_the_slide_and_holds_cells(shape):
    rng = np.random.default_rng(1)
    cells = at(*rng.uniform(0, 1, (300, 2)) * shape[::-1])
    field = pick_field(Density.of([cells], shape, bins=50), 128)
    assert field.shape == (min(128, shape[0]), min(128, shape[1]))
    assert field.clip(shape) == field
    xy = shapely.get_coordinates(shapely.centroid(cells.geometry))
    y0, x0, y1, x1 = *field.start, *field.stop
    assert ((xy[:, 0] >= x0) & (xy[:, 0] < x1) & (xy[:, 1] >= y0) & (xy[:, 1] < y1)).any()


def test_a_field_is_dense_but_not_the_densest():
    # one clot of 50,000 cells, a patch of 36 cells per bin over 40 x 40 bins, sparse elsewhere
    density = Density((1000, 1000), 10)
    density.counts[:] = 1
    density.counts[20:60, 40:80] = 36
    density.counts[90, 5] = 50_000
    field = pick_field(density, 80)
    inside = density.counts[tuple(slice(s.start // 10, s.stop // 10) for s in field.slices())]
    assert inside.sum() == 64 * 36


def test_the_first_of_equal_fields_is_taken():
    density = Density((400, 400), 10)
    density.counts[:] = 1
    assert pick_field(density, 100).start == (0, 0)


def test_without_cells_the_field_is_the_middle():
    assert pick_field(Density((1000, 600), 10), 100).start == (450, 250)
