import gzip
import json

import geopandas
import numpy as np
import pyogrio
import pytest
import shapely

from wsiseg.cells.layer import CellBatch, uuids_from
from wsiseg.export import write_geojson
from wsiseg.export.geojson import geojson_lines


def test_a_feature_is_written_as_qupath_wants_it(tmp_path):
    ids = np.array(["a3c1e5f0-0000-4000-8000-00000000000" + c for c in "12"])
    ring = shapely.Polygon([(0, 0), (10.5, 0), (10.25, 10), (0, 10)])
    parts = shapely.MultiPolygon([shapely.box(20, 0, 30, 10), shapely.box(40, 0, 41, 1)])
    cells = CellBatch(
        ids,
        np.array([ring, parts], dtype=object),
        np.array([0, -1], dtype=np.int32),
        ("Inflammatory",),
        {"Area µm^2": np.array([31.2, np.nan]), "Score": np.array([1.0, np.nan])},
    )
    write_geojson([cells], tmp_path / "x.geojson")
    lines = (tmp_path / "x.geojson").read_text(encoding="utf-8").split("\n")
    assert lines == [
        '{"type":"FeatureCollection","features":[',
        '{"type":"Feature","id":"a3c1e5f0-0000-4000-8000-000000000001",'
        '"geometry":{"type":"Polygon","coordinates":[[[0,0],[10.5,0],[10.25,10],[0,10],[0,0]]]},'
        '"properties":{"objectType":"detection",'
        '"classification":{"name":"Inflammatory","color":[30,60,220]},'
        '"measurements":{"Area µm^2":31.2,"Score":1}}},',
        '{"type":"Feature","id":"a3c1e5f0-0000-4000-8000-000000000002",'
        '"geometry":{"type":"MultiPolygon","coordinates":'
        "[[[[30,0],[30,10],[20,10],[20,0],[30,0]]],[[[41,0],[41,1],[40,1],[40,0],[41,0]]]]},"
        '"properties":{"objectType":"detection"}}',
        "]}",
        "",
    ]


@pytest.mark.parametrize("nuclei", [False, True])
def test_every_feature_keeps_qupaths_rules(tmp_path, make_cells, problems, nuclei):
    written = write_geojson([make_cells(1500, nuclei=nuclei)], tmp_path / "x.geojson.gz")
    text = gzip.decompress((tmp_path / "x.geojson.gz").read_bytes())
    assert problems(text) == []
    features = json.loads(text)["features"]
    assert written.cells == len(features) == 1500
    assert {"nucleusGeometry" in f for f in features} == {nuclei}


def test_the_checker_of_those_rules_sees_a_broken_one(tmp_path, make_cells, problems):
    (good,) = geojson_lines(make_cells(1)).tolist()
    wrap = b'{"type":"FeatureCollection","features":[%b]}'
    assert problems(wrap % good) == []
    for old, new in [
        (b"detection", b"Detection"),
        (b'"id":"', b'"id":"{'),
        (b"MultiPolygon", b"Polygon"),
        (b'"color":[', b'"color":[0.5,'),
        (b'"Count":', b'"Count":null,"x":'),
        (b"[[[[", b"[[[[0,0],["),
    ]:
        assert old in good
        try:
            found = problems(wrap % good.replace(old, new, 1))
        except (ValueError, TypeError, KeyError) as error:
            found = [str(error)]
        assert found, (old, new)


def test_no_cells_give_a_valid_empty_file(tmp_path, problems):
    for batches in ([], [CellBatch(np.empty(0, "U36"), np.empty(0, object), np.empty(0, int), ())]):
        write_geojson(batches, tmp_path / "x.geojson")
        text = (tmp_path / "x.geojson").read_bytes()
        assert json.loads(text) == {"type": "FeatureCollection", "features": []}
        assert problems(text) == []


def test_gzip_carries_neither_time_nor_name(tmp_path, make_cells):
    write_geojson([make_cells(10)], tmp_path / "x.geojson.gz")
    head = (tmp_path / "x.geojson.gz").read_bytes()[:10]
    assert head[:3] == b"\x1f\x8b\x08"
    assert head[3] == 0  # no FNAME
    assert head[4:8] == bytes(4)  # no MTIME


def test_integers_and_fractions_in_one_batch_read_as_they_do_apart(make_cells):
    whole = shapely.box(1, 2, 30, 40)
    half = shapely.box(1.5, 2, 30, 40)
    both = np.array([whole, half], dtype=object)
    cells = CellBatch(uuids_from(both), both, np.full(2, -1, np.int32), ())
    apart = [geojson_lines(cells.take([i])).tolist()[0] for i in (0, 1)]
    assert geojson_lines(cells).tolist() == apart


def test_colours_can_be_chosen(tmp_path, make_cells):
    cells = make_cells(50, classes=("Tumor",))
    write_geojson([cells], tmp_path / "x.geojson", colors={"Tumor": (1, 2, 3)})
    assert b'{"name":"Tumor","color":[1,2,3]}' in (tmp_path / "x.geojson").read_bytes()


def test_geopandas_and_pyogrio_read_it(tmp_path, make_cells):
    cells = make_cells(300)
    write_geojson([cells], tmp_path / "x.geojson")
    frame = geopandas.read_file(tmp_path / "x.geojson")
    assert frame["id"].tolist() == cells.id.tolist()
    assert shapely.equals_exact(frame.geometry.array, cells.geometry).all()
    assert pyogrio.read_info(tmp_path / "x.geojson")["features"] == 300
