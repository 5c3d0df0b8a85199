import gzip
import json
import logging

import numpy as np
import pytest
import shapely

from wsiseg.cells.layer import concatenate
from wsiseg.errors import InputFileError
from wsiseg.export import write_all
from wsiseg.export.geojson_parse import Features
from wsiseg.export.geojson_read import read_geojson, read_region

RING = [[0, 0], [10, 0], [10, 8], [0, 8], [0, 0]]
POLYGON = {"type": "Polygon", "coordinates": [RING]}
UUID = "a3c1e5f0-0000-4000-8000-000000000001"


def feature(geometry=POLYGON, *, uuid=UUID, **properties):
    return {"type": "Feature", "id": uuid, "geometry": geometry, "properties": properties}


def saved(path, top):
    path.write_text(top if isinstance(top, str) else json.dumps(top), encoding="utf-8")
    return path


def only(path):
    (batch,) = read_geojson(path)
    return batch


@pytest.mark.parametrize("nuclei", [False, True])
def test_what_was_written_reads_back_equal(tmp_path, make_cells, nuclei):
    cells = make_cells(3000, nuclei=nuclei)
    write_all([cells], [tmp_path / "x.geojson.gz"])
    assert_equal(concatenate(list(read_geojson(tmp_path / "x.geojson.gz"))), cells)


@pytest.mark.parametrize("count", [30_000, pytest.param(100_000, marks=pytest.mark.soak)])
def test_many_cells_read_back_equal_from_both_formats(tmp_path, make_cells, count):
    from wsiseg.cells.layer import Cells

    cells = make_cells(count, seed=1)
    written = write_all([cells], [tmp_path / "x.geojson", tmp_path / "x.parquet"])
    assert (written.cells, written.dropped) == (count, {})
    assert_equal(concatenate(list(read_geojson(tmp_path / "x.geojson"))), cells)
    assert_equal(concatenate(list(Cells.open(tmp_path / "x.parquet").batches())), cells)


def assert_equal(read, cells):
    assert np.array_equal(read.id, cells.id)
    assert shapely.equals_exact(read.geometry, cells.geometry).all()
    assert np.array_equal(read.class_names, cells.class_names)
    assert list(read.measurements) == list(cells.measurements)
    for name, values in cells.measurements.items():
        np.testing.assert_array_equal(read.measurements[name], values)
    assert (read.nucleus is None) == (cells.nucleus is None)
    if cells.nucleus is not None:
        assert shapely.equals_exact(read.nucleus, cells.nucleus).all()


def test_our_layout_is_streamed_and_others_are_not(tmp_path, make_cells):
    write_all([make_cells(5)], [tmp_path / "x.geojson"])
    assert Features(tmp_path / "x.geojson")._whole is None
    whole = json.loads((tmp_path / "x.geojson").read_bytes())
    saved(tmp_path / "y.geojson", json.dumps(whole, indent=1))
    assert len(Features(tmp_path / "y.geojson")._whole) == 5
    assert_equal(only(tmp_path / "y.geojson"), make_cells(5))


@pytest.mark.parametrize(
    "top",
    [
        {"type": "FeatureCollection", "features": [feature()]},
        [feature()],
        feature(),
        POLYGON,
        [{"type": "Feature", "geometry": POLYGON}],
        [{"type": "Feature", "geometry": POLYGON, "properties": None}],
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_every_container_is_read(tmp_path, top, zipped):
    path = saved(tmp_path / "x.geojson", top)
    if zipped:
        path.write_bytes(gzip.compress(path.read_bytes()))  # by content, not by name
    cells = only(path)
    assert cells.geometry[0].equals(shapely.box(0, 0, 10, 8))
    assert cells.class_index.tolist() == [-1]


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("Tumor: Positive", "Tumor: Positive"),
        ({"name": "Tumor", "color": [200, 0, 0]}, "Tumor"),
        ({"name": "Tumor", "colorRGB": -3670016}, "Tumor"),
        ({"names": ["Tumor", "Positive"], "color": [1, 2, 3]}, "Tumor: Positive"),
        ({"name": "Positive", "parentClass": {"name": "Tumor"}, "colorRGB": 1}, "Tumor: Positive"),
        ({}, None),
        (None, None),
    ],
)
def test_every_spelling_of_a_class_is_read(tmp_path, given, name):
    path = saved(tmp_path / "x.geojson", [feature(classification=given)])
    assert only(path).class_names.tolist() == [name]


@pytest.mark.parametrize(
    "given",
    [
        {"Area": 31.25, "NaN": "NaN", "text": "a", "flag": True, "none": None, "deep": {"a": 1}},
        [{"name": "Area", "value": 31.25}, {"name": "none"}, {"name": "NaN", "value": "NaN"}],
    ],
)
def test_measurements_are_read_as_map_and_as_array(tmp_path, given):
    path = saved(tmp_path / "x.geojson", [feature(measurements=given), feature(uuid="b")])
    columns = only(path).measurements
    assert list(columns) == ["Area"]
    np.testing.assert_array_equal(columns["Area"], [31.25, np.nan])


def test_bare_nan_and_infinity_of_other_programs_are_read(tmp_path):
    text = json.dumps([feature(measurements={"a": float("nan"), "b": float("inf"), "c": 2})])
    assert "NaN" in text
    columns = only(saved(tmp_path / "x.geojson", text)).measurements
    assert {name: v.tolist() for name, v in columns.items()} == {"b": [np.inf], "c": [2.0]}


def test_a_key_that_stands_twice_is_read(tmp_path):
    # QuPath 0.5 and later write "metadata" twice
    text = json.dumps([feature(objectType="detection", metadata={"a": "b"})])
    text = text.replace('"metadata"', '"metadata": {"a": "b"}, "metadata"')
    assert len(only(saved(tmp_path / "x.geojson", text))) == 1


def test_children_are_read_and_annotations_around_cells_are_not_cells(tmp_path):
    inner = [
        feature(objectType="cell", uuid=UUID[:-1] + "2") | {"nucleusGeometry": POLYGON},
        feature(objectType="detection", uuid=UUID[:-1] + "3"),
        feature(objectType="tile"),
    ]
    outer = feature(objectType="annotation", childObjects=inner)
    root = feature({"type": "Point", "coordinates": [0, 0]}, objectType="root", children=[outer])
    cells = only(saved(tmp_path / "x.geojson", [root]))
    assert [uuid[-1] for uuid in cells.id] == ["2", "3"]
    assert shapely.is_missing(cells.nucleus).tolist() == [False, True]


@pytest.mark.parametrize(
    "properties",
    [
        {"object_type": "detection"},
        {"type": "detection"},
        {"objectType": "detection", "isLocked": True, "name": "a", "color": -1},
    ],
)
def test_aliases_of_the_object_type_are_read(tmp_path, properties):
    top = [feature(**properties), feature(objectType="annotation")]
    assert len(only(saved(tmp_path / "x.geojson", top))) == 1


def test_files_of_qupath_0_2_name_the_type_as_the_id(tmp_path):
    top = [feature(uuid="PathDetectionObject"), feature(uuid="PathAnnotationObject")]
    cells = only(saved(tmp_path / "x.geojson", top))
    assert len(cells) == 1
    assert len(cells.id[0]) == 36


def test_objects_without_an_area_are_left_out_with_a_warning(tmp_path, caplog):
    line = {"type": "LineString", "coordinates": [[0, 0], [1, 1]]}
    with caplog.at_level(logging.WARNING):
        assert len(only(saved(tmp_path / "x.geojson", [feature(), feature(line)]))) == 1
    assert "without an area" in caplog.text


def test_an_ellipse_is_the_one_in_its_box(tmp_path):
    cells = only(saved(tmp_path / "x.geojson", [feature(POLYGON | {"isEllipse": True})]))
    assert cells.geometry[0].area == pytest.approx(np.pi * 5 * 4, rel=1e-3)
    assert cells.geometry[0].bounds == (0, 0, 10, 8)


def test_a_plane_a_third_coordinate_and_a_collection_do_not_matter(tmp_path):
    tall = [[x, y, 5] if i else [x, y] for i, (x, y) in enumerate(RING)]
    collection = {
        "type": "GeometryCollection",
        "geometries": [{"type": "Point", "coordinates": [1, 1]}, POLYGON],
    }
    top = [feature({"type": "Polygon", "coordinates": [tall], "plane": {"z": 2}})]
    cells = only(saved(tmp_path / "x.geojson", [*top, feature(collection)]))
    assert [g.equals(shapely.box(0, 0, 10, 8)) for g in cells.geometry] == [True, True]


def test_crossing_outlines_are_made_valid_with_a_warning(tmp_path, caplog):
    bow = {"type": "Polygon", "coordinates": [[[0, 0], [4, 4], [4, 0], [0, 4], [0, 0]]]}
    flat = {"type": "Polygon", "coordinates": [[[0, 0], [4, 4], [8, 8], [0, 0]]]}
    with caplog.at_level(logging.WARNING):
        cells = only(saved(tmp_path / "x.geojson", [feature(bow), feature(flat), feature()]))
    assert shapely.area(cells.geometry).tolist() == [8, 80]
    assert "1 outlines were not valid polygons: made valid" in caplog.text
    assert "1 outlines were not valid polygons: left out" in caplog.text


def test_ids_that_are_missing_are_the_same_at_every_reading(tmp_path):
    top = [feature(uuid=u) for u in (None, 7, "object_0", UUID.upper())]
    path = saved(tmp_path / "x.geojson", top)
    first, second = only(path).id.tolist(), only(path).id.tolist()
    assert first == second
    assert len(set(first)) == 4
    assert first[3] == UUID


def broken(**change):
    return feature({"type": "Polygon", "coordinates": [RING]} | change)


@pytest.mark.parametrize(
    ("second", "what"),
    [
        (broken(coordinates=[RING[:-1]]), "not closed"),
        (broken(coordinates=[RING[:2] + RING[:1]]), "at least 4 positions, got 3"),
        (broken(coordinates=[[[0, 0], [1, "a"], [1, 1], [0, 0]]]), "position"),
        (broken(coordinates=[[[0, 0], [1, None], [1, 1], [0, 0]]]), "position"),
        (broken(coordinates=[[[0, 0], [1], [1, 1], [0, 0]]]), "position"),
        (broken(coordinates=[[[0, 0], 5, [1, 1], [0, 0]]]), "position"),
        (broken(coordinates=[[[0, 0], [1, float("nan")], [1, 1], [0, 0]]]), "not finite"),
        (broken(coordinates=[[[0, 0], [1, 1e999], [1, 1], [0, 0]]]), "not finite"),
        (broken(coordinates=[]), "without rings"),
        (broken(coordinates=None), "without rings"),
        (broken(coordinates=[5]), "not an array of positions"),
        (broken(type="MultiPolygon", coordinates=[]), "without coordinates"),
        (broken(type="Circle"), "expected a geometry"),
        (feature(None), "expected a geometry"),
        (feature("POLYGON"), "expected a geometry"),
        (feature(classification=7), "classification"),
        (feature(classification={"color": [1, 2, 3]}), "class name"),
        (feature(measurements=3), "measurements"),
        (feature(measurements=[3]), "measurement"),
        (None, "expected a Feature"),
        ({"type": "Polygon"}, "expected a Feature"),
    ],
)
def test_a_broken_feature_is_named(tmp_path, second, what):
    path = saved(tmp_path / "x.geojson", [feature(), second])
    with pytest.raises(InputFileError, match=f"feature 2: .*{what}"):
        list(read_geojson(path))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[" * 200_000, "not JSON"),
        ("\x00\x01", "not JSON"),
        ('{"type": "Topology"}', "Topology"),
        ("7", "int"),
        ('{"type": "FeatureCollection"}', "expected GeoJSON"),
        (json.dumps([feature()]) + "\nmore", "not JSON"),
    ],
)
def test_a_file_that_is_no_geojson_is_an_error(tmp_path, text, what):
    with pytest.raises(InputFileError, match=what):
        read_geojson(saved(tmp_path / "x.geojson", text))


@pytest.mark.parametrize("name", ["x.geojson", "x.geojson.gz"])
def test_a_file_that_is_cut_off_is_an_error(tmp_path, make_cells, name):
    write_all([make_cells(200)], [tmp_path / name])
    whole = (tmp_path / name).read_bytes()
    for keep in (len(whole) // 3, len(whole) - 4):
        (tmp_path / name).write_bytes(whole[:keep])
        with pytest.raises(InputFileError, match=r"cut off|not JSON|cannot be read"):
            list(read_geojson(tmp_path / name))


def test_a_line_that_is_broken_or_comes_after_the_end_is_an_error(tmp_path, make_cells):
    write_all([make_cells(20)], [tmp_path / "x.geojson"])
    whole = (tmp_path / "x.geojson").read_text(encoding="utf-8")
    lines = whole.split("\n")
    with pytest.raises(InputFileError, match="feature 7 is not JSON"):
        read_geojson(saved(tmp_path / "a.geojson", "\n".join([*lines[:7], "{,", *lines[8:]])))
    with pytest.raises(InputFileError, match="after the end"):
        read_geojson(saved(tmp_path / "b.geojson", whole + "more"))


def test_an_absent_file_is_an_error(tmp_path):
    with pytest.raises(InputFileError, match="No such file"):
        read_geojson(tmp_path / "absent.geojson")


def test_a_region_is_the_union_of_its_annotations(tmp_path):
    near = {"type": "Polygon", "coordinates": [[[5, 0], [15, 0], [15, 8], [5, 8], [5, 0]]]}
    far = {"type": "Polygon", "coordinates": [[[50, 0], [60, 0], [60, 8], [50, 8], [50, 0]]]}
    point = {"type": "Point", "coordinates": [1, 1]}
    top = [feature(objectType="annotation"), feature(near), feature(far), feature(point)]
    top.append(feature(far | {"coordinates": [RING]}, objectType="detection"))
    region = read_region(saved(tmp_path / "x.geojson", top))
    assert sorted(polygon.bounds for polygon in region) == [(0, 0, 15, 8), (50, 0, 60, 8)]


@pytest.mark.parametrize(
    "top",
    [
        [],
        [feature(objectType="detection")],
        [feature({"type": "Point", "coordinates": [1, 1]})],
        [feature(broken(coordinates=[[[0, 0], [4, 4], [8, 8], [0, 0]]])["geometry"])],
    ],
)
def test_an_empty_region_is_an_error(tmp_path, top):
    with pytest.raises(InputFileError, match="annotation with an area"):
        read_region(saved(tmp_path / "x.geojson", top))
