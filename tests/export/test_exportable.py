from dataclasses import replace

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from wsiseg.cells.layer import CellBatch, uuids_from
from wsiseg.errors import InputFileError
from wsiseg.export.exportable import class_label, exportable


def batch_of(geometry, **columns):
    geometry = np.array(geometry, dtype=object)
    index = np.full(len(geometry), -1, dtype=np.int32)
    return CellBatch(uuids_from(geometry), geometry, index, (), **columns)


SQUARE = shapely.box(0, 0, 10, 10)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    offset=st.sampled_from([0, 60_000, 120_000, 210_000]),
    thin=st.sampled_from([1, 0.01]),
)
def test_any_polygon_becomes_sound_or_is_counted(seed, offset, thin):
    rng = np.random.default_rng(seed)
    tangles = [rng.normal(size=(rng.integers(3, 20), 2)) * (8, 8 * thin) for _ in range(20)]
    given_ = batch_of([shapely.Polygon(xy + offset) for xy in tangles])
    out, dropped = exportable(given_)
    assert len(out) + sum(dropped.values()) == len(given_)
    xy = shapely.get_coordinates(out.geometry)
    assert np.array_equal(xy, np.round(xy, 2))
    packed = shapely.transform(out.geometry, lambda xy: xy.astype(np.float32))
    assert shapely.is_valid(out.geometry).all()
    assert shapely.is_valid(packed).all()
    again, none = exportable(out)
    assert not none
    assert shapely.equals_exact(again.geometry, out.geometry).all()


def test_rounding_that_breaks_an_outline_is_repaired_with_the_same_area():
    # at 2 decimals the tooth's tip (3.004) falls on the far edge (3.00) and crosses it
    ring = [(0, 0), (10, 0), (10, 3.0049), (5.001, 3.0049), (5, 0.0051), (4.999, 3.0049)]
    notched = shapely.Polygon([*ring, (0, 3.0049), (0, 0)])
    crossing = shapely.Polygon([(0, 0), (4, 0.004), (8, 0), (8, 5), (4, 0.0049), (0, 5)])
    assert crossing.is_valid
    rounded = shapely.transform(crossing, lambda xy: np.round(xy, 2))
    assert not rounded.is_valid
    out, dropped = exportable(batch_of([notched, crossing]))
    assert dropped == {}
    assert shapely.is_valid(out.geometry).all()
    assert shapely.area(out.geometry) == pytest.approx([notched.area, crossing.area], abs=0.1)


def test_what_cannot_be_written_is_dropped_by_reason():
    with np.errstate(invalid="ignore"):
        nan = shapely.Polygon([(0, 0), (1, np.nan), (1, 1), (0, 0)])
    sliver = shapely.Polygon([(0, 0), (9, 0.001), (5, 0.002), (0, 0)])
    bad = [shapely.Point(1, 1), shapely.Polygon(), None, nan, sliver, shapely.box(0, 0, 0.05, 0.05)]
    ids = uuids_from(np.array([SQUARE] * 7, dtype=object))
    index = np.full(7, -1, dtype=np.int32)
    out, dropped = exportable(CellBatch(ids, np.array([*bad, SQUARE], dtype=object), index, ()))
    assert dropped == {"not_polygon": 3, "not_finite": 1, "zero_area": 2}
    assert out.id.tolist() == ids[-1:].tolist()


def test_a_multipolygon_of_one_part_becomes_a_polygon_and_z_is_left_out():
    tall = shapely.force_3d(SQUARE, 7.0)
    out, _ = exportable(batch_of([shapely.MultiPolygon([SQUARE]), tall]))
    assert [g.geom_type for g in out.geometry] == ["Polygon", "Polygon"]
    assert not shapely.has_z(out.geometry).any()


def test_a_bow_tie_becomes_its_two_wings():
    out, _ = exportable(batch_of([shapely.Polygon([(0, 0), (4, 4), (4, 0), (0, 4)])]))
    assert out.geometry[0].geom_type == "MultiPolygon"
    assert out.geometry[0].area == 8


def test_a_nucleus_beyond_repair_leaves_its_cell():
    nuclei = np.array([shapely.box(2, 2, 5, 5), shapely.Point(1, 1), None], dtype=object)
    cells = batch_of([SQUARE, SQUARE, SQUARE], nucleus=nuclei)
    out, dropped = exportable(cells)
    assert dropped == {"nucleus_not_polygon": 1}
    assert shapely.is_missing(out.nucleus).tolist() == [False, True, True]


def test_measurements_become_float32_and_infinite_ones_nan():
    values = np.array([0.1, np.inf, 1e300])
    out, _ = exportable(batch_of([SQUARE] * 3, measurements={"a": values}))
    assert out.measurements["a"].dtype == np.float64
    np.testing.assert_array_equal(out.measurements["a"], [float(np.float32(0.1)), np.nan, np.nan])


@pytest.mark.parametrize(
    ("given_", "label"),
    [
        ("Tumor", "Tumor"),
        ("Tumor: Positive", "Tumor: Positive"),
        ("Tumor:Positive", "Tumor: Positive"),
        (":a:: b :", "a: b"),
        ("two\nlines\tand\u2028more", "two lines and more"),
        ("  ", "unnamed"),
        (":", "unnamed"),
        ("腫瘍 💠", "腫瘍 💠"),
        ("lone \ud800", "lone ?"),
    ],
)
def test_class_names_follow_one_rule(given_, label):
    assert class_label(given_) == label
    assert class_label(label) == label


@pytest.mark.parametrize("text", ["1", "", "A3C1E5F0-0000-4000-8000-000000000000", "object_0"])
def test_an_id_that_is_no_uuid_is_refused(text):
    cells = CellBatch(np.array([text]), np.array([SQUARE]), np.array([-1], np.int32), ())
    with pytest.raises(InputFileError, match="UUID"):
        exportable(cells)


def test_sound_cells_pass_unchanged(make_cells):
    cells = make_cells(500)
    out, dropped = exportable(cells)
    assert dropped == {}
    assert shapely.equals_exact(out.geometry, cells.geometry).all()
    assert out.classes == cells.classes


def test_what_is_vouched_for_is_taken_as_it_is_but_for_the_rest():
    cells = batch_of([SQUARE], measurements={"a": np.array([np.inf])}).vouched_for()
    out, dropped = exportable(cells)
    assert dropped == {}
    assert out.geometry is cells.geometry
    assert np.isnan(out.measurements["a"]).all()
    wrong_id = replace(cells, id=np.array(["x"])).vouched_for()
    with pytest.raises(InputFileError, match="UUID"):
        exportable(wrong_id)


def test_nuclei_are_looked_at_though_outlines_are_vouched_for():
    bow_tie = shapely.Polygon([(0, 0), (4, 4), (4, 0), (0, 4)])
    cells = batch_of([SQUARE], nucleus=np.array([bow_tie], dtype=object))
    out, _ = exportable(cells.vouched_for())
    assert out.nucleus[0].geom_type == "MultiPolygon"


def test_negative_zeros_become_zeros():
    corner = shapely.Polygon([(-0.0, -0.0), (4, -0.0), (4, 4), (-0.001, 4)])
    out, _ = exportable(batch_of([corner, shapely.Polygon([(-0.0, 0), (4, 0), (4, 4)])]))
    assert not np.signbit(shapely.get_coordinates(out.geometry)).any()


def test_empty_parts_are_left_out():
    other = shapely.box(20, 0, 30, 9)
    empty = shapely.Polygon()
    parts = [[SQUARE, empty], [empty, SQUARE, empty, other], [empty, empty], [SQUARE, other]]
    out, dropped = exportable(batch_of([shapely.MultiPolygon(p) for p in parts]))
    assert dropped == {"not_polygon": 1}
    assert [g.geom_type for g in out.geometry] == ["Polygon", "MultiPolygon", "MultiPolygon"]
    assert shapely.get_num_geometries(out.geometry).tolist() == [1, 2, 2]


@pytest.mark.parametrize("kind", ["Z", "M", "ZM"])
def test_other_dimensions_are_left_out(kind):
    vertices = ((0, 0), (9, 0), (9, 9), (0, 0))
    numbers = ", ".join(" ".join([f"{x} {y}", *"78"[: len(kind)]]) for x, y in vertices)
    (out,) = exportable(batch_of(shapely.from_wkt([f"POLYGON {kind} (({numbers}))"])))[0].geometry
    assert shapely.get_coordinate_dimension(out) == 2
    assert out.equals(shapely.Polygon(vertices))


@pytest.mark.parametrize("far", [1e12, -1e12])
def test_coordinates_are_kept_up_to_the_farthest_and_refused_beyond(far):
    there = shapely.box(far - 4e6, 0, far + 4e6, 8e6)
    near = shapely.box(far - 8e6, 0, far, 8e6) if far > 0 else shapely.box(far, 0, far + 8e6, 8e6)
    out, dropped = exportable(batch_of([there, near]))
    assert dropped == {"not_finite": 1}
    assert shapely.equals_exact(out.geometry, [near]).all()
