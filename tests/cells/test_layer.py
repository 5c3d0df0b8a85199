import json
import logging

import geopandas
import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from wsiseg.cells.layer import CellBatch, Cells, concatenate, rechunk, uuids_from
from wsiseg.cells.parquet import read_batches
from wsiseg.errors import InputFileError
from wsiseg.export import tables, write_parquet


def batch(n=10, first=0, classes=("a", "b"), **columns):
    x = np.arange(first, first + n) * 20.0
    geometry = shapely.box(x, 0, x + 10, 10)
    index = (np.arange(first, first + n) % 3 - 1).astype(np.int32)
    return CellBatch(uuids_from(geometry, first), geometry, index, classes, columns)


def test_class_names_follow_the_index_and_minus_one_is_none():
    assert batch(4).class_names.tolist() == [None, "a", "b", None]
    assert batch(1, classes=()).class_names.tolist() == [None]


def test_take_keeps_columns_together():
    cells = batch(10, m=np.arange(10.0))
    for rows in (slice(2, 5), np.arange(10) % 2 == 0, np.array([7, 3])):
        taken = cells.take(rows)
        assert taken.measurements["m"].tolist() == np.arange(10.0)[rows].tolist()
        assert taken.id.tolist() == cells.id[rows].tolist()
        assert len(taken) == len(taken.geometry) == len(taken.class_index)


def test_concatenate_unites_classes_and_fills_missing_columns_with_nan():
    both = concatenate([batch(3, classes=("a", "b"), m=np.zeros(3)), batch(3, classes=("b", "a"))])
    assert both.classes == ("a", "b")
    assert both.class_names.tolist() == [None, "a", "b", None, "b", "a"]
    np.testing.assert_array_equal(both.measurements["m"], [0, 0, 0, np.nan, np.nan, np.nan])


def test_concatenate_keeps_nuclei_where_only_some_batches_have_them():
    some = batch(2)
    whole = CellBatch(some.id, some.geometry, some.class_index, some.classes, {}, some.geometry)
    assert (
        shapely.is_missing(concatenate([some, whole]).nucleus).tolist() == [True] * 2 + [False] * 2
    )


@given(sizes=st.lists(st.integers(0, 30), max_size=8), size=st.integers(1, 25))
def test_rechunk_changes_the_cuts_and_nothing_else(sizes, size):
    firsts = np.cumsum([0, *sizes]).tolist()
    given_ = [batch(n, first) for n, first in zip(sizes, firsts, strict=False)]
    out = list(rechunk(iter(given_), size))
    assert [len(b) for b in out[:-1]] == [size] * (len(out) - 1)
    assert all(1 <= len(b) <= size for b in out)
    assert [i for b in out for i in b.id] == [i for b in given_ for i in b.id]


def test_uuids_differ_by_row_and_are_the_same_at_every_call():
    geometry = np.array([shapely.box(0, 0, 1, 1)] * 5)
    ids = uuids_from(geometry)
    assert len(set(ids)) == 5
    assert ids[2:].tolist() == uuids_from(geometry[2:], first=2).tolist()
    assert {i[14] for i in ids} == {"8"}  # the version
    assert {i[19] for i in ids} <= set("89ab")  # the variant


@pytest.fixture(params=["file", "memory"])
def cells(request, tmp_path):
    parts = [batch(30, m=np.arange(30.0)), batch(20, 30, m=np.arange(20.0))]
    if request.param == "memory":
        return Cells(parts)
    write_parquet(parts, tmp_path / "cells.parquet")
    (tmp_path / "run.json").write_text(json.dumps({"model": "hematoxylin"}))
    return Cells.open(tmp_path)


def test_cells_are_the_same_from_a_file_and_from_memory(cells):
    expected = concatenate([batch(30, m=np.arange(30.0)), batch(20, 30, m=np.arange(20.0))])
    assert len(cells) == 50
    assert [len(b) for b in cells.batches(size=20)] == [20, 20, 10]
    assert np.array_equal(concatenate(list(cells.batches())).id, expected.id)
    assert shapely.equals_exact(cells.polygons, expected.geometry).all()
    table = cells.table
    assert table.index.name == "id"
    assert table.index.tolist() == expected.id.tolist()
    assert list(table.columns) == ["class", "m"]
    assert table["m"].tolist() == expected.measurements["m"].tolist()


def test_to_geopandas_gives_a_window(cells):
    frame = cells.to_geopandas(bbox=(100, 2, 145, 3))
    assert frame.index.name == "id"
    assert frame.geometry.bounds["minx"].tolist() == [100, 120, 140]
    assert len(cells.to_geopandas()) == 50


@pytest.mark.parametrize("box", [(100, 2, 145, 3), (0, 0, 1e9, 1e9), (-9, -9, -1, -1)])
def test_meeting_gives_the_cells_of_the_same_window(cells, box):
    assert cells.meeting(box).id.tolist() == cells.to_geopandas(bbox=box).index.tolist()


def test_meeting_reads_only_the_row_groups_that_it_must(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "ROW_GROUP", 10)
    write_parquet([batch(50)], tmp_path / "cells.parquet")
    read = [len(b) for b in read_batches(tmp_path / "cells.parquet", 10, meeting=(0, 0, 150, 9))]
    assert read == [10]


def test_made_is_the_run_json_beside_the_file(cells):
    in_file = "cells.parquet" in repr(cells)
    assert cells.made == ({"model": "hematoxylin"} if in_file else {})


def test_a_broken_run_json_is_named(tmp_path):
    write_parquet([batch(3)], tmp_path / "cells.parquet")
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(InputFileError, match=r"run\.json"):
        Cells.open(tmp_path)


def test_no_cells_are_cells_too(tmp_path):
    write_parquet([], tmp_path / "x.parquet")
    for cells in (Cells.open(tmp_path / "x.parquet"), Cells([batch(0)]), Cells([])):
        assert len(cells) == len(cells.polygons) == len(cells.table) == 0
        assert len(cells.to_geopandas()) == 0


def test_geopandas_round_trip(cells):
    again = Cells.from_geopandas(cells.to_geopandas())
    assert again.table.equals(cells.table) or np.array_equal(again.table["m"], cells.table["m"])
    read, was = (concatenate(list(c.batches())) for c in (again, cells))
    assert np.array_equal(read.id, was.id)
    assert np.array_equal(read.class_names, was.class_names)
    assert shapely.equals_exact(read.geometry, was.geometry).all()


def test_from_geopandas_takes_a_plain_frame_and_names_what_it_leaves_out(caplog):
    columns = {"area": [1, 2], "stain": ["x", "y"], "class": ["a", None]}
    shapes = [shapely.box(0, 0, 1, 1), shapely.box(2, 0, 3, 1)]
    with caplog.at_level(logging.WARNING):
        made = Cells.from_geopandas(geopandas.GeoDataFrame(columns, geometry=shapes))
    assert "stain" in caplog.text
    (cells,) = made.batches()
    assert cells.class_names.tolist() == ["a", None]
    assert {k: v.tolist() for k, v in cells.measurements.items()} == {"area": [1.0, 2.0]}
    assert len(set(cells.id)) == 2


def test_from_geopandas_refuses_a_missing_geometry():
    frame = geopandas.GeoDataFrame({"a": [1, 2]}, geometry=[shapely.box(0, 0, 1, 1), None])
    with pytest.raises(InputFileError, match="row 1"):
        Cells.from_geopandas(frame)
