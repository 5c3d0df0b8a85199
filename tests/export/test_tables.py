import csv
import json

import geopandas
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import shapely

from wsiseg.cells.layer import CellBatch, Cells, concatenate, uuids_from
from wsiseg.errors import InputFileError
from wsiseg.export import tables, write_csv, write_parquet


def test_geopandas_reads_every_column(tmp_path, make_cells):
    cells = make_cells(500)
    write_parquet([cells], tmp_path / "x.parquet")
    frame = geopandas.read_parquet(tmp_path / "x.parquet")
    assert list(frame.columns) == ["id", "class", "geometry", *cells.measurements]
    assert frame.crs is None
    assert frame["id"].tolist() == cells.id.tolist()
    assert shapely.equals_exact(frame.geometry.array, cells.geometry).all()
    classes = frame["class"].astype(object).where(frame["class"].notna(), None)
    assert classes.tolist() == cells.class_names.tolist()
    for name, values in cells.measurements.items():
        np.testing.assert_array_equal(frame[name], values)


def test_the_metadata_is_geoparquet_1_1_without_a_crs(tmp_path, make_cells):
    cells = make_cells(30, nuclei=True)
    write_parquet([cells], tmp_path / "x.parquet")
    geo = json.loads(pq.read_schema(tmp_path / "x.parquet").metadata[b"geo"])
    assert geo["version"] == "1.1.0"
    assert geo["primary_column"] == "geometry"
    outline, nucleus = geo["columns"]["geometry"], geo["columns"]["nucleus"]
    assert outline["encoding"] == "WKB"
    assert outline["crs"] is None
    assert outline["geometry_types"] == ["MultiPolygon", "Polygon"]
    assert nucleus["geometry_types"] == ["Polygon"]
    assert outline["bbox"] == list(shapely.total_bounds(cells.geometry))
    assert outline["covering"]["bbox"]["ymin"] == ["bbox", "ymin"]


def test_a_window_gives_the_cells_whose_box_meets_it(tmp_path, make_cells, monkeypatch):
    monkeypatch.setattr(tables, "ROW_GROUP", 100)
    cells = make_cells(1000)
    write_parquet([cells], tmp_path / "x.parquet")
    window = (100, 200, 400, 300)
    frame = geopandas.read_parquet(tmp_path / "x.parquet", bbox=window)
    boxes = shapely.box(*shapely.bounds(cells.geometry).T)
    meets = shapely.intersects(boxes, shapely.box(*window))
    assert 10 < meets.sum() < 100
    assert set(frame["id"]) == set(cells.id[meets])


def test_row_groups_are_cut_by_rows_and_say_where_they_lie(tmp_path, make_cells, monkeypatch):
    monkeypatch.setattr(tables, "ROW_GROUP", 100)
    write_parquet([make_cells(250)], tmp_path / "x.parquet")
    meta = pq.read_metadata(tmp_path / "x.parquet")
    assert [meta.row_group(i).num_rows for i in range(meta.num_row_groups)] == [100, 100, 50]
    columns = {c["path_in_schema"]: c for c in meta.row_group(0).to_dict()["columns"]}
    assert columns["bbox.xmin"]["statistics"] is not None
    assert columns["geometry"]["statistics"] is None  # would repeat whole outlines
    assert columns["geometry"]["compression"] == "ZSTD"


def test_no_cells_give_a_readable_table(tmp_path):
    write_parquet([], tmp_path / "x.parquet")
    frame = geopandas.read_parquet(tmp_path / "x.parquet", bbox=(0, 0, 9, 9))
    assert len(frame) == 0
    assert list(frame.columns) == ["id", "class", "geometry"]
    assert list(Cells.open(tmp_path / "x.parquet").batches()) == []


def test_an_empty_batch_gives_its_columns_and_classes(tmp_path, make_cells):
    write_parquet([make_cells(3).take(slice(0))], tmp_path / "x.parquet")
    assert "Count" in geopandas.read_parquet(tmp_path / "x.parquet").columns


def test_classes_keep_their_order_though_some_have_no_cell(tmp_path, make_cells):
    cells = make_cells(40)
    cells = cells.take(cells.class_index == 4)
    write_parquet([cells], tmp_path / "x.parquet")
    (read,) = Cells.open(tmp_path / "x.parquet").batches()
    assert read.classes == cells.classes
    assert np.array_equal(read.class_index, cells.class_index)


def test_nuclei_come_back(tmp_path, make_cells):
    cells = make_cells(20, nuclei=True)
    cells.nucleus[3] = None
    write_parquet([cells], tmp_path / "x.parquet")
    (read,) = Cells.open(tmp_path / "x.parquet").batches()
    assert shapely.is_missing(read.nucleus).tolist() == [i == 3 for i in range(20)]
    kept = ~shapely.is_missing(read.nucleus)
    assert shapely.equals_exact(read.nucleus[kept], cells.nucleus[kept]).all()
    assert len(geopandas.read_parquet(tmp_path / "x.parquet")["nucleus"]) == 20


@pytest.mark.parametrize("name", ["id", "class", "geometry", "bbox", "nucleus"])
def test_a_measurement_cannot_take_the_name_of_a_column(tmp_path, make_cells, name):
    cells = make_cells(3)
    cells.measurements[name] = np.zeros(3)
    with pytest.raises(InputFileError, match=name):
        write_parquet([cells], tmp_path / "x.parquet")


def test_csv_holds_centroids_classes_and_measurements(tmp_path):
    boxes = np.array([shapely.box(0, 0, 3, 4), shapely.box(10, 10, 11, 11.5)], dtype=object)
    index = np.array([0, -1], dtype=np.int32)
    columns = {"Area µm^2": np.array([0.1, np.nan]), "Count": np.array([-3.0, 2.0])}
    cells = CellBatch(uuids_from(boxes), boxes, index, ("a, b",), columns)
    write_csv([cells], tmp_path / "x.csv")
    lines = (tmp_path / "x.csv").read_bytes().decode().split("\n")
    assert lines == [
        "id,class,x_px,y_px,Area µm^2,Count",
        f'{cells.id[0]},"a, b",1.5,2,0.1,-3',
        f"{cells.id[1]},,10.5,10.75,,2",
        "",
    ]


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", '=HYPERLINK("x")'])
def test_texts_that_a_spreadsheet_would_run_are_quoted(tmp_path, make_cells, text):
    cells = make_cells(30, classes=(text,))
    cells.measurements[text] = np.full(30, -5.0)
    write_csv([cells], tmp_path / "x.csv")
    with (tmp_path / "x.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header[-1] == f"'{text}"
    assert {row[1] for row in rows} == {"", f"'{text}"}
    assert {row[-1] for row in rows} == {"-5"}  # a number stays one
    assert not [c for row in [header, *rows] for c in row if c[:1] in "=+@" and c]


def test_csv_reads_back_to_the_same_numbers(tmp_path, make_cells):
    cells = make_cells(400)
    write_csv([cells], tmp_path / "x.csv")
    frame = pd.read_csv(tmp_path / "x.csv")
    for name, values in cells.measurements.items():
        np.testing.assert_array_equal(frame[name].to_numpy(np.float32), values.astype(np.float32))


def test_large_batches_and_small_ones_read_alike(tmp_path, make_cells):
    write_parquet([make_cells(1000)], tmp_path / "x.parquet")
    cells = Cells.open(tmp_path / "x.parquet")
    small, large = (concatenate(list(cells.batches(size))) for size in (7, 999))
    assert np.array_equal(small.id, large.id)
    assert shapely.equals_exact(small.geometry, large.geometry).all()
